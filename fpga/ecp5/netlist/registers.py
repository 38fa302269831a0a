"""Passes that move registers into the multipliers and block RAMs of the ECP5, and that copy registers with distant readers.

A flip-flop can move into a hard block only if it starts with 0 and is never reset, because the registers of these blocks do.  The
outputs of the design stay the same in every cycle.
"""

import re
from collections import defaultdict

from .graph import Bit, first_free, sinks

RESETS = 256
"""A flip-flop is copied if it resets at least this number of flip-flops."""

UNIT_DEPTH = 5
"""The number of names, from the left, of the flattened name of a cell that name its unit.

The unit of board.core.chip.stage.rope.angle_LUT4_Z is board.core.chip.stage.rope.
"""


def take_registers(top: dict) -> int:
    """Move the registers of products into MULT18X18D cells, and those of words into DP16KD cells.  Return how many flip-flops move.

    A cell takes the register of its product, or of the word at a port, if each used bit has one flip-flop as its only reader, and
    if these flip-flops share one clock and one enable, start with 0, and are never reset.

    This removes the wires from the cell to its register.  In nextpnr's times a product leaves the multiplier 0.7 ns after the
    clock, but its operands must arrive 0.4 ns earlier than without the register.  A word leaves a block RAM after 1.0 ns instead
    of 5.8 ns.
    """
    cells, leads = top["cells"], sinks(top)
    taken = 0
    for cell in list(cells.values()):
        if cell["type"] == "MULT18X18D":
            if found := _registers(cells, leads, cell, [f"P{k}" for k in range(36)]):
                registers, clock, enabled = found
                _change(
                    cell,
                    {"REG_OUTPUT_CLK": "CLK0", "REG_OUTPUT_CE": "CE0", "REG_OUTPUT_RST": "RST0"},
                    {"CLK0": clock, "CE0": enabled, "RST0": "0"},
                )
                taken += _take(cells, cell, registers)
        elif cell["type"] == "DP16KD":
            for ports, outputs in _read_ports(cell).items():
                found = _registers(cells, leads, cell, outputs)
                if found and all(cell["connections"][f"CLK{port}"] == [found[1]] for port in ports):
                    registers, _, enabled = found
                    for port in ports:
                        _change(cell, {f"REGMODE_{port}": "OUTREG"}, {f"OCE{port}": enabled})
                    taken += _take(cells, cell, registers)
    return taken


def take_operands(top: dict) -> int:
    """Move the registers of operands into MULT18X18D cells.  Return how many cells take the registers of both operands.

    Operands may then arrive 0.1 ns before the end of a cycle instead of 3.5 ns.  A cell takes the registers if three conditions
    hold:

    - the register of the product is in the cell,
    - all bits of both operands come from flip-flops with the clock and the enable of that register, which start with 0 and are
      never reset,
    - each of these flip-flops is fed by a register, or by one LUT whose inputs are registers.

    A flip-flop with other readers stays where it is for them.  Either both operands move or none, because nextpnr has no times for
    a multiplier in which only one operand has a register.
    """
    cells, leads = top["cells"], sinks(top)
    driver = {
        bit: name
        for name, cell in cells.items()
        for port, bits in cell["connections"].items()
        if cell["port_directions"][port] == "output"
        for bit in bits
    }

    def is_register(bit: Bit) -> bool:
        return (bit in driver and cells[driver[bit]]["type"] in ("TRELLIS_FF", "DP16KD", "MULT18X18D")) or isinstance(bit, str)

    def comes_early(bit: Bit) -> bool:
        cell = cells.get(driver.get(bit, ""))
        return is_register(bit) or (cell is not None and cell["type"] == "LUT4" and all(map(is_register, _lut_inputs(cell))))

    taken, left = 0, set()
    for name, cell in cells.items():
        if cell["type"] != "MULT18X18D" or cell["parameters"].get("REG_OUTPUT_CLK") != "CLK0":
            continue
        control = cell["connections"]["CLK0"][0], cell["connections"]["CE0"][0]
        bits = {
            port: cell["connections"][port][0]
            for port in (f"{side}{k}" for side in "AB" for k in range(18))
            if cell["connections"][port] != ["0"]
        }
        flip_flops = {port: cells.get(driver.get(bit, "")) for port, bit in bits.items()}
        if all(
            of is not None and of["type"] == "TRELLIS_FF" and _control(of) == control and comes_early(of["connections"]["DI"][0])
            for of in flip_flops.values()
        ):
            cell["parameters"] |= {f"REG_INPUT{side}_{pin}": f"{pin}0" for side in "AB" for pin in ("CLK", "CE", "RST")}
            for port, of in flip_flops.items():
                leads[bits[port]].remove((name, port))
                left.add(bits[port])
                cell["connections"][port] = of["connections"]["DI"]
            taken += 1
    for bit in left:
        if not leads[bit]:
            del cells[driver[bit]]
    return taken


