"""The PLL of an ECP5 makes the fastest clock that is allowed."""

import pytest

from fpga.ecp5.pll import Pll, top_verilog
from weights_to_rom.errors import HardwireError


@pytest.mark.parametrize(
    ("oscillator", "mhz", "wanted"),
    [
        (25.0, 60.0, Pll(5, 12, 13, 60.0)),
        (25.0, 25.0, Pll(1, 1, 32, 25.0)),
        (50.0, 66.0, None),
        (25.0, 57.0, None),
        (12.0, 48.0, None),
    ],
)
def test_the_clock_is_the_fastest_that_is_not_too_fast(oscillator, mhz, wanted):
    pll = Pll.below(oscillator, mhz)
    assert wanted in (None, pll)
    assert pll.mhz == pytest.approx(oscillator * pll.multiply / pll.divide) and mhz - 2 < pll.mhz <= mhz
    assert 400 <= pll.mhz * pll.post_divide <= 800 and oscillator / pll.divide >= 3.125


def test_a_clock_that_cannot_be_made():
    with pytest.raises(HardwireError, match=r"no clock of 1 MHz, or a little less, can be made from 25 MHz"):
        Pll.below(25.0, 1.0)


def test_the_same_clock_is_made_of_a_clock_that_was_made():
    for mhz in (25.0, 57.0, 66.6, 75.0):
        pll = Pll.below(25.0, mhz)
        assert Pll.below(25.0, pll.mhz) == pll


def test_the_board_is_in_reset_until_the_pll_has_locked():
    text = top_verilog(Pll(5, 12, 13, 60.0))
    assert ".CLKI_DIV(5), .CLKFB_DIV(12), .CLKOP_DIV(13), .CLKOP_CPHASE(6)" in text
    assert "board board (.clk(fast), .rst(!locked), .rx(rx), .tx(tx), .busy());" in text
