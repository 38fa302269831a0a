"""Passes on carry chains of the ECP5.

A chain is a row of CCU2C cells that hand a carry on.  A CCU2C has two halves, and each half is one bit of the chain: a LUT of four
inputs A, B, C, D gives the sum bit, and bits 0 to 3 of the LUT, which depend on A and B alone, give the carry where none passes.
"""

from itertools import permutations, product

from .graph import Bit, first_free, sinks

CARRIES = {"0": "0" * 16, "1": "0" * 12 + "1000"}
"""The LUT of a half that makes a constant carry, by the carry.

All inputs of the half are 1.  The LUT gives 0 for them, so that the carry-in does not pass; the carry-out is bit 3 of the LUT.
"""

PASSES = "1" * 16
"""The LUT of a half that passes its carry-in on."""

OPEN = "x"
"""The connection of a port that leads nowhere."""


def shorten(top: dict) -> int:
    """Let each chain begin and end without extra cells; return how many CCU2C cells nextpnr saves.

    For a constant carry-in nextpnr inserts a feed-in cell and a routed wire; for an unused carry-out it inserts a feed-out cell.
    This pass generates the constant inside the chain: a new half makes the carry, all bits move up by one half, and the unused
    carry-out is left open.  That saves the feed-out cell, and also the feed-in cell if the chain has an odd number of bits.
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
    """Return half ``k`` of a CCU2C: its LUT and its connections."""
    return {what: cell["parameters"][what + k] for what in ("INIT", "INJECT1_")} | {
        port: cell["connections"][port + k][0] for port in "ABCDS"
    }


def _made(init: str) -> dict:
    """Return a half with a given LUT whose inputs are all 1 and whose sum leads nowhere."""
    return {"INIT": init, "INJECT1_": "NO", **dict.fromkeys("ABCD", "1"), "S": OPEN}


def absorb(top: dict) -> int:
    """Merge LUTs into the carry chains that they feed; return how many LUT4 cells disappear.

    An adder leaves two of the four inputs of each half unused.  A LUT that computes one of its operands (a choice between two
    values, or a value that may be zero) becomes part of the half if three things hold: nothing else reads the LUT, LUT and half
    together have at most four inputs, and the carry stays the same wherever it counts, although a half makes it of A and B alone.
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
            drivers = {bit: driver[bit] for bit in inputs if bit in driver and used[bit] == 1}
            for chosen in (tuple(drivers), *((bit,) for bit in drivers)):
                luts = {bit: cells[drivers[bit]] for bit in chosen}
                if chosen and (half := _joined(cell["parameters"][f"INIT{k}"], inputs, luts)):
                    init, inputs = half
                    cell["parameters"][f"INIT{k}"] = init
                    cell["connections"] |= {port + k: [bit] for port, bit in zip("ABCD", inputs, strict=True)}
                    for bit in chosen:
                        del cells[drivers[bit]]
                    absorbed += len(chosen)
                    break
    return absorbed


def _joined(init: str, inputs: list[Bit], luts: dict[Bit, dict]) -> tuple[str, list[Bit]] | None:
    """Return the LUT and the inputs of a half that does what a half and the ``luts`` in front of it do, or None.

    ``luts`` are LUT4 cells by the input of the half that they drive.
    """
    variables = sorted(
        {
            bit
            for bit in (*inputs, *(bit for lut in luts.values() for bit in _inputs(lut)))
            if isinstance(bit, int) and bit not in luts
        }
    )
    if len(variables) > 4:
        return None
    # For all values of the variables: the output of the half's LUT, and the carry that the half makes where none passes.
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
    """Return the inputs A, B, C, D of a LUT4 cell."""
    return [lut["connections"][port][0] for port in "ABCD"]


def _lut(init: str, values: list[str]) -> str:
    """Return the output of a LUT for the values of A, B, C, D."""
    return init[-1 - int("".join(reversed(values)), 2)]
