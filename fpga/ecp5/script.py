"""ECP5: what Yosys and nextpnr are told, and the clock."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fpga.boards import Board

MULTIPLY = Path(__file__).with_name("multiply.v")
"""How multiplications are made of carry chains."""

NARROW = Path(__file__).with_name("narrow.txt")
"""Block RAMs of up to NARROW_BITS bits."""

NARROW_BITS = 9

NARROW_ROMS = ("*weight_rom*",)
"""ROMs that are made of them where there are enough: no word is chosen among block RAMs, and fewer wires leave each of them."""

NARROW_CACHE = ("*attention.cache*",)
"""The KV cache's memories: a word is chosen among two block RAMs, behind their registers, and not among five."""

ALWAYS_CHAINS = ("*matvec*lane_*", "*swiglu.$mul*")
"""Cells whose multiplications are: those of few bits, of which there are many."""


@dataclass(frozen=True)
class Multiplications:
    """Some that take DSPs or carry chains: their cells, and what each of the chip's ``lanes`` has of them.

    lanes is "vector", "sampler" or "head": elements of heads that attention multiplies in a cycle.
    """

    cells: str
    lanes: str
    dsps: int
    luts: int


WHERE_DSPS_ARE_FEW = (
    Multiplications("*attention.*heads.*scores.*", "head", 1, 84),
    Multiplications("*attention.*heads.*sums.*", "head", 1, 160),
    Multiplications("*embedding.*", "vector", 1, 70),
    Multiplications("*rope.*phase_*", "vector", 1, 200),
    Multiplications("*rmsnorm.*square_*", "vector", 2, 600),
    Multiplications("*sampler.*product*", "sampler", 2, 560),
    Multiplications("*rmsnorm.*scale_*", "vector", 2, 560),
)
"""What becomes carry chains, too, from the first one on, until the others have DSPs enough."""

VCO_MHZ = (400.0, 800.0)
PHASE_DETECTOR_MHZ = 3.125
"""The least at its input."""

TOP = "top"


@dataclass(frozen=True)
class Pll:
    """mhz = oscillator * multiply / divide; the VCO runs ``post_divide`` times as fast."""

    divide: int
    multiply: int
    post_divide: int
    mhz: float

    @classmethod
    def below(cls, oscillator_mhz: float, mhz: float) -> "Pll":
        """The fastest clock that is not above ``mhz``.  Raises ValueError if there is none."""
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
            raise ValueError(f"no clock of {mhz:g} MHz, or a little less, can be made from {oscillator_mhz:g} MHz")
        return found


def top_verilog(pll: Pll) -> str:
    """The PLL around the module ``board``, which is held in reset until the clock is there."""
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


def constraints(board: Board) -> str:
    """The .lpf file."""
    lines = [f'FREQUENCY PORT "clk" {board.oscillator_mhz:g} MHZ;']
    for port, pin in board.pins.items():
        lines += [
            f'LOCATE COMP "{port}" SITE "{pin.site}";',
            f'IOBUF PORT "{port}" ' + " ".join(f"{key}={value}" for key, value in pin.attributes.items()) + ";",
        ]
    return "\n".join(lines) + "\n"


def synthesis(source: str, netlist: str, statistics: str, chains: Sequence[str] = ALWAYS_CHAINS, narrow: Sequence[str] = ()) -> str:
    """Yosys' script; multiplications in the cells ``chains`` take no DSPs, memories in the cells ``narrow`` narrow block RAMs.

    ABC's wide LUTs cost more than they bring here.
    """
    synthesise = f"synth_ecp5 -nowidelut -top {TOP}"
    selected = " ".join(f"t:$mul c:{cells} %i" for cells in chains)
    return (
        "\n".join(
            (
                f"read_verilog {source}",
                f"{synthesise} -run begin:coarse",
                # Multipliers get their real widths before it is decided what they are made of.
                "proc",
                "flatten",
                "opt_expr",
                "opt_clean",
                "wreduce",
                "opt_clean",
                f"select -set chains {selected}",
                f"techmap -map {MULTIPLY.name} @chains",
                "opt_expr",
                "opt_clean",
                f"{synthesise} -run coarse:map_ram",
                *(f"memory_libmap -lib {NARROW.name} c:{cells}" for cells in narrow),
                f"{synthesise} -json {netlist} -run map_ram:",
                f"tee -o {statistics} stat -json",
            )
        )
        + "\n"
    )


def place_and_route(board: Board, netlist: str, mhz: float, seed: int) -> list[str]:
    """nextpnr's arguments."""
    package = board.package.replace("BG", "CABGA", 1)
    return [
        *board.device.select,
        "--package",
        package,
        "--speed",
        board.speed or "6",
        "--json",
        netlist,
        "--lpf",
        "top.lpf",
        "--freq",
        f"{mhz:g}",
        "--seed",
        str(seed),
        "--textcfg",
        "top.config",
        "--report",
        "nextpnr.json",
        "--write",
        "routed.json",
        "--timing-allow-fail",
    ]


def pack() -> list[str]:
    """ecppack's arguments."""
    return ["--compress", "top.config", "top.bit"]