def move_choices(top: dict) -> int:
    """Move output registers of deep memories from the word multiplexer into the block RAMs.  Return how many flip-flops that saves.

    A memory with more words than a block RAM is several block RAMs, and LUTs that choose one of their words.  If each bit of the
    word goes through one LUT to a flip-flop, the register moves from the output of the LUT to its inputs: into the block RAMs, and
    into one new flip-flop for each bit of the choice.  As in ``take_registers``, the flip-flops share one clock and one enable and
    are never reset.  The LUTs must be 0 while all of their registers are 0, because the flip-flops start with 0.
    """
    cells, leads = top["cells"], sinks(top)
    chosen = {
        bit: (name, ports)
        for name, cell in cells.items()
        if cell["type"] == "DP16KD"
        for ports, outputs in _read_ports(cell).items()
        if cell["parameters"].get(f"REGMODE_{ports[0]}") != "OUTREG"
        for output in outputs
        for bit in cell["connections"].get(output, ())
    }
    registers, controls = {}, {}  # for each LUT whose only reader is a flip-flop: this flip-flop, and its (clock, enable)
    for name, lut in cells.items():
        if lut["type"] == "LUT4" and _begins_with_0(lut):
            readers = leads[lut["connections"]["Z"][0]]
            if len(readers) == 1 and readers[0][1] == "DI" and (control := _control(cells[readers[0][0]])):
                registers[name], controls[name] = readers[0][0], control
    words: dict[tuple[str, str], set] = {}  # the LUTs that read a port of a block RAM, and None if a bit has other readers
    for bit, of in chosen.items():
        to = {name if port in "ABCD" else None for name, port in leads[bit]}
        words.setdefault(of, set()).update(to if len(to) < 2 else {None})
    whole = set()
    for (name, ports), luts in words.items():
        if luts and luts <= registers.keys():
            common, *others = {controls[lut] for lut in luts}
            if not others and {cells[name]["connections"][f"CLK{port}"][0] for port in ports} == {common[0]}:
                whole.add((name, ports))
    while True:  # a LUT moves if all block RAMs that it reads take their registers; they do if all LUTs that read them move
        moving = {
            lut
            for of in whole
            for lut in words[of]
            if all(chosen[bit] in whole for bit in _lut_inputs(cells[lut]) if bit in chosen)
        }
        if (left := {of for of in whole if words[of] <= moving}) == whole:
            break
        whole = left
    for name, ports in whole:
        _, enabled = controls[next(iter(words[name, ports]))]
        for port in ports:
            _change(cells[name], {f"REGMODE_{port}": "OUTREG"}, {f"OCE{port}": enabled})
    fresh, moved = first_free(top), {}
    for lut in sorted(moving):
        register = cells.pop(registers[lut])
        for port in "ABCD":
            (bit,) = cells[lut]["connections"][port]
            if isinstance(bit, int) and bit not in chosen:
                if (bit, controls[lut]) not in moved:
                    moved[bit, controls[lut]] = fresh
                    cells[f"{registers[lut]}$before{port}"] = {
                        **register,
                        "connections": {**register["connections"], "DI": [bit], "Q": [fresh]},
                    }
                    fresh += 1
                cells[lut]["connections"][port] = [moved[bit, controls[lut]]]
        cells[lut]["connections"]["Z"] = register["connections"]["Q"]
    return len(moving) - len(moved)


def _begins_with_0(lut: dict) -> bool:
    """Return whether a LUT is 0 if all of its inputs that are not constants are 0."""
    ones = sum(1 << k for k, bit in enumerate(_lut_inputs(lut)) if bit == "1")
    return lut["parameters"]["INIT"][-1 - ones] == "0"


