"""Count the cells that Yosys maps a design to."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


def cells_by_type(statistics: Path) -> dict[str, int]:
    """Return the number of cells of each type in a design, from the file of Yosys' ``tee -o FILE stat -json``."""
    return json.loads(statistics.read_text())["design"]["num_cells_by_type"]


@dataclass(frozen=True)
class Library:
    """The resources that each type of cell of a target takes.

    Parameters
    ----------
    name : str
        The name of the target.
    resources : mapping of str to mapping of str to number
        For each resource, the prefixes of the types that take it, and the amount that one such cell takes.

    Examples
    --------
    >>> Library("toy", {"luts": {"LUT": 1, "CARRY": 2}, "flip_flops": {"DFF": 1}}).count({"LUT4": 3, "CARRY2": 1, "DFFE": 5})
    {'luts': 5, 'flip_flops': 5}
    """

    name: str
    resources: Mapping[str, Mapping[str, float]]

    def count(self, by_type: Mapping[str, int]) -> dict[str, float]:
        """Return the amount of each resource that cells take, given the number of cells of each type."""
        return {
            resource: sum(self.takes(resource, kind) * number for kind, number in by_type.items()) for resource in self.resources
        }

    def takes(self, resource: str, kind: str) -> float:
        """Return the amount of ``resource`` that one cell of the type ``kind`` takes."""
        return sum(each for beginning, each in self.resources[resource].items() if kind.startswith(beginning))


ECP5 = Library(
    "ecp5",
    {
        "luts": {"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 6},  # a CCU2C is two bits of a carry chain
        "flip_flops": {"TRELLIS_FF": 1},
        "block_rams": {"DP16KD": 1, "PDPW16KD": 1},
        "dsps": {"MULT18X18D": 1},
    },
)
"""The cells that ``synth_ecp5`` makes."""

ICE40 = Library(
    "ice40",
    {
        "luts": {"SB_LUT4": 1},
        "flip_flops": {"SB_DFF": 1},
        "block_rams": {"SB_RAM40_4K": 1},
        "dsps": {"SB_MAC16": 1},
    },
)
"""The cells that ``synth_ice40`` makes.  SB_CARRY takes nothing, because it lies in the logic cell of a LUT."""
