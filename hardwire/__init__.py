"""The Python interface of hardwire, a compiler that casts a Llama into silicon.

    import hardwire

    chip = hardwire.compile("stories-260k", "out", row_lanes=2)
    session = chip.session("golden")
    for reply in hardwire.generate(session, [1, 403], 20):
        print(reply.token)
    print(chip.report["derived"]["rom_bits"], chip.verify(n_tokens=5)["first_difference"])

The command line calls the same functions.  Errors of input are HardwireError, one line each.  Steps that take long are silent;
``hardwire.progress.show_with`` shows them.  This module imports the others at their first use, so that its own import is quick.
"""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hardwire.chip import Chip
    from hardwire.conversation import Conversation
    from hardwire.source import Source
    from hardwire.target import Target
    from hdl.config import ChipConfig
    from sim.session import Reply, Sampling, Session, generate
    from weights_to_rom.errors import HardwireError

_WHERE = {
    "ChipConfig": "hdl.config",
    "Chip": "hardwire.chip",
    "Conversation": "hardwire.conversation",
    "HardwireError": "weights_to_rom.errors",
    "Reply": "sim.session",
    "Sampling": "sim.session",
    "Session": "sim.session",
    "Source": "hardwire.source",
    "Target": "hardwire.target",
    "generate": "sim.session",
}
"""The module of each name that is imported at its first use."""

__all__ = [  # noqa: RUF022 (functions first)
    "compile",
    "open",
    "verify",
    "estimate",
    "ChipConfig",
    "Chip",
    "Conversation",
    "HardwireError",
    "Reply",
    "Sampling",
    "Session",
    "Source",
    "Target",
    "generate",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'hardwire' has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(_WHERE[name]), name)
    return value


def __dir__() -> list[str]:
    return __all__


def compile(
    model: "str | Path | Source",
    out: str | Path,
    *,
    tokenizer: str | None = None,
    gptq: Path | None = None,
    wide_bits: int = 32,
    simulation: bool = True,
    **chip: Any,
) -> "Chip":
    """Compile a checkpoint into the folder ``out``: integer model, ROM images, Verilog, simulation and report.

    Parameters
    ----------
    model : str, Path or Source   a Hugging Face directory, a .gguf file, a llama2.c .bin, or a known name
    out : str or Path             folder to write; a compiled model in it is replaced, anything else is refused
    tokenizer : str               a tokenizer that is not where the checkpoint's format puts it
    gptq : Path                   quantise by GPTQ, with this file as calibration text, instead of rounding to nearest
    wide_bits : int               width of the residual stream and of sums: 32 or 24
    simulation : bool             build the simulation and measure cycles with it; else both happen at the first use
    chip                          fields of ChipConfig, such as ``row_lanes=2``; the model decides the others

    Raises
    ------
    HardwireError   for a model that cannot be read, for options that do not fit it, and for a folder that cannot be written
    """
    from hardwire.chip import Chip
    from hardwire.compiler import compile_model
    from hardwire.source import Source

    source = model if isinstance(model, Source) else Source.open(str(model), tokenizer)
    compile_model(source, Path(out), wide_bits=wide_bits, gptq_text=gptq, simulation=simulation, **chip)
    return Chip(out)


def open(out: str | Path) -> "Chip":
    """Open the folder of a compiled model: ``session``, ``verify``, ``report``, ``format``, ``config``.

    Raises
    ------
    HardwireError   if it is no compiled model, or a file in it is missing or damaged
    """
    from hardwire.chip import Chip

    return Chip(out)


def verify(out: "str | Path | Chip", prompts: Sequence[str] = (), n_tokens: int = 100, **options: Any) -> dict:
    """Compare every token and logit of the simulated chip with the integer model.

    Parameters
    ----------
    out : str, Path or Chip   the compiled model
    prompts : Sequence[str]   texts to continue; if there are none, three openings of stories
    n_tokens : int            tokens to write after each prompt
    options                   ``adapter``, ``chat``, ``layers`` and ``verilog``: see ``Chip.verify``

    Returns counts; "first_difference" is None if all is equal.

    Raises
    ------
    HardwireError   if the compiled model, a prompt or the adapter cannot be used
    """
    from hardwire.chip import Chip

    return (out if isinstance(out, Chip) else Chip(out)).verify(prompts, n_tokens, **options)


def estimate(
    name: str | Path,
    context: int | None = None,
    *,
    png: Path | None = None,
    wide_bits: int | None = None,
    **chip: Any,
) -> dict:
    """Predict the cycles of a token, unit by unit, from shapes alone: nothing is simulated.

    Parameters
    ----------
    name : str or Path   a compiled model, or a checkpoint that is not compiled yet
    context : int        positions that the token attends to, itself included; by default 128, or all that the chip holds
    png : Path           file for the picture; by default OUT/explain.png for a compiled model, and none for a checkpoint
    wide_bits : int      width of the residual stream of a checkpoint's chip: 32 or 24
    chip                 fields of ChipConfig, of a checkpoint's chip

    Returns the figures that ``hardwire explain --json`` prints.

    Raises
    ------
    HardwireError   if the model cannot be read, or the options or the context do not fit it
    """
    from hardwire.explain import explain

    return explain(str(name), context, png, wide_bits=wide_bits, **chip)
