"""Registers that multipliers and block RAMs take in, and addresses that have one for each memory: all stays in step."""

import copy

import pytest

from fpga.ecp5_registers import copy_registers, take_registers

A, B, P, Q, CLK, CE, RESET = range(0, 100, 4), range(100, 200, 4), range(200, 236), range(300, 336), 400, 401, 402


def flip_flop(d, q, **changes):
    """One as Yosys writes it; capital letters are its inputs, others its parameters."""
    cell = {"type": "TRELLIS_FF", "parameters": {"CEMUX": "CE", "CLKMUX": "CLK", "GSR": "DISABLED", "LSRMUX": "LSR",
                                                  "REGSET": "RESET"},
            "connections": {"CE": [CE], "CLK": [CLK], "DI": [d], "LSR": ["0"], "Q": [q]}}
    for name, value in changes.items():
        cell["connections" if name in cell["connections"] else "parameters"][name] = value
    cell["port_directions"] = {port: "output" if port == "Q" else "input" for port in cell["connections"]}
    return cell


def design(bits=36, **changes) -> dict:
    """A multiplier of which ``bits`` are used, and a flip-flop behind each; ``changes`` are those of the last one."""
    connections = {f"A{k}": [A[k]] for k in range(18)} | {f"B{k}": [B[k]] for k in range(18)} | {f"P{k}": [P[k]] for k in range(36)}
    cells = {"multiply": {"type": "MULT18X18D", "parameters": {}, "connections": connections,
                          "port_directions": {port: "output" if port[0] == "P" else "input" for port in connections}}}
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
        "CLK0": [CLK], "CE0": [CE if enabled else "1"], "RST0": ["0"]}
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


@pytest.mark.parametrize("top", [
    design(CE=[499]), design(CLK=[499]), design(LSR=[RESET]), design(REGSET="SET"), design(CEMUX="INV"), design(CLKMUX="INV"),
    design(LSRMUX="INV"), other(flip_flop(P[3], 500)),
    other({"type": "LUT4", "parameters": {}, "connections": {"A": [P[3]], "Z": [500]},
           "port_directions": {"A": "input", "Z": "output"}}),
    shown(), without("register_35"), design(0),
], ids=["another_enable", "another_clock", "a_reset", "begins_with_1", "enable_inverted", "clock_inverted", "always_reset",
        "two_registers", "a_lut_too", "a_port_too", "a_bit_without", "no_product"])
def test_what_is_not_just_a_register_stays(top):
    before = copy.deepcopy(top)
    assert take_registers(top) == 0
    assert top == before


def test_a_lut_between_stays():
    top = design()
    top["cells"]["register_3"]["connections"]["DI"] = [500]
    top["cells"]["lut"] = {"type": "LUT4", "parameters": {}, "connections": {"A": [P[3]], "Z": [500]},
                           "port_directions": {"A": "input", "Z": "output"}}
    before = copy.deepcopy(top)
    assert take_registers(top) == 0
    assert top == before


WORD, HELD, ADDRESS = range(600, 636), range(700, 736), range(800, 814)


def block_ram(width, bits, name="rom.mem.0.0", **changes) -> dict:
    """A block RAM that is read on port A, or, if it has 36 bits, on both; a flip-flop behind each of ``bits`` bits."""
    outputs = [f"DO{'AB'[k // 18]}{k % 18}" for k in range(36)]
    connections = {"CLKA": [CLK], "CLKB": [CLK], "OCEA": ["1"], "OCEB": ["1"], "CEA": [CE]}
    connections |= {output: [bit] for output, bit in zip(outputs, WORD, strict=True)}
    connections |= {f"ADA{k}": [bit] for k, bit in enumerate(ADDRESS)}
    cells = {name: {"type": "DP16KD", "connections": connections,
                    "parameters": {f"DATA_WIDTH_{port}": f"{width:b}" for port in "AB"},
                    "port_directions": {port: "output" if port[:2] == "DO" else "input" for port in connections}}}
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
        port: "OUTREG" if port in ports else None for port in "AB"}
    assert {port: cell["connections"][f"OCE{port}"] for port in "AB"} == {port: [CE] if port in ports else ["1"] for port in "AB"}


def two_ports() -> dict:
    """Both ports are read, and only one has registers behind all of its bits."""
    top = block_ram(18, 18)
    top["ports"]["more"] = {"direction": "output", "bits": list(WORD[18:])}
    return top


def test_of_two_ports_each_has_its_own():
    top = two_ports()
    assert take_registers(top) == 18
    assert top["cells"]["rom.mem.0.0"]["parameters"].get("REGMODE_B") is None
    assert top["cells"]["rom.mem.0.0"]["parameters"]["REGMODE_A"] == "OUTREG"


@pytest.mark.parametrize("top", [block_ram(9, 9, CLK=[499]), block_ram(9, 9, LSR=[RESET]), block_ram(36, 36, CE=[499])],
                         ids=["another_clock", "a_reset", "another_enable"])
def test_what_is_not_just_a_register_stays_behind_a_block_ram(top):
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
        assert bits["a.mem.0.0"] == bits["a.mem.0.1"] == ADDRESS[k]         # the first keeps what it had, as others may have it
        assert len(set(bits.values())) == 3
        for bit in bits.values():
            of, original = driver[bit], registers[f"address_{k}"]
            assert of["connections"] | {"Q": 0} == original["connections"] | {"Q": 0} and of["parameters"] == original["parameters"]
    assert {wires["CEA"][0] for wires in rams.values()} == {CE}             # no flip-flop's


def test_one_memory_keeps_its_registers():
    top = block_ram(9, 0)
    top["cells"] |= {f"address_{k}": flip_flop(900 + k, bit) for k, bit in enumerate(ADDRESS)}
    before = copy.deepcopy(top)
    assert copy_registers(top) == 0
    assert top == before
