"""Commands for boards with an FPGA: fpga build, fpga flash, fpga verify, boards."""

from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from hardwire.cli.options import Json, ModelOrOut, OutFolder, chip_options
from hardwire.cli.show import columns, next_step, show

commands = typer.Typer()
fpga = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Bitstreams for boards with an FPGA.")
commands.add_typer(fpga, name="fpga")


@fpga.command(epilog="Example:  hardwire fpga build stories-260k --board ulx3s-85f")
@chip_options
def build(
    name: ModelOrOut,
    board: Annotated[str, typer.Option(show_default=False, help="One of those that hardwire boards lists.")],
    clock: Annotated[
        float | None, typer.Option(min=1.0, metavar="MHZ", show_default="the estimate", help="The chip's clock.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Another seed places the design differently.")] = 1,
    allow_timing_fail: Annotated[
        bool, typer.Option("--allow-timing-fail", help="Write the bitstream even if it is too slow for its clock.")
    ] = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Print the estimate of the chip, its clock and its speed, and build nothing.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="OUT", show_default="build/MODEL-BOARD", help="Where a checkpoint is compiled to."),
    ] = None,
    as_json: Json = False,
    **chip: Any,
) -> None:
    """Build a bitstream: of a compiled model with the lanes it has, of a checkpoint with the fastest that fit.

    Options of a checkpoint's chip stay as they are given; the others are found.
    Place and route takes minutes.  Bitstream, reports and report.json come to OUT/fpga/BOARD.
    """
    from hardwire.boards import build as build_bitstream
    from hardwire.boards import build_lines, estimate_build, estimate_lines

    if estimate:
        figures = estimate_build(name, board, clock_mhz=clock, **chip)
        cells, cycles = figures["estimated"], figures["cycles_per_token"]
        lines = estimate_lines(cells, figures["clock_mhz"], cycles, figures["context"])
        show(figures, as_json, lines + [f"does not fit: {over}" for over in figures["does_not_fit"]])
        return
    report = build_bitstream(name, board, clock_mhz=clock, seed=seed, allow_timing_fail=allow_timing_fail, out=out, **chip)
    show(report, as_json, build_lines(report))
    folder = Path(report["bitstream"]).parents[2]
    next_step(as_json, f"hardwire fpga flash {quote(str(folder))} --board {board}")


@fpga.command(epilog="Example:  hardwire fpga flash build/stories-260k-ulx3s-85f --board ulx3s-85f")
def flash(
    out: OutFolder,
    board: Annotated[str, typer.Option(show_default=False, help="The board that is plugged in.")],
    as_json: Json = False,
) -> None:
    """Load the bitstream that ``hardwire fpga build`` made into a board, by openFPGALoader."""
    from hardwire.boards import flash as load_bitstream

    loaded = load_bitstream(out, board)
    show(loaded, as_json, [f"{loaded['bitstream']} is in {loaded['board']}"])
    next_step(as_json, f"hardwire chat {quote(out)} --port auto")


@fpga.command("verify", epilog="Example:  hardwire fpga verify build/stories-260k-ulx3s-85f --board ulx3s-85f")
def verify_bitstream(
    out: OutFolder,
    board: Annotated[str, typer.Option(show_default=False, help="One that a bitstream was built for.")],
    as_json: Json = False,
) -> None:
    """Read the block RAMs back out of the finished bitstream, and compare every bit with the model's ROMs."""
    from hardwire.boards import verify as compare
    from hardwire.boards import verify_lines

    figures = compare(out, board)
    show(figures, as_json, verify_lines(figures))


@commands.command()
def boards(as_json: Json = False) -> None:
    """List the boards that bitstreams can be built for, the largest bundled model that fits each, and the build in docs."""
    from hardwire.boards import boards as known_boards

    rows = known_boards()
    table = columns("board", "device", "LUTs", "block RAMs", "DSPs", "largest model", "measured build")
    for row in rows:
        build = row["build"]
        measured = build and f"{build['model']}, {build['tokens_per_second']:,} tokens/s"
        cells = (f"{row[name]:,}" for name in ("luts", "block_rams", "dsps"))
        table.add_row(row["name"], row["device"], *cells, row["largest_model"] or "none", measured or "none")
    show({"boards": rows}, as_json, [table])
