"""The prediction follows the table of units; tests of the commands hold it against the simulated chip."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

import hdl.cycles.token
from hdl.config import ChipConfig
from hdl.cycles.token import UNITS, token_cycles
from hdl.units import Unit, asked, chip_units
from tests.support.adapters import random_format


def with_unit(after: str):
    """The table with one more unit, of 3 cycles, between the unit ``after`` and the next one."""

    def table(model, config):
        units = asked(chip_units(model, config))
        added = Unit(SimpleNamespace(latency=3), feeds=units[after].feeds)
        return units | {after: replace(units[after], feeds="added"), "added": added}

    return table


@pytest.mark.parametrize("after", ["rmsnorm", "swiglu", "mx_swiglu"])
def test_a_unit_of_the_table_takes_its_latency(monkeypatch, after):
    model = random_format(n_layers=3)
    config = ChipConfig.for_model(model)
    before = token_cycles(model, config, 5)
    monkeypatch.setattr(hdl.cycles.token, "chip_units", with_unit(after))
    monkeypatch.setattr(hdl.cycles.token, "asked", lambda units: units)
    longer = token_cycles(model, config, 5)
    times = 7 if after == "rmsnorm" else 3  # two norms a layer and the last one
    assert longer.by_unit == before.by_unit | {"added": 3 * times}
    assert longer.total == before.total + 3 * times


@pytest.mark.parametrize("after", ["rope", "mx_qkv", "attention", "mx_attention"])
def test_a_unit_between_qkv_and_the_fabric_takes_time(monkeypatch, after):
    model = random_format(n_layers=2)
    config = ChipConfig.for_model(model)
    before = token_cycles(model, config, 5).total
    monkeypatch.setattr(hdl.cycles.token, "chip_units", with_unit(after))
    monkeypatch.setattr(hdl.cycles.token, "asked", lambda units: units)
    assert before < token_cycles(model, config, 5).total <= before + 3 * 2


def test_all_units_are_counted():
    model = random_format(n_layers=1)
    token = token_cycles(model, ChipConfig.for_model(model), 1)
    assert tuple(token.by_unit) == UNITS
    assert token.total == sum(token.by_unit.values())
