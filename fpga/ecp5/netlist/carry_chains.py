"""Carry chains of an ECP5 that begin and end by themselves: nextpnr would put a cell before each of them, and one behind it."""

from itertools import permutations, product

from fpga.ecp5.netlist.graph import Bit, first_free, sinks

CARRIES = {"0": "0" * 16, "1": "0" * 12 + "1000"}
"""LUTs of a half whose inputs are all 1: they give 0, so that its carry out is bit 3 of them, whatever comes in."""

PASSES = "1" * 16
"""That of a half whose carry out is its carry in."""

OPEN = "x"


def shorten(top: dict) -> int:
    """Change the module ``top`` of a netlist that Yosys wrote; how many CCU2C cells there will be less for it.

    A CCU2C is two halves, each a bit of a chain.  A carry into a chain that is constant nextpnr brings on a wire, through a
    cell of its own; a carry out of it that nobody takes goes to another cell.  Here a half before the first bit makes the
    carry, all bits move up by one half, and the carry out is not connected: a cell less behind the chain, and one less before
    it if its bits are odd in number.
    """
    cells = top["cells"]
    used, fresh = {bit: len(to) for bit, to in sinks(top).items()}, first_free(top)
    chains = {name: cell for name, cell in cells.items() if cell["type"] == "CCU2C"}
    taker = {cell["connections"]["CIN"][0]: name for name, cell in chains.items()}
    saved = 0
    for first, cell in chains.items():
        (carry,) = cell["connections"]["CIN"]
        if carry not in CARRIES:
            continue
        names, bits = [first], [_made(CARRIES[carry])]
        while (carry := cells[names[-1]]["connections"]["COUT"][0]) in taker and used[carry] == 1:
            names.append(taker[carry])
        bits += [_half(cells[name], k) for name in names for k in "01"]
        if carry not in used:
            saved, carry = saved + 1, OPEN
            if bits[-1]["S"] not in used:
                bits.pop()
        if len(bits) % 2:
            bits.append(_made(PASSES))
        if len(bits) > 2 * len(names):
            names.insert(0, f"{first}$carry")
            cells[names[0]] = {**cell}
        else:
            saved += 1
        carries = [OPEN, *range(fresh, fresh + len(names) - 1), carry]
        fresh += len(names)
        for k, name in enumerate(names):
            pair = bits[2 * k : 2 * k + 2]
            cells[name]["parameters"] = {f"{what}{n}": half[what] for n, half in enumerate(pair) for what in ("INIT", "INJECT1_")}
            cells[name]["connections"] = {
                "CIN": [carries[k]],
                "COUT": [carries[k + 1]],
                **{f"{port}{n}": [half[port]] for n, half in enumerate(pair) for port in "ABCDS"},
            }
    return saved


def _half(cell: dict, k: str) -> dict:
    """Bit ``k`` of a CCU2C: what its LUT holds, and what is connected to it."""
    return {what: cell["parameters"][what + k] for what in ("INIT", "INJECT1_")} | {
        port: cell["connections"][port + k][0] for port in "ABCDS"
    }


def _made(init: str) -> dict:
    return {"INIT": init, "INJECT1_": "NO", **dict.fromkeys("ABCD", "1"), "S": OPEN}


def absorb(top: dict) -> int:
    """Change the module ``top`` of a netlist that Yosys wrote; how many LUT4 cells are now part of CCU2C cells behind them.

    An adder leaves two of the four inputs of a CCU2C's half unused.  A LUT for one of its operands, which nothing else reads, goes
    in if both together have four inputs at most (a choice between two values, or a value that may be zero), and if the carry,
    for which a half looks at its inputs A and B alone, is the same wherever it counts.
    """
    cells = top["cells"]
    used = {bit: len(to) for bit, to in sinks(top).items()}
    driver = {cell["connections"]["Z"][0]: name for name, cell in cells.items() if cell["type"] == "LUT4"}
    absorbed = 0
    for cell in [cell for cell in cells.values() if cell["type"] == "CCU2C"]:
        for k in "01":
            if cell["parameters"][f"INJECT1_{k}"] != "NO":
                continue
            inputs = [cell["connections"][port + k][0] for port in "ABCD"]
            before = {bit: driver[bit] for bit in inputs if bit in driver and used[bit] == 1}
            for chosen in (tuple(before), *((bit,) for bit in before)):
                luts = {bit: cells[before[bit]] for bit in chosen}
                if chosen and (half := _joined(cell["parameters"][f"INIT{k}"], inputs, luts)):
                    init, inputs = half
                    cell["parameters"][f"INIT{k}"] = init
                    cell["connections"] |= {port + k: [bit] for port, bit in zip("ABCD", inputs, strict=True)}
                    for bit in chosen:
                        del cells[before[bit]]
                    absorbed += len(chosen)
                    break
    return absorbed


def _joined(init: str, inputs: list[Bit], luts: dict[Bit, dict]) -> tuple[str, list[Bit]] | None:
    """The LUT and the inputs of a half behind ``luts``, by what they drive, that adds the same; nothing if there is none."""
    variables = sorted(
        {
            bit
            for bit in (*inputs, *(bit for lut in luts.values() for bit in _inputs(lut)))
            if isinstance(bit, int) and bit not in luts
        }
    )
    if len(variables) > 4:
        return None
    # What the half adds, and its carry where it makes one, for all values of the variables.
    wanted = {}
    for values in product("01", repeat=len(variables)):
        known = dict(zip(variables, values, strict=True)) | {"0": "0", "1": "1"}
        known |= {bit: _lut(lut["parameters"]["INIT"], [known[b] for b in _inputs(lut)]) for bit, lut in luts.items()}
        a, b, c, d = (known[bit] for bit in inputs)
        wanted[values] = _lut(init, [a, b, c, d]), _lut(init, [a, b, "0", "0"])
    for order in permutations([*range(len(variables)), *[None] * (4 - len(variables))]):
        held: dict[tuple, str] = {}
        for values, (adds, carries) in wanted.items():
            at = tuple("1" if n is None else values[n] for n in order)
            if held.setdefault(at, adds) != adds or (adds == "0" and held.setdefault((*at[:2], "0", "0"), carries) != carries):
                break
        else:
            table = "".join(held.get(tuple(reversed(at)), "0") for at in product("10", repeat=4))
            return table, ["1" if n is None else variables[n] for n in order]
    return None


def _inputs(lut: dict) -> list[Bit]:
    return [lut["connections"][port][0] for port in "ABCD"]


def _lut(init: str, values: list[str]) -> str:
    return init[-1 - int("".join(reversed(values)), 2)]
