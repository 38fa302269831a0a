"""The table of units: complete, in the order of data flow, and known to golden by the same names."""

import pytest

from hdl.config import ChipConfig
from hdl.units import FABRIC, asked, chip_units, stage_units
from sim.golden.llama import GoldenLlama
from tests.support.models import random_model


@pytest.mark.parametrize("given", [{}, {"lora_rank": 4}, {"n_sinks": 2, "row_lanes": 2}])
def test_golden_reports_the_units_of_the_table(given):
    """In the table's order, but for the residual, which comes first in the table and is added to by later units, and lora."""
    model = random_model(0)
    config = ChipConfig.for_model(model.format, **given)
    golden, reported = GoldenLlama(model, n_sinks=config.n_sinks), {}

    def observe(unit, layer, parts):
        names = [f"kv_cache.{name}" for name in parts] if unit == "kv_cache" else [unit]
        reported.update(dict.fromkeys(names))

    golden.observe = observe
    golden.extend([3, 1])
    table = asked(chip_units(model.format, config))
    ports = [result for name, unit in table.items() for result in unit.ports(name)]
    if "lora" not in table:
        reported.pop("lora")  # golden's result without an adapter is the fabric's
    assert [*reported, "sampler"] == ports


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_every_result_finds_a_unit_that_takes_it(lora_rank):
    model = random_model(0).format
    table = asked(stage_units(model, ChipConfig.for_model(model, lora_rank=lora_rank)))
    for name, unit in table.items():
        passed = [name]
        while unit.feeds is not None and unit.feeds != FABRIC:
            passed.append(unit.feeds)
            unit = table[unit.feeds]
            assert len(passed) <= len(table), f"the results of {name} go round"
        assert unit.feeds == FABRIC or name in ("residual", FABRIC, "lora")


def test_each_call_makes_components_of_its_own():
    model = random_model(0).format
    config = ChipConfig.for_model(model)
    first, second = (asked(chip_units(model, config)) for _ in range(2))
    assert list(first) == list(second)
    assert not [name for name in first if first[name].component is second[name].component]
