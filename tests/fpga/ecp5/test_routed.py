"""The simulation of a placed ECP5 netlist refuses cells without a model.  test_bitstream.py tests that it computes the same."""

import json
from pathlib import Path

import pytest

from fpga.ecp5.routed import routed_verilog
from fpga.job import Placed
from synth.run import BuildError


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ({"type": "ALU54B"}, "there is no model of a ALU54B"),
        ({"type": "TRELLIS_COMB", "parameters": {"MODE": "OTHER"}}, "mode OTHER, which is not modelled"),
        (
            {"type": "MULT18X18D", "parameters": {"REG_PIPELINE_CLK": "CLK0"}},
            "a multiplier with a register within, which is not modelled",
        ),
        ({"type": "TRELLIS_FF", "connections": {"CLK": [2], "Q": [3]}}, "has a clock of its own, which is not modelled"),
        (
            {"type": "DP16KD", "parameters": {"DATA_WIDTH_A": "100", "DATA_WIDTH_B": "100"}},
            "a block RAM's port of 4 bits, , which is not modelled",
        ),
    ],
)
def test_cells_that_are_not_modelled(tmp_path, cell, message):
    cells = {"clock": {"type": "DCCA", "connections": {"CLKI": [0], "CLKO": [1]}}, "it": {"connections": {}} | cell}
    ports = {name: {"bits": [at]} for at, name in enumerate(("clk", "rx", "tx"))}
    cells = {name: {"parameters": {}, "attributes": {}} | cell for name, cell in cells.items()}
    (tmp_path / "routed.json").write_text(json.dumps({"modules": {"top": {"ports": ports, "cells": cells}}}))
    with pytest.raises(BuildError, match=f"^it: {message}$"):
        routed_verilog(Placed({}, Path(), tmp_path / "routed.json"))