def _lut_inputs(lut: dict) -> list[Bit]:
    """Return the inputs A, B, C, D of a LUT4 cell."""
    return [lut["connections"][port][0] for port in "ABCD"]


def copy_registers(top: dict) -> int:
    """Copy registers whose readers are all over the device.  Return how many flip-flops are added.

    A flip-flop that drives the address or the enable of several memories gets a copy for each memory.  A flip-flop that resets at
    least RESETS others gets a copy for each unit.  This pass runs after synthesis, because Yosys would merge the copies again.
    """
    cells, leads = top["cells"], sinks(top)
    fresh, copies = first_free(top), 0
    for name, register in [(name, cell) for name, cell in cells.items() if cell["type"] == "TRELLIS_FF"]:
        to = [(sink, port) for sink, port in leads[register["connections"]["Q"][0]] if sink]
        resets = sum(port == "LSR" for _, port in to) >= RESETS
        places = defaultdict(list)
        for sink, port in to:
            if cells[sink]["type"] == "DP16KD" and re.match("AD|CE", port):
                places[sink.rpartition(".mem.")[0]].append((sink, port))
            elif resets:
                places[".".join(sink.split(".")[:-1][:UNIT_DEPTH])].append((sink, port))
        for n, of_place in enumerate(list(places.values())[1:], 1):
            cells[f"{name}$copy{n}"] = {**register, "connections": {**register["connections"], "Q": [fresh]}}
            for sink, port in of_place:
                cells[sink]["connections"][port] = [fresh]
            fresh, copies = fresh + 1, copies + 1
    return copies


def _read_ports(cell: dict) -> dict[str, list[str]]:
    """Return the outputs of a block RAM by the ports whose registers they use.  A word of 36 bits uses both: "AB"."""
    outputs = {port: [f"DO{port}{k}" for k in range(18)] for port in "AB"}
    if int(cell["parameters"]["DATA_WIDTH_B"], 2) == 36:
        return {"AB": outputs["A"] + outputs["B"]}
    return outputs


def _registers(cells: dict, leads: dict, cell: dict, outputs: list[str]) -> tuple[dict[str, str], Bit, Bit] | None:
    """Return (flip-flops by the output that they read, their clock, their enable), or None if ``cell`` cannot take them."""
    used = {port: leads[bit] for port in outputs for bit in cell["connections"].get(port, []) if leads[bit]}
    found = {port: of[0][0] for port, of in used.items() if len(of) == 1 and of[0][1] == "DI"}
    if not used or len(found) != len(used) or any(cells[name]["type"] != "TRELLIS_FF" for name in found.values()):
        return None
    controls = {_control(cells[name]) for name in found.values()}
    control = controls.pop()
    return None if controls or control is None else (found, *control)


def _change(cell: dict, parameters: dict[str, str], inputs: dict[str, Bit]) -> None:
    """Set parameters of a cell, and connect its inputs to wires."""
    cell["parameters"] |= parameters
    cell["connections"] |= {port: [bit] for port, bit in inputs.items()}
    cell["port_directions"] |= dict.fromkeys(inputs, "input")


def _take(cells: dict, cell: dict, registers: dict[str, str]) -> int:
    """Connect outputs of ``cell`` to the wires that ``registers`` drive, and delete these flip-flops.  Return their number.

    ``registers`` has the names of the flip-flops by the output that takes their place.
    """
    for port, name in registers.items():
        cell["connections"][port] = cells.pop(name)["connections"]["Q"]
    return len(registers)


def _control(register: dict) -> tuple[Bit, Bit] | None:
    """Return (clock, enable) of a flip-flop, or None if it does not start with 0 or is ever reset.  Without an enable it is "1"."""
    parameters, wires = register["parameters"], register["connections"]
    kinds = [parameters.get(name) for name in ("REGSET", "CLKMUX", "LSRMUX")]
    if wires.get("LSR", ["0"]) != ["0"] or kinds != ["RESET", "CLK", "LSR"]:
        return None
    mux = parameters.get("CEMUX", "").strip()
    if mux not in ("CE", "1"):
        return None
    return wires["CLK"][0], wires["CE"][0] if mux == "CE" else "1"
