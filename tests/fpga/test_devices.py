"""A memory takes the right number of block RAMs, and each family has a tool flow and figures."""

import pytest

from fpga.boards import BOARDS
from fpga.devices import ECP5, ICE40
from fpga.estimate import ESTIMATORS
from fpga.toolchain import TOOLCHAINS


@pytest.mark.parametrize(("words", "bits", "blocks"), [(512, 36, 1), (513, 36, 2), (1216, 144, 12), (2560, 72, 10), (16384, 1, 1)])
def test_block_rams_of_a_memory(words, bits, blocks):
    assert ECP5.block_rams(words, bits) == blocks


@pytest.mark.parametrize(("words", "bits", "blocks"), [(512, 36, 4), (1216, 144, 16), (2432, 144, 32), (16384, 1, 1)])
def test_narrow_block_rams_of_a_memory(words, bits, blocks):
    assert ECP5.block_rams(words, bits, 9) == blocks


@pytest.mark.parametrize(("words", "bits", "blocks"), [(256, 16, 1), (257, 16, 2), (2048, 36, 18), (2048, 2, 1)])
def test_block_rams_of_an_ice40(words, bits, blocks):
    assert ICE40.block_rams(words, bits) == blocks


def test_every_board_has_a_tool_flow_and_figures():
    families = {board.device.family.name for board in BOARDS.values()}
    assert families == set(TOOLCHAINS) == set(ESTIMATORS)
