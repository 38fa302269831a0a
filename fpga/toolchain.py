"""The tool flows, one for each family of FPGAs, behind one protocol."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import fpga.ecp5.toolchain
import fpga.ice40.toolchain
from fpga.boards import Board
from fpga.job import BlockRam, Job, Placed, Site
from synth.run import Progress


class Toolchain(Protocol):
    """The tools of a family: its module ``toolchain`` has these members."""

    SUFFIX: str
    """The end of the name of a bitstream, with the dot."""

    def clock(self, board: Board, mhz: float) -> float:
        """Return the fastest clock in MHz that the board can make and that is not above ``mhz``.

        Raises HardwireError if there is none.
        """
        ...

    def build(self, job: Job, progress: Progress) -> Placed:
        """Synthesise, place, route and pack a design.

        A result of the same input is not made again.  Whether the clock is met stands in the report.
        Raises BuildError if a tool refuses the design.
        """
        ...

    def block_rams(self, netlist: Path) -> Mapping[str, BlockRam]:
        """Return the block RAMs of a placed netlist by the name of their cell.

        The name is that of the memory, ``.ROW`` and ``.COLUMN``: rows hold further words, or copies; columns hold further bits.
        """
        ...

    def unpack(self, bitstream: Path) -> Mapping[Site, Sequence[int]]:
        """Return the raw contents of each block RAM in a bitstream.  Raises BuildError if the file is no bitstream."""
        ...

    def words_of(self, contents: Sequence[int], width: int) -> list[int]:
        """Return the raw contents of a block RAM as the words of ``width`` bits that its port reads, by address."""
        ...

    def routed_verilog(self, placed: Placed) -> str:
        """Return a module ``board`` that simulates the placed netlist cell by cell.

        Flip-flops start as after configuration, and ``rst`` is not connected.  The clock ``clk`` is the output of the PLL.
        Raises BuildError for cells that cannot be simulated.
        """
        ...


TOOLCHAINS: dict[str, Toolchain] = {"ecp5": fpga.ecp5.toolchain, "ice40": fpga.ice40.toolchain}


def toolchain_of(board: Board) -> Toolchain:
    """Return the tool flow of a board."""
    return TOOLCHAINS[board.device.family.name]
