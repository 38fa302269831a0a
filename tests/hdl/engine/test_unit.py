# amaranth: UnusedElaboratable=no
"""The wires between the units of the shared engine."""

from collections import Counter

from hdl.config import ChipConfig
from hdl.engine.engine import UNITS
from hdl.engine.unit import wires
from tests.support.models import random_model

OF_ENGINE = ("start", "sequence", "token", "place", "sample", "residual_shift", "ready")


def test_each_wire_has_one_source_and_a_user():
    model = random_model(0, 24).format
    names = set(wires(model, ChipConfig.for_model(model, shared=True)))
    sources = Counter([*OF_ENGINE, *(name for unit in UNITS.values() for name in unit.OUTPUTS)])
    assert set(sources) == names
    assert set(sources.values()) == {1}
    used = {name for unit in UNITS.values() for name in unit.INPUTS}
    assert names - used == {"done", "busy", "logit", "logit_valid", "logit_last"}
