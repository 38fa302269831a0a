"""Registers behind multipliers: which of them the multipliers take, and that the product stays in step."""

import copy

import pytest

from fpga.ecp5_registers import take_registers

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
