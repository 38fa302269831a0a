"""Weights as blocks of integers: 32 codes along the inputs, a scale and a minimum a block, exponents a row.

    weight = 2^e * d * q  -  2^(e+k) * m        q in 0..15 (or 0..255), d and m in 0..255, k in 0..4

Tensors of eight bits are symmetric, ``weight = 2^e * d * (q - 128)``: m = d and k = 7 in the same formula.
Every weight is thus an integer of at most 16 bits times 2^e, and ``dequantise`` is exact.
"""

from dataclasses import dataclass

import numpy as np

BLOCK = 32
E_MIN, E_MAX = -40, 23
K_MAX = 4
K_8BIT = 7

# The search starts from scales of 1/13 to 1/18 of a block's range.  Finer or wider gains less than 0.5 % of
# the rms error on normal and on Laplacian weights.
LEVELS = np.arange(13, 18.01, 0.5, dtype=np.float32)
POLISH = 2
BLOCKS_AT_ONCE = 8192  # temporaries of 1 MB: larger ones fall out of the cache, smaller ones cost calls


@dataclass(frozen=True)
class QuantisedMatrix:
    """A matrix of ``rows`` outputs; its inputs are padded to whole blocks with codes 0.

    Members
    -------
    q : uint8[rows, n_blocks, 32]      codes
    d, m : uint8[rows, n_blocks]       scale, LSB 2^e, and minimum, LSB 2^(e+k); m is d in eight bits
    e : int8[rows]                     -40..23
    k : uint8[rows]                    0..4; 7 in eight bits
    bits : 4 or 8
    """

    q: np.ndarray
    d: np.ndarray
    m: np.ndarray
    e: np.ndarray
    k: np.ndarray
    bits: int

    @property
    def scale(self) -> np.ndarray:
        """2^e * d, float64[rows, n_blocks]."""
        return np.ldexp(self.d.astype(np.float64), self.e[:, None])

    @property
    def minimum(self) -> np.ndarray:
        """2^(e+k) * m, float64[rows, n_blocks]."""
        return np.ldexp(self.m.astype(np.float64), self.e[:, None] + self.k[:, None].astype(np.int8))

    def dequantise(self) -> np.ndarray:
        """The weights, exactly: float64[rows, n_blocks * 32].  Columns of the padding hold -2^(e+k) * m."""
        w = self.q * self.scale[..., None] - self.minimum[..., None]
        return w.reshape(len(w), -1)


