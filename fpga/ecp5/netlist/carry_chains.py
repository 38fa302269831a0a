"""Passes on carry chains of the ECP5.

A chain is a row of CCU2C cells, each of which passes its carry to the next.  A CCU2C has two halves.  Each half is one bit of the
chain.  With p = LUT(A, B, C, D) and g = LUT(A, B, 0, 0), which is one of the bits 0 to 3 of the LUT:

    sum = p ^ carry-in          (p alone if INJECT1 is "YES")
    carry-out = p ? carry-in : g
"""

from itertools import permutations, product

from .graph import Bit, first_free, sinks

CARRIES = {"0": "0" * 16, "1": "0" * 12 + "1000"}
"""The LUT of a half with a constant carry-out, by this carry-out.

All inputs of the half are 1.  The LUT is 0 for them, so the carry-out is bit 3 of the LUT and not the carry-in.
"""

PASSES = "1" * 16
"""The LUT of a half whose carry-out is its carry-in."""

OPEN = "x"
"""The wire of a port that is not connected."""


def shorten(top: dict) -> int:
    """Change chains so that nextpnr adds no cells at their ends.  Return how many CCU2C cells that saves.

    For a constant carry-in nextpnr inserts a feed-in cell and a routed wire.  For a carry-out it inserts a feed-out cell, even if
    nothing reads this carry-out.  This pass puts a half that makes the constant at the beginning of the chain, moves all bits up by
    one half, and disconnects the unused carry-out.  This saves the feed-out cell, and, if the chain has an odd number of bits, the
    feed-in cell.
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
            cells[name]["parameters"] = {f"{key}{n}": half[key] for n, half in enumerate(pair) for key in ("INIT", "INJECT1_")}
            cells[name]["connections"] = {
                "CIN": [carries[k]],
                "COUT": [carries[k + 1]],
                **{f"{port}{n}": [half[port]] for n, half in enumerate(pair) for port in "ABCDS"},
            }
    return saved


def _half(cell: dict, k: str) -> dict:
    """Return half ``k`` of a CCU2C: its LUT and its connections."""
    return {key: cell["parameters"][key + k] for key in ("INIT", "INJECT1_")} | {
        port: cell["connections"][port + k][0] for port in "ABCDS"
    }


def _made(init: str) -> dict:
    """Return a half with a given LUT.  All of its inputs are 1, and its sum is not connected."""
    return {"INIT": init, "INJECT1_": "NO", **dict.fromkeys("ABCD", "1"), "S": OPEN}


def absorb(top: dict) -> int:
    """Merge LUTs into the carry chains that they feed.  Return how many LUT4 cells this removes.

    An adder uses only two of the four inputs of each half.  A LUT that computes an operand of the adder (a choice between two
    values, or a value that may be 0) becomes part of the half if three conditions hold:

    - nothing else reads the LUT,
    - the LUT and the half together have at most four inputs,
    - p stays the same, and g stays the same wherever p = 0, although g depends on A and B alone.
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
    """Return the LUT and the inputs of one half that replaces a half and the LUTs that feed it, or None if no half can.

    ``init`` and ``inputs`` are those of the half.  ``luts`` has the LUT4 cells by the wire of the half's input that they drive.
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
    # (p, g) of the half for all values of the variables.
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
    """Return the output of a LUT whose inputs A, B, C, D have these values."""
    return init[-1 - int("".join(reversed(values)), 2)]
