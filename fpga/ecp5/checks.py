"""Checks of a synthesised ECP5 netlist against the Verilog that it was made of."""

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
    """Fail if a pattern of ``fpga.ecp5.script`` selects nothing, as it does when a unit of the chip has got another name.

    A pattern selects instances and their memories, or multiplications: a module with ``a * b`` has cells ``$mul...``.

    Raises
    ------
    BuildError
        A pattern that fits no flattened name of the design.
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
    """Return how many block RAMs each memory takes in the netlist, and fail if a memory is not what it should be.

    Parameters
    ----------
    board : Board
    planned : mapping of str to Memory
        The memories of the design (``fpga.memories.memories``).
    netlist : Path
        The netlist of Yosys.
    top : str
        Its top module.
    narrow : sequence of str
        Patterns of memories that may take more block RAMs, because these are narrow.

    Raises
    ------
    BuildError
        A ROM is not in block RAM, a RAM is neither in block RAM nor in LUTs that are RAM, or a memory takes more block RAMs than
        its words and bits ask for.
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
