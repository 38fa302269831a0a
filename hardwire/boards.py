"""``hardwire boards`` and ``hardwire fpga``: bitstreams of compiled models, flashed and verified."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardwire.board_session import board_rom
from hardwire.cli.console import say
from hardwire.compiled import CompiledError, CompiledModel, is_output, write_json
from hardwire.compiler import compile_model
from hardwire.folders import room_for
from hardwire.progress import step
from hardwire.source import Source
from weights_to_rom.errors import HardwireError
from weights_to_rom.scratch import locked

if TYPE_CHECKING:
    from fpga.boards import Board
    from fpga.devices import Cells
    from fpga.estimate import Estimate
    from fpga.job import Job

TOO_FAST = 1.5
"""A clock above that of the estimate by this factor is refused: no seed makes a design so much faster."""

MAX_CONTEXT = 256
"""The context of a chip that is compiled for a board, unless the model has fewer positions."""


def build(
    name: str,
    board_name: str,
    *,
    clock_mhz: float | None = None,
    seed: int = 1,
    allow_timing_fail: bool = False,
    out: Path | None = None,
    wide_bits: int | None = None,
    **given: Any,
) -> dict:
    """Build a bitstream, and return its report.

    OUT/fpga/BOARD gets top.bit (top.bin for an iCE40), routed.json and report.json.  If the design misses its clock, the folder
    gets missed.json alone.

    Parameters
    ----------
    name : str
        A compiled model, whose configuration stays, or a checkpoint, which is compiled with the fastest lanes that fit the board.
    board_name : str
        A name that ``hardwire boards`` lists.
    clock_mhz : float, optional
        The clock of the chip.  By default that of the estimate.
    seed : int
        Start value of placement.
    allow_timing_fail : bool
        Keep a bitstream that is too slow for its clock.
    out : Path, optional
        Where a checkpoint is compiled to.  By default build/MODEL-BOARD.
    wide_bits : int, optional
        Width of the residual stream of a checkpoint's chip.  By default that of the board's family.
    given
        Options of ChipConfig for a checkpoint's chip.  The search for the fastest chip chooses the options that are None.

    Raises
    ------
    HardwireError
        The board is unknown, cannot make the clock, or is too small; a tool refuses the design; the clock is missed.
    """
    from fpga.boards import board_named
    from fpga.estimate import estimate
    from fpga.progress import Progress
    from fpga.toolchain import toolchain_of
    from synth.run import BuildError

    board = board_named(board_name)
    toolchain = toolchain_of(board)
    if clock_mhz:
        _check_clock(board, clock_mhz)
    options = {option: value for option, value in {"wide_bits": wide_bits, **given}.items() if value is not None}
    output = _output(name, board, out, options)
    estimated = estimate(output.format, output.config, board)
    for line in estimate_lines(asdict(estimated.cells), estimated.clock_mhz, estimated.cycles, estimated.context):
        say(line)
    # A user who chose the lanes may try to use all LUTs.
    _check_fit(name, estimated.cells, board, tight=True)
    folder = output.folder / "fpga" / board.name
    folder.mkdir(parents=True, exist_ok=True)
    busy = f"{folder}: another hardwire builds there now: wait for its end"
    with locked(folder / "building", busy), room_for(folder), step(f"build for {board.name}") as running:
        job = _job(output, board, folder, clock_of(board, clock_mhz or estimated.clock_mhz), seed, estimated)
        progress = Progress()
        placed = toolchain.build(job, lambda line: running.update(progress.told(line), progress.share or None))
    found = placed.report
    cycles, measured = _cycles(output, estimated)
    clock = min(found["clock_mhz"], found["fmax_mhz"])
    report = {
        "model": output.about["source"],
        "identity": f"{output.identity:016x}",
        **found,
        "context": estimated.context,
        "cycles_per_token": cycles,
        "cycles_are": "measured on the simulated chip" if measured else "predicted from shapes",
        "tokens_per_second": round(clock * 1e6 / cycles),
        "timing_met": found["fmax_mhz"] >= found["clock_mhz"],
        "estimated": asdict(estimated.cells) | {"clock_mhz": estimated.clock_mhz},
        "lanes": output.config.as_dict(),
    }
    if not report["timing_met"] and not allow_timing_fail:
        write_json(folder / "missed.json", report)
        raise BuildError(
            f"{board.name}: {report['fmax_mhz']} MHz after route, and the clock is {report['clock_mhz']:g} MHz: "
            f"try another --seed, or --clock {int(report['fmax_mhz'])}"
        )
    bitstream, netlist = _files(folder, board)
    for made, kept in ((placed.bitstream, bitstream), (placed.netlist, netlist)):
        shutil.copyfile(made, folder / "part")
        (folder / "part").replace(kept)
    write_json(folder / "report.json", report)
    return report | {"bitstream": str(bitstream)}


def estimate_build(
    name: str, board_name: str, *, clock_mhz: float | None = None, wide_bits: int | None = None, **given: Any
) -> dict:
    """Return the estimate of the chip that ``build`` would build, and build nothing.

    The parameters are those of ``build``.  "does_not_fit" lists the resources of which the board has too few.

    Raises
    ------
    HardwireError
        The board is unknown or cannot make the clock; the options do not fit the model.
    """
    from fpga.boards import board_named
    from fpga.estimate import estimate, estimator_of, fastest, overflows

    board = board_named(board_name)
    if clock_mhz:
        _check_clock(board, clock_mhz)
    options = {option: value for option, value in {"wide_bits": wide_bits, **given}.items() if value is not None}
    compiled = is_output(Path(name))
    if compiled:
        _refuse(name, options)
        output = CompiledModel(name)
        found = estimate(output.format, output.config, board)
    else:
        model = Source.open(name).format(options.pop("wide_bits", estimator_of(board).WIDE_BITS))
        found = fastest(model, board, min(MAX_CONTEXT, model.max_seq_len), **options)
    clock = clock_of(board, clock_mhz or found.clock_mhz)
    return {
        "model": name,
        "board": board.name,
        "clock_mhz": clock,
        "context": found.context,
        "cycles_per_token": found.cycles,
        "tokens_per_second": round(clock * 1e6 / found.cycles),
        "estimated": asdict(found.cells) | {"clock_mhz": found.clock_mhz},
        "does_not_fit": overflows(found.cells, board, tight=compiled),
        "lanes": found.config.as_dict(),
    }


def _check_clock(board: "Board", mhz: float) -> None:
    """Raises HardwireError for a clock that the board cannot make, or far above the one that designs reach on it."""
    from fpga.estimate import estimator_of

    estimated = estimator_of(board).CLOCK_MHZ[board.device.name]
    if mhz > TOO_FAST * estimated:
        raise HardwireError(
            f"{board.name}: a clock of {mhz:g} MHz is far above the {estimated:g} MHz that designs reach there: "
            f"leave --clock out, or give --clock {estimated:g}"
        )
    clock_of(board, mhz)
    if mhz > estimated:
        say(f"{mhz:g} MHz is above the {estimated:g} MHz that designs reach on {board.name}: place and route may miss it")


def _refuse(name: str, options: dict[str, Any]) -> None:
    """Raises CompiledError if options are given for a chip that is compiled."""
    if options:
        option = "--" + next(iter(options)).replace("_", "-")
        raise CompiledError(f"{name}: is a chip with lanes of its own: leave {option} out, or name a checkpoint")


def clock_of(board: "Board", mhz: float) -> float:
    """Return the fastest clock in MHz that the board can make and that is not above ``mhz``.

    Raises HardwireError if there is none, or if the serial line cannot be timed by it.
    """
    from fpga.link.protocol import divisor_for
    from fpga.toolchain import toolchain_of

    clock_mhz = toolchain_of(board).clock(board, mhz)
    divisor_for(clock_mhz * 1e6, board.baud)
    return clock_mhz


def _job(output: CompiledModel, board: "Board", folder: Path, clock_mhz: float, seed: int, estimated: "Estimate") -> "Job":
    """Return the job of a compiled model.  Writes the links to its ROM images."""
    from fpga.job import Job
    from fpga.link.board_top import board_verilog
    from fpga.link.protocol import divisor_for

    verilog = board_verilog(output.format, output.config, divisor_for(clock_mhz * 1e6, board.baud))
    roms = board_rom(output, folder / "rom")
    return Job(verilog, roms, board, clock_mhz, seed, folder, estimated.chains, estimated.narrow)


def _output(name: str, board: "Board", out: Path | None, options: dict[str, Any]) -> CompiledModel:
    """Return the compiled model ``name``, or compile the checkpoint ``name`` with the fastest lanes that fit."""
    from fpga.estimate import estimator_of, fastest
    from hdl.verilog import chip_verilog

    if is_output(Path(name)):
        _refuse(name, options)
        say(f"{name} is compiled: its lanes stand")
        output = CompiledModel(name)
        if chip_verilog(output.format, output.config) != output.verilog.read_text():
            raise CompiledError(f"{name}: this version of hardwire generates other Verilog: compile it again")
        return output
    source, wide_bits = Source.open(name), options.pop("wide_bits", estimator_of(board).WIDE_BITS)
    model = source.format(wide_bits)
    best = fastest(model, board, min(MAX_CONTEXT, model.max_seq_len), **options)
    _check_fit(name, best.cells, board)
    out = out or Path("build") / f"{Path(name).name}-{board.name}"
    compile_model(source, out, wide_bits=wide_bits, **best.config.as_dict())
    return CompiledModel(out)


def _check_fit(name: str, cells: "Cells", board: "Board", tight: bool = False) -> None:
    from fpga.estimate import overflows
    from synth.run import BuildError

    if over := overflows(cells, board, tight=tight):
        raise BuildError(f"{name} does not fit {board.name}: it takes {'; '.join(over)}.  {_largest(board)}")


def _largest(board: "Board") -> str:
    """Return a sentence with the largest bundled model that fits, and its fastest lanes."""
    from fpga.estimate import estimator_of, fastest

    if (name := largest_model(board)) is None:
        return "No bundled model does."
    model = Source.open(name).format(estimator_of(board).WIDE_BITS)
    config = fastest(model, board, min(MAX_CONTEXT, model.max_seq_len)).config
    lanes = (
        "--shared --wide-bits 24"
        if config.shared
        else (f"--row-lanes {config.row_lanes} --vector-lanes {config.vector_lanes} --attention-heads {config.attention_heads}")
    )
    return f"The largest bundled model that fits is {name}, with {lanes} --max-context {config.max_context}."


def largest_model(board: "Board") -> str | None:
    """Return the name of the largest bundled model that fits a board, or None if none fits."""
    from fpga.estimate import estimator_of, fits
    from weights_to_rom.readers.known_models import known_models

    bundled = [name for name, *_, path in known_models() if path and Path(path).is_dir()]  # a bundled model is a folder
    models = {name: Source.open(name).format(estimator_of(board).WIDE_BITS) for name in bundled}
    names = sorted(models, key=lambda name: (models[name].dim * models[name].n_layers, name), reverse=True)
    return next((name for name in names if fits(models[name], board, min(MAX_CONTEXT, models[name].max_seq_len))), None)


def _cycles(output: CompiledModel, estimated: "Estimate") -> tuple[int, bool]:
    """Return the cycles of a token at the context of the estimate, and whether they were measured."""
    decode = output.report["measured"].get("decode", {})
    if entry := decode.get(str(estimated.context)):
        return entry["cycles"], True
    return estimated.cycles, False


def estimate_lines(cells: Mapping[str, float], clock_mhz: float, cycles: int, context: int) -> list[str]:
    """Return an estimate as lines for a terminal.  ``cells`` has the resources by name, and ``clock_mhz`` the clock to run at."""
    return [
        (
            f"estimated: {cells['luts']:,} LUTs, {cells['flip_flops']:,} flip-flops, {cells['block_rams']} block RAMs, "
            f"{cells['dsps']} DSPs"
        ),
        (f"estimated: {clock_mhz:g} MHz, {cycles:,} cycles a token at context {context}, {clock_mhz * 1e6 / cycles:,.0f} tokens/s"),
    ]


def _files(folder: Path, board: "Board") -> tuple[Path, Path]:
    """Return the paths of the bitstream and of the placed netlist in OUT/fpga/BOARD."""
    from fpga.toolchain import toolchain_of

    return folder / f"top{toolchain_of(board).SUFFIX}", folder / "routed.json"


def flash(out: str, board_name: str) -> dict:
    """Load the bitstream that ``build`` made of OUT into a board, and return the names of "board" and "bitstream".

    Raises HardwireError if there is no such bitstream, if its report is damaged, if it was made of another model, or if the board
    cannot be reached.
    """
    from fpga.boards import board_named
    from fpga.flash import flash as load

    board, output = board_named(board_name), CompiledModel(out)
    folder = output.folder / "fpga" / board.name
    bitstream, _ = _files(folder, board)
    again = f"make one with: hardwire fpga build {out} --board {board.name}"
    if not bitstream.is_file():
        raise HardwireError(f"{bitstream}: no bitstream ({again})")
    if _identity(folder / "report.json", again) != f"{output.identity:016x}":
        raise HardwireError(f"{bitstream}: is of another model or chip than {out} is now ({again})")
    with step(f"flash {board.name}"):
        load(board, bitstream)
    return {"board": board.name, "bitstream": str(bitstream)}


def _identity(report: Path, again: str) -> str:
    """Return the identity of the chip that a bitstream was built from.  Raises HardwireError for a damaged report."""
    try:
        return json.loads(report.read_text())["identity"]
    except (OSError, ValueError, KeyError, TypeError):
        raise HardwireError(f"{report}: cannot be read, or has no identity ({again})") from None


def verify(out: str, board_name: str) -> dict:
    """Compare the block RAMs of the bitstream that ``build`` made of OUT with its ROMs.

    Returns the figures that ``hardwire fpga verify --json`` prints: "memories" in block RAMs, which are all equal, and the names of
    memories in "logic", which is not read back.
    Raises HardwireError if there is no bitstream, or for the first difference.
    """
    from fpga.boards import board_named
    from fpga.link.board_top import board_verilog
    from fpga.link.protocol import LEAST_DIVISOR
    from fpga.memories import contents
    from fpga.toolchain import toolchain_of
    from fpga.verify import verify as compare

    board, output = board_named(board_name), CompiledModel(out)
    folder = output.folder / "fpga" / board.name
    bitstream, netlist = _files(folder, board)
    for file in (bitstream, netlist):
        if not file.is_file():
            raise HardwireError(f"{file}: is not there (make it with: hardwire fpga build {out} --board {board.name})")
    verilog = board_verilog(output.format, output.config, LEAST_DIVISOR)  # no memory depends on the rate of the line
    held = {f"board.{name}": words for name, words in contents(verilog, board_rom(output, folder / "rom"), "board").items()}
    with step(f"verify {bitstream}"):
        equal = compare(toolchain_of(board), bitstream, netlist, held)
    return {
        "board": board.name,
        "bitstream": str(bitstream),
        "memories": [
            {"name": of.memory, "words": of.words, "bits": of.bits, "block_rams": of.block_rams} for of in equal if of.block_rams
        ],
        "logic": [of.memory for of in equal if not of.block_rams],
    }


def verify_lines(figures: dict) -> list[str]:
    """Return the figures of ``verify`` as lines for a terminal."""
    return [
        *(
            f"{of['name']}: {of['words']:,} words of {of['bits']} bits in {of['block_rams']} block RAMs: equal"
            for of in figures["memories"]
        ),
        f"logic, which is not read back: {', '.join(figures['logic'])}",
    ]


def build_lines(report: dict) -> list[str]:
    """Return the report of a build as lines for a terminal."""
    return [
        (
            f"measured after route: {report['luts']:,} LUTs, {report['flip_flops']:,} flip-flops, "
            f"{report['block_rams']} block RAMs, {report['dsps']} DSPs"
        ),
        f"measured after route: {report['fmax_mhz']} MHz; the clock is {report['clock_mhz']:g} MHz"
        + ("" if report["timing_met"] else ", which is MISSED"),
        "critical path: "
        + ", ".join(f"{step['unit']} {step['logic_ns']:g} + {step['wires_ns']:g} ns of wires" for step in report["critical_path"]),
        (
            f"{report['cycles_per_token']:,} cycles a token at context {report['context']} ({report['cycles_are']}): "
            f"{report['tokens_per_second']:,} tokens/s"
        ),
        f"bitstream: {report['bitstream']}",
    ]


def boards() -> list[dict]:
    """Return the boards with their devices and resources, the largest bundled model that fits each, and the build in docs."""
    from fpga.boards import BOARDS
    from fpga.measured import builds

    measured = {report["board"]: report for report in builds()}
    rows = []
    for board in BOARDS.values():
        largest, build = largest_model(board), measured.get(board.name)
        kept = ("model", "fmax_mhz", "clock_mhz", "context", "cycles_per_token", "tokens_per_second")
        rows.append(
            {
                "name": board.name,
                "device": board.device.name,
                "package": board.package,
                "oscillator_mhz": board.oscillator_mhz,
                **asdict(board.device.cells),
                "largest_model": largest,
                "build": build and {name: build[name] for name in kept},
            }
        )
    return rows
