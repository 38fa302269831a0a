"""``hardwire fpga build``: a compiled model, or a checkpoint that is compiled for the board, as a bitstream."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hardwire.board_session import board_rom
from hardwire.cli.console import say, step
from hardwire.compiled import CompiledError, CompiledModel, is_output, write_json
from hardwire.compiler import compile_model
from hardwire.source import Source

if TYPE_CHECKING:
    from fpga.boards import Board
    from fpga.devices import Cells
    from fpga.estimate import Estimate

MAX_CONTEXT = 256
"""Positions of the chip that a checkpoint is compiled to, where the model has as many."""


def build(
    name: str,
    board_name: str,
    *,
    clock_mhz: float | None = None,
    seed: int = 1,
    allow_timing_fail: bool = False,
    out: Path | None = None,
) -> dict:
    """Build ``name``, a compiled model (whose lanes stand) or a checkpoint (for which the fastest lanes are found).

    Writes top.bit (top.bin), routed.json and report.json to OUT/fpga/BOARD and returns the report; the report of a build that
    misses its clock is missed.json there.  Raises BuildError, ValueError for a board that is not known, CompiledError and
    CheckpointError.
    """
    from fpga.boards import board_named
    from fpga.ecp5.toolchain import BuildError
    from fpga.estimate import estimate

    board = board_named(board_name)
    if clock_mhz:
        clock_of(board, clock_mhz)
    output = _output(name, board, out)
    estimated = estimate(output.format, output.config, board)
    for line in estimate_lines(estimated):
        say(line)
    _check_fit(name, estimated.cells, board, tight=True)  # whoever chose lanes may try
    folder = output.folder / "fpga" / board.name
    with step(f"build for {board.name}") as running:
        placed = _placed(output, board, folder, clock_mhz or estimated.clock_mhz, seed, estimated, running.update)
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
    bitstream = folder / f"top{placed.bitstream.suffix}"
    for made, name in ((placed.bitstream, bitstream.name), (placed.netlist, "routed.json")):
        shutil.copyfile(made, folder / "part")
        (folder / "part").replace(folder / name)
    write_json(folder / "report.json", report)
    return report | {"bitstream": str(bitstream)}


@dataclass(frozen=True)
class _Placed:
    """What place and route made."""

    report: dict
    bitstream: Path
    netlist: Path


def clock_of(board: "Board", mhz: float) -> float:
    """What the board makes of it, and the serial line counts in.  Raises ValueError if there is no such clock or line."""
    from fpga.ecp5 import script as ecp5
    from fpga.ice40 import toolchain as ice40_build
    from fpga.link.uart import divisor_for

    pll = ice40_build.Pll if board.device.family.name == "ice40" else ecp5.Pll
    clock_mhz = mhz if mhz == board.oscillator_mhz else pll.below(board.oscillator_mhz, mhz).mhz
    divisor_for(clock_mhz * 1e6, board.baud)
    return clock_mhz


def _placed(
    output: CompiledModel,
    board: "Board",
    folder: Path,
    clock_mhz: float,
    seed: int,
    estimated: "Estimate",
    progress: Callable[[str], None],
) -> _Placed:
    from fpga.ecp5.toolchain import bitstream
    from fpga.ice40 import toolchain as ice40_build
    from fpga.link.simulated_board import board_verilog
    from fpga.link.uart import divisor_for

    roms = board_rom(output, folder / "rom")
    if board.device.family.name == "ice40":
        made = folder / f"seed-{seed}-{clock_mhz:g}-mhz"
        report = ice40_build.build(
            output.format, output.config, roms, made, board=board, clock_mhz=clock_mhz, seed=seed, progress=progress
        )
        return _Placed({name: value for name, value in report.items() if name != "key"}, made / "top.bin", made / "routed.json")
    clock_mhz = clock_of(board, clock_mhz)
    verilog = board_verilog(output.format, output.config, divisor_for(clock_mhz * 1e6, board.baud))
    report = bitstream(
        board,
        verilog,
        roms,
        folder,
        clock_mhz=clock_mhz,
        seed=seed,
        chains=estimated.chains,
        narrow=estimated.narrow,
        progress=lambda phase, what: progress(f"{phase}: {what}".rstrip(": ")),
    )
    bit = Path(report.pop("bitstream"))
    return _Placed(report, bit, bit.with_suffix(".routed.json"))


def _output(name: str, board: "Board", out: Path | None) -> CompiledModel:
    """The compiled model ``name``, or the one that is made of the checkpoint, with the fastest lanes that fit."""
    from fpga.estimate import WIDE_BITS, family_name, fastest
    from hdl.verilog import chip_verilog

    if is_output(Path(name)):
        say(f"{name} is compiled: its lanes stand")
        output = CompiledModel(name)
        if chip_verilog(output.format, output.config) != output.verilog.read_text():
            raise CompiledError(f"{name}: this version of hardwire generates other Verilog: compile it again")
        return output
    source, wide_bits = Source.open(name), WIDE_BITS[family_name(board)]
    model = source.format(wide_bits)
    best = fastest(model, board, min(MAX_CONTEXT, model.max_seq_len))
    _check_fit(name, best.cells, board)
    out = out or Path("build") / f"{Path(name).name}-{board.name}"
    compile_model(source, out, wide_bits=wide_bits, **best.config.as_dict())
    return CompiledModel(out)


def _check_fit(name: str, cells: "Cells", board: "Board", tight: bool = False) -> None:
    from fpga.ecp5.toolchain import BuildError
    from fpga.estimate import overflows

    if over := overflows(cells, board, tight=tight):
        raise BuildError(f"{name} does not fit {board.name}: it takes {'; '.join(over)}.  {_largest(board)}")


def _largest(board: "Board") -> str:
    """The largest bundled model that fits, with its fastest lanes."""
    from fpga.estimate import WIDE_BITS, family_name, fastest, overflows
    from weights_to_rom.readers.known_models import known_models

    fitting = []
    for name, *_, path in known_models():
        if not (path and Path(path).is_dir()):  # a folder of this repository
            continue
        model = Source.open(name).format(WIDE_BITS[family_name(board)])
        best = fastest(model, board, min(MAX_CONTEXT, model.max_seq_len))
        if not overflows(best.cells, board):
            fitting.append((model.dim * model.n_layers, name, best.config))
    if not fitting:
        return "No bundled model does."
    _, name, config = max(fitting, key=lambda entry: entry[:2])
    lanes = (
        "--shared --wide-bits 24"
        if config.shared
        else (f"--row-lanes {config.row_lanes} --vector-lanes {config.vector_lanes} --attention-heads {config.attention_heads}")
    )
    return f"The largest bundled model that fits is {name}, with {lanes} --max-context {config.max_context}."


def _cycles(output: CompiledModel, estimated: "Estimate") -> tuple[int, bool]:
    """Cycles of a token at the context, and whether they were measured."""
    decode = output.report["measured"].get("decode", {})
    if entry := decode.get(str(estimated.context)):
        return entry["cycles"], True
    return estimated.cycles, False


def estimate_lines(estimated: "Estimate") -> list[str]:
    cells = estimated.cells
    return [
        f"estimated: {cells.luts:,} LUTs, {cells.flip_flops:,} flip-flops, {cells.block_rams} block RAMs, {cells.dsps} DSPs",
        (
            f"estimated: {estimated.clock_mhz:g} MHz, {estimated.cycles:,} cycles a token at context {estimated.context}, "
            f"{estimated.tokens_per_second:,.0f} tokens/s"
        ),
    ]


def _bitstream_name(board: "Board") -> str:
    return "top.bin" if board.device.family.name == "ice40" else "top.bit"


def flash(out: str, board_name: str) -> str:
    """Load the bitstream that ``build`` made of OUT into a board; what was loaded.  Raises ValueError."""
    from fpga.boards import board_named
    from fpga.flash import flash as load

    board, output = board_named(board_name), CompiledModel(out)
    folder = output.folder / "fpga" / board.name
    bitstream = folder / _bitstream_name(board)
    again = f"make one with: hardwire fpga build {out} --board {board.name}"
    if not bitstream.is_file():
        raise ValueError(f"{bitstream}: no bitstream ({again})")
    if json.loads((folder / "report.json").read_text())["identity"] != f"{output.identity:016x}":
        raise ValueError(f"{bitstream}: is of another model or chip than {out} is now ({again})")
    with step(f"flash {board.name}"):
        load(board, bitstream)
    return str(bitstream)


def verify(out: str, board_name: str) -> list[str]:
    """Compare the block RAMs of the bitstream that ``build`` made of OUT with its ROMs; a line each.  Raises ValueError."""
    from fpga.boards import board_named
    from fpga.link.simulated_board import DIVISOR, board_verilog
    from fpga.memories import contents
    from fpga.verify import verify as compare

    board, output = board_named(board_name), CompiledModel(out)
    folder = output.folder / "fpga" / board.name
    if missing := [name for name in (_bitstream_name(board), "routed.json") if not (folder / name).is_file()]:
        raise ValueError(f"{folder / missing[0]}: is not there (make it with: hardwire fpga build {out} --board {board.name})")
    verilog = board_verilog(output.format, output.config, DIVISOR)
    held = {f"board.{name}": words for name, words in contents(verilog, board_rom(output, folder / "rom"), "board").items()}
    with step(f"verify {folder / _bitstream_name(board)}"):
        equal = compare(board, folder, held)
    lines = [
        f"{of.memory}: {of.words:,} words of {of.bits} bits in {of.block_rams} block RAMs: equal" for of in equal if of.block_rams
    ]
    logic = [of.memory for of in equal if not of.block_rams]
    return [*lines, f"logic, which is not read back: {', '.join(logic)}"]


def build_lines(report: dict) -> list[str]:
    """For people."""
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
    """What ``hardwire boards`` lists."""
    from fpga.boards import BOARDS

    return [
        {
            "name": board.name,
            "device": board.device.name,
            "package": board.package,
            "oscillator_mhz": board.oscillator_mhz,
            **asdict(board.device.cells),
        }
        for board in BOARDS.values()
    ]
