"""The instructions for Yosys, nextpnr and ecppack."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fpga.boards import Board
from fpga.ecp5.pll import TOP

MULTIPLY = Path(__file__).with_name("multiply.v")
"""Maps a multiplication to carry chains."""

NARROW = Path(__file__).with_name("narrow.txt")
"""Describes block RAMs with words of up to NARROW_BITS bits."""

NARROW_BITS = 9

# Patterns of flattened names.  ``fpga.ecp5.checks.check_patterns`` fails a build whose design has none of these names.

NARROW_ROMS = ("*weight_rom*",)
"""ROMs that are made of narrow block RAMs where there are enough of them.

A narrow block RAM is deep enough for the ROM: no LUT chooses a word among block RAMs, and fewer wires leave each of them.
"""

NARROW_CACHE = ("*attention.cache*",)
"""Memories of the KV cache.  Made of narrow block RAMs, a word is chosen among two of them instead of five."""

ALWAYS_CHAINS = ("*matvec*lane_*", "*swiglu.$mul*")
"""Cells whose multiplications are always carry chains, because they are many and have few bits."""


@dataclass(frozen=True)
class Multiplications:
    """A group of multiplications that can be DSPs or carry chains.

    Parameters
    ----------
    cells : str
        Pattern of the cells that have them.
    lanes : str
        How the group grows: with the lanes of the "vector" units, with those of the "sampler", or with "head", the elements of
        heads that attention multiplies in one cycle.
    dsps, luts : int
        DSPs that a lane of the group takes, or LUTs if they become carry chains.
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
"""Groups in the order in which they become carry chains, until the remaining groups have DSPs enough."""


def constraints(board: Board) -> str:
    """Return the text of the .lpf file: the frequency of the oscillator, and the pins."""
    lines = [f'FREQUENCY PORT "clk" {board.oscillator_mhz:g} MHZ;']
    for port, pin in board.pins.items():
        lines += [
            f'LOCATE COMP "{port}" SITE "{pin.site}";',
            f'IOBUF PORT "{port}" ' + " ".join(f"{key}={value}" for key, value in pin.attributes.items()) + ";",
        ]
    return "\n".join(lines) + "\n"


def synthesis(source: str, netlist: str, statistics: str, chains: Sequence[str], narrow: Sequence[str]) -> str:
    """Return the script of Yosys.

    ``-nowidelut``: wide LUTs of ABC cost more LUTs than they save in this design.

    Parameters
    ----------
    source, netlist, statistics : str
        Names of the Verilog that is read, and of the netlist and the cell counts that are written.
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
                # Multiplications get their real widths first, because their widths decide what they are mapped to.
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
    """Return the arguments of nextpnr.  A clock that is missed is no error of nextpnr: the report tells."""
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
