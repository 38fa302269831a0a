"""The tool flows: one for each family of FPGAs, all with the same protocol."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import fpga.ecp5.toolchain
import fpga.ice40.toolchain
from fpga.boards import Board
from fpga.job import BlockRam, Job, Placed, Site
from synth.run import Progress


class Toolchain(Protocol):
    """The tool flow of a family.  Its module ``toolchain`` has these members."""

    SUFFIX: str
    """The suffix of a bitstream's file name, with the dot."""

    def clock(self, board: Board, mhz: float) -> float:
        """Return the fastest clock in MHz, at most ``mhz``, that the board can make.

        Raises HardwireError if there is none.
        """
        ...

    def build(self, job: Job, progress: Progress) -> Placed:
        """Synthesise, place, route and pack a design.

        If the folder of the job has a result of the same input, that result is returned.  A clock that the design misses is no
        error: the report has the clock that it reaches.
        Raises BuildError if a tool refuses the design.
        """
        ...

    def block_rams(self, netlist: Path) -> Mapping[str, BlockRam]:
        """Return the block RAMs of a placed netlist by the name of their cell.

        The name of a cell is ``MEMORY.ROW.COLUMN``.  Each row holds further words, or a copy of the words.  Each column holds
        further bits of a word.
        """
        ...

    def unpack(self, bitstream: Path) -> Mapping[Site, Sequence[int]]:
        """Return the raw contents of each block RAM in a bitstream.

        Raises BuildError if the file is no bitstream.
        """
        ...

    def words_of(self, contents: Sequence[int], width: int) -> list[int]:
        """Return the words of ``width`` bits that a port reads from a block RAM with these raw contents, by address."""
        ...

    def routed_verilog(self, placed: Placed) -> str:
        """Return a module ``board`` that simulates the placed netlist cell by cell.

        Flip-flops start in the state after configuration, and ``rst`` is not connected.  ``clk`` takes the place of the clock that
        the PLL makes.
        Raises BuildError for cells that cannot be simulated.
        """
        ...


TOOLCHAINS: dict[str, Toolchain] = {"ecp5": fpga.ecp5.toolchain, "ice40": fpga.ice40.toolchain}


def toolchain_of(board: Board) -> Toolchain:
    """Return the tool flow of a board."""
    return TOOLCHAINS[board.device.family.name]
