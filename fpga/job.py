"""The input and the output of a tool flow.  They have the same types for every family."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fpga.boards import Board


@dataclass(frozen=True)
class Job:
    """The input of a tool flow: a design and the board that it is built for.

    Parameters
    ----------
    verilog : str
        The text of the design, with the top module ``board`` (``fpga.link.board_top.board_verilog``).
    roms : Path
        The folder of its ROM images, ``identity.hex`` among them.
    board : Board
        The board with the FPGA.
    clock_mhz : float
        The clock of the design in MHz.  ``Toolchain.clock`` returns a clock that the board can make.
    seed : int
        The seed of placement.  Each seed gives another placement, and so another fastest clock.
    folder : Path
        The working folder of the tools.  It keeps each result under a hash of its whole input.
    chains : sequence of str
        Patterns of flattened cell names.  Multiplications of these cells become carry chains instead of DSPs.  Only the ECP5
        uses them.
    narrow : sequence of str
        Patterns of flattened memory names.  These memories are made of block RAMs in narrow shapes, with few bits and many words.
        Only the ECP5 uses them.
    """

    verilog: str
    roms: Path
    board: Board
    clock_mhz: float
    seed: int
    folder: Path
    chains: Sequence[str] = ()
    narrow: Sequence[str] = ()


@dataclass(frozen=True)
class Placed:
    """The output of a tool flow: a design after place and route.

    Parameters
    ----------
    report : dict
        The clock and the resources after route.
    bitstream : Path
        The file that is loaded into the FPGA.
    netlist : Path
        The placed cells and their wires, as JSON.
    """

    report: dict
    bitstream: Path
    netlist: Path


Site = int | tuple[int, int]
"""The name of one block RAM of a device: a number (ECP5), or the (x, y) of its tile (iCE40)."""


@dataclass(frozen=True)
class BlockRam:
    """A block RAM of a placed netlist.

    Parameters
    ----------
    site : Site
        The name under which the bitstream has its contents.
    width : int
        Bits of a word at the port that reads it.
    """

    site: Site
    width: int


def critical_path(found: dict) -> list[dict]:
    """Return the slowest path from register to register, unit by unit.

    ``found`` is nextpnr's report.  Each unit has two times in nanoseconds: ``logic_ns`` within its cells, and ``wires_ns`` on the
    wires that leave its cells.
    """
    within = [path["path"] for path in found["critical_paths"] if path["from"] == path["to"] != "<async>"]
    steps = max(within, key=lambda path: sum(step["delay"] for step in path), default=[])
    units: list[dict] = []
    for step in steps:
        *unit, _ = re.sub(r"(\.mem)?(\.\d+)+$", ".mem", step["from"]["cell"]).split(".")
        unit = ".".join(unit) or "top"
        if not units or units[-1]["unit"] != unit:
            units.append({"unit": unit, "logic_ns": 0.0, "wires_ns": 0.0})
        kind = "wires_ns" if step["type"] == "routing" else "logic_ns"
        units[-1][kind] = round(units[-1][kind] + step["delay"], 2)
    return units


ROUTED_BOARD = "module board (input clk, input rst, input rx, output tx, output busy);"
"""The header of the module that simulates a bitstream or a placed netlist.

Its ports are those of ``fpga.link.board_top.BoardTop``.  ``rst`` is not connected, because the flip-flops of the simulation start
in the state after configuration.
"""
