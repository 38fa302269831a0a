"""golden's LoRA adder against the specification in Python's own integers, one number at a time."""

import inspect

import numpy as np
import pytest

import sim.golden.lora
from sim.golden.lora import lora
from tests.support.adapters import random_lora_blocks
from weights_to_rom.adapters.lora import LoraBlocks

RANKS = (2, 4, 8, 16, 32, 64)


def rshr(a: int, n: int) -> int:
    return (a + (1 << (n - 1))) >> n if n > 0 else a << -n


def sat(a: int, bits: int) -> int:
    return max(-(1 << (bits - 1)), min(a, (1 << (bits - 1)) - 1))


def mx_block(v: list[int], base: int) -> tuple[list[int], int]:
    ones = 0
    for a in v:
        ones |= ~a if a < 0 else a
    s = max(0, ones.bit_length() - 7)
    return [max(-127, min(rshr(a, s), 127)) for a in v], base + s


def product(x: list[list[int]], xe: list[int], w: list[list[int]], we: list[int], wide_bits: int) -> int:
    """The rounded terms of one row, added up: LSB 2^-16."""
    total = 0
    for b in range(len(x)):
        p = sum(w[b][j] * x[b][j] for j in range(len(x[b])))
        total += sat(rshr(p, -(we[b] + xe[b] + 16)), wide_bits + 5)
    return total


def by_the_page(y: list[int], x, xe, blocks: LoraBlocks, wide_bits: int) -> list[int]:
    """docs/arithmetic.md, lora, for one position."""
    a, ae, b, be = (getattr(blocks, part).tolist() for part in ("a_mant", "a_exp", "b_mant", "b_exp"))
    u = [product(x, xe, a[i], ae[i], wide_bits) for i in range(len(a))]
    nb = len(b[0][0])
    z = [mx_block(u[c : c + nb], -16) for c in range(0, len(u), nb)]
    out = []
    for r in range(len(b)):
        v = product([mant for mant, _ in z], [e for _, e in z], b[r], be[r], wide_bits)
        out.append(sat(y[r] + sat(rshr(v, 4), wide_bits), wide_bits))
    return out


def check(y, mant, exp, blocks, wide_bits, unit=lora):
    got = unit(y, mant, exp, blocks, wide_bits)
    assert got.dtype == np.int64
    assert got.shape == y.shape
    n_blocks, rows = mant.shape[-2], y.shape[-1]
    positions = zip(y.reshape(-1, rows).tolist(), mant.reshape(-1, n_blocks, 32).tolist(), exp.reshape(-1, n_blocks).tolist(),
                    strict=True)  # fmt: skip
    want = [by_the_page(*position, blocks, wide_bits) for position in positions]
    np.testing.assert_array_equal(got.reshape(-1, rows), want)
    return got


def random_case(rng, rank, wide_bits, exponents, lead=(3,), n_blocks=3, rows=5):
    limit = 1 << (wide_bits - 1)
    y = rng.integers(-limit, limit, (*lead, rows)) >> rng.integers(0, 20, (*lead, rows))
    mant = rng.integers(-127, 128, (*lead, n_blocks, 32))
    wild = rng.choice([-128, -60, -12, 0, 40, 127], (*lead, n_blocks))
    exp = wild if exponents == "wild" else rng.integers(-12, 0, (*lead, n_blocks))
    of_weights = {
        "near": lambda shape: rng.integers(-16, -6, shape),
        "wild": lambda shape: rng.choice([-64, -30, -8, 0, 30, 63], shape),
        "edge": lambda shape: rng.integers(-9, 0, shape) + (0 if shape[0] == rank else wide_bits - 27),
        "opposite": lambda shape: rng.integers(0, 9, shape),
    }[exponents]
    blocks = random_lora_blocks(rng, rank, n_blocks, rows, of_weights)
    if exponents == "opposite":  # u is -1, left over from terms at both ends of the range
        blocks.a_mant[:, :2] = 127
        mant[..., 0, :], mant[..., 1, :], mant[..., 2:, :] = -127, 127, 0
        exp[..., :2] = 30
    return y, mant, exp, blocks


@pytest.mark.parametrize("rank", RANKS)
def test_equals_the_page(rank):
    for seed in range(4):
        check_many(seed, lora, rank)


def check_many(seed, unit, rank=8):
    """Terms as in a model, exponents from end to end, those about where terms and sums saturate, and opposite terms."""
    rng = np.random.default_rng([seed, rank])
    for wide_bits in (24, 32):
        for exponents in ("near", "wild", "edge", "opposite"):
            y, *rest = random_case(rng, rank, wide_bits, exponents)
            assert (check(y, *rest, wide_bits, unit) != y).any()


