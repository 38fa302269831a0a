"""The script of Yosys, the arguments of nextpnr and ecppack, and the patterns that select cells for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fpga.boards import Board
from fpga.ecp5.pll import TOP

MULTIPLY = Path(__file__).with_name("multiply.v")
"""The technology map of Yosys that turns a multiplication into carry chains."""

NARROW = Path(__file__).with_name("narrow.txt")
"""The library of Yosys that describes block RAMs with words of at most NARROW_BITS bits."""

NARROW_BITS = 9
"""Bits of the widest word of a narrow block RAM."""

# The patterns below match flattened names.  ``fpga.ecp5.checks.check_patterns`` refuses a design that has no match for one of them.

NARROW_ROMS = ("*weight_rom*",)
"""ROMs that are made of narrow block RAMs on a device with enough block RAMs.

A narrow block RAM is deep enough for a whole ROM.  So no LUTs choose a word among several block RAMs, and fewer wires leave each
block RAM.
"""

NARROW_CACHE = ("*attention.cache*",)
"""Memories of the KV cache.  In narrow block RAMs a word is chosen among two block RAMs instead of five."""

ALWAYS_CHAINS = ("*matvec*lane_*", "*swiglu.$mul*")
"""Cells whose multiplications always become carry chains, because there are many of them and they have few bits."""


@dataclass(frozen=True)
class Multiplications:
    """A group of multiplications that can be DSPs or carry chains.

    Parameters
    ----------
    cells : str
        The pattern of the cells of the group.
    lanes : str
        The lanes whose number the group grows with: "vector" (vector_lanes), "sampler" (sampler_lanes), or "head"
        (attention_heads * attention_lanes).
    dsps : int
        DSPs that one lane of the group takes.
    luts : int
        LUTs that one lane takes instead if its multiplications become carry chains.
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
"""Groups that become carry chains, in this order, until the device has enough DSPs for the remaining groups."""


def constraints(board: Board) -> str:
    """Return the text of the .lpf file, which has the frequency of the oscillator and the pins."""
    lines = [f'FREQUENCY PORT "clk" {board.oscillator_mhz:g} MHZ;']
    for port, pin in board.pins.items():
        lines += [
            f'LOCATE COMP "{port}" SITE "{pin.site}";',
            f'IOBUF PORT "{port}" ' + " ".join(f"{key}={value}" for key, value in pin.attributes.items()) + ";",
        ]
    return "\n".join(lines) + "\n"


def synthesis(source: str, netlist: str, statistics: str, chains: Sequence[str], narrow: Sequence[str]) -> str:
    """Return the script of Yosys.

    ``-nowidelut`` stops ABC from making wide LUTs, because they cost more LUTs than they save in this design.

    Parameters
    ----------
    source, netlist, statistics : str
        Names of three files: Yosys reads the Verilog, and writes the netlist and the counts of cells.
    chains : sequence of str
        Patterns of cells whose multiplications become carry chains.
    narrow : sequence of str
        Patterns of memories that are made of narrow block RAMs.
    """
    synthesise = f"synth_ecp5 -nowidelut -top {TOP}"
    selected = " ".join(f"t:$mul c:{cells} %i" for cells in chains)
    return (
        "\n".join(
            (
                f"read_verilog {source}",
                f"{synthesise} -run begin:coarse",
                # wreduce runs before techmap, because the width of a multiplication decides how techmap maps it.
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
    """Return the arguments of nextpnr.

    If the design misses the clock, nextpnr still succeeds, and its report has the clock that the design reaches.
    """
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
    """Return the arguments of ecppack."""
    return ["--compress", "top.config", "top.bit"]
