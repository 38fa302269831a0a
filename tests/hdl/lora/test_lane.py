# amaranth: UnusedElaboratable=no
"""A lane of the LoRA adder equals the formula in Python's integers: every shift, corner values, sums of several words."""

import numpy as np
import pytest

import hdl.lora.lane
from hdl.lora.lane import LoraLane
from tests.support.streams import simulate

CONSTANT = 8


def rshr(a, n):
    return (a + (1 << n - 1)) >> n if n > 0 else a << -n


def saturate(a, bits):
    return max(-1 << bits - 1, min((1 << bits - 1) - 1, a))


def total(words, kind, nb, wide_bits):
    """Sums of the words' terms: of one block of A, or of each row of B."""
    size = 32 if kind == "A" else nb
    sums = [0 if kind == "A" else CONSTANT] * (32 // size)
    for mant, e, x, exp in words:
        for g in range(len(sums)):
            at = slice(size * g, size * (g + 1))
            product = sum(int(a) * int(b) for a, b in zip(mant[at], x[at], strict=True))
            sums[g] += saturate(rshr(product, -(int(e[g]) + int(exp[g]) + 16)), wide_bits + 5)
    return sums


def exponents(shift, rng):
    """Two exponents of 8 bits signed with e + exp + 16 = ``shift``."""
    total = shift - 16
    e = int(rng.integers(max(-128, total - 127), min(127, total + 128) + 1))
    return e, total - e


def random_sums(nb, seed):
    """[(kind, words)]: a word is (mantissas, their exponents, operand, its exponents)."""
    rng = np.random.default_rng(seed)
    groups = 32 // nb
    extremes = [(127, 127), (-128, 127), (127, -127), (0, 127), None]
    sums = []
    for shift in [*range(-240, 271), *range(-30, 45), *range(-30, 45)]:
        kind = "AB"[rng.integers(2)]
        words = []
        for _ in range(rng.integers(1, 4)):
            mant, x = rng.integers(-127, 128, 32), rng.integers(-127, 128, 32)
            for g in range(groups):
                at, extreme = slice(nb * g, nb * (g + 1)), extremes[rng.integers(len(extremes))]
                if extreme:
                    mant[at], x[at] = extreme
                elif rng.random() < 0.5:  # P = 1 or -1
                    mant[at] = x[at] = 0
                    mant[nb * g], x[nb * g] = 1, rng.choice([-1, 1])
            e, exp = zip(*(exponents(shift if g == 0 else int(rng.integers(-30, 45)), rng) for g in range(groups)), strict=True)
            words.append((mant, e, x, exp))
        sums.append((kind, words))
    return sums


def check(nb, wide_bits, seed=0, make=LoraLane):
    rng = np.random.default_rng([seed, nb])
    dut = make(rank=nb, wide_bits=wide_bits, sum_bits=wide_bits + 7, constant=CONSTANT)
    assert dut.latency == 9
    sums = random_sums(nb, seed)
    # One entry a cycle: (kind, first, ends, word), or None in a cycle without a word.
    schedule = []
    for kind, words in sums:
        for k, word in enumerate(words):
            schedule += [None] * int(rng.integers(3) == 0)
            schedule.append((kind, k == 0, k == len(words) - 1, word))
    want = iter([total(words, kind, nb, wide_bits) for kind, words in sums])

    async def run(ctx):
        def at(cycle):
            return schedule[cycle] if 0 <= cycle < len(schedule) else None

        for cycle in range(len(schedule) + dut.latency):
            if at(cycle):
                mant, e, x, exp = at(cycle)[3]
                ctx.set(dut.word, int.from_bytes(bytes(int(b) & 255 for b in [*mant, *e]), "little"))
                for port, value in zip([*dut.operand, *dut.exp], [*x, *exp], strict=True):
                    ctx.set(port, int(value))
            else:
                ctx.set(dut.word, int.from_bytes(rng.bytes(64), "little") % (1 << len(dut.word)))
            word = at(cycle - LoraLane.WHOLE)
            ctx.set(dut.whole, word[0] == "A" if word else int(rng.integers(2)))
            word = at(cycle - LoraLane.ADD)
            ctx.set(dut.add, word is not None)
            ctx.set(dut.first, word[1] if word else int(rng.integers(2)))
            ctx.set(dut.rounds, word[0] == "B" if word else int(rng.integers(2)))
            word = at(cycle - dut.latency)
            if word and word[2]:
                expected = next(want)
                assert [ctx.get(s) for s in dut.sum][: len(expected)] == expected, f"word {cycle - dut.latency}"
            await ctx.tick()
        assert not list(want)

    simulate(dut, run)


@pytest.mark.parametrize("nb, wide_bits", [(32, 32), (8, 24), (2, 32)])
def test_equals_the_formula(nb, wide_bits):
    check(nb, wide_bits)


BROKEN = {
    "terms are not rounded": ("ROUND_TERM", 0),
    "exponents are off by one": ("TERM_FRACTION", 17),
    "shifts wrap": ("_clip", lambda shift: shift[:6]),
    "the shift to the right ends early": ("SHIFT_RIGHT", 16),
}


@pytest.mark.parametrize("what", BROKEN)
def test_the_check_catches(what, monkeypatch):
    monkeypatch.setattr(hdl.lora.lane, *BROKEN[what])
    with pytest.raises(AssertionError, match=r"^word"):
        check(32, 32)


@pytest.mark.parametrize("change", [-1, 1])
def test_the_check_catches_terms_that_saturate_a_bit_off(change):
    def broken(**arguments):
        lane = LoraLane(**arguments)
        lane.term_bits += change
        return lane

    with pytest.raises(AssertionError, match=r"^word"):
        check(32, 32, make=broken)
