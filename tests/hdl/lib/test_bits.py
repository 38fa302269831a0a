"""The combinational pieces against Python's integers, exhaustively where that is possible."""

import random

import pytest
from amaranth.hdl import Module, Signal, signed
from amaranth.sim import Simulator

import hdl.lib.bits
from hdl.lib.bits import bitlen, magnitude, saturate, shift_right
from sim.golden.arithmetic import rshr


def evaluate(expression, signals, rows):
    """[value of ``expression``] for each row of values of the signals."""
    m = Module()
    out = Signal.like(expression)
    m.d.comb += out.eq(expression)
    got = []

    async def bench(ctx):
        for row in rows:
            for signal, value in zip(signals, row, strict=True):
                ctx.set(signal, value)
            got.append(ctx.get(out))

    sim = Simulator(m)
    sim.add_testbench(bench)
    sim.run()
    return got


@pytest.mark.parametrize("width", [1, 2, 3, 7, 8, 9])
def test_bitlen_and_magnitude(width):
    x = Signal(width)
    values = range(1 << width)
    assert evaluate(bitlen(x), [x], [[v] for v in values]) == [v.bit_length() for v in values]
    if width > 1:
        x = Signal(signed(width))
        values = range(-(1 << (width - 1)), 1 << (width - 1))
        assert evaluate(magnitude(x), [x], [[v] for v in values]) == [v if v >= 0 else ~v for v in values]


def test_bitlen_of_wide_values():
    x = Signal(62)
    values = [*(1 << k for k in range(62)), *((1 << k) - 1 for k in range(63))]
    assert evaluate(bitlen(x), [x], [[v] for v in values]) == [v.bit_length() for v in values]


@pytest.mark.parametrize(
    "shape, shift_bits, width, unit",
    [
        (signed(8), 3, 8, 1),
        (signed(8), 4, 8, 1),
        (signed(8), 4, 12, 1),
        (signed(63), 6, 9, 1),
        (63, 6, 9, 1),
        (signed(64), 3, 16, 8),
        (32, 5, 32, 2),
        (8, 0, 8, 1),
        (8, 2, 20, 1),
        (signed(5), 2, 3, 4),
        (signed(9), 5, 1, 1),
    ],
)
def test_shift_right(shape, shift_bits, width, unit):
    x, shift = Signal(shape), Signal(shift_bits)
    rng = random.Random(width)
    low = -(1 << (len(x) - 1)) if x.shape().signed else 0
    values = [rng.randint(low, low + (1 << len(x)) - 1) >> rng.randrange(len(x)) for _ in range(400)]
    rows = [[v, rng.randrange(1 << shift_bits)] for v in values]
    got = evaluate(shift_right(x, shift, width, unit=unit), [x, shift], rows)
    assert got == [(v >> (s * unit)) & ((1 << width) - 1) for v, s in rows]


@pytest.mark.parametrize("width, to", [(8, 8), (8, 5), (5, 8), (9, 1), (9, 8)])
def test_saturate(width, to):
    x = Signal(signed(width))
    values = range(-(1 << (width - 1)), 1 << (width - 1))
    low, high = -(1 << (to - 1)), (1 << (to - 1)) - 1
    assert evaluate(saturate(x, to), [x], [[v] for v in values]) == [min(high, max(low, v)) for v in values]


def check_rshr(shape, n):
    x = Signal(shape)
    low = -(1 << (len(x) - 1)) if x.shape().signed else 0
    high = low + (1 << len(x)) - 1
    rng = random.Random(f"{shape} {n}")
    corners = {low, high, 0, 1, low + 1, high - 1, *(s * (1 << k) + d for k in range(len(x)) for s in (-1, 1) for d in (-1, 0, 1))}
    values = [*(v for v in corners if low <= v <= high), *(rng.randint(low, high) for _ in range(300))]
    assert evaluate(hdl.lib.bits.rshr(x, n), [x], [[v] for v in values]) == rshr(values, n).tolist()


@pytest.mark.parametrize("shape", [signed(9), signed(48), 8, 20])
@pytest.mark.parametrize("n", [-3, 0, 1, 2, 7])
def test_rshr_is_goldens(shape, n):
    check_rshr(shape, n)


@pytest.mark.parametrize(
    "broken",
    [
        lambda value, n: value >> n,
        lambda value, n: (value >> n) + ((value >> n)[0]),
        lambda value, n: (value + (1 << n - 1) - value[-1]) >> n,
    ],
    ids=["truncates", "wrong bit", "half away from zero"],
)
def test_a_broken_rshr_is_caught(monkeypatch, broken):
    monkeypatch.setattr(hdl.lib.bits, "rshr", broken)
    with pytest.raises(AssertionError):
        check_rshr(signed(9), 2)


def test_rshr_refuses_a_shift_that_leaves_nothing():
    with pytest.raises(ValueError, match="n must be less than the 5 bits of value, not 5"):
        hdl.lib.bits.rshr(Signal(5), 5)
