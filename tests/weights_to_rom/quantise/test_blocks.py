"""The weight block format: ranges, error bounds, exact recovery, and codes of a file that are kept."""

import numpy as np
import pytest

from weights_to_rom.model_format import BLOCK
from weights_to_rom.quantise.blocks import BLOCKS_AT_ONCE, QuantisedMatrix, block_error
from weights_to_rom.quantise.rounding import keep_codes, quantise
from weights_to_rom.quantise.search import fit_blocks

BITS = [4, 8]


def random_matrix(rng, bits, rows=40, n_blocks=5):
    """Any point of the format."""
    e = rng.integers(-40, 24, rows).astype(np.int8)
    k = rng.integers(0, 5, rows).astype(np.uint8) if bits == 4 else np.full(rows, 7, np.uint8)
    d = rng.integers(0, 256, (rows, n_blocks)).astype(np.uint8)
    m = rng.integers(0, 256, (rows, n_blocks)).astype(np.uint8) if bits == 4 else d
    q = rng.integers(0, 2**bits, (rows, n_blocks, BLOCK)).astype(np.uint8)
    return QuantisedMatrix(q, d, m, e, k, bits)


def assert_in_format(qm, rows, inputs):
    n_blocks = -(-inputs // BLOCK)
    assert qm.q.shape == (rows, n_blocks, BLOCK)
    assert qm.d.shape == qm.m.shape == (rows, n_blocks)
    assert qm.e.shape == qm.k.shape == (rows,)
    assert [x.dtype for x in (qm.q, qm.d, qm.m, qm.e, qm.k)] == [np.uint8] * 3 + [np.int8, np.uint8]
    assert qm.e.min() >= -40 and qm.e.max() <= 23
    if qm.bits == 4:
        assert qm.q.max() <= 15 and qm.k.max() <= 4
    else:
        assert (qm.k[qm.d.any(axis=1)] == 7).all()
        np.testing.assert_array_equal(qm.m, qm.d)
    assert not qm.q.reshape(rows, -1)[:, inputs:].any()


@pytest.mark.parametrize("bits", BITS)
def test_dequantise_is_the_formula(bits):
    qm = random_matrix(np.random.default_rng(1), bits)
    w = qm.dequantise()
    for row, block, j in ((0, 0, 0), (3, 4, 31), (39, 2, 17)):
        e, k = int(qm.e[row]), int(qm.k[row])
        q, d, m = int(qm.q[row, block, j]), int(qm.d[row, block]), int(qm.m[row, block])
        want = 2.0**e * d * q - 2.0 ** (e + k) * m
        assert w[row, block * BLOCK + j] == want
        if bits == 8:
            assert want == 2.0**e * d * (q - 128)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("inputs", [32, 64, 172, 7])
@pytest.mark.parametrize("size", [1e-6, 0.03, 4e5])
def test_ranges_and_error_of_rounding_to_nearest(bits, inputs, size):
    rng = np.random.default_rng(inputs)
    w = rng.standard_normal((50, inputs)) * size * np.exp(rng.standard_normal((50, 1)))
    qm = quantise(w, bits)
    assert_in_format(qm, 50, inputs)
    assert qm.d.max(axis=1).min() >= (127 if bits == 8 else 104)
    error = np.abs(qm.dequantise()[:, :inputs] - w)
    # With the whole range of the block the largest error is half a step.  Rounding d adds at most half a unit
    # a code, rounding m half of 2^k units, k <= 4.  The search may only lower the mean square.
    blocks = np.pad(w, ((0, 0), (0, -inputs % BLOCK))).reshape(50, -1, BLOCK)
    span = blocks.max(axis=2).clip(0) - blocks.min(axis=2).clip(max=0)
    step = span / 15 if bits == 4 else np.abs(blocks).max(axis=2) / 127
    lsb = np.ldexp(1.0, qm.e)[:, None]
    bound = step / 2 + lsb * (8 + 8 if bits == 4 else 64)
    error = np.pad(error, ((0, 0), (0, -inputs % BLOCK))).reshape(50, -1, BLOCK)
    in_block = np.minimum(BLOCK, inputs - BLOCK * np.arange(error.shape[1]))
    assert (np.sqrt((error**2).sum(axis=2) / in_block) <= bound).all()
    worst, mean = block_error(w, qm)
    assert 0 < mean < worst
    assert mean < (0.08 if bits == 4 else 0.006)


def test_the_search_beats_the_whole_range():
    """On normal weights by 7 % of the rms error, which is what the search is for."""
    w = np.random.default_rng(2).standard_normal((200, 320))
    blocks = w.reshape(200, -1, BLOCK)
    low = blocks.min(axis=2, keepdims=True)
    step = (blocks.max(axis=2, keepdims=True) - low) / 15
    plain = np.rint((blocks - low) / step) * step + low - blocks
    searched = quantise(w, 4).dequantise() - w
    assert np.mean(searched**2) < 0.93**2 * np.mean(plain**2)


def test_importance_moves_the_error():
    rng = np.random.default_rng(3)
    w, importance = rng.standard_normal((100, 64)), np.exp(2 * rng.standard_normal(64))
    error = {h: (quantise(w, 4, h and importance).dequantise() - w) ** 2 for h in (None, True)}
    assert np.sum(error[True] * importance) < 0.8 * np.sum(error[None] * importance)
    assert np.sum(error[True]) > np.sum(error[None])


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("seed", range(4))
def test_weights_on_the_grid_come_back_exactly(bits, seed):
    w = random_matrix(np.random.default_rng(seed), bits).dequantise()
    np.testing.assert_array_equal(quantise(w, bits).dequantise(), w)


@pytest.mark.parametrize("bits", BITS)
def test_quantising_twice_changes_nothing(bits):
    w = np.random.default_rng(4).standard_normal((30, 100))
    once = quantise(w, bits).dequantise()[:, :100]
    np.testing.assert_array_equal(quantise(once, bits).dequantise()[:, :100], once)
    np.testing.assert_array_equal(quantise(once.astype(np.float32), bits).dequantise()[:, :100], once)


@pytest.mark.parametrize("bits", BITS)
def test_weights_on_an_affine_grid(bits):
    """Scales that are no integers, as in other formats: the error is that of d and m, not of codes."""
    rng = np.random.default_rng(5)
    q = rng.integers(0, 2**bits, (20, 6, BLOCK))
    q[..., 0], q[..., 1] = 0 if bits == 4 else 1, 2**bits - 1
    scale = rng.uniform(0.7, 1, (20, 6, 1)) * 0.01
    minimum = scale * (rng.uniform(3, 12, (20, 6, 1)) if bits == 4 else 128)
    w = (q * scale - minimum).reshape(20, -1)
    worst, mean = block_error(w, quantise(w, bits))
    assert worst < 0.01 and mean < 0.005


@pytest.mark.parametrize("bits", BITS)
def test_rows_and_blocks_of_zeros(bits):
    w = np.random.default_rng(6).standard_normal((4, 96))
    w[1] = 0
    w[2, 32:64] = 0
    qm = quantise(w, bits)
    assert not qm.d[1].any() and not qm.m[1].any() and qm.e[1] == 0
    assert not qm.dequantise()[1].any() and not qm.dequantise()[2, 32:64].any()
    assert block_error(w[1:2], quantise(w[1:2], bits)) == (0, 0)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("outlier", [1000.0, -1000.0])
def test_one_huge_weight(bits, outlier):
    """It is kept, and the other blocks of its row lose no more than the row's unit."""
    w = np.random.default_rng(7).standard_normal((8, 128))
    w[:, 40] = outlier
    qm = quantise(w, bits)
    got = qm.dequantise()
    np.testing.assert_allclose(got[:, 40], outlier, rtol=0.005)
    others = np.r_[0:32, 64:128]
    unit = np.ldexp(1.0, qm.e + qm.k.astype(int) if bits == 4 else qm.e)[:, None]
    assert (np.abs(got - w)[:, others] <= np.maximum(np.abs(w[:, others]), unit)).all()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("value", [-0.37, 0.37, 1e30, -1e30, 1e-30])
def test_constant_weights(bits, value):
    qm = quantise(np.full((3, 64), value), bits)
    assert_in_format(qm, 3, 64)
    if abs(value) < 1e-12:
        assert not qm.dequantise().any()  # below 2^-41
    elif abs(value) > 1e12:
        assert (np.abs(qm.dequantise()) >= 2.0**23 * 255 * 15).all()  # saturated
    else:
        np.testing.assert_allclose(qm.dequantise(), value, rtol=0.004)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_must_be_finite(bad):
    w = np.ones((2, 32))
    w[1, 3] = bad
    with pytest.raises(ValueError, match="must be finite"):
        quantise(w, 4)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("seed", range(4))
def test_keep_codes_is_exact_on_the_grid(bits, seed):
    qm = random_matrix(np.random.default_rng(seed), bits)
    kept, requantised = keep_codes(qm.q, qm.scale, qm.minimum, bits)
    assert requantised == 0
    np.testing.assert_array_equal(kept.q, qm.q)
    np.testing.assert_array_equal(kept.dequantise(), qm.dequantise())


@pytest.mark.parametrize("bits", BITS)
def test_keep_codes_rounds_scale_and_minimum_only(bits):
    """Scales as a GGUF has them, of which none is on the grid, and a factor for each row."""
    rng = np.random.default_rng(8)
    q = rng.integers(0, 2**bits, (60, 6, BLOCK), np.uint8)
    scale = rng.uniform(0.5, 1, (60, 6)) * np.exp(rng.standard_normal((60, 1)))
    minimum = scale * (rng.uniform(3, 12, (60, 6)) if bits == 4 else 128)
    row_scale = rng.uniform(0.1, 3, 60)
    qm, requantised = keep_codes(q, scale, minimum, bits, row_scale)
    assert requantised == 0
    assert_in_format(qm, 60, 6 * BLOCK)
    np.testing.assert_array_equal(qm.q, q)
    assert qm.d.max(axis=1).min() >= 128
    lsb = np.ldexp(1.0, qm.e)[:, None]
    assert (np.abs(qm.scale - scale * row_scale[:, None]) <= lsb / 2).all()
    if bits == 4:
        assert (qm.k == 0)[(minimum * row_scale[:, None] / lsb).max(axis=1) < 254].all()
        assert (qm.m.max(axis=1) > 126)[qm.k > 0].all(), "k is the smallest that fits"
        w = ((q * scale[..., None] - minimum[..., None]) * row_scale[:, None, None]).reshape(60, -1)
        error = (qm.dequantise() - w).reshape(60, 6, BLOCK)
        of_mean = np.abs(error.mean(axis=2))
        assert (of_mean <= np.ldexp(0.5001, qm.e + qm.k.astype(int))[:, None]).all()
        assert (np.abs(error) <= of_mean[..., None] + 15 * lsb[..., None] / 2).all()


def test_q4_0_becomes_m_equal_to_d_and_its_mirror():
    """Q4_0 is scale * (q - 8) with a scale of either sign."""
    rng = np.random.default_rng(9)
    q = rng.integers(0, 16, (30, 4, BLOCK), np.uint8)
    scale = rng.choice([-1.0, 1.0], (30, 4)) * rng.integers(128, 256, (30, 4)) * 2.0**-12
    qm, requantised = keep_codes(q, scale, 8 * scale, 4)
    assert requantised == 0
    np.testing.assert_array_equal(qm.q, np.where(scale[..., None] < 0, 15 - q, q))
    np.testing.assert_array_equal(qm.d, np.abs(scale) * 2**12)
    np.testing.assert_array_equal(qm.k, 3)
    np.testing.assert_array_equal(qm.m[scale > 0], qm.d[scale > 0])
    mirrored = np.abs(7 * np.abs(scale) * 2**12 - 8.0 * qm.m)[scale < 0]
    assert (mirrored <= 4).all()


def test_blocks_that_do_not_fit_are_requantised_and_counted():
    rng = np.random.default_rng(10)
    q = rng.integers(0, 16, (12, 5, BLOCK), np.uint8)
    scale = rng.uniform(0.5, 1, (12, 5))
    minimum = 7 * scale
    bad = np.zeros((12, 5), bool)
    bad[3, 1] = bad[7, 4] = bad[7, 0] = True
    minimum[bad] = -3
    qm, requantised = keep_codes(q, scale, minimum, 4)
    assert requantised == 3
    np.testing.assert_array_equal(qm.q[~bad], q[~bad])
    error = qm.dequantise().reshape(12, 5, BLOCK) - (q * scale[..., None] - minimum[..., None])
    # 0 to 3 + 15 * scale in fifteen steps: each is scale + 0.2, and rounding d and m costs a tenth of one.
    assert (np.abs(error[bad]).max(axis=1) < 0.7 * (scale[bad] + 0.2)).all()

    q8 = rng.integers(0, 256, (3, 2, BLOCK), np.uint8)
    scale = np.array([[1.0, 0.5], [-1.0, 0.5], [1.0, 1.0]])
    qm, requantised = keep_codes(q8, scale, 128 * scale, 8)
    assert requantised == 1
    error = qm.dequantise().reshape(3, 2, BLOCK) - (q8 - 128.0) * scale[..., None]
    assert np.abs(error).max() <= 1


def test_a_large_minimum_raises_the_exponent():
    """More than 16 times the largest scale: the row keeps its codes, and its scales lose bits instead."""
    q = np.random.default_rng(11).integers(0, 16, (2, 3, BLOCK), np.uint8)
    scale, minimum = np.full((2, 3), 1.0), np.full((2, 3), 100.0)
    qm, requantised = keep_codes(q, scale, minimum, 4)
    assert requantised == 0 and (qm.k == 4).all()
    np.testing.assert_array_equal(qm.q, q)
    w = (q * scale[..., None] - minimum[..., None]).reshape(2, -1)
    np.testing.assert_allclose(qm.dequantise(), w, atol=0.3)
    np.testing.assert_allclose(quantise(w, 4).dequantise(), w, atol=0.3)


def test_block_error_is_relative_to_the_row():
    w = np.ones((2, 64))
    qm = quantise(w, 4)
    assert block_error(w, qm) == (0, 0)
    shifted = w.copy()
    shifted[1, 32:] = 3  # the row's rms is sqrt((1 + 9) / 2), the block is wrong by 2
    assert block_error(shifted, qm) == (pytest.approx(2 / np.sqrt(5)), pytest.approx(0.5 / np.sqrt(5)))


@pytest.mark.parametrize("bits", BITS)
def test_rows_do_not_depend_on_the_rows_beside_them(bits):
    """Also across the pieces in which large matrices are worked on."""
    w = np.random.default_rng(12).standard_normal((BLOCKS_AT_ONCE // 5 + 50, 130)).astype(np.float32)
    whole = quantise(w, bits)
    assert_in_format(whole, *w.shape)
    some = np.r_[0:5, len(w) - 60 : len(w)]
    alone = quantise(w[some], bits)
    for name in "qdmek":
        np.testing.assert_array_equal(getattr(alone, name), getattr(whole, name)[some])

    def rows_of(qm, i):
        return QuantisedMatrix(qm.q[i], qm.d[i], qm.m[i], qm.e[i], qm.k[i], bits)

    worst, mean = block_error(w, whole)
    pieces = [slice(0, 1000), slice(1000, None)]
    errors = [block_error(w[i], rows_of(whole, i)) for i in pieces]
    assert worst == max(e[0] for e in errors)
    assert mean == pytest.approx(np.average([e[1] for e in errors], weights=[1000, len(w) - 1000]))


def best_error(w, bits, m_step, importance):
    """The least sum of importance * error**2 of one block in units of 2^e, over every d and m."""
    d = np.arange(1, 256)[:, None]
    q_max, best = 2**bits - 1, np.inf
    for m in range(256) if bits == 4 else (None,):
        minimum = m * m_step if bits == 4 else 128 * d
        error = np.clip(np.rint((w + minimum) / d), 0, q_max) * d - minimum - w
        best = min(best, (error**2 * importance).sum(axis=1).min())
    return best


@pytest.mark.parametrize(
    ("bits", "kind", "excess"),
    [
        *((4, "normal", 0.025), (4, "positive", 0.075), (4, "weighted", 0.03), (4, "small", 0.03)),
        *((8, "normal", 0.1), (8, "positive", 0.1), (8, "weighted", 0.2), (8, "small", 0)),
    ],
)
def test_the_search_comes_close_to_the_best_scale_and_minimum(bits, kind, excess):
    """``excess`` is what it is worse by in squared error, all blocks together."""
    rng = np.random.default_rng(13)
    w = rng.standard_normal((24, BLOCK)) * rng.uniform(500, 1000, (24, 1)) * (1 if bits == 4 else 8)
    importance = np.exp(1.5 * rng.standard_normal(BLOCK)) if kind == "weighted" else np.ones(BLOCK)
    if kind == "positive":
        w = np.abs(w) + 300
    if kind == "small":  # a block of a row with much larger ones: d has few values
        w /= 50
    e, k = np.zeros(24, np.int64), np.full(24, 3 if bits == 4 else 7)
    q, d, m = fit_blocks(w[:, None], e, k, bits, importance[None] / importance.max())
    qm = QuantisedMatrix(q, d, m, e, k.astype(np.uint8), bits)
    found = ((qm.dequantise() - w) ** 2 * importance).sum(axis=1)
    best = np.array([best_error(row, bits, 8, importance) for row in w])
    assert (found >= best * (1 - 1e-6)).all()
    assert found.sum() <= best.sum() * (1 + 1e-6 + excess)
