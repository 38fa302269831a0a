"""Multipliers and block RAMs take registers, and registers are copied, only where no output changes in any cycle."""

import copy
import re

import pytest

import fpga.ecp5.netlist.registers
from fpga.ecp5.netlist.registers import copy_registers, move_choices, take_operands, take_registers

A, B, P, Q, CLK, CE, RESET = range(0, 100, 4), range(100, 200, 4), range(200, 236), range(300, 336), 400, 401, 402


def flip_flop(d, q, **changes):
    """Return a flip-flop as Yosys writes it.  Names in capitals are its wires, others its parameters."""
    cell = {
        "type": "TRELLIS_FF",
        "parameters": {"CEMUX": "CE", "CLKMUX": "CLK", "GSR": "DISABLED", "LSRMUX": "LSR", "REGSET": "RESET"},
        "connections": {"CE": [CE], "CLK": [CLK], "DI": [d], "LSR": ["0"], "Q": [q]},
    }
    for name, value in changes.items():
        cell["connections" if name in cell["connections"] else "parameters"][name] = value
    cell["port_directions"] = {port: "output" if port == "Q" else "input" for port in cell["connections"]}
    return cell


def design(bits=36, **changes) -> dict:
    """Return a multiplier with a flip-flop for each of ``bits``.  ``changes`` are made to the last flip-flop."""
    connections = {f"A{k}": [A[k]] for k in range(18)} | {f"B{k}": [B[k]] for k in range(18)} | {f"P{k}": [P[k]] for k in range(36)}
    cells = {
        "multiply": {
            "type": "MULT18X18D",
            "parameters": {},
            "connections": connections,
            "port_directions": {port: "output" if port[0] == "P" else "input" for port in connections},
        }
    }
    cells |= {f"register_{k}": flip_flop(P[k], Q[k], **(changes if k == bits - 1 else {})) for k in range(bits)}
    return {"ports": {"product": {"direction": "output", "bits": list(Q[:bits])}}, "cells": cells}


@pytest.mark.parametrize("bits", [36, 34, 1])
@pytest.mark.parametrize("enabled", [True, False])
def test_a_multiplier_takes_the_register_behind_it(bits, enabled):
    top = design(bits)
    if not enabled:
        for k in range(bits):
            top["cells"][f"register_{k}"] = flip_flop(P[k], Q[k], CEMUX="1 ")
            del top["cells"][f"register_{k}"]["connections"]["CE"]
    assert take_registers(top) == bits
    (cell,) = top["cells"].values()
    assert [cell["connections"][f"P{k}"] for k in range(36)] == [[bit] for bit in (*Q[:bits], *P[bits:])]
    assert {port: cell["connections"][port] for port in ("CLK0", "CE0", "RST0")} == {
        "CLK0": [CLK],
        "CE0": [CE if enabled else "1"],
        "RST0": ["0"],
    }
    assert cell["parameters"] == {"REG_OUTPUT_CLK": "CLK0", "REG_OUTPUT_CE": "CE0", "REG_OUTPUT_RST": "RST0"}
    assert all(cell["port_directions"][port] == "input" for port in ("CLK0", "CE0", "RST0"))


def other(cell) -> dict:
    top = design()
    top["cells"]["other"] = cell
    return top


def shown() -> dict:
    top = design()
    top["ports"]["more"] = {"direction": "output", "bits": [P[3]]}
    return top


def without(name) -> dict:
    top = design()
    del top["cells"][name]
    top["ports"]["more"] = {"direction": "output", "bits": [P[35]]}
    return top


@pytest.mark.parametrize(
    "top",
    [
        design(CE=[499]),
        design(CLK=[499]),
        design(LSR=[RESET]),
        design(REGSET="SET"),
        design(CEMUX="INV"),
        design(CLKMUX="INV"),
        design(LSRMUX="INV"),
        other(flip_flop(P[3], 500)),
        other(
            {
                "type": "LUT4",
                "parameters": {},
                "connections": {"A": [P[3]], "Z": [500]},
                "port_directions": {"A": "input", "Z": "output"},
            }
        ),
        shown(),
        without("register_35"),
        design(0),
    ],
    ids=[
        "another_enable",
        "another_clock",
        "a_reset",
        "begins_with_1",
        "enable_inverted",
        "clock_inverted",
        "always_reset",
        "two_registers",
        "a_lut_too",
        "a_port_too",
        "a_bit_without",
        "no_product",
    ],
)
def test_what_is_not_just_a_register_stays(top):
    before = copy.deepcopy(top)
    assert take_registers(top) == 0
    assert top == before


