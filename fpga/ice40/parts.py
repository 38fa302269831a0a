"""Replace the multipliers and the memory of the shared engine by cells of the iCE40 UltraPlus."""

import re
from pathlib import Path

from synth.run import BuildError

SPRAM_WORDS = 1 << 14
"""Words of 64 bits that the four SPRAMs hold together."""

CELLS = Path(__file__).with_name("parts.v")


def with_cells(verilog: str) -> str:
    """Return the Verilog of a chip with the modules of parts.v in place of its own modules of the same names.

    A module of parts.v behaves like the module that it replaces, except that a word of memory is undefined until it is written.

    Raises
    ------
    BuildError
        The chip has no shared engine, or needs more memory than the SPRAMs have.
    """
    cells = CELLS.read_text()
    if (words := spram_words(verilog)) > SPRAM_WORDS:
        raise BuildError(
            f"the KV cache and vectors want {words:,} words of 64 bits, and the SPRAMs have {SPRAM_WORDS:,}: lower max_context"
        )
    for name in re.findall(r"^module (\w+)", cells, re.MULTILINE):
        verilog, found = re.subn(rf"^module {name}\(.*?^endmodule\n", "", verilog, flags=re.MULTILINE | re.DOTALL)
        if not found:
            raise BuildError(f"the chip has no module {name}: is it one with the shared engine?")
    return verilog + "\n" + cells


def spram_words(verilog: str) -> int:
    """Return the words of 64 bits in the memory of the shared engine, or 0 if the chip does not have the engine."""
    width = re.search(r"^module spram\(.*?^  input \[(\d+):0\] addr", verilog, re.MULTILINE | re.DOTALL)
    return 2 << int(width[1]) if width else 0
