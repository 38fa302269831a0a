"""Both tool flows, with fake tools: the order of the tools, the results that are kept, and the common shape of reports."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import fpga.ecp5.toolchain
import fpga.ice40.toolchain
from fpga.boards import board_named
from fpga.job import Job
from fpga.toolchain import TOOLCHAINS, toolchain_of
from synth.run import BuildError

BOARDS = ("icesugar-pro", "ice40-hx8k-b-evn")
DESIGN = "module board (input clk, input rst, input rx, output tx, output busy);\nendmodule\n"
REPORTED = ("board", "clock_mhz", "fmax_mhz", "seed", "luts", "flip_flops", "block_rams", "dsps", "critical_path", "tools")
RESOURCES = ("TRELLIS_COMB", "TRELLIS_FF", "DP16KD", "MULT18X18D", "ICESTORM_LC", "ICESTORM_RAM")


@pytest.fixture
def ran(monkeypatch):
    """Return the names of the fake tools that ran, in order.  Each writes the files that the next one reads."""
    functions = []

    def run_tool(module, function, arguments, folder, log, progress):
        functions.append(function)
        module = json.dumps({"modules": {"top": {"cells": {}, "ports": {}}}})
        report = {
            "utilization": {name: {"used": 7} for name in RESOURCES},
            "fmax": {"clk": {"achieved": 61.237}},
            "critical_paths": [],
        }
        written = {"top.json": module, "routed.json": module, "statistics.json": "{}", "nextpnr.json": json.dumps(report)}
        for name, text in (written | {log: "", arguments[-1]: "bits"} if "pack" in function else written | {log: ""}).items():
            (folder / name).write_text(text)
        progress("half way")

    for flow in (fpga.ecp5.toolchain, fpga.ice40.toolchain):
        monkeypatch.setattr(flow, "run_tool", run_tool)
    return functions


@pytest.fixture(params=BOARDS)
def job(request, tmp_path):
    (tmp_path / "rom").mkdir()
    (tmp_path / "rom" / "words.hex").write_text("1\n2\n")
    board = board_named(request.param)
    return Job(DESIGN, tmp_path / "rom", board, board.oscillator_mhz, 3, tmp_path / "made")


def test_the_steps_of_a_build(job, ran):
    flow, lines = toolchain_of(job.board), []
    placed = flow.build(job, lines.append)
    assert [function.removeprefix("run_") for function in ran] in (
        ["yosys", "nextpnr_ecp5", "ecppack"],
        ["yosys", "nextpnr_ice40", "icepack"],
    )
    assert placed.bitstream.suffix == flow.SUFFIX and placed.bitstream.read_text() == "bits"
    assert json.loads(placed.netlist.read_text())["modules"]
    assert "synthesis: half way" in lines and "pack" in lines
    assert placed.report.keys() >= set(REPORTED)
    assert (placed.report["clock_mhz"], placed.report["fmax_mhz"], placed.report["seed"]) == (job.clock_mhz, 61.24, 3)
    assert placed.report["luts"] == placed.report["block_rams"] == 7


def test_the_same_input_is_not_built_again(job, ran):
    build = toolchain_of(job.board).build
    placed = build(job, lambda line: None)
    assert build(job, lambda line: None) == placed and len(ran) == 3
    for changed in (replace(job, seed=4), replace(job, verilog=DESIGN + "\n")):
        ran.clear()
        build(changed, lambda line: None)
        assert len(ran) >= 2
    ran.clear()
    (job.roms / "words.hex").write_text("1\n3\n")
    build(job, lambda line: None)
    assert len(ran) == 3


def test_a_tool_that_fails_leaves_no_result(job, ran, monkeypatch):
    flow = toolchain_of(job.board)

    def refuse(*arguments):
        raise BuildError("no")

    with monkeypatch.context() as broken:
        broken.setattr(flow, "run_tool", refuse)
        with pytest.raises(BuildError):
            flow.build(job, lambda line: None)
    flow.build(job, lambda line: None)
    assert len(ran) == 3


@pytest.mark.parametrize("flow", TOOLCHAINS.values(), ids=TOOLCHAINS)
def test_every_flow_offers_the_whole_protocol(flow):
    assert {"SUFFIX", "clock", "build", "block_rams", "unpack", "words_of", "routed_verilog"} == set(flow.__all__)


def test_families_are_named_in_their_own_folders_only():
    """All other code chooses a family through TOOLCHAINS and ESTIMATORS."""
    root = Path(fpga.ecp5.toolchain.__file__).parents[2]
    allowed = {"fpga/toolchain.py", "fpga/estimate.py", "fpga/devices.py"}
    files = [*root.glob("fpga/*.py"), *root.glob("fpga/link/*.py"), *root.glob("hardwire/**/*.py")]
    naming = {str(file.relative_to(root)) for file in files if any(f'"{name}"' in file.read_text() for name in TOOLCHAINS)}
    assert naming <= allowed