def test_a_lut_between_stays():
    top = design()
    top["cells"]["register_3"]["connections"]["DI"] = [500]
    top["cells"]["lut"] = {
        "type": "LUT4",
        "parameters": {},
        "connections": {"A": [P[3]], "Z": [500]},
        "port_directions": {"A": "input", "Z": "output"},
    }
    before = copy.deepcopy(top)
    assert take_registers(top) == 0
    assert top == before


WORD, HELD, ADDRESS = range(600, 636), range(700, 736), range(800, 814)


def block_ram(width, bits, name="rom.mem.0.0", **changes) -> dict:
    """Return a block RAM with a flip-flop for each of ``bits`` bits.  It is read on port A, or on both if words have 36 bits."""
    outputs = [f"DO{'AB'[k // 18]}{k % 18}" for k in range(36)]
    connections = {"CLKA": [CLK], "CLKB": [CLK], "OCEA": ["1"], "OCEB": ["1"], "CEA": [CE]}
    connections |= {output: [bit] for output, bit in zip(outputs, WORD, strict=True)}
    connections |= {f"ADA{k}": [bit] for k, bit in enumerate(ADDRESS)}
    cells = {
        name: {
            "type": "DP16KD",
            "connections": connections,
            "parameters": {f"DATA_WIDTH_{port}": f"{width:b}" for port in "AB"},
            "port_directions": {port: "output" if port[:2] == "DO" else "input" for port in connections},
        }
    }
    cells |= {f"register_{k}": flip_flop(WORD[k], HELD[k], **(changes if k == bits - 1 else {})) for k in range(bits)}
    return {"ports": {}, "cells": cells}


@pytest.mark.parametrize(("width", "bits"), [(9, 9), (9, 4), (18, 18), (36, 36), (36, 20)])
def test_a_block_ram_takes_the_register_behind_it(width, bits):
    top = block_ram(width, bits)
    assert take_registers(top) == bits
    (cell,) = top["cells"].values()
    ports = "AB" if width == 36 else "A"
    assert [cell["connections"][f"DO{'AB'[k // 18]}{k % 18}"] for k in range(36)] == [[bit] for bit in (*HELD[:bits], *WORD[bits:])]
    assert {port: cell["parameters"].get(f"REGMODE_{port}") for port in "AB"} == {
        port: "OUTREG" if port in ports else None for port in "AB"
    }
    assert {port: cell["connections"][f"OCE{port}"] for port in "AB"} == {port: [CE] if port in ports else ["1"] for port in "AB"}


def two_ports() -> dict:
    """Return a block RAM of which both ports are read, and only port A feeds nothing but its register."""
    top = block_ram(18, 18)
    top["ports"]["more"] = {"direction": "output", "bits": list(WORD[18:])}
    return top


def test_of_two_ports_each_has_its_own():
    top = two_ports()
    assert take_registers(top) == 18
    assert top["cells"]["rom.mem.0.0"]["parameters"].get("REGMODE_B") is None
    assert top["cells"]["rom.mem.0.0"]["parameters"]["REGMODE_A"] == "OUTREG"


@pytest.mark.parametrize(
    "top",
    [block_ram(9, 9, CLK=[499]), block_ram(9, 9, LSR=[RESET]), block_ram(36, 36, CE=[499])],
    ids=["another_clock", "a_reset", "another_enable"],
)
def test_other_flip_flops_do_not_move_into_a_block_ram(top):
    before = copy.deepcopy(top)
    assert take_registers(top) == 0
    assert top == before


def test_an_address_has_a_register_for_each_memory():
    top = block_ram(9, 0, "a.mem.0.0")
    for name in ("a.mem.0.1", "b.mem.0.0", "c.mem.0.0"):
        top["cells"] |= block_ram(9, 0, name)["cells"]
    top["cells"] |= {f"address_{k}": flip_flop(900 + k, bit) for k, bit in enumerate(ADDRESS)}
    top["cells"]["address_3"]["connections"]["LSR"] = [RESET]
    top["ports"]["shown"] = {"direction": "output", "bits": [ADDRESS[0]]}
    registers = {name: cell for name, cell in top["cells"].items() if cell["type"] == "TRELLIS_FF"}
    assert copy_registers(top) == 2 * len(ADDRESS)
    driver = {cell["connections"]["Q"][0]: cell for cell in top["cells"].values() if cell["type"] == "TRELLIS_FF"}
    assert len(driver) == 3 * len(ADDRESS)
    rams = {name: cell["connections"] for name, cell in top["cells"].items() if cell["type"] == "DP16KD"}
    for k in range(len(ADDRESS)):
        bits = {name: wires[f"ADA{k}"][0] for name, wires in rams.items()}
        assert bits["a.mem.0.0"] == bits["a.mem.0.1"] == ADDRESS[k]  # the first memory keeps the original register
        assert len(set(bits.values())) == 3
        for bit in bits.values():
            of, original = driver[bit], registers[f"address_{k}"]
            assert of["connections"] | {"Q": 0} == original["connections"] | {"Q": 0} and of["parameters"] == original["parameters"]
    assert {wires["CEA"][0] for wires in rams.values()} == {CE}  # the enable does not come from a flip-flop, so it has no copies


