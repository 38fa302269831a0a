"""``hardwire boards`` and ``hardwire fpga``: the list of boards, refusals, and the report of a build."""

import json
import shutil
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

import synth.run
from fpga.boards import BOARDS
from fpga.job import Placed
from fpga.link.board_top import board_verilog
from fpga.toolchain import TOOLCHAINS
from hardwire.boards import build, build_lines
from hardwire.cli.main import app
from hardwire.compiled import CompiledModel
from hardwire.compiler import compile_model
from hardwire.source import Source
from hdl.config import ChipConfig
from hdl.cycles.predict import predict_token
from synth.run import BuildError
from weights_to_rom.errors import HardwireError
from weights_to_rom.scratch import BusyError, locked


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """stories-tiny, compiled."""
    folder = tmp_path_factory.mktemp("compiled") / "out"
    compile_model(Source.open("stories-tiny"), folder, simulation=False)
    return folder


def run(*arguments):
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})


@pytest.mark.parametrize(
    ("board", "said"),
    [
        (
            "icesugar-pro",
            (
                "it takes 126 block RAMs of 56.  The largest bundled model that fits is stories-tiny, with --row-lanes 1 "
                "--vector-lanes 2 --attention-heads 1 --max-context 256."
            ),
        ),
        (
            "icebreaker",
            (
                "it takes 363 block RAMs of 30.  The largest bundled model that fits is stories-tiny, with --shared "
                "--wide-bits 24 --max-context 256."
            ),
        ),
    ],
)
def test_a_model_that_does_not_fit(monkeypatch, tmp_path, board, said):
    monkeypatch.setattr(synth.run.subprocess, "Popen", None)
    ran = run("fpga", "build", "stories-260k", "--board", board, "-o", str(tmp_path / "out"))
    assert isinstance(ran.exception, BuildError)
    assert str(ran.exception) == f"stories-260k does not fit {board}: {said}"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("board", "clock", "said"),
    [
        ("icebreaker", "7", "no clock of 7 MHz, or a little less, can be made from 12 MHz"),
        ("ulx3s-85f", "2", "no clock of 2 MHz, or a little less, can be made from 25 MHz"),
        ("ulx3s-85f", "8", "3000000 baud cannot be made of 7.14286 MHz: a bit would take 2.38 cycles"),
    ],
)
def test_a_clock_that_the_board_has_not(board, clock, said):
    """The error comes before anything is compiled: the model does not even exist."""
    assert str(run("fpga", "build", "nothing", "--board", board, "--clock", clock).exception) == said


@pytest.mark.parametrize(("board", "clock", "most"), [("ulx3s-85f", 500, 75), ("icesugar-pro", 91, 60), ("icebreaker", 37, 24)])
def test_a_clock_far_above_the_estimate(board, clock, most):
    said = str(run("fpga", "build", "nothing", "--board", board, "--clock", str(clock)).exception)
    assert said == (
        f"{board}: a clock of {clock} MHz is far above the {most} MHz that designs reach there: "
        f"leave --clock out, or give --clock {most}"
    )


def test_a_clock_above_the_estimate_is_a_remark():
    ran = run("fpga", "build", "nothing", "--board", "ulx3s-85f", "--clock", "80")
    assert "no such file" in str(ran.exception)  # the model is looked at next
    assert "80 MHz is above the 75 MHz that designs reach on ulx3s-85f" in ran.stderr


