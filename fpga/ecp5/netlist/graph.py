"""Follow the wires of a module in the JSON netlist of Yosys.

A module is the dictionary ``netlist["modules"][name]``.  It must be flattened: its cells are primitives of the device.
"""

from collections import defaultdict

Bit = int | str
"""One bit of a connection: the number of a wire, or a constant, "0", "1" or "x"."""


def sinks(top: dict) -> dict[Bit, list[tuple[str | None, str]]]:
    """Return, for each bit, the (cell, input) pairs that read it.  A port of the module counts as (None, "")."""
    found = defaultdict(list)
    for name, cell in top["cells"].items():
        for port, bits in cell["connections"].items():
            if cell["port_directions"][port] == "input":
                for bit in bits:
                    found[bit].append((name, port))
    for port in top["ports"].values():
        for bit in port["bits"]:
            found[bit].append((None, ""))
    return found


def first_free(top: dict) -> int:
    """Return a number above the numbers of all wires."""
    bits = [bit for cell in top["cells"].values() for bits in cell["connections"].values() for bit in bits]
    bits += [bit for port in top["ports"].values() for bit in port["bits"]]
    return 1 + max((bit for bit in bits if isinstance(bit, int)), default=1)
