"""The clock of an ECP5: the setting of its PLL, and the top module with the PLL."""

from dataclasses import dataclass

from weights_to_rom.errors import HardwireError

TOP = "top"

VCO_MHZ = (400.0, 800.0)
"""The lowest and the highest frequency of the VCO, the oscillator in the PLL."""

PHASE_DETECTOR_MHZ = 3.125
"""The lowest frequency at the phase detector."""


@dataclass(frozen=True)
class Pll:
    """mhz = oscillator * multiply / divide.  The VCO runs at mhz * post_divide.

    Parameters
    ----------
    divide : int
        The divisor from the board's oscillator to the phase detector.
    multiply : int
        The divisor from the output to the phase detector.  1 to 80.
    post_divide : int
        The divisor from the VCO to the output.  1 to 128.
    mhz : float
        The frequency of the output in MHz.
    """

    divide: int
    multiply: int
    post_divide: int
    mhz: float

    @classmethod
    def below(cls, oscillator_mhz: float, mhz: float) -> "Pll":
        """Return the setting with the fastest clock of at most ``mhz``.  Raises HardwireError if there is none."""
        found = None
        for divide in range(1, int(oscillator_mhz / PHASE_DETECTOR_MHZ) + 1):
            multiply = int(mhz * divide / oscillator_mhz + 1e-9)
            if not 1 <= multiply <= 80:
                continue
            clock = oscillator_mhz * multiply / divide
            post_divide = int(VCO_MHZ[1] / clock)
            if post_divide <= 128 and clock * post_divide >= VCO_MHZ[0] and (found is None or clock > found.mhz + 1e-9):
                found = cls(divide, multiply, post_divide, clock)
        if found is None:
            raise HardwireError(f"no clock of {mhz:g} MHz, or a little less, can be made from {oscillator_mhz:g} MHz")
        return found


def top_verilog(pll: Pll) -> str:
    """Return the module ``top``: the PLL, and the module ``board``, which stays in reset until the PLL has locked."""
    return f"""
module {TOP} (
  input clk,
  input rx,
  output tx
);
  wire fast, locked;
  (* ICP_CURRENT = "12", LPF_RESISTOR = "8" *)
  EHXPLLL #(
    .CLKI_DIV({pll.divide}), .CLKFB_DIV({pll.multiply}), .CLKOP_DIV({pll.post_divide}), .CLKOP_CPHASE({pll.post_divide // 2}),
    .CLKOP_ENABLE("ENABLED"), .FEEDBK_PATH("CLKOP"), .OUTDIVIDER_MUXA("DIVA")
  ) pll (
    .CLKI(clk), .CLKFB(fast), .CLKOP(fast), .LOCK(locked), .RST(1'b0), .STDBY(1'b0), .PHASESEL0(1'b0), .PHASESEL1(1'b0),
    .PHASEDIR(1'b0), .PHASESTEP(1'b0), .PHASELOADREG(1'b0), .PLLWAKESYNC(1'b0), .ENCLKOP(1'b0)
  );
  board board (.clk(fast), .rst(!locked), .rx(rx), .tx(tx), .busy());
endmodule
"""
