"""The search for the scale and the minimum of each block that give the least squared error."""

import numpy as np

from weights_to_rom.model_format import BLOCK
from weights_to_rom.quantise.blocks import row_format

# The search starts from scales of 1/13 to 1/18 of a block's range.  Finer or wider steps reduce the
# rms error of normal and of Laplacian weights by less than 0.5 %.
LEVELS = np.arange(13, 18.01, 0.5, dtype=np.float32)
POLISH = 2


def row_exponents(w: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Choose e and k, int64[rows], for the blocks ``w[rows, n_blocks, 32]``."""
    rows, n_blocks, _ = w.shape
    x = np.frexp(np.abs(w).max(axis=(1, 2)))[1]  # in units of 2^x, so that float32 holds the squares
    s, mu = _search(_columns(np.ldexp(w, -x[:, None, None])), bits)
    s_max, mu_max = (np.ldexp(a.reshape(rows, n_blocks).max(axis=1).astype(np.float64), x) for a in (s, mu))
    return row_format(s_max, mu_max, bits)


def fit_blocks(
    w: np.ndarray, e: np.ndarray, k: np.ndarray, bits: int, importance: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Choose q, d and m (uint8) of the blocks ``w[rows, n_blocks, 32]`` on the grid of e and k.

    ``importance[n_blocks, 32]`` weighs the squared errors, as in ``quantise``.
    """
    rows, n_blocks, _ = w.shape
    h = None if importance is None else np.tile(importance.astype(np.float32), (rows, 1)).T
    # No value that the format represents reaches 2^16 units of 2^e, so clipping there changes none of them.
    columns = _columns(np.clip(np.ldexp(w, -e[:, None, None]), -(2.0**16), 2.0**16))
    m_step = np.repeat(np.ldexp(np.float32(1), k), n_blocks)
    d, m = _search(columns, bits, h, m_step)
    q = _codes(columns, d, m * m_step, bits)
    q = np.ascontiguousarray(q.T, np.uint8).reshape(w.shape)
    return q, d.astype(np.uint8).reshape(rows, n_blocks), m.astype(np.uint8).reshape(rows, n_blocks)


# In the functions that follow, a block is a column of w[32, blocks], because numpy adds long vectors fast.


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
    """Search the scale and the minimum of each column, in the units of ``w``.

    With ``m_step[blocks]`` the scale is an integer in 0..255, and the minimum is an integer in units of ``m_step``.
    ``h[32, blocks]`` weighs the squared errors.
    """
    if bits == 8:
        return _search_symmetric(w, h, m_step)
    total = np.float32(BLOCK) if h is None else h.sum(axis=0)
    sum_w = (w if h is None else h * w).sum(axis=0)
    low = np.minimum(w.min(axis=0), 0)
    span = np.maximum(w.max(axis=0), 0) - low

    def on_grid(s: np.ndarray, mean_q: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Round s and choose the minimum that keeps the mean of the column, if ``mean_q`` is the mean of its codes."""
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
        enough = spread > 1e-5 * total * sum_qq  # a smaller one is rounding noise
        fitted = np.divide(total * sum_qw - sum_q * sum_w, spread, out=s.copy(), where=enough)
        through_zero = np.divide(sum_qw, sum_qq, out=s.copy(), where=sum_qq > 0)
        s = np.where(fitted * sum_q < sum_w, through_zero, fitted)  # a minimum below 0 cannot be represented
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
    """Search the scale of each column in eight bits, where the minimum is the scale."""
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
