# amaranth: UnusedElaboratable=no
"""Lanes in Verilog: one module for all of a kind; that they work is seen in every chip's test."""

import re
from functools import cache

import pytest

from hdl.config import ChipConfig
from hdl.verilog import _replicated, chip_verilog
from tests.support.adapters import random_format

pytestmark = pytest.mark.xdist_group("shared_module")  # one worker, so that each chip is made once


@cache
def modules(**lanes) -> dict[str, int]:
    """Characters of each module of a chip's Verilog."""
    model = random_format(n_layers=1)
    text = chip_verilog(model, ChipConfig.for_model(model, block_lanes=8, vector_lanes=4, **lanes))
    found = re.finditer(r"^module ([^\s(]+).*?^endmodule", text, flags=re.MULTILINE | re.DOTALL)
    return {module[1]: len(module[0]) for module in found}


def test_all_row_lanes_are_one_module():
    four, eight = modules(row_lanes=4), modules(row_lanes=8)
    assert four["row_lane"] == eight["row_lane"] > 1000
    assert not [name for name in eight if ".lane_" in name]


def test_all_lora_lanes_are_one_module():
    assert "lora_lane" not in modules(row_lanes=4)
    two, four = (modules(row_lanes=4, lora_rank=4, lora_lanes=lanes) for lanes in (2, 4))
    assert two["lora_lane"] == four["lora_lane"] > 1000


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("{ a[3], a[3], a[3], a }", "{ {3{a[3]}}, a }"),
        ("{ a, b, a }", "{ a, b, a }"),
        (r"{ \$1 [2], \$1 [2], 2'h0, 2'h0 }", r"{ {2{\$1 [2]}}, {2{2'h0}} }"),
        ("x = { a, a } & { b, b, b };", "x = { {2{a}} } & { {3{b}} };"),
    ],
)
def test_what_is_repeated_is_said_once(text, short):
    assert _replicated(text) == short
