"""Registers of ECP5's multipliers and block RAMs: those behind them go inside, and those of addresses stand beside each memory."""

import re
from collections import defaultdict

from fpga.ecp5.netlist.graph import Bit, first_free, sinks

RESETS = 256
"""Flip-flops that one resets, from which on it is copied for their units."""

UNIT_DEPTH = 5
"""Names in the path of a unit: board.core.chip.stage.rope."""


def take_registers(top: dict) -> int:
    """Change the module ``top`` of a netlist that Yosys wrote; how many flip-flops are now inside MULT18X18D and DP16KD cells.

    A cell takes the register of its product, or of a port's word, if each bit that is used goes to one flip-flop and nowhere else,
    and these have a clock and an enable in common, begin with 0 and are never reset.  What the design does stays the same in every
    cycle; its ways end in the cell (a multiplier: 0.4 ns earlier), and begin again 0.7 ns (of a block RAM: 1.0 ns, and not 5.8)
    after the clock: the wires to the flip-flops are gone.
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
    """Change the module ``top`` of a netlist that Yosys wrote; how many MULT18X18D cells have both operands' registers inside.

    They do if all bits come from flip-flops that have clock and enable of the product's register and are never reset, and if
    these follow another register, or one LUT behind registers: a multiplier with registers on both sides wants its operands at
    the end of a cycle, and not 3.5 ns before.  What else a flip-flop is for, it stays for.  nextpnr has no times for a multiplier
    with one of the two.
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
        before = {port: cells.get(driver.get(bit, "")) for port, bit in bits.items()}
        if all(
            of is not None and of["type"] == "TRELLIS_FF" and _control(of) == control and comes_early(of["connections"]["DI"][0])
            for of in before.values()
        ):
            cell["parameters"] |= {f"REG_INPUT{side}_{what}": f"{what}0" for side in "AB" for what in ("CLK", "CE", "RST")}
            for port, of in before.items():
                leads[bits[port]].remove((name, port))
                left.add(bits[port])
                cell["connections"][port] = of["connections"]["DI"]
            taken += 1
    for bit in left:
        if not leads[bit]:
            del cells[driver[bit]]
    return taken


def choose_behind(top: dict) -> int:
    """Change the module ``top`` of a netlist that Yosys wrote; how many flip-flops behind choices among block RAMs it has less.

    A memory deeper than a block RAM is several, and LUTs that choose one's word.  If each bit goes through one LUT to a flip-flop,
    these move before the LUT: into the block RAMs, and one for each bit that chooses.  As in ``take_registers`` they have a clock
    and an enable in common and are never reset; before the first word the LUTs give 0, as they do.
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
    registers = {}  # of LUTs between block RAMs and a flip-flop
    for name, lut in cells.items():
        if lut["type"] == "LUT4" and _begins_with_0(lut):
            behind = leads[lut["connections"]["Z"][0]]
            if len(behind) == 1 and behind[0][1] == "DI" and _control(cells[behind[0][0]]):
                registers[name] = behind[0][0]
    words: dict[tuple[str, str], set] = {}  # LUTs behind each port of a block RAM, if there is nothing else
    for bit, of in chosen.items():
        to = {name if port in "ABCD" else None for name, port in leads[bit]}
        words.setdefault(of, set()).update(to if len(to) < 2 else {None})
    whole = set()
    for (name, ports), luts in words.items():
        if luts and luts <= registers.keys():
            controls = {_control(cells[registers[lut]]) for lut in luts}
            if len(controls) == 1 and {cells[name]["connections"][f"CLK{port}"][0] for port in ports} == {next(iter(controls))[0]}:
                whole.add((name, ports))
    while True:  # a LUT moves if all block RAMs before it take their registers, and these if all LUTs behind them move
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
        _, enabled = _control(cells[registers[next(iter(words[name, ports]))]])
        for port in ports:
            _change(cells[name], {f"REGMODE_{port}": "OUTREG"}, {f"OCE{port}": enabled})
    fresh, before = first_free(top), {}
    for lut in sorted(moving):
        register = cells.pop(registers[lut])
        for port in "ABCD":
            (bit,) = cells[lut]["connections"][port]
            if isinstance(bit, int) and bit not in chosen:
                if (bit, _control(register)) not in before:
                    before[bit, _control(register)] = fresh
                    cells[f"{registers[lut]}$before{port}"] = {
                        **register,
                        "connections": {**register["connections"], "DI": [bit], "Q": [fresh]},
                    }
                    fresh += 1
                cells[lut]["connections"][port] = [before[bit, _control(register)]]
        cells[lut]["connections"]["Z"] = register["connections"]["Q"]
    return len(moving) - len(before)


def _begins_with_0(lut: dict) -> bool:
    """Whether it gives 0 where all that is before it does, but for constants."""
    ones = sum(1 << k for k, bit in enumerate(_lut_inputs(lut)) if bit == "1")
    return lut["parameters"]["INIT"][-1 - ones] == "0"


def _lut_inputs(lut: dict) -> list[Bit]:
    return [lut["connections"][port][0] for port in "ABCD"]


def copy_registers(top: dict) -> int:
    """Change the module ``top`` of a netlist that Yosys wrote; how many flip-flops more it has.

    A flip-flop that several memories have an address or an enable from, as the lanes' ROMs do, gets a copy for each of them, and
    one that resets RESETS others or more a copy for each unit: they lie all over the device.  Yosys would make one of the copies
    again.
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
    """Outputs of a block RAM by the ports whose registers they have: words of 36 bits have those of both."""
    outputs = {port: [f"DO{port}{k}" for k in range(18)] for port in "AB"}
    if int(cell["parameters"]["DATA_WIDTH_B"], 2) == 36:
        return {"AB": outputs["A"] + outputs["B"]}
    return outputs


def _registers(cells: dict, leads: dict, cell: dict, outputs: list[str]) -> tuple[dict[str, str], Bit, Bit] | None:
    """The flip-flops behind ``outputs`` by output, their clock and enable; nothing if they cannot be inside ``cell``."""
    used = {port: leads[bit] for port in outputs for bit in cell["connections"].get(port, []) if leads[bit]}
    behind = {port: of[0][0] for port, of in used.items() if len(of) == 1 and of[0][1] == "DI"}
    if not used or len(behind) != len(used) or any(cells[name]["type"] != "TRELLIS_FF" for name in behind.values()):
        return None
    controls = {_control(cells[name]) for name in behind.values()}
    if len(controls) != 1 or None in controls:
        return None
    ((clock, enabled),) = controls
    return behind, clock, enabled


def _change(cell: dict, parameters: dict[str, str], inputs: dict[str, Bit]) -> None:
    cell["parameters"] |= parameters
    cell["connections"] |= {port: [bit] for port, bit in inputs.items()}
    cell["port_directions"] |= dict.fromkeys(inputs, "input")


def _take(cells: dict, cell: dict, registers: dict[str, str]) -> int:
    for port, name in registers.items():
        cell["connections"][port] = cells.pop(name)["connections"]["Q"]
    return len(registers)


def _control(register: dict) -> tuple | None:
    """(clock, enable) of a flip-flop that begins with 0 and is never reset; nothing of another one."""
    what, wires = register["parameters"], register["connections"]
    kinds = [what.get(name) for name in ("REGSET", "CLKMUX", "LSRMUX")]
    if wires.get("LSR", ["0"]) != ["0"] or kinds != ["RESET", "CLK", "LSR"]:
        return None
    mux = what.get("CEMUX", "").strip()
    if mux not in ("CE", "1"):
        return None
    return wires["CLK"][0], wires["CE"][0] if mux == "CE" else "1"
