"""The reciprocal, for every divisor at the edges and many between."""

import random

import pytest

import hdl.lib.divider
from hdl.lib.divider import Reciprocal
from tests.support.streams import collect, drive, simulate

EDGES = [2**15, 2**15 + 1, 2**15 + 2, 2**16 - 1, 2**16 - 2, 0xAAAA, 0xAAAB, 46340, 46341, 46342, 3 << 14]


def check(divisors, bits, stall=0.0):
    dut = Reciprocal(bits=bits)
    _, got = simulate(
        dut, lambda ctx: drive(ctx, dut.i, divisors, stall, 1), lambda ctx: collect(ctx, dut.o, len(divisors), stall, 2)
    )
    for divisor, quotient in zip(divisors, got, strict=True):
        assert quotient == 2**31 // divisor, f"2**31 // {divisor}"


@pytest.mark.parametrize("bits", [1, 2])
@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_equals_integer_division(stall, bits):
    rng = random.Random(1)
    check(EDGES + [rng.randrange(2**15, 2**16) for _ in range(400)], bits, stall)


@pytest.mark.parametrize(("bits", "latency"), [(1, 18), (2, 10)])
def test_latency_and_rate(bits, latency):
    dut = Reciprocal(bits=bits)
    times_in, times_out = [], []
    simulate(
        dut, lambda ctx: drive(ctx, dut.i, EDGES, times=times_in), lambda ctx: collect(ctx, dut.o, len(EDGES), times=times_out)
    )
    assert times_in == [(latency + 1) * k for k in range(len(EDGES))]
    assert times_out == [(latency + 1) * k + latency for k in range(len(EDGES))]


@pytest.mark.parametrize("bits", [1, 2])
@pytest.mark.parametrize(
    "fault",
    [
        lambda fits, then, otherwise: otherwise,  # never subtracts
        lambda fits, then, otherwise: then,
    ],
)  # does not restore
def test_broken_copy_is_caught(fault, bits, monkeypatch):
    monkeypatch.setattr(hdl.lib.divider, "Mux", fault)
    with pytest.raises(AssertionError, match=r"2\*\*31 // "):
        check(EDGES, bits)
