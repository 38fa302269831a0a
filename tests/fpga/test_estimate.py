"""Estimates match built designs, find the fastest configuration that fits, and list resources that do not suffice."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import fpga.ecp5.estimate
from fpga.boards import BOARDS
from fpga.devices import ECP5_85, Cells
from fpga.ecp5.script import ALWAYS_CHAINS, NARROW_CACHE, NARROW_ROMS, WHERE_DSPS_ARE_FEW
from fpga.estimate import cells_of, estimate, estimator_of, fastest, overflows
from hardwire.source import Source

ULX3S = BOARDS["ulx3s-85f"]
FOR_HEADS = tuple(few.cells for few in WHERE_DSPS_ARE_FEW if few.lanes == "head")


def test_the_estimate_of_what_is_built(monkeypatch):
    """The search finds the configuration of docs/reports/ulx3s-85f.json, and its estimate has more DSPs if all may be in use."""
    model = Source.open("stories-260k").format()
    best = fastest(model, ULX3S, 256)
    report = json.loads((Path(__file__).parents[2] / "docs/reports/ulx3s-85f.json").read_text())
    assert best.config.as_dict() == {"prefix": ""} | report["lanes"] and best.cycles == report["cycles_per_token"]
    monkeypatch.setitem(fpga.ecp5.estimate.DSPS_FULL, "LFE5U-85F", 1.0)
    more_dsps = estimate(model, best.config, ULX3S)
    assert best.chains == ALWAYS_CHAINS + FOR_HEADS and more_dsps.chains == ALWAYS_CHAINS
    assert more_dsps.cells.dsps == 144 and more_dsps.cells.luts < best.cells.luts
    assert best.narrow == more_dsps.narrow == NARROW_ROMS + NARROW_CACHE
    assert best.cells.luts == pytest.approx(report["luts"], rel=0.1)
    # The estimate has one block RAM more, because Yosys leaves out the constant bits of a table.
    assert (best.cells.dsps, best.cells.block_rams) == (report["dsps"], report["block_rams"] + 1)


def test_the_fastest_lanes_that_fit():
    model = Source.open("stories-260k").format()
    best = fastest(model, ULX3S, 256)
    assert not overflows(best.cells, ULX3S)
    # A configuration with more of anything does not fit, or is no faster.
    for more in ({"row_lanes": 16}, {"attention_heads": 8}):
        config = replace(best.config, **more).checked(model)
        other = estimate(model, config, ULX3S)
        assert overflows(other.cells, ULX3S) or other.cycles >= best.cycles


def test_where_dsps_are_few_others_become_carry_chains():
    model = Source.open("stories-tiny").format()
    few, many = (fastest(model, BOARDS[name], 256) for name in ("icesugar-pro", "ulx3s-85f"))
    assert many.chains[:2] == ALWAYS_CHAINS == few.chains[:2] and few.chains[: len(many.chains)] == many.chains != few.chains
    assert few.cells.dsps <= 28
    cells, chains, _ = cells_of(model, few.config, ECP5_85)
    assert chains == ALWAYS_CHAINS and cells.dsps == 2 * 19 + 2 + 8 * 2 and cells.luts < few.cells.luts


def test_a_shape_that_the_shared_engine_has_no_hardware_for():
    model = replace(Source.open("stories-tiny").format(24), head_dim=16, n_heads=2, n_kv_heads=1)
    with pytest.raises(ValueError, match="head_dim must be 8, not 16"):
        fastest(model, BOARDS["icebreaker"], 128)


def test_what_overflows_is_named():
    full = Cells(luts=62_731, flip_flops=83_641, block_rams=209, dsps=157)
    assert overflows(full, ULX3S) == [
        "62,731 LUTs of 83,640, of which 62,730 can be placed and routed",
        "83,641 flip-flops of 83,640",
        "209 block RAMs of 208",
        "157 DSPs of 156",
    ]
    less = replace(full, flip_flops=1, block_rams=1, dsps=1)
    assert overflows(replace(less, luts=62_730), ULX3S) == []
    assert overflows(replace(less, luts=83_640), ULX3S, tight=True) == []
    over = overflows(replace(less, luts=83_641), ULX3S, tight=True)
    assert over == ["83,641 LUTs of 83,640, of which 83,640 can be placed and routed"]


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_every_device_has_figures(board):
    figures = estimator_of(board)
    assert 0.5 < figures.FULL[board.device.name] <= 1 and figures.CLOCK_MHZ[board.device.name] > 10
