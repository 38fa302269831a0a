# amaranth: UnusedElaboratable=no
"""The noise, to the bit, on the hash and on the two logarithms apart."""

import random

import numpy as np
import pytest

from hdl import gumbel as hardware
from hdl.gumbel import Gumbel, NoiseOfWord, first_half, rotl
from sim.golden import sampler as golden
from tests.support.streams import collect, simulate


def noise(lanes, index_bits, seeds, beats, stall=0.0):
    """[beat][lane] for each (seed, position), one start after another on one unit."""
    dut = Gumbel(lanes=lanes, index_bits=index_bits)
    times = []

    async def run(ctx):
        got = []
        for n, (seed, position) in enumerate(seeds):
            ctx.set(dut.seed, seed)
            ctx.set(dut.position, position)
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            ctx.set(dut.seed, ~seed & 0xFFFFFFFF)
            ctx.set(dut.position, 0)
            got.append(await collect(ctx, dut.o, beats, stall, n, times))
        return got

    [got] = simulate(dut, run)
    return got, times


def expected(lanes, seeds, beats):
    index = np.arange(beats * lanes)
    return [golden.gumbel(seed, position, index).reshape(-1, lanes).tolist() for seed, position in seeds]


SEEDS = ((0, 0), (0xFFFFFFFF, 0xFFFFFFFF), (1, 0), (0, 1), (0x12345678, 4095), (0xDEADBEEF, 17))


@pytest.mark.parametrize("lanes, stall", ((1, 0.0), (2, 0.3), (4, 0.7)))
def test_equals_golden(lanes, stall):
    got, _ = noise(lanes, 9, SEEDS, 60, stall)
    assert got == expected(lanes, SEEDS, 60)


def test_latency_and_rate():
    """The docstring's figures; collect starts in the cycle after ``start``."""
    got, times = noise(4, 10, SEEDS[:1], 100)
    assert got == expected(4, SEEDS[:1], 100)
    assert times == list(range(Gumbel.latency - 1, Gumbel.latency + 99))
    assert Gumbel.latency == 21


def noise_of(words, unit=NoiseOfWord):
    """One word a cycle through the logarithms."""
    dut = unit()

    async def run(ctx):
        got = []
        ctx.set(dut.advance, 1)
        for word in [*words, *[0] * dut.latency]:
            ctx.set(dut.word, word)
            *_, g = await ctx.tick().sample(dut.g)
            got.append(g)
        return got[dut.latency :]

    return simulate(dut, run)[0]


CORNERS = sorted(
    {
        sign << 31 | c
        for sign in (0, 1)
        for n in range(32)
        for c in ((1 << n) - 1 & 0x7FFFFFFF, (1 << n) & 0x7FFFFFFF, (1 << n) + 1 & 0x7FFFFFFF, 0x7FFFFFFF ^ (1 << n) >> 1)
    }
)


def test_logarithms_at_the_corners():
    """Every power of two and its neighbours, every entry of the table for the upper tail."""
    words = [*CORNERS, *(1 << 31 | place << 25 for place in range(64)), *random.Random(0).choices(range(1 << 32), k=2000)]
    values = golden.gumbel_of_words(words)
    assert noise_of(words) == values.tolist()
    assert values.min() > -6 << 12 and values.max() < 33 << 12


@pytest.mark.parametrize("table", ("log2_table", "gumbel_table"))
def test_a_wrong_table_entry_is_noticed(monkeypatch, table):
    entries = getattr(hardware, table)()
    monkeypatch.setattr(hardware, table, lambda: [*entries[:37], entries[37] ^ 1, *entries[38:]])
    with pytest.raises(AssertionError):
        test_logarithms_at_the_corners()


def test_a_wrong_rotation_is_noticed(monkeypatch):
    """Seven for eight places, in the hardware's half rounds only."""

    def wrong(v0, v1, v2, v3):
        v0, v1, v2, _ = first_half(v0, v1, v2, v3)
        return v0, v1, v2, rotl(v3, 7) ^ v2

    monkeypatch.setattr(hardware, "first_half", wrong)
    with pytest.raises(AssertionError):
        test_equals_golden(1, 0.0)


@pytest.mark.parametrize(
    "arguments, message",
    (
        ({"lanes": 3, "index_bits": 8}, "lanes must be a power of two, not 3"),
        ({"lanes": 8, "index_bits": 3}, "index_bits must be 4 to 32, not 3"),
    ),
)
def test_bad_parameters(arguments, message):
    with pytest.raises(ValueError, match=message):
        Gumbel(**arguments)
