"""An optimiser of ECP5 netlists: it changes the JSON that Yosys writes before nextpnr reads it.

The package imports nothing outside its folder.  README.md describes each pass and its effect on one design.
"""

from .carry_chains import absorb, shorten
from .registers import copy_registers, move_choices, take_operands, take_registers

PASSES = (
    take_registers,  # registers of results move into multipliers and block RAMs
    take_operands,  # registers of operands move into multipliers
    move_choices,  # the register of a deep memory moves from the output of its word multiplexer into its block RAMs
    copy_registers,  # each memory gets its own copy of an address, each unit its own copy of a wide reset
    absorb,  # LUTs move into the carry chains that they feed
    shorten,  # carry chains begin and end without extra cells
)
"""The passes, in their order.

Passes on registers come first, because ``absorb`` makes LUTs part of carry chains, and passes on registers do not look into chains.

Each pass changes a module in place and returns a number of cells.  Its docstring says which cells it counts.
"""


def optimise(module: dict) -> dict[str, int]:
    """Run all passes on a flattened module of a netlist, in place.  Return the number of each pass by its name."""
    return {run.__name__: run(module) for run in PASSES}
