# amaranth: UnusedElaboratable=no
"""Delay lines with and without an enable, adder trees, against Python's lists and sums."""

import random
from functools import partial

import pytest
from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.sim import Simulator

import hdl.lib.pipeline
from hdl.lib.pipeline import add_pairs, adder_tree, delayed, registered


def trace(m, inputs, outputs, rows):
    """The values of ``outputs`` in each cycle, for a row of values of ``inputs`` in each."""
    got = []
    m.d.sync += Signal(name="clocked").eq(1)  # a module of expressions alone has no clock

    async def bench(ctx):
        for row in rows:
            for signal, value in zip(inputs, row, strict=True):
                ctx.set(signal, value)
            got.append([ctx.get(output) for output in outputs])
            await ctx.tick()

    sim = Simulator(m)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    return got


def check_line(enabled: bool, cycles: int, seed: int = 1):
    m, x, en = Module(), Signal(signed(7)), Signal()
    line = delayed(m, x, cycles, name="line", **({"en": en} if enabled else {}))
    assert [register.name for register in line[1:]] == [f"line_{k + 1}" for k in range(cycles)]
    assert all(len(register) == 7 and register.shape().signed for register in line)
    rng = random.Random(f"{seed} {enabled} {cycles}")
    rows = [(rng.choice((-64, 63, 0, rng.randrange(-64, 64))), rng.random() < 0.6) for _ in range(200)]
    state = [0] * cycles
    expected = []
    for value, moves in rows:
        expected.append([value, *state])
        if moves or not enabled:
            state = [value, *state][:cycles]
    assert trace(m, [x, en], line, rows) == expected


@pytest.mark.parametrize("cycles", [0, 1, 2, 5])
@pytest.mark.parametrize("enabled", [False, True])
def test_delayed(enabled, cycles):
    check_line(enabled, cycles)


def test_the_first_stage_names_the_registers():
    line = delayed(Module(), Signal(), 3, name="line", first=4)
    assert [register.name for register in line[1:]] == ["line_4", "line_5", "line_6"]


@pytest.mark.parametrize("reset_less", [False, True])
def test_reset(reset_less):
    register = registered(Module(), Signal(3), name="one", reset_less=reset_less)
    assert (register.name, register.reset_less) == ("one", reset_less)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 13])
@pytest.mark.parametrize("shape", [5, signed(5)])
def test_adder_tree(shape, count):
    check_tree(shape, count)


def check_tree(shape, count):
    m, values = Module(), [Signal(shape, name=f"x_{k}") for k in range(count)]
    low, high = (-16, 15) if values[0].shape().signed else (0, 31)
    rng = random.Random(count)
    rows = [[low] * count, [high] * count, *([rng.randint(low, high) for _ in values] for _ in range(50))]
    assert trace(m, values, [adder_tree(values)], rows) == [[sum(row)] for row in rows]


def _other(broken):
    """``registered`` with a fault."""

    def registered(m, value, *, name, en=1, reset_less=True):
        register = Signal(value.shape(), name=name, reset_less=reset_less)
        m.d.sync += register.eq(broken(value, register, en))
        return register

    return registered


BROKEN = {
    "the enable is ignored": ("registered", _other(lambda value, register, en: value), partial(check_line, True, 2)),
    "the enable is inverted": (
        "registered",
        _other(lambda value, register, en: Mux(en, register, value)),
        partial(check_line, True, 2),
    ),
    "an odd value is lost": (
        "add_pairs",
        lambda values: [a + b for a, b in zip(values[0::2], values[1::2], strict=False)],
        partial(check_tree, 5, 7),
    ),
    "a sum wraps": (
        "add_pairs",
        lambda values: [(a + b)[: len(a)] for a, b in zip(values[0::2], values[1::2], strict=False)],
        partial(check_tree, 5, 8),
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_the_test_catches_a_broken_copy(monkeypatch, name):
    function, broken, check = BROKEN[name]
    monkeypatch.setattr(hdl.lib.pipeline, function, broken)
    with pytest.raises(AssertionError):
        check()


def test_one_level_passes_the_last_of_an_odd_number():
    values = [Signal(3, name=f"x_{k}") for k in range(5)]
    level = add_pairs(values)
    assert [len(value) for value in level] == [4, 4, 3]
    assert level[-1] is values[-1]
