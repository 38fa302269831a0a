"""The memories of chip.v, as a list for a person who replaces them by macros."""

import re
from collections import Counter
from collections.abc import Iterator


def memories(verilog: str, config_prefix: str = "") -> dict:
    """Return the memories of a chip by kind.

    Parameters
    ----------
    verilog : str         text of chip.v
    config_prefix : str   ``ChipConfig.prefix`` of the chip

    Returns "macros", the modules that a macro can replace, and "tables", constants that are written out in the text.
    """
    modules = dict(re.findall(r"^module (\\?[^\s(]+) ?\(.*?\n(.*?)^endmodule", verilog, re.MULTILINE | re.DOTALL))
    counts = _instances(modules)
    prefix = f"{config_prefix}_" if config_prefix else ""
    macros, tables = [], []
    for module, body in modules.items():
        name = module.lstrip("\\")
        if (plain := name.removeprefix(prefix)).startswith(("rom_", "ram_")):
            high, last = re.search(r"reg \[(\d+):0\] mem \[0:(\d+)\]", body).groups()  # type: ignore[union-attr]
            shape = {"module": name, "instances": counts[module], "width": int(high) + 1, "depth": int(last) + 1}
            macros.append(shape | (_rom(plain) if plain.startswith("rom_") else _ram(plain)))
        else:
            tables += [{"module": name, "instances": counts[module]} | table for table in _tables(body)]
    return {"macros": macros, "tables": tables}


def _rom(name: str) -> dict:
    return {"kind": "ROM", "ports": "1 read", "latency": 1, "image": f"rom/{name.removeprefix('rom_')}.hex"}


def _ram(name: str) -> dict:
    """Return kind, ports and latency of a module of ``hdl.lib.ram``, whose name says which there are."""
    clocked, apart = "_async" not in name, name.endswith("_apart")
    met = "never happens" if apart else "the old word" if clocked else "the word before the clock edge"
    return {
        "kind": "1R1W RAM" if clocked else "1R1W register file",
        "ports": "1 write, 1 read",
        "latency": int(clocked),
        "read_of_a_word_that_is_written": met,
    }


def _instances(modules: dict[str, str]) -> Counter[str]:
    """Count the instances of each module in the whole design."""
    inside = {
        name: [kind for kind in re.findall(r"^  (\\?\S+) +\\?\S+ +\(", body, re.MULTILINE) if kind in modules]
        for name, body in modules.items()
    }
    counts: Counter[str] = Counter()
    waiting = [name for name in modules if not any(name in kinds for kinds in inside.values())]
    for module in waiting:
        counts[module] += 1
        waiting += inside[module]
    return counts


def _tables(body: str) -> Iterator[dict]:
    """Yield the memories of a module that have contents in the text."""
    for name, words in Counter(re.findall(r"^ +(\\?[^\s\[]+) ?\[\d+\] = \d+'h\w+;", body, re.MULTILINE)).items():
        declared = re.search(rf"^  reg \[(\d+):0\] {re.escape(name)} ?\[", body, re.MULTILINE)
        if declared:
            yield {"name": name.lstrip("\\"), "width": int(declared[1]) + 1, "depth": words}