def test_one_memory_keeps_its_registers():
    top = block_ram(9, 0)
    top["cells"] |= {f"address_{k}": flip_flop(900 + k, bit) for k, bit in enumerate(ADDRESS)}
    before = copy.deepcopy(top)
    assert copy_registers(top) == 0
    assert top == before


BEFORE = range(1000, 1040)


def operands(source="flip_flop", **changes) -> dict:
    """Return a multiplier with its product's register inside, and flip-flops that feed its operands.  Bits from 12 on are 0."""
    top = design()
    take_registers(top)
    multiply = top["cells"]["multiply"]
    for k in range(18):
        multiply["connections"] |= {f"A{k}": [A[k]] if k < 12 else ["0"], f"B{k}": [B[k]] if k < 12 else ["0"]}
    top["cells"] |= {f"b_{k}": flip_flop(1800 + k, B[k]) for k in range(12)}
    top["cells"] |= {f"b_before_{k}": flip_flop(1900 + k, 1800 + k) for k in range(12)}
    top["cells"] |= {f"a_{k}": flip_flop(BEFORE[k], A[k], **(changes if k == 3 else {})) for k in range(12)}
    for k in range(12):
        if source == "flip_flop":
            top["cells"][f"before_{k}"] = flip_flop(1100 + k, BEFORE[k])
        else:  # a LUT, which is fed by a flip-flop or by another LUT
            top["cells"][f"before_{k}"] = lut(1100 + k, BEFORE[k])
            top["cells"][f"first_{k}"] = flip_flop(1200 + k, 1100 + k) if source == "lut" else lut(1200 + k, 1100 + k)
    return top


def lut(a, z, b="0", init="1010101010101010") -> dict:
    connections = {"A": [a], "B": [b], "C": ["0"], "D": ["0"], "Z": [z]}
    return {
        "type": "LUT4",
        "parameters": {"INIT": init},
        "connections": connections,
        "port_directions": {port: "output" if port == "Z" else "input" for port in connections},
    }


@pytest.mark.parametrize("source", ["flip_flop", "lut"])
def test_a_multiplier_takes_the_register_of_an_operand(source):
    top = operands(source)
    assert take_operands(top) == 1
    cell = top["cells"]["multiply"]
    assert [cell["connections"][f"A{k}"] for k in range(18)] == [*([bit] for bit in BEFORE[:12]), *[["0"]] * 6]
    assert [cell["connections"][f"B{k}"] for k in range(18)] == [*([1800 + k] for k in range(12)), *[["0"]] * 6]
    registers = [f"REG_INPUT{side}_{what}" for side in "AB" for what in ("CLK", "CE", "RST")]
    assert [cell["parameters"].get(name) for name in registers] == ["CLK0", "CE0", "RST0"] * 2
    assert not any(name.startswith("a_") or re.match(r"b_\d", name) for name in top["cells"])


def test_an_operand_that_is_read_elsewhere_keeps_its_register_there():
    top = operands()
    top["ports"]["more"] = {"direction": "output", "bits": [A[5]]}
    assert take_operands(top) == 1
    assert top["cells"]["multiply"]["connections"]["A5"] == [BEFORE[5]]
    assert [name for name in top["cells"] if name.startswith("a_")] == ["a_5"]


def one_of_two() -> dict:
    """Operand B does not come from a flip-flop."""
    top = operands()
    for k in range(12):
        del top["cells"][f"b_{k}"]
    return top


def plain_product() -> dict:
    top = operands()
    for name in ("REG_OUTPUT_CLK", "REG_OUTPUT_CE", "REG_OUTPUT_RST"):
        del top["cells"]["multiply"]["parameters"][name]
    return top


@pytest.mark.parametrize(
    "top",
    [
        operands(CE=[499]),
        operands(CLK=[499]),
        operands(LSR=[RESET]),
        operands(REGSET="SET"),
        operands("logic"),
        plain_product(),
        one_of_two(),
    ],
    ids=[
        "another_enable",
        "another_clock",
        "a_reset",
        "begins_with_1",
        "much_before_it",
        "a_product_without_register",
        "one_of_two",
    ],
)
def test_an_operand_that_is_not_just_a_register_stays(top):
    before = copy.deepcopy(top)
    assert take_operands(top) == 0
    assert top == before


