"""The clock of an iCE40, which is the oscillator or the output of the PLL, and the top module with it."""

from dataclasses import dataclass

from weights_to_rom.errors import HardwireError

TOP = "top"

VCO_MHZ = (533, 1066)
"""The lowest and the highest frequency of the VCO, the oscillator in the PLL."""

PHASE_DETECTOR_MHZ = (10, 17)
"""The lowest and the highest frequency at the phase detector if FILTER_RANGE is 1."""


@dataclass(frozen=True)
class Pll:
    """mhz = oscillator * multiply / 2**post_divide.  The VCO runs at oscillator * multiply.

    Parameters
    ----------
    multiply : int
        The divisor from the VCO to the phase detector.  1 to 128.
    post_divide : int
        The divisor from the VCO to the output is 2**post_divide.  1 to 6.
    mhz : float
        The frequency of the output in MHz.
    """

    multiply: int
    post_divide: int
    mhz: float

    @classmethod
    def below(cls, oscillator_mhz: float, mhz: float) -> "Pll":
        """Return the setting with the fastest clock of at most ``mhz``.  Raises HardwireError if there is none."""
        found = [
            cls(multiply, n, oscillator_mhz * multiply / 2**n)
            for n in range(1, 7)
            for multiply in range(1, 129)
            if VCO_MHZ[0] <= oscillator_mhz * multiply <= VCO_MHZ[1] and oscillator_mhz * multiply / 2**n <= mhz
        ]
        if not found or not PHASE_DETECTOR_MHZ[0] <= oscillator_mhz <= PHASE_DETECTOR_MHZ[1]:
            raise HardwireError(f"no clock of {mhz:g} MHz, or a little less, can be made from {oscillator_mhz:g} MHz")
        return max(found, key=lambda pll: pll.mhz)


def pll_for(oscillator_mhz: float, mhz: float) -> Pll | None:
    """Return the PLL's setting, or None if ``mhz`` is the oscillator's frequency.  Raises HardwireError if neither makes it."""
    return None if mhz == oscillator_mhz else Pll.below(oscillator_mhz, mhz)


def top_verilog(pll: Pll | None) -> str:
    """Return the module ``top``: the clock, and the module ``board``, which starts in reset.

    The reset ends 512 cycles after the PLL has locked, because block RAMs read as 0 for some microseconds after configuration.
    """
    clock = (
        """
  wire fast = clk, locked = 1;
"""
        if pll is None
        else f"""
  wire fast, locked;
  SB_PLL40_PAD #(
    .FEEDBACK_PATH("SIMPLE"), .DIVR(4'd0), .DIVF(7'd{pll.multiply - 1}), .DIVQ(3'd{pll.post_divide}), .FILTER_RANGE(3'd1)
  ) pll (.PACKAGEPIN(clk), .PLLOUTGLOBAL(fast), .LOCK(locked), .RESETB(1'b1), .BYPASS(1'b0));
"""
    )
    return f"""
module {TOP} (
  input clk,
  input rx,
  output tx
);{clock}  reg [1:0] lock = 0;
  reg [9:0] held = 0;
  always @(posedge fast) begin
    lock <= {{lock[0], locked}};
    if (!lock[1]) held <= 0;
    else if (!held[9]) held <= held + 1;
  end
  board board (.clk(fast), .rst(!held[9]), .rx(rx), .tx(tx), .busy());
endmodule
"""
