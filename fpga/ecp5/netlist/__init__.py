"""An optimiser of ECP5 netlists: it changes the JSON that Yosys writes before nextpnr reads it.

The package imports nothing outside its folder.  README.md tells what each pass does and what it brought.
"""

from .carry_chains import absorb, shorten
from .registers import copy_registers, move_choices, take_operands, take_registers

PASSES = (
    take_registers,  # registers of results move into multipliers and block RAMs
    take_operands,  # registers of operands move into multipliers
    move_choices,  # the choice among block RAMs of a deep memory moves to the far side of their registers
    copy_registers,  # each memory gets its own copy of an address, each unit its own copy of a wide reset
    absorb,  # LUTs move into the carry chains that they feed
    shorten,  # carry chains begin and end without extra cells
)
"""The passes, in their order.

Those on registers come first, because a LUT that is part of a chain hides the register that feeds it.

Each pass changes a module in place and returns a number: how many cells it moved, saved or added, as its docstring says.
"""


def optimise(module: dict) -> dict[str, int]:
    """Run all passes on a flattened module of a netlist, in place; return the number that each pass returned, by its name."""
    return {run.__name__: run(module) for run in PASSES}
