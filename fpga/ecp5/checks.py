"""Compare a synthesised ECP5 netlist with the Verilog that it was made from."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from fpga.boards import Board
from fpga.ecp5.script import NARROW_BITS
from fpga.memories import Memory, instances
from synth.run import BuildError


def check_patterns(patterns: Sequence[str], verilog: str, top: str) -> None:
    """Raise an error if a pattern of ``fpga.ecp5.script`` selects nothing of the design.

    A pattern selects instances and their memories, or multiplications: a module with ``a * b`` has cells ``$mul...``.  A pattern
    that selects nothing names a unit whose name has changed.

    Parameters
    ----------
    patterns : sequence of str
        Patterns of flattened names, as ``fnmatch`` reads them.
    verilog : str
        The text of the design.
    top : str
        Its top module.

    Raises
    ------
    BuildError
        A pattern matches no flattened name of the design.
    """
    names = set()
    for path, _, body in instances(verilog, top):
        names |= {f"{path}.", f"{path}.mem"} | ({f"{path}.$mul"} if re.search(r"[\w\]) ] \* [\w({\\$]", body) else set())
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise BuildError(f"{pattern}: this pattern of fpga/ecp5/script.py selects nothing of the design")


def check_memories(
    board: Board, planned: Mapping[str, Memory], netlist: Path, top: str, narrow: Sequence[str] = ()
) -> dict[str, int]:
    """Return how many block RAMs each memory takes in the netlist, after checking that it takes the right cells.

    Parameters
    ----------
    board : Board
        The board whose FPGA the netlist is for.
    planned : mapping of str to Memory
        The memories of the design (``fpga.memories.memories``).
    netlist : Path
        The netlist that Yosys wrote.
    top : str
        Its top module.
    narrow : sequence of str
        Patterns of memories in narrow block RAMs.  They may take more block RAMs than others.

    Raises
    ------
    BuildError
        A ROM is not in block RAM, a RAM is neither in block RAM nor in distributed RAM (LUTs used as RAM), or a memory takes more
        block RAMs than its words and bits need.
    """
    cells = json.loads(netlist.read_text())["modules"][top]["cells"]
    family = board.device.family
    blocks, distributed = Counter[str](), Counter[str]()
    for name, cell in cells.items():
        memory = re.sub(r"(\.mem)(\.\d+)+$", r"\1", name)
        blocks[memory] += int(family.library.takes("block_rams", cell["type"]))
        distributed[memory] += cell["type"].startswith("TRELLIS_DPR")
    for name, memory in planned.items():
        if memory.kind == "logic":
            continue
        size = f"{memory.words:,} words of {memory.bits} bits"
        widest = NARROW_BITS if any(fnmatchcase(name, pattern) for pattern in narrow) else None
        most = family.block_rams(memory.words, memory.bits, widest)
        if not blocks[name] and (memory.kind == "rom" or not distributed[name]):
            raise BuildError(f"{name}: {size} were to be in block RAM, and Yosys made logic of them")
        if blocks[name] > most:
            raise BuildError(f"{name}: {size} take {most} block RAMs, and Yosys took {blocks[name]}")
    return {name: blocks[name] for name in planned if blocks[name]}