CHOICE = 1300


def deep(bits=9, init="1111000011001100", **changes) -> dict:
    """Return two block RAMs.  For each bit a LUT chooses one of their words by CHOICE, its input C, and feeds a flip-flop."""
    top = {"ports": {}, "cells": {}}
    for n, name in enumerate(("deep.mem.0.0", "deep.mem.0.1")):
        cell = block_ram(9, 0, name)["cells"][name]
        cell["connections"] |= {f"DOA{k}": [1400 + 20 * n + k] for k in range(18)}
        cell["connections"] |= {f"DOB{k}": [1500 + 20 * n + k] for k in range(18)}
        top["cells"][name] = cell
    for k in range(bits):
        chosen = lut(1400 + k, 1600 + k, 1420 + k, init)
        chosen["connections"]["C"] = [CHOICE]
        top["cells"][f"choice_{k}"] = chosen
        top["cells"][f"held_{k}"] = flip_flop(1600 + k, 1700 + k, **(changes if k == 3 else {}))
    return top


def test_the_register_behind_a_choice_goes_before_it():
    top = deep()
    assert move_choices(top) == 8  # nine flip-flops go, and one for the choice is added
    for name in ("deep.mem.0.0", "deep.mem.0.1"):
        cell = top["cells"][name]
        assert cell["parameters"]["REGMODE_A"] == "OUTREG" and cell["connections"]["OCEA"] == [CE]
    (register,) = (cell for cell in top["cells"].values() if cell["type"] == "TRELLIS_FF")
    assert register["connections"]["DI"] == [CHOICE] and register["connections"]["CE"] == [CE]
    for k in range(9):
        wires = top["cells"][f"choice_{k}"]["connections"]
        assert (wires["A"], wires["B"], wires["C"], wires["Z"]) == (
            [1400 + k],
            [1420 + k],
            register["connections"]["Q"],
            [1700 + k],
        )


def read_directly() -> dict:
    """A bit of the second block RAM has another reader, so neither block RAM may take a register."""
    top = deep()
    top["ports"]["more"] = {"direction": "output", "bits": [1424]}
    return top


def held_already() -> dict:
    top = deep()
    for name in ("deep.mem.0.0", "deep.mem.0.1"):
        top["cells"][name]["parameters"]["REGMODE_A"] = "OUTREG"
    return top


def constant_above() -> dict:
    """The LUT is 1 if its constant input D is 1 and all others are 0."""
    top = deep(init="0000000111001100")
    for k in range(9):
        top["cells"][f"choice_{k}"]["connections"]["D"] = ["1"]
    return top


def logic_behind() -> dict:
    top = deep()
    top["cells"]["held_4"] = lut(1604, 1704)
    return top


@pytest.mark.parametrize(
    "top",
    [
        read_directly(),
        held_already(),
        logic_behind(),
        deep(CE=[499]),
        deep(LSR=[RESET]),
        deep(init="1111000011001101"),
        constant_above(),
    ],
    ids=["read_directly", "held_already", "logic_behind", "another_enable", "a_reset", "begins_with_1", "a_constant_above"],
)
def test_a_choice_of_more_than_words_stays(top):
    before = copy.deepcopy(top)
    assert move_choices(top) == 0
    assert top == before


def test_a_reset_has_a_register_for_each_unit(monkeypatch):
    monkeypatch.setattr(fpga.ecp5.netlist.registers, "RESETS", 4)
    units = ["board.core.chip.stage.rope", "board.core.chip.stage.mx_norm", "board.core.link"]
    top = {"ports": {}, "cells": {"reset": flip_flop(1, RESET)}}
    top["cells"] |= {
        f"{unit}.x.r{k}": flip_flop(10 * k + n, 2000 + 10 * k + n, LSR=[RESET]) for n, unit in enumerate(units) for k in range(2)
    }
    top["cells"]["board.core.link.x.q"] = lut(RESET, 3000)
    assert copy_registers(top) == 2
    of = {unit: {top["cells"][f"{unit}.x.r{k}"]["connections"]["LSR"][0] for k in range(2)} for unit in units}
    assert all(len(bits) == 1 for bits in of.values()) and len(set.union(*of.values())) == 3
    assert top["cells"]["board.core.link.x.q"]["connections"]["A"][0] in of["board.core.link"]
    monkeypatch.setattr(fpga.ecp5.netlist.registers, "RESETS", 7)
    assert copy_registers({"ports": {}, "cells": {k: v for k, v in top["cells"].items() if "copy" not in k}}) == 0
