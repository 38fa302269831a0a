"""What every memory of a design that is not empty holds, by its name in the flattened netlist."""

import re
from collections.abc import Iterator
from pathlib import Path


def instances(verilog: str, top: str) -> Iterator[tuple[str, str, str]]:
    """Every instance below the module ``top``, itself among them: its flattened name, its module, and the module's text."""
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


def contents(verilog: str, roms: Path, top: str) -> dict[str, list[int]]:
    """The words of each memory: of ROMs those of their images in the folder ``roms``, of tables those in ``verilog``."""
    found, tables = {}, {}
    for path, _, body in instances(verilog, top):
        if image := re.search(r'\$readmemh\("(\S+)", mem\)', body):
            found[f"{path}.mem"] = [int(word, 16) for word in (roms / image[1]).read_text().split()]
        if body not in tables:
            tables[body] = _tables(body)
        found |= {f"{path}.{name}": words for name, words in tables[body].items()}
    return found


def _tables(body: str) -> dict[str, list[int]]:
    """Those of a module that are not all zeros, as a RAM's are."""
    found: dict[str, list[int]] = {}
    for name, word in re.findall(r"^ +\\?([^\s\[]+) ?\[\d+\] = \d+'h(\w+);", body, re.MULTILINE):
        found.setdefault(name, []).append(int(word, 16))
    return {name: words for name, words in found.items() if any(words)}
