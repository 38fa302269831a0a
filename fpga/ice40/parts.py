"""A chip with the shared engine for the iCE40 UltraPlus: multipliers and memory as its cells."""

import re
from pathlib import Path

SPRAM_WORDS = 1 << 14
"""Of 64 bits: the four SPRAMs side by side."""

CELLS = Path(__file__).with_name("parts.v")


def with_cells(verilog: str) -> str:
    """``verilog`` of a chip with the modules of ``ice40_parts.v`` instead of those of the same names.

    They behave the same, from the first write to a word of memory on (``tests/chip``).  Raises ValueError for a chip
    without the shared engine, and for one that wants more memory than there is.
    """
    cells = CELLS.read_text()
    if (words := spram_words(verilog)) > SPRAM_WORDS:
        raise ValueError(
            f"the KV cache and vectors want {words:,} words of 64 bits, and the SPRAMs have {SPRAM_WORDS:,}: lower max_context"
        )
    for name in re.findall(r"^module (\w+)", cells, re.MULTILINE):
        verilog, found = re.subn(rf"^module {name}\(.*?^endmodule\n", "", verilog, flags=re.MULTILINE | re.DOTALL)
        if not found:
            raise ValueError(f"the chip has no module {name}: is it one with the shared engine?")
    return verilog + "\n" + cells


def spram_words(verilog: str) -> int:
    """Words of 64 bits that the chip wants of its memory; 16,384 are there."""
    width = re.search(r"^module spram\(.*?^  input \[(\d+):0\] addr", verilog, re.MULTILINE | re.DOTALL)
    return 2 << int(width[1]) if width else 0
