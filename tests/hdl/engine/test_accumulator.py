"""The accumulator of the shared engine against integers: products, sums, shifts, rounding, saturation."""

import random

import pytest

import hdl.engine.accumulator
from hdl.config import ChipConfig
from hdl.engine.accumulator import Accumulator
from hdl.engine.isa import Base, Bits, Shift
from tests.support.models import random_model
from tests.support.streams import simulate

OPERANDS = 2
"""Cycles from a word to the operands that it asked for."""

RESULT = 7
"""Cycles from a word to its result, as the docstring of SharedEngine counts them."""


def signed(value: int, bits: int) -> int:
    """The low bits of an integer, in two's complement."""
    value &= (1 << bits) - 1
    return value - (value >> (bits - 1) << bits)


def saturated(value: int, bits: int) -> int:
    return max(-(1 << (bits - 1)), min((1 << (bits - 1)) - 1, value))


def expected(words, wide: int) -> list[int]:
    """The result after each word: base + a * b, shifted as the word says; without a shift the result stays."""
    acc, result, results = 0, 0, []
    for base, shift, a, b in words:
        acc = {Base.HOLD: acc, Base.ZERO: a * b, Base.ACC: acc + a * b, Base.ACC_15: (acc << 15) + a * b}[base]
        result = {
            Shift.NONE: lambda acc=acc, result=result: result,
            Shift.PASS: lambda acc=acc: signed(acc, 32),
            Shift.SILU: lambda acc=acc: signed((acc + (1 << 7)) >> 8, 32),
            Shift.ROPE: lambda acc=acc: saturated((acc + (1 << 14)) >> 15, wide),
            Shift.ADD: lambda acc=acc: saturated(acc, wide),
        }[shift]()
        results.append(result)
    return results


def random_words(rng: random.Random, n: int):
    """Words that keep ACC within 56 bits: two words with a further product follow a fresh one at most."""
    words, since = [], 9
    for _ in range(n):
        choices = [Base.ZERO, Base.HOLD, *([Base.ACC] if since < 2 else [])]
        base = rng.choice(choices) if words else Base.ZERO
        since = 0 if base == Base.ZERO else since + 1
        bits = rng.choice([3, 12, 24, 31])
        a = rng.choice([rng.randrange(-(1 << bits), 1 << bits), (1 << 31) - 1, -(1 << 31)])
        b = rng.choice([rng.randrange(-(1 << 15), 1 << 15), 1, -1, (1 << 15) - 1, -(1 << 15)])
        words.append((base, rng.choice([Shift.NONE, Shift.PASS, Shift.SILU, Shift.ROPE, Shift.ADD]), a, b))
    return words


def results(words) -> list[int]:
    model = random_model(0, 24).format
    dut = Accumulator(model=model, config=ChipConfig.for_model(model, shared=True))

    async def process(ctx):
        found = []
        for now in range(len(words) + RESULT):
            base, shift = words[now][:2] if now < len(words) else (Base.HOLD, Shift.NONE)
            a, b = words[now - OPERANDS][2:] if 0 <= now - OPERANDS < len(words) else (0, 0)
            ctx.set(dut.word.base, base)
            ctx.set(dut.word.bits, Bits.NONE)
            ctx.set(dut.word.shift, shift)
            ctx.set(dut.a, a)
            ctx.set(dut.b, b)
            if now >= RESULT:
                found.append(ctx.get(dut.result))
            await ctx.tick()
        return found

    return simulate(dut, process, limit=len(words) + 100)[0]


@pytest.mark.parametrize("seed", range(4))
def test_results_a_word_a_cycle(seed):
    words = random_words(random.Random(seed), 400)
    assert results(words) == expected(words, 24)


@pytest.mark.parametrize("acc", [(1 << 23) - 1, 1 << 23, -(1 << 23), -(1 << 23) - 1, 0, -1])
def test_saturation_at_the_edges(acc):
    words = [(Base.ZERO, shift, acc, 1) for shift in (Shift.ADD, Shift.PASS, Shift.SILU)]
    assert results(words) == expected(words, 24)


def test_a_sum_that_comes_late_is_caught(monkeypatch):
    real = hdl.engine.accumulator.later
    monkeypatch.setattr(hdl.engine.accumulator, "later", lambda m, value, n, name: real(m, value, n + (name == "base"), name))
    words = random_words(random.Random(0), 100)
    assert results(words) != expected(words, 24)
