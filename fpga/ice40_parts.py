"""A chip with the shared engine for the iCE40 UltraPlus: multipliers and memory as its cells."""

import re
from pathlib import Path

CELLS = Path(__file__).with_name("ice40_parts.v")


def with_cells(verilog: str) -> str:
    """``verilog`` of a chip with the modules of ``ice40_parts.v`` instead of those of the same names.

    They behave the same, from the first write to a word of memory on (``tests/chip``).
    """
    cells = CELLS.read_text()
    for name in re.findall(r"^module (\w+)", cells, re.MULTILINE):
        verilog, found = re.subn(rf"^module {name}\(.*?^endmodule\n", "", verilog, flags=re.MULTILINE | re.DOTALL)
        if not found:
            raise ValueError(f"the chip has no module {name}: is it one with the shared engine?")
    return verilog + "\n" + cells