def quantise(w: np.ndarray, bits: int, importance: np.ndarray | None = None) -> QuantisedMatrix:
    """Round ``w[rows, inputs]`` to nearest, with a search over scale and minimum.

    Minimises each block's sum of ``importance * error**2``; ``importance[inputs]`` defaults to ones.
    A row that is on the grid already, such as one that was dequantised, comes back with no error at all.
    e is the power of two that puts the row's largest scale in 128..255 (the search for integers may then
    settle a little lower), unless a minimum needs a larger one at k = 4.  It is clamped to -40..23: scales
    below 2^-41 become zero, scales above 2^31 saturate.

    Raises ``ValueError`` for weights that are NaN or infinite.
    """
    rows, inputs = w.shape
    n_blocks = -(-inputs // BLOCK)
    h = None
    if importance is not None:
        h = np.full(n_blocks * BLOCK, 1e-6, np.float32)  # not 0: a block of unused inputs is still defined
        h[:inputs] = np.maximum(importance / np.max(importance), h[:inputs])
        h = h.reshape(n_blocks, BLOCK)
    parts = []
    at_once = max(1, BLOCKS_AT_ONCE // n_blocks)
    for first in range(0, rows, at_once):
        chunk = np.asarray(w[first : first + at_once], np.float64)
        # Padding repeats the last weight, so that it does not widen the range of the block.
        chunk = np.pad(chunk, ((0, 0), (0, n_blocks * BLOCK - inputs)), mode="edge")
        parts.append(_quantise_rows(chunk.reshape(len(chunk), n_blocks, BLOCK), bits, h))
    q, d, m, e, k = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    q.reshape(rows, -1)[:, inputs:] = 0
    return QuantisedMatrix(q, d, m, e, k, bits)


def keep_codes(
    codes: np.ndarray,
    scale: np.ndarray,
    minimum: np.ndarray,
    bits: int,
    row_scale: float | np.ndarray = 1.0,
) -> tuple[QuantisedMatrix, int]:
    """Blocks ``scale * codes - minimum`` of a file, with the file's codes; and how many could not keep them.

    ``codes[rows, n_blocks, 32]``; ``scale`` and ``minimum[rows, n_blocks]`` are rounded to eight bits against
    the row's power of two, the minimum so that the block keeps its mean.  Eight bits mean
    ``scale * (codes - 128)`` and do not read ``minimum``.  ``row_scale``, a positive number or one a row,
    multiplies the weights first.

    Four-bit blocks with a negative scale are mirrored (q' = 15 - q), which is exact.  Blocks whose minimum is
    negative (all weights positive), and eight-bit blocks with a negative scale, are requantised and counted.
    """
    row_scale = np.broadcast_to(np.asarray(row_scale, np.float64), len(codes))[:, None]
    s = scale * row_scale
    q = np.array(codes, np.uint8)
    if bits == 8:
        largest = np.abs(s).max(axis=1)
        e, k = _row_format(largest, largest, bits)
        d = np.rint(np.ldexp(s, -e[:, None]))
        m, unfit, mu = d, d < 0, 128 * s
    else:
        mu = minimum * row_scale
        mirrored = s < 0
        q[mirrored] = 15 - q[mirrored]
        mu = np.where(mirrored, mu - 15 * s, mu)
        s = np.abs(s)
        # What a block with a negative minimum needs once its lowest code is 0.
        needed = s + np.maximum(-mu, 0) / 15
        e, k = _row_format(needed.max(axis=1), np.maximum(mu, 0).max(axis=1), bits)
        d = np.clip(np.rint(np.ldexp(s, -e[:, None])), 0, 255)
        rounded = np.ldexp(d, e[:, None])
        m = np.rint(np.ldexp(mu + (rounded - s) * q.mean(axis=2), -(e + k)[:, None]))
        unfit = m < 0
    d, m = (np.clip(x, 0, 255).astype(np.uint8) for x in (d, m))
    if unfit.any():
        weights = q[unfit] * s[unfit][:, None] - mu[unfit][:, None]
        row = np.nonzero(unfit)[0]
        q[unfit], d[unfit], m[unfit] = (a[:, 0] for a in fit_blocks(weights[:, None], e[row], k[row], bits))
    return QuantisedMatrix(q, d, m, e.astype(np.int8), k.astype(np.uint8), bits), int(unfit.sum())


def block_error(w: np.ndarray, qm: QuantisedMatrix) -> tuple[float, float]:
    """Worst and mean error of a block: its rms error over the rms weight of its row.

    The row's, since that is what a block's error is added to.  Padding is not counted; rows of zeros are 0.
    """
    rows, inputs = w.shape
    n_blocks = qm.d.shape[1]
    in_block = np.minimum(BLOCK, inputs - BLOCK * np.arange(n_blocks))
    at_once = max(1, BLOCKS_AT_ONCE // n_blocks)
    worst = total = 0.0
    for first in range(0, rows, at_once):
        part = slice(first, first + at_once)
        exact = np.asarray(w[part], np.float64)
        got = QuantisedMatrix(qm.q[part], qm.d[part], qm.m[part], qm.e[part], qm.k[part], qm.bits).dequantise()
        got[:, :inputs] -= exact
        got[:, inputs:] = 0
        rms = np.sqrt((got**2).reshape(-1, n_blocks, BLOCK).sum(axis=2) / in_block)
        of_row = np.sqrt(np.mean(exact**2, axis=1))[:, None]
        relative = np.divide(rms, of_row, out=np.where(rms > 0, np.inf, 0.0), where=of_row > 0)
        worst, total = max(worst, float(relative.max())), total + float(relative.sum())
    return worst, total / (rows * n_blocks)


def row_exponents(w: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """e and k, int64[rows], that suit the blocks ``w[rows, n_blocks, 32]``."""
    rows, n_blocks, _ = w.shape
    x = np.frexp(np.abs(w).max(axis=(1, 2)))[1]  # in units of 2^x, so that float32 holds the squares
    s, mu = _search(_columns(np.ldexp(w, -x[:, None, None])), bits)
    s_max, mu_max = (np.ldexp(a.reshape(rows, n_blocks).max(axis=1).astype(np.float64), x) for a in (s, mu))
    return _row_format(s_max, mu_max, bits)


def fit_blocks(
    w: np.ndarray, e: np.ndarray, k: np.ndarray, bits: int, importance: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """q, d and m (uint8) of the blocks ``w[rows, n_blocks, 32]`` on the grid of e and k.

    ``importance[n_blocks, 32]`` as in ``quantise``.
    """
    rows, n_blocks, _ = w.shape
    h = None if importance is None else np.tile(importance.astype(np.float32), (rows, 1)).T
    # In units of 2^e no code reaches 2^15, so clipping there changes nothing that can be represented.
    columns = _columns(np.clip(np.ldexp(w, -e[:, None, None]), -(2.0**16), 2.0**16))
    m_step = np.repeat(np.ldexp(np.float32(1), k), n_blocks)
    d, m = _search(columns, bits, h, m_step)
    q = _codes(columns, d, m * m_step, bits)
    q = np.ascontiguousarray(q.T, np.uint8).reshape(w.shape)
    return q, d.astype(np.uint8).reshape(rows, n_blocks), m.astype(np.uint8).reshape(rows, n_blocks)


def _quantise_rows(w: np.ndarray, bits: int, h: np.ndarray | None) -> tuple[np.ndarray, ...]:
    """q, d, m, e, k of the blocks ``w[rows, n_blocks, 32]``."""
    if not np.isfinite(w).all():
        raise ValueError("weights must be finite: a NaN or an infinity cannot be quantised")
    e, k = row_exponents(w, bits)
    result = (*fit_blocks(w, e, k, bits, h), e.astype(np.int8), k.astype(np.uint8))
    on_grid, exact = recover(w, bits)
    for array, recovered in zip(result, exact, strict=True):
        array[on_grid] = recovered
    return result


def _row_format(s: np.ndarray, mu: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """e and k of rows with the largest scale ``s`` and the largest minimum ``mu``, both float64[rows]."""

    def exponent(largest: np.ndarray) -> np.ndarray:
        """The smallest power of two in units of which ``largest`` rounds to 255 or less."""
        fraction, x = np.frexp(largest)
        return np.where(largest > 0, x - 8 + (fraction * 256 >= 255.5), -(1 << 16))

    e = exponent(s)
    if bits == 8:
        return np.where(s > 0, np.clip(e, E_MIN, E_MAX), 0), np.full(len(s), K_8BIT)
    e_m = exponent(mu)
    e = np.clip(np.maximum(e, e_m - K_MAX), E_MIN, E_MAX)
    zero = (s <= 0) & (mu <= 0)
    return np.where(zero, 0, e), np.where(zero, 0, np.clip(e_m - e, 0, K_MAX))


# From here on a block is a column: w[32, blocks], so that sums over a block are sums of long vectors.


def _columns(w: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(w.reshape(-1, BLOCK).T, np.float32)


def _codes(w: np.ndarray, s: np.ndarray, mu: np.ndarray, bits: int) -> np.ndarray:
    """clip(round((w + mu) / s)), as floats; 0 where s is 0, and 128 in eight bits."""
    inverse = np.divide(1, s, out=np.zeros_like(s), where=s > 0)
    q = w * inverse
    q += mu * inverse if bits == 4 else np.float32(128)
    np.rint(q, out=q)
    return np.clip(q, 0, 2**bits - 1, out=q)


def _search(
    w: np.ndarray, bits: int, h: np.ndarray | None = None, m_step: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Scale and minimum of each column, in the units of ``w``.

    With ``m_step[blocks]`` the scale is an integer in 0..255 and the minimum one in units of ``m_step``.
    ``h[32, blocks]`` weighs the squared errors.
    """
    if bits == 8:
        return _search_symmetric(w, h, m_step)
    total = np.float32(BLOCK) if h is None else h.sum(axis=0)
    sum_w = (w if h is None else h * w).sum(axis=0)
    low = np.minimum(w.min(axis=0), 0)
    span = np.maximum(w.max(axis=0), 0) - low

    def on_grid(s: np.ndarray, mean_q: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """s rounded, and the best minimum for it: that which keeps the mean if ``mean_q`` is the codes'."""
        if m_step is not None:
            s = np.clip(np.rint(s), 0, 255)
        mu = np.maximum(-low if mean_q is None else s * mean_q - sum_w / total, 0)
        return s, mu if m_step is None else np.clip(np.rint(mu / m_step), 0, 255) * m_step

    def least_squares(s: np.ndarray, mu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The best scale and minimum for the codes that ``s`` and ``mu`` give."""
        q = _codes(w, s, mu, bits)
        hq = q if h is None else h * q
        sum_q, sum_qq, sum_qw = hq.sum(axis=0), (hq * q).sum(axis=0), (hq * w).sum(axis=0)
        spread = total * sum_qq - sum_q * sum_q
        enough = spread > 1e-5 * total * sum_qq  # below, the difference is rounding noise
        fitted = np.divide(total * sum_qw - sum_q * sum_w, spread, out=s.copy(), where=enough)
        through_zero = np.divide(sum_qw, sum_qq, out=s.copy(), where=sum_qq > 0)
        s = np.where(fitted * sum_q < sum_w, through_zero, fitted)  # the minimum is not negative
        return on_grid(s, sum_q / total)

    def error(s: np.ndarray, mu: np.ndarray) -> np.ndarray:
        r = _codes(w, s, mu, bits)
        r *= s
        r -= mu
        r -= w
        r *= r
        return (r if h is None else r * h).sum(axis=0)

    s, mu = on_grid(span / 15)
    best = error(s, mu)

    def keep_better(candidate: tuple[np.ndarray, np.ndarray]) -> None:
        e = error(*candidate)
        better = e < best
        for kept, new in zip((s, mu, best), (*candidate, e), strict=True):
            np.copyto(kept, new, where=better)

    for levels in LEVELS:
        keep_better(least_squares(span / levels, -low))
    for _ in range(POLISH):
        keep_better(least_squares(s, mu))
    return (s, mu) if m_step is None else (s, mu / m_step)


def _search_symmetric(w: np.ndarray, h: np.ndarray | None, m_step: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The same for eight bits, where the minimum is the scale."""
    s = np.abs(w).max(axis=0) / np.float32(127)
    if m_step is None:
        return s, s
    d, best = np.zeros_like(s), np.full_like(s, np.inf)
    for near in (0, -1, 1, 2, 3):
        candidate = np.clip(np.rint(s) + np.float32(near), 0, 255)
        r = ((_codes(w, candidate, candidate, 8) - 128) * candidate - w) ** 2
        e = (r if h is None else r * h).sum(axis=0)
        d, best = np.where(e < best, candidate, d), np.minimum(e, best)
    return d, d


def recover(w: np.ndarray, bits: int) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Rows of the blocks ``w[rows, n_blocks, 32]`` that are on the grid, and their q, d, m, e, k.

    Such a row holds integers of at most 12 (15) bits times a power of two, which other weights never do.
    Within a block, d is then the greatest common divisor of the differences between weights.
    """
    width = 12 if bits == 4 else 15  # 16 * 255 < 2^12; 255 * 128 < 2^15
    e = np.frexp(np.abs(w).max(axis=(1, 2)))[1] - width
    scaled = np.ldexp(w, -e[:, None, None])
    rows = np.nonzero((scaled == np.rint(scaled)).all(axis=(1, 2)))[0]
    integers, e = scaled[rows].astype(np.int64), e[rows]
    common = np.bitwise_or.reduce(integers, axis=(1, 2))
    zeros = np.where(common == 0, width, np.log2(np.maximum(common & -common, 1)).astype(np.int64))
    integers >>= zeros[:, None, None]
    e = np.where(common == 0, 0, e + zeros)
    solve = _solve_symmetric if bits == 8 else _solve
    solved, q, d, m, k = solve(integers)
    solved &= (e >= E_MIN) & (e <= E_MAX)
    return rows[solved], tuple(a[solved] for a in (q, d, m, e, k))


def _solve(w: np.ndarray) -> tuple[np.ndarray, ...]:
    """Whether, and how, the integers ``w[rows, n_blocks, 32]`` are d * q - (m << k): solved, q, d, m, k."""
    low = w.min(axis=2)
    d = np.gcd.reduce(w - low[..., None], axis=2)
    d = np.where(d == 0, np.maximum(low, 0), d)  # a constant block: one step above zero, or a minimum only
    steps = (w - low[..., None]) // np.maximum(d, 1)[..., None]
    k = np.full(len(w), K_MAX)
    offset, m = np.zeros_like(d), np.zeros_like(d)
    solved = np.zeros(len(w), bool)
    for trial in range(K_MAX + 1):
        found = np.zeros(d.shape, bool)
        first, m_ = np.zeros_like(d), np.zeros_like(d)
        for j in range(16):  # the code of the block's lowest weight
            minimum = d * j - low
            fits = (minimum >= 0) & (minimum % (1 << trial) == 0) & (minimum >> trial <= 255)
            fits &= (j + steps.max(axis=2) <= 15) & (d <= 255) & ~found
            first, m_, found = np.where(fits, j, first), np.where(fits, minimum >> trial, m_), found | fits
        new = found.all(axis=1) & ~solved
        k[new], offset[new], m[new] = trial, first[new], m_[new]
        solved |= new
    return solved, steps + offset[..., None], d, m, k


def _solve_symmetric(w: np.ndarray) -> tuple[np.ndarray, ...]:
    """The same for d * (q - 128)."""
    d = np.gcd.reduce(w, axis=2)
    q = w // np.maximum(d, 1)[..., None] + 128
    solved = ((d <= 255) & (q >= 0).all(axis=2) & (q <= 255).all(axis=2)).all(axis=1)
    return solved, q, d, d, np.full(len(w), K_8BIT)
