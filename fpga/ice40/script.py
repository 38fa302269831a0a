"""The script of Yosys, and the arguments of nextpnr and icepack."""

from pathlib import Path

from fpga.boards import Board
from fpga.ice40.pll import TOP

MULTIPLY = Path(__file__).with_name("multiply.v")
"""The technology map of Yosys that turns a multiplication into carry chains, for devices without MAC16."""

SPEEDS = {"iCE40UP5K": "u", "iCE40HX8K": "hx"}
"""The value of Yosys' option ``-device``, by device."""


def synthesis(board: Board) -> str:
    """Return the script of Yosys, which reads top.v and writes top.json."""
    map_multiplications = (
        ""
        if board.device.cells.dsps
        else (f"hierarchy -top {TOP}; proc; flatten; opt; wreduce; techmap -map {MULTIPLY.name} t:$mul; opt; ")
    )
    return f"read_verilog top.v; {map_multiplications}synth_ice40 -device {SPEEDS[board.device.name]} -top {TOP} -json top.json"


def constraints(board: Board) -> str:
    """Return the text of the .pcf file, which has the pins.  ``rx`` has a pull-up, so that an open line is at rest."""
    return "".join(f"set_io{' -pullup yes' if name == 'rx' else ''} {name} {pin.site}\n" for name, pin in board.pins.items())


def place_and_route(board: Board, mhz: float, seed: int) -> list[str]:
    """Return the arguments of nextpnr.

    If the design misses the clock, nextpnr still succeeds, and its report has the clock that the design reaches.
    """
    return [
        *board.device.select,
        "--package",
        board.package.lower(),
        "--json",
        "top.json",
        "--pcf",
        "top.pcf",
        "--freq",
        f"{mhz:g}",
        "--seed",
        str(seed),
        "--timing-allow-fail",
        "--asc",
        "top.asc",
        "--write",
        "routed.json",
        "--report",
        "nextpnr.json",
    ]


def pack() -> list[str]:
    """Return the arguments of icepack."""
    return ["top.asc", "top.bin"]
