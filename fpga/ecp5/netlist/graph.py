"""A module of a netlist as Yosys writes it in JSON: what its wires lead to."""

from collections import defaultdict

Bit = int | str
"""A wire's number, or a constant: "0", "1", "x"."""


def sinks(top: dict) -> dict[Bit, list[tuple[str | None, str]]]:
    """The cells, and their inputs, that each bit goes to; (None, "") is a port of the module."""
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
    """The number from which on no wire has one."""
    bits = [bit for cell in top["cells"].values() for bits in cell["connections"].values() for bit in bits]
    bits += [bit for port in top["ports"].values() for bit in port["bits"]]
    return 1 + max((bit for bit in bits if isinstance(bit, int)), default=1)
