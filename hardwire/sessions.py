"""Sessions of a Target: the simulated chip, the integer model in numpy, or the checkpoint in floating point.

``hardwire.board_session`` opens sessions with a board.
"""

from typing import TYPE_CHECKING

from hardwire.compiled import BACKENDS, CompiledError
from hardwire.progress import step
from weights_to_rom.adapters.lora import load_image

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from hardwire.state import Saved
    from hardwire.target import Target
    from sim.backends import FloatSession, GoldenSession, RtlSession
    from sim.rtl.chip import RtlChip
    from sim.session import Session


def session(target: "Target", backend: str, saved: "Saved | None" = None) -> "Session":
    """Open a session of ``target``.

    Parameters
    ----------
    target : Target   the model
    backend : str     rtl, golden or float
    saved : Saved     a state of the simulated chip to go on from; only rtl has one

    Raises
    ------
    CompiledError   for backend rtl of a checkpoint, for backend float if the checkpoint of a compiled model is gone, and for
                    another backend than these three
    AdapterError    if the target's adapter does not fit
    """
    if backend == "rtl":
        return rtl_session(target, saved=saved)
    if backend == "golden":
        return golden_session(target)
    if backend == "float":
        return float_session(target)
    raise CompiledError(f"backend must be one of {', '.join(BACKENDS)}, not {backend!r}")


def rtl_session(
    target: "Target", kind: "type[RtlChip] | None" = None, saved: "Saved | None" = None, verilog: "Sequence[Path]" = ()
) -> "RtlSession":
    """Open a session of the simulated chip.  Its library is built first if it is missing.

    Parameters
    ----------
    target : Target            a compiled model; its adapter is loaded into the chip as number 1
    kind : type[RtlChip]       a subclass that shows signals inside the chip, such as ObservedChip
    saved : Saved              a state to go on from
    verilog : Sequence[Path]   files that stand for chip.v

    Raises
    ------
    CompiledError   if the target is not compiled, or the chip does not take the adapter
    SavedError      if the state is of another chip, or has another adapter
    """
    from hdl.interface import LoadStatus
    from sim.backends import RtlSession

    compiled, integers = target.compiled(), target.integer_adapter
    config, fmt = compiled.config, compiled.format
    number = saved.adapter if saved else int(integers is not None)
    image = integers and load_image(integers, fmt, number or 1, config.lora_lanes, config.vector_lanes)
    if saved is not None:
        saved.check_adapter(image)
    with step("build the simulation") as running:
        chip = compiled.chip(lambda done, what: running.update(what, done), kind, verilog)
    if saved is not None:
        saved.restore(chip)
    elif image is not None:
        reply = chip.load(image)
        if reply.status != LoadStatus.OK:
            raise CompiledError(f"{compiled.folder}: the chip did not take the adapter: {reply.status.name}")
    position = len(saved.read) if saved else 0
    return RtlSession(chip, fmt.vocab_size, config.max_context, target.slides, number, position)


def golden_session(target: "Target") -> "GoldenSession":
    """Open a session of the integer model.  Its replies equal the chip's to the bit."""
    from sim.backends import GoldenSession

    return GoldenSession(target.model, target.max_context, target.n_sinks, target.integer_adapter)


def float_session(target: "Target") -> "FloatSession":
    """Open a session of the checkpoint in floating point, with the chip's window and the chip's noise."""
    from sim.backends import FloatSession

    with step("read the weights"):
        checkpoint = target.source.checkpoint
        return FloatSession(checkpoint.config, checkpoint.tensor, target.max_context, target.n_sinks, target.adapter)
