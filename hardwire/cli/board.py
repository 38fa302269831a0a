"""Commands for boards with an FPGA: fpga build, fpga flash, fpga verify, boards."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from hardwire.cli.console import say
from hardwire.cli.options import Json, ModelOrOut, OutFolder, chip_options
from hardwire.cli.show import show

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


@fpga.command(epilog="Example:  hardwire fpga flash build/stories-260k-ulx3s-85f --board ulx3s-85f")
def flash(out: OutFolder, board: Annotated[str, typer.Option(show_default=False, help="The board that is plugged in.")]) -> None:
    """Load the bitstream that ``hardwire fpga build`` made into a board, by openFPGALoader."""
    from hardwire.boards import flash as load_bitstream

    say(f"{load_bitstream(out, board)} is in {board}")


@fpga.command("verify", epilog="Example:  hardwire fpga verify build/stories-260k-ulx3s-85f --board ulx3s-85f")
def verify_bitstream(
    out: OutFolder, board: Annotated[str, typer.Option(show_default=False, help="One that a bitstream was built for.")]
) -> None:
    """Read the block RAMs back out of the finished bitstream, and compare every bit with the model's ROMs."""
    from hardwire.boards import verify as compare

    for line in compare(out, board):
        say(line)


@commands.command()
def boards(as_json: Json = False) -> None:
    """List the boards that bitstreams can be built for."""
    from hardwire.boards import boards as known_boards

    rows = known_boards()
    table = Table(*(heading.replace("_", " ") for heading in rows[0]), box=None)
    for row in rows:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else str(value) for value in row.values()))
    show(rows, as_json, [table])