def test_every_shift():
    """One nonzero product and every shift there is: nothing is lost at either end of the exponents."""
    for xe in range(-128, 128, 3):
        for ae, be in ((-64, 63), (63, -64), (-8, -8), (0, 63), (-64, -64)):
            mant, exp = np.zeros((1, 1, 32), int), np.array([[xe]])
            mant[0, 0, 3] = -127
            a, b = np.zeros((2, 1, 32), np.int8), np.array([[[1, -1]], [[127, 3]], [[-127, 64]]], np.int8)
            a[:, 0, 3] = 1, -127
            blocks = LoraBlocks(a, np.array([[ae], [ae]], np.int8), b, np.full((3, 1), be, np.int8))
            check(np.array([[5, -6, 7]]), mant, exp, blocks, 32)


@pytest.mark.parametrize("wide_bits", [24, 32])
def test_corners(wide_bits):
    """All mantissas +-127, terms that saturate in A, in B and in y', and ties that round up."""
    full = np.full
    limit = 1 << (wide_bits - 1)
    for sign, ae, be in ((1, -14, -7), (-1, -14, -7), (1, 63, 63), (-1, 63, -40), (1, -64, 63)):
        blocks = LoraBlocks(full((4, 2, 32), 127 * sign, np.int8), full((4, 2), ae, np.int8),
                            full((6, 1, 4), -127, np.int8), full((6, 1), be, np.int8))  # fmt: skip
        y = np.array([[-limit, limit - 1, 0, -1, 1, limit // 2]])
        for exp in (-128, -40, -12, 0, 127):
            check(y, full((1, 2, 32), -127), full((1, 2), exp), blocks, wide_bits)
    # P = 1, 3, -1, -3 at a shift of one: halves go up, to 1, 2, 0, -1.
    a = np.zeros((4, 1, 32), np.int8)
    a[:, 0, 0] = 1, 3, -1, -3
    one = LoraBlocks(a, full((4, 1), -17, np.int8), np.eye(4, dtype=np.int8)[:, None], full((4, 1), 4, np.int8))
    mant = np.zeros((1, 1, 32), int)
    mant[0, 0, 0] = 1
    np.testing.assert_array_equal(check(np.zeros((1, 4), int), mant, np.zeros((1, 1), int), one, wide_bits), [[1, 2, 0, -1]])


def test_zeros_change_nothing():
    rng = np.random.default_rng(1)
    y, mant, exp, blocks = random_case(rng, 8, 32, "near")
    none = LoraBlocks(blocks.a_mant, blocks.a_exp, blocks.b_mant * 0, blocks.b_exp * 0)
    np.testing.assert_array_equal(lora(y, mant, exp, none, 32), y)
    none = LoraBlocks(blocks.a_mant * 0, blocks.a_exp * 0, blocks.b_mant, blocks.b_exp)
    np.testing.assert_array_equal(lora(y, mant, exp, none, 32), y)


def test_any_leading_shape():
    rng = np.random.default_rng(2)
    for lead in ((), (1,), (2, 3), (300,)):  # 300: more than goes through at once
        y, mant, exp, blocks = random_case(rng, 8, 32, "wild", lead)
        got = check(y, mant, exp, blocks, 32)
        if lead == (300,):
            np.testing.assert_array_equal(got[217], lora(y[217], mant[217], exp[217], blocks, 32))


BROKEN = {
    "no half": ("term += 0.5", "term += 0.0"),
    "halves to zero": ("np.floor", "np.trunc"),
    "terms do not saturate": ("acc += np.clip(term, -limit, limit - 1, out=term)", "acc += np.clip(term, -(2.0**60), 2.0**60)"),
    "terms saturate symmetrically": ("-limit, limit - 1", "1 - limit, limit - 1"),
    "terms saturate too soon": ("1 << (wide_bits + 4)", "1 << (wide_bits + 3)"),
    "LSB of u": ("mx(u, -16,", "mx(u, -15,"),
    "sum not rounded": ("rshr(v, 4)", "(v >> 4)"),
    "sum does not saturate": ("saturate(rshr(v, 4), wide_bits)", "rshr(v, 4)"),
    "result does not saturate": ("saturate(y[part] + saturate(rshr(v, 4), wide_bits), wide_bits)",
                                 "y[part] + saturate(rshr(v, 4), wide_bits)"),
}  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN)
def test_broken_copies_are_caught(broken):
    source = inspect.getsource(sim.golden.lora)
    assert source.count(BROKEN[broken][0]) == 1
    copy = {}
    exec(source.replace(*BROKEN[broken]), copy)
    with pytest.raises(AssertionError):
        for seed in range(20):
            check_many(seed, copy["lora"])
