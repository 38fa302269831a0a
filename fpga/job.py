"""The input and the output of a tool flow, in the same shape for every family."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fpga.boards import Board


@dataclass(frozen=True)
class Job:
    """A design that a tool flow is to turn into a bitstream.

    Parameters
    ----------
    verilog : str
        The text with the module ``board`` (``fpga.link.board_top.board_verilog``).
    roms : Path
        The folder of its ROM images, ``identity.hex`` among them.
    board : Board
    clock_mhz : float
        The clock of the design.  ``Toolchain.clock`` tells which clocks a board can make.
    seed : int
        Start value of placement.  Another seed places the design differently.
    folder : Path
        Where the tools work.  Results are kept there by a hash of everything that went in.
    chains : sequence of str
        Patterns of cells whose multiplications become carry chains instead of DSPs, where the family has the choice.
    narrow : sequence of str
        Patterns of memories that are made of narrow block RAMs, where the family has the choice.
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
    """A design after place and route.

    Parameters
    ----------
    report : dict
        Clock and resources as they were measured after route.
    bitstream : Path
    netlist : Path
        The placed cells, as JSON.
    """

    report: dict
    bitstream: Path
    netlist: Path


Site = int | tuple[int, int]
"""Names one block RAM of a device, in the way of its family."""


@dataclass(frozen=True)
class BlockRam:
    """A block RAM of a placed netlist.

    Parameters
    ----------
    site : Site
        Where the bitstream has its contents.
    width : int
        Bits of a word of the port that reads it.
    """

    site: Site
    width: int


def critical_path(found: dict) -> list[dict]:
    """Return the slowest path from register to register, unit by unit.

    ``found`` is nextpnr's report.  Each unit has the nanoseconds in its logic and those on the wires that leave its cells.
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
"""Header of the module that a bitstream or a placed netlist is simulated as.

It has the ports of ``fpga.link.board_top.BoardTop``.  ``rst`` leads nowhere, because flip-flops start as after configuration.
"""