def test_an_estimate_builds_nothing(out, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(synth.run.subprocess, "Popen", None)
    monkeypatch.setattr("hardwire.boards.compile_model", None)
    before = sorted(out.rglob("*"))
    given = ("--row-lanes", "2", "--block-lanes", "8", "--vector-lanes", "2", "--max-context", "64")
    for name, options in ((str(out), ()), ("stories-tiny", given)):
        ran = run("fpga", "build", name, "--board", "ulx3s-85f", "--estimate", "--json", *options)
        assert ran.exit_code == 0, ran.exception
        figures = json.loads(ran.stdout)
        config = ChipConfig(**figures["lanes"])
        model = Source.open("stories-tiny").format()
        assert figures["cycles_per_token"] == predict_token(model, config, figures["context"]).total
        assert figures["tokens_per_second"] == round(75e6 / figures["cycles_per_token"]) and figures["does_not_fit"] == []
    assert (config.row_lanes, config.max_context) == (2, 64)
    text = run("fpga", "build", str(out), "--board", "icesugar-pro", "--estimate").stdout
    assert "LUTs" in text and "60 MHz" in text
    ran = run("fpga", "build", "stories-260k", "--board", "icebreaker", "--estimate", "--json")
    assert json.loads(ran.stdout)["does_not_fit"] == ["363 block RAMs of 30"]
    assert sorted(out.rglob("*")) == before and [*tmp_path.iterdir()] == []


def test_two_builds_at_once(out, jobs, monkeypatch):
    monkeypatch.setattr("hdl.verilog.chip_verilog", lambda model, config: (out / "chip.v").read_text())
    (out / "fpga" / "ulx3s-85f").mkdir(parents=True, exist_ok=True)
    with locked(out / "fpga" / "ulx3s-85f" / "building"), pytest.raises(BusyError, match="another hardwire builds there now"):
        build(str(out), "ulx3s-85f")
    assert jobs == []


def test_verilog_of_another_version(out, monkeypatch):
    monkeypatch.setattr("hdl.verilog.chip_verilog", lambda model, config: "module chip; endmodule")
    ran = run("fpga", "build", str(out), "--board", "ulx3s-85f")
    assert str(ran.exception) == f"{out}: this version of hardwire generates other Verilog: compile it again"


def test_a_bitstream_of_another_model_is_not_flashed(out, monkeypatch):
    monkeypatch.setattr("fpga.flash.flash", lambda board, bitstream: None)
    again = f"make one with: hardwire fpga build {out} --board ulx3s-85f"
    bit = out / "fpga" / "ulx3s-85f" / "top.bit"

    def flashed():
        ran = run("fpga", "flash", str(out), "--board", "ulx3s-85f")
        return str(ran.exception)

    assert flashed() == f"{bit}: no bitstream ({again})"
    bit.parent.mkdir(parents=True, exist_ok=True)
    bit.touch()
    (bit.parent / "report.json").write_text(json.dumps({"identity": f"{CompiledModel(out).identity ^ 1:016x}"}))
    assert flashed() == f"{bit}: is of another model or chip than {out} is now ({again})"
    (bit.parent / "report.json").write_text(json.dumps({"identity": f"{CompiledModel(out).identity:016x}"}))
    assert flashed() == "None"


@pytest.mark.parametrize("report", [None, b"", b"{", b"\xff", b"[]", b"7", b"{}"])
def test_a_bitstream_with_a_damaged_report_is_not_flashed(out, tmp_path, monkeypatch, report):
    loaded = []
    monkeypatch.setattr("fpga.flash.flash", lambda board, bitstream: loaded.append(bitstream))
    copy = shutil.copytree(out, tmp_path / "out", symlinks=True)
    folder = copy / "fpga" / "ulx3s-85f"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "top.bit").touch()
    if report is not None:
        (folder / "report.json").write_bytes(report)
    ran = run("fpga", "flash", str(copy), "--board", "ulx3s-85f")
    again = f"make one with: hardwire fpga build {copy} --board ulx3s-85f"
    assert isinstance(ran.exception, HardwireError)
    assert str(ran.exception) == f"{folder / 'report.json'}: cannot be read, or has no identity ({again})"
    assert loaded == []


def test_boards_are_listed():
    ran = run("boards", "--json")
    assert ran.exit_code == 0
    listed = {board["name"]: board for board in json.loads(ran.stdout)["boards"]}
    assert set(listed) == set(BOARDS)
    assert listed["ulx3s-85f"] | {"package": "BG381", "oscillator_mhz": 25.0, "luts": 83640} == listed["ulx3s-85f"]


@pytest.fixture
def jobs(monkeypatch, tmp_path):
    """The jobs that a made-up tool flow gets.  It reaches 70 MHz, and its bitstream is "bits"."""
    given = []

    def placed(job, progress):
        given.append(job)
        for name in ("x.bit", "x.json"):
            (tmp_path / name).write_text("bits")
        found = {"board": job.board.name, "clock_mhz": job.clock_mhz, "fmax_mhz": 70.0, "critical_path": []}
        found |= dict.fromkeys(("luts", "flip_flops", "block_rams", "dsps"), 1)
        return Placed(found, tmp_path / "x.bit", tmp_path / "x.json")

    flow = SimpleNamespace(SUFFIX=".bit", clock=lambda board, mhz: mhz, build=placed)
    monkeypatch.setitem(TOOLCHAINS, "ecp5", flow)
    return given


def test_a_build_of_a_compiled_model(out, jobs):
    report = build(str(out), "ulx3s-85f", clock_mhz=60.0, seed=7)
    (job,) = jobs
    output = CompiledModel(out)
    assert (job.clock_mhz, job.seed, job.board) == (60.0, 7, BOARDS["ulx3s-85f"])
    assert job.verilog == board_verilog(output.format, output.config, 20)  # 60 MHz by 3 Mbaud
    assert (job.roms / "identity.hex").read_text() == f"{output.identity:016x}\n"
    folder = out / "fpga" / "ulx3s-85f"
    assert {name for name in ("top.bit", "routed.json", "report.json") if (folder / name).is_file()} == {
        "top.bit",
        "routed.json",
        "report.json",
    }
    assert json.loads((folder / "report.json").read_text()) | {"bitstream": report["bitstream"]} == report
    assert report["timing_met"] and report["tokens_per_second"] == round(60e6 / report["cycles_per_token"])
    assert build_lines(report)[-1] == f"bitstream: {folder / 'top.bit'}"


def test_a_clock_that_is_missed(out, jobs):
    folder = out / "fpga" / "ulx3s-85f"
    (folder / "top.bit").unlink(missing_ok=True)
    with pytest.raises(BuildError, match=r"^ulx3s-85f: 70\.0 MHz after route, and the clock is 75 MHz: try .* --clock 70$"):
        build(str(out), "ulx3s-85f")
    assert not (folder / "top.bit").exists() and not json.loads((folder / "missed.json").read_text())["timing_met"]
    report = build(str(out), "ulx3s-85f", allow_timing_fail=True)
    assert (folder / "top.bit").read_text() == "bits" and report["tokens_per_second"] == round(70e6 / report["cycles_per_token"])
    assert "which is MISSED" in build_lines(report)[1]
