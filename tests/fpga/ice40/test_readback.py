"""Words are read out of the rows of an iCE40's block RAMs, and block RAMs are found in its netlist."""

import json
import random

import pytest

from fpga.ice40 import readback
from fpga.ice40.readback import block_rams, rows_of, words_of
from fpga.job import BlockRam
from fpga.verify import memory_words
from synth.run import BuildError


@pytest.mark.parametrize(("width", "per_row"), [(16, 1), (8, 2), (4, 4), (2, 8)])
def test_words_are_found_in_rows(width, per_row):
    """The memory is deeper and wider than a block RAM.  Its rows are written as Yosys' technology library does."""
    order = {
        16: (0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15),
        8: (0, 8, 4, 12, 2, 10, 6, 14),
        4: (1, 9, 5, 13),
        2: (3, 11),
    }
    assert {w: tuple(bit & -(16 // w) for bit in bits) for w, bits in order.items()} == readback.DATA_BITS
    depth = 256 * per_row
    rng = random.Random(width)
    content = [rng.getrandbits(2 * width) | 1 << 2 * width for _ in range(2 * depth - 3)]  # the highest bit never varies
    blocks, held = {}, {}
    for block in range(2):
        for column in range(2):
            rows = [0] * 256
            for i, word in enumerate(content[block * depth : (block + 1) * depth]):
                address = i * (8 // per_row)  # eleven bits: the low three choose a word of the row, in reversed order
                place = (address & 1) << 2 | (address & 2) | (address & 4) >> 2
                for k, bit in enumerate(order[width]):
                    rows[address >> 3] |= (word >> column * width + k & 1) << (bit & -per_row) + place
            site = (block, column)
            blocks[f"m.{block}.{column}"] = BlockRam(site, width)
            held[site] = tuple(rows)
    assert memory_words("m", content, blocks, held, words_of) == content
    del blocks["m.0.1"], blocks["m.1.1"]
    with pytest.raises(BuildError, match=r"^m: 2 block RAMs in the netlist are not those for \d+ bits that vary$"):
        memory_words("m", content, blocks, held, words_of)


def test_rows_of_lines():
    """A line of the text of a bitstream has 16 rows, the first one in its low bits."""
    lines = [sum((16 * line + at) << 16 * at for at in range(16)) for line in range(16)]
    assert rows_of(lines) == tuple(range(256))


def test_the_places_of_block_rams(tmp_path):
    cell = {"type": "ICESTORM_RAM", "attributes": {"NEXTPNR_BEL": "X6/Y13/ram"}, "parameters": {"READ_MODE": f"{3:032b}"}}
    netlist = tmp_path / "routed.json"
    netlist.write_text(json.dumps({"modules": {"top": {"cells": {"m.mem.0.1_RAM": cell, "lut": {"type": "ICESTORM_LC"}}}}}))
    assert block_rams(netlist) == {"m.mem.0.1": BlockRam((6, 13), 2)}
