"""Read the memories of a design out of its Verilog: their flattened names, sizes and contents.

A flattened name is the path of instance names from the top module, joined with dots.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Memory:
    """A ROM or a RAM.

    Parameters
    ----------
    kind : str
        "rom", "ram", or "logic".  "logic" means that the design asks for LUTs and flip-flops instead of block RAM.
    words, bits : int
        The number of words, and the bits of each.
    """

    kind: str
    words: int
    bits: int


def instances(verilog: str, top: str) -> Iterator[tuple[str, str, str]]:
    """Yield (flattened name, module, text of the module) of ``top`` and of each instance in it.  The name of ``top`` is ""."""
    modules = dict(re.findall(r"^module (\\?\S+?) ?\(.*?\n(.*?)^endmodule", verilog, re.MULTILINE | re.DOTALL))
    inside = {
        name: [
            (kind, instance) for kind, instance in re.findall(r"^  (\\?\S+) +\\?(\S+) +\(", body, re.MULTILINE) if kind in modules
        ]
        for name, body in modules.items()
    }
    waiting = [(top, "")]
    for module, path in waiting:
        yield path, module, modules[module]
        waiting += [(kind, f"{path}.{name}".lstrip(".")) for kind, name in inside[module]]


def memories(verilog: str, top: str) -> dict[str, Memory]:
    """Return, by flattened name, the memories that have a module of their own, called ``rom_...`` or ``ram_...``."""
    found = {}
    for path, module, body in instances(verilog, top):
        memory = re.search(r"reg \[(\d+):0\] mem \[0:(\d+)\]", body)
        if memory and module.startswith(("rom_", "ram_")):
            kind = "logic" if '"logic"' in body else module[:3]
            found[f"{path}.mem"] = Memory(kind, int(memory[2]) + 1, int(memory[1]) + 1)
    return found


def contents(verilog: str, roms: Path, top: str) -> dict[str, list[int]]:
    """Return, by flattened name, the words of each memory that configuration fills.

    The words of a ROM come from its image in the folder ``roms``.  The words of a table come from ``verilog`` itself.
    """
    found, tables = {}, {}
    for path, _, body in instances(verilog, top):
        if image := re.search(r'\$readmemh\("rom/(\S+)", mem\)', body):
            found[f"{path}.mem"] = [int(word, 16) for word in (roms / image[1]).read_text().split()]
        if body not in tables:
            tables[body] = _tables(body)
        found |= {f"{path}.{name}": words for name, words in tables[body].items()}
    return found


def _tables(body: str) -> dict[str, list[int]]:
    """Return the tables of a module by name.  A memory whose initial words are all 0 is a RAM, and is left out."""
    found: dict[str, list[int]] = {}
    for name, word in re.findall(r"^ +\\?([^\s\[]+) ?\[\d+\] = \d+'h(\w+);", body, re.MULTILINE):
        found.setdefault(name, []).append(int(word, 16))
    return {name: words for name, words in found.items() if any(words)}
