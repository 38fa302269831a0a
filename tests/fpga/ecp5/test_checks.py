"""The checks of a netlist find memories that are not in block RAM, and patterns that select nothing."""

import json
import re

import pytest

from fpga.boards import BOARDS
from fpga.ecp5.checks import check_memories, check_patterns
from fpga.ecp5.script import ALWAYS_CHAINS, NARROW_CACHE, NARROW_ROMS, WHERE_DSPS_ARE_FEW
from fpga.link.board_top import board_verilog
from fpga.memories import Memory
from hdl.config import ChipConfig
from synth.run import BuildError
from tests.support.models import random_model

ULX3S = BOARDS["ulx3s-85f"]
PATTERNS = (*ALWAYS_CHAINS, *NARROW_ROMS, *NARROW_CACHE, *(few.cells for few in WHERE_DSPS_ARE_FEW))


def test_memories_are_compared_one_by_one(tmp_path):
    planned = {"a.mem": Memory("rom", 512, 36), "b.mem": Memory("ram", 16, 8), "c.mem": Memory("logic", 1, 8)}
    cells = {"a.mem.0.0": {"type": "DP16KD"}, "b.mem.0.0": {"type": "TRELLIS_DPR16X4"}}
    netlist = tmp_path / "top.json"

    def check(**changes):
        netlist.write_text(json.dumps({"modules": {"top": {"cells": cells | changes}}}))
        return check_memories(ULX3S, planned, netlist, "top")

    assert check() == {"a.mem": 1}
    with pytest.raises(BuildError, match=r"a\.mem: 512 words of 36 bits take 1 block RAMs, and Yosys took 2"):
        check(**{"a.mem.1.0": {"type": "DP16KD"}})
    with pytest.raises(BuildError, match=r"a\.mem.*made logic"):
        check(**{"a.mem.0.0": {"type": "TRELLIS_DPR16X4"}})
    with pytest.raises(BuildError, match=r"b\.mem.*made logic"):
        check(**{"b.mem.0.0": {"type": "LUT4"}})


@pytest.fixture(scope="module", params=["plain", "booth"])
def verilog(request):
    model = random_model(0).format
    lanes = {"row_lanes": 2, "vector_lanes": 4, "attention_heads": 2, "multiplier": request.param}
    return board_verilog(model, ChipConfig.for_model(model, max_context=32, **lanes), 4)


def test_every_pattern_selects_something_of_a_chip(verilog):
    check_patterns(PATTERNS, verilog, "board")


@pytest.mark.parametrize(
    ("name", "patterns"),
    [
        ("attention", {"*attention.cache*", "*attention.*heads.*scores.*", "*attention.*heads.*sums.*"}),
        ("cache", {"*attention.cache*"}),
        ("weight_rom", {"*weight_rom*"}),
        ("matvec", {"*matvec*lane_*"}),
        ("swiglu", {"*swiglu.$mul*"}),
        ("embedding", {"*embedding.*"}),
        ("rope", {"*rope.*phase_*"}),
        ("rmsnorm", {"*rmsnorm.*square_*", "*rmsnorm.*scale_*"}),
        ("sampler", {"*sampler.*product*"}),
    ],
)
def test_a_unit_with_another_name_is_found(verilog, name, patterns):
    """The instance ``name`` is renamed, and the check must fail for each pattern that names it."""
    renamed = re.sub(rf"^(  \\?[^\s]+ +\\?){name}( +\()", r"\1other\2", verilog, flags=re.MULTILINE)
    assert renamed != verilog
    for pattern in PATTERNS:
        if pattern in patterns:
            with pytest.raises(BuildError, match=f"^{re.escape(pattern)}: this pattern of fpga/ecp5/script"):
                check_patterns([pattern], renamed, "board")
        else:
            check_patterns([pattern], renamed, "board")


def test_a_multiplication_that_is_gone_is_found(verilog):
    """The multiplication in SwiGLU becomes an addition, so the unit is there and its pattern selects no multiplication."""
    start = verilog.index("\nmodule \\board.core.chip.stage.swiglu ")
    end = verilog.index("\nendmodule", start)
    text = verilog[:start] + verilog[start:end].replace(" * ", " + ") + verilog[end:]
    assert text != verilog
    with pytest.raises(BuildError, match=r"^\*swiglu"):
        check_patterns(["*swiglu.$mul*"], text, "board")
