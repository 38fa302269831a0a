"""The PLL of an iCE40 makes the fastest clock that is allowed."""

import pytest

from fpga.ice40.pll import Pll, pll_for, top_verilog
from weights_to_rom.errors import HardwireError


@pytest.mark.parametrize("mhz", [24.0, 20.0, 16.5, 48.0, 9.0])
def test_the_clock_is_the_fastest_that_is_not_too_fast(mhz):
    pll = Pll.below(12.0, mhz)
    assert pll.mhz == 12.0 * pll.multiply / 2**pll.post_divide <= mhz
    assert 533 <= 12.0 * pll.multiply <= 1066
    # A faster clock would need a higher multiplier or a lower divisor.
    faster = [12.0 * m / 2**n for m in range(45, 89) for n in range(1, 7)]
    assert pll.mhz == max(clock for clock in faster if clock <= mhz)
    assert Pll.below(12.0, pll.mhz) == pll


def test_a_clock_that_cannot_be_made():
    with pytest.raises(HardwireError, match=r"^no clock of 7 MHz, or a little less, can be made from 12 MHz$"):
        Pll.below(12.0, 7.0)
    with pytest.raises(HardwireError, match=r"can be made from 50 MHz$"):
        Pll.below(50.0, 24.0)


def test_the_clock_of_the_oscillator_takes_no_pll():
    assert pll_for(12.0, 12.0) is None and pll_for(12.0, 24.0) == Pll.below(12.0, 24.0)
    assert "SB_PLL40_PAD" not in top_verilog(None)
    assert ".DIVF(7'd63), .DIVQ(3'd5)" in top_verilog(Pll(64, 5, 24.0))
