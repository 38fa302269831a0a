"""Block RAMs of an ECP5 are found in its netlist, and words are read out of their units."""

import json
import random

import pytest

from fpga.ecp5.readback import block_rams, units_of, words_of
from fpga.job import BlockRam
from fpga.verify import memory_words
from synth.run import BuildError


@pytest.mark.parametrize("width", [1, 2, 4, 9, 18, 36])
def test_words_are_found_in_units(width):
    """The memory is deeper and wider than a block RAM, and has two copies."""
    depth = 16384 // width if width < 9 else 2048 * 9 // width
    rng = random.Random(width)
    content = [rng.getrandbits(2 * width) | 1 << 2 * width for _ in range(2 * depth - 3)]  # the highest bit never varies
    blocks, held = {}, {}
    for row in range(4):
        for column in range(2):
            units = [0] * 2048
            start = row % 2 * depth
            for i, word in enumerate(content[start : start + depth]):
                for k in range(width):
                    place = i * width + k
                    unit, at = divmod(place, 9 if width >= 9 else 8)
                    units[unit] |= (word >> column * width + k & 1) << at
            site = row * 2 + column
            blocks[f"m.{row}.{column}"], held[site] = BlockRam(site, width), tuple(units)
    assert memory_words("m", content, blocks, held, words_of) == content
    held[7] = (held[7][0] ^ 1, *held[7][1:])
    with pytest.raises(BuildError, match=r"^m: the copies of its slice 1 differ$"):
        memory_words("m", content, blocks, held, words_of)
    for row in range(4):
        del blocks[f"m.{row}.1"]
    with pytest.raises(BuildError, match=rf"^m: 4 block RAMs in the netlist are not those for {2 * width} bits that vary$"):
        memory_words("m", content, blocks, held, words_of)


def test_a_rom_deeper_than_a_block_ram():
    """Yosys numbers further words as further columns: 1,300 words of 40 bits take 3 x 2 block RAMs of 512 words."""
    rng = random.Random(3)
    content = [rng.getrandbits(40) for _ in range(1300)]
    blocks, held = {}, {}
    for number in range(6):
        first, slice_ = number // 2 * 512, number % 2
        part = [word >> 36 * slice_ & (1 << 36) - 1 for word in content[first : first + 512]]
        blocks[f"m.0.{number}"] = BlockRam(number, 36)
        held[number] = tuple(word >> 9 * k & 511 for word in part + [0] * (512 - len(part)) for k in range(4))
    assert memory_words("m", content, blocks, held, words_of) == content
    held[5] = (held[5][0] ^ 1, *held[5][1:])
    assert [at for at, word in enumerate(memory_words("m", content, blocks, held, words_of)) if word != content[at]] == [1024]
    with pytest.raises(BuildError, match=r"^m: 3 block RAMs in the netlist are not those for 40 bits that vary$"):
        memory_words("m", content, {name: blocks[name] for name in ("m.0.0", "m.0.1", "m.0.2")}, held, words_of)


def test_a_bitstream_as_text():
    lines = "\n".join(" ".join(f"{8 * line + i & 511:03x}" for i in range(8)) for line in range(256))
    held = units_of(f".device LFE5U-25F\n\n.bram_init 3\n{lines}\n\n.bram_init 14\n{lines}\n\n.tile x\n")
    assert held == {3: tuple(i & 511 for i in range(2048)), 14: tuple(i & 511 for i in range(2048))}


@pytest.mark.parametrize(("a", "b", "width"), [(9, 9, 9), (9, 18, 9), (36, 18, 18), (36, 36, 36), (1, 1, 1)])
def test_the_width_of_the_port_that_reads(tmp_path, a, b, width):
    cell = {
        "type": "DP16KD",
        "attributes": {"WID": f"{5:032b}"},
        "parameters": {"DATA_WIDTH_A": f"{a:032b}", "DATA_WIDTH_B": f"{b:032b}"},
    }
    netlist = tmp_path / "routed.json"
    netlist.write_text(json.dumps({"modules": {"top": {"cells": {"m.mem.0.0": cell, "other": {"type": "LUT4"}}}}}))
    assert block_rams(netlist) == {"m.mem.0.0": BlockRam(5, width)}
