"""A bitstream is compared with the memories of its design: equal memories are listed, and each kind of difference is found."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from fpga.job import BlockRam
from fpga.verify import Equal, memory_words, verify
from synth.run import BuildError

DEPTH = 8


def words_of(contents: Sequence[int], width: int) -> list[int]:
    """Return words of 4 or 8 bits of a block RAM of eight bytes."""
    return list(contents) if width == 8 else [byte >> at & 15 for byte in contents for at in (0, 4)]


class Flow:
    """A tool flow whose bitstream has the contents ``held``."""

    words_of = staticmethod(words_of)

    def __init__(self):
        self.blocks = {"b.mem.0.0": BlockRam(0, 8), "ram.mem.0.0": BlockRam(1, 8)}
        self.held = {0: [15, 0, 0xF5] + [0] * 5, 1: [0] * 8}

    def block_rams(self, netlist):
        return self.blocks

    def unpack(self, bitstream):
        return self.held


EXPECTED = {"a.t": [1, 10, 0], "b.mem": [15, 0, 0xF5]}


def compare(flow):
    return verify(flow, Path("made/top.bit"), Path("made/routed.json"), EXPECTED)


def test_equal():
    assert compare(Flow()) == [Equal("a.t", 3, 4, 0), Equal("b.mem", 3, 8, 1)]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda held: held[0].__setitem__(2, 0xF4), r"b\.mem: word 2 of the bitstream differs in bits 0: f4, not f5"),
        (lambda held: held[0].__setitem__(0, 0x8E), r"b\.mem: word 0 of the bitstream differs in bits 0, 7: 8e, not f"),
        (lambda held: held[1].__setitem__(7, 1), r"block RAM ram\.mem\.0\.0: has contents, and is no ROM of the design"),
        (lambda held: held.update({5: [1] * 8}), r"block RAM 5: has contents, and is no ROM of the design"),
        (lambda held: held.pop(0), r"b\.mem\.0\.0: has no contents in made's bitstream: build it again"),
    ],
)
def test_a_difference_is_named(spoil, message):
    flow = Flow()
    spoil(flow.held)
    with pytest.raises(BuildError, match=f"^{message}$"):
        compare(flow)


def test_a_netlist_of_another_design():
    flow = Flow()
    flow.blocks = {}
    with pytest.raises(BuildError, match=r"routed\.json has none of the design's memories in block RAM: build it again$"):
        compare(flow)


def stored(content, width, deep, copies=1, numbered_as_columns=False):
    """Return the block RAMs of ``content``, all of whose bits vary: ``deep`` rows for its words, each ``copies`` times."""
    n_bits = max(content).bit_length()
    across, depth = -(-n_bits // width), DEPTH * 8 // width
    blocks, held = {}, {}
    for row in range(deep * copies):
        part = content[row % deep * depth : (row % deep + 1) * depth]
        for column in range(across):
            words = [word >> column * width & (1 << width) - 1 for word in part] + [0] * (depth - len(part))
            raw = words if width == 8 else [low | high << 4 for low, high in zip(words[::2], words[1::2], strict=True)]
            name = f"m.0.{row * across + column}" if numbered_as_columns else f"m.{row}.{column}"
            blocks[name], held[len(held)] = BlockRam(len(held), width), raw
    return blocks, held


CONTENT = [0x0FF, 0xF00, 0x5A5, 0xA5A, 0x123, 0xEDC, 0x001, 0xFFE, 0x456, 0x789, 0xABC]


@pytest.mark.parametrize("width", [4, 8])
@pytest.mark.parametrize("numbered_as_columns", [False, True])
def test_rows_hold_further_words(width, numbered_as_columns):
    deep = -(-len(CONTENT) // (64 // width))
    blocks, held = stored(CONTENT, width, deep, numbered_as_columns=numbered_as_columns)
    assert memory_words("m", CONTENT, blocks, held, words_of) == CONTENT


def test_copies_must_be_equal():
    blocks, held = stored(CONTENT[:8], 8, deep=1, copies=2)
    assert memory_words("m", CONTENT[:8], blocks, held, words_of) == CONTENT[:8]
    held[3][4] ^= 1
    with pytest.raises(BuildError, match=r"^m: the copies of its slice 1 differ$"):
        memory_words("m", CONTENT[:8], blocks, held, words_of)


def test_bits_that_do_not_vary_are_in_no_block_ram():
    """Bits 1 and 3 are always 1 and bit 2 is always 0, so the block RAM has bits 0 and 4."""
    content = [0b01010, 0b11011, 0b01011, 0b11010]
    held = {0: [0b00, 0b11, 0b01, 0b10] + [0] * 4}
    assert memory_words("m", content, {"m.0.0": BlockRam(0, 8)}, held, words_of) == content


@pytest.mark.parametrize("left", [[], ["m.0.0", "m.1.0"], ["m.0.0", "m.0.1"]], ids=["none", "a_column", "a_row"])
def test_block_rams_that_are_missing(left):
    blocks, held = stored(CONTENT, 8, deep=2)
    blocks = {name: blocks[name] for name in left}
    with pytest.raises(BuildError, match=rf"^m: {len(left)} block RAMs in the netlist are not those for 12 bits that vary$"):
        memory_words("m", CONTENT, blocks, held, words_of)
