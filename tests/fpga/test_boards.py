"""Every known board has its pins, and can make its clock and its serial line."""

import pytest

from fpga.boards import BOARDS, board_named
from fpga.estimate import estimator_of
from fpga.link.protocol import divisor_for
from fpga.toolchain import toolchain_of
from weights_to_rom.errors import HardwireError


def test_a_board_that_is_not_known():
    with pytest.raises(HardwireError, match="no board is called nothing: there are ulx3s-85f"):
        board_named("nothing")


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_every_board_can_make_its_default_clock_and_line(board):
    clock_mhz = estimator_of(board).CLOCK_MHZ[board.device.name]
    assert toolchain_of(board).clock(board, clock_mhz) == clock_mhz
    assert divisor_for(clock_mhz * 1e6, board.baud) >= 4


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_every_board_has_its_pins(board):
    assert set(board.pins) == {"clk", "rx", "tx"} and all(pin.site for pin in board.pins.values())
