"""Names, sizes and contents of memories are read out of Verilog."""

import pytest

from fpga.memories import Memory, contents, instances, memories
from hdl.lib.rom import rom_verilog

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
  initial $readmemh("rom/w.hex", mem);
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


@pytest.fixture
def roms(tmp_path):
    (tmp_path / "w.hex").write_text("f\n00\n1f5\n")
    return tmp_path


def test_instances():
    assert [(path, module) for path, module, _ in instances(VERILOG, "top")] == [("", "top"), ("a", "\\table"), ("b", "rom_w")]


def test_contents(roms):
    assert contents(VERILOG, roms, "top") == {"a.t": [1, 10, 0], "b.mem": [15, 0, 0x1F5]}


def test_memories():
    text = "module top (clk);\n  rom_words r (\n  );\n  rom_few s (\n  );\nendmodule\n"
    text += rom_verilog("words", 24, 600) + rom_verilog("few", 5, 3)
    assert memories(text, "top") == {"r.mem": Memory("rom", 600, 24), "s.mem": Memory("logic", 3, 5)}
