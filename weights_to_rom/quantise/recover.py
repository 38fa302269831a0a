"""Exact recovery of the codes of weights that lie on the grid of the block format, for example of dequantised weights."""

import numpy as np

from weights_to_rom.quantise.blocks import E_MAX, E_MIN, K_8BIT, K_MAX


def recover(w: np.ndarray, bits: int) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Find the rows of ``w[rows, n_blocks, 32]`` that lie on the grid.  Returns their numbers, and their q, d, m, e and k.

    Such a row holds integers of at most 12 bits (15 in eight-bit codes) times a power of two, so that rows with other
    numbers are left out at once.  Within a block, d is then the greatest common divisor of the differences between weights.
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
    """Solve the integers ``w[rows, n_blocks, 32]`` for d * q - (m << k): returns solved bool[rows], q, d, m, k."""
    low = w.min(axis=2)
    d = np.gcd.reduce(w - low[..., None], axis=2)
    d = np.where(d == 0, np.maximum(low, 0), d)  # a constant block: code 1 of scale ``low``, or a minimum alone
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
    """Solve the integers ``w[rows, n_blocks, 32]`` for d * (q - 128): returns solved bool[rows], q, d, m, k."""
    d = np.gcd.reduce(w, axis=2)
    q = w // np.maximum(d, 1)[..., None] + 128
    solved = ((d <= 255) & (q >= 0).all(axis=2) & (q <= 255).all(axis=2)).all(axis=1)
    return solved, q, d, d, np.full(len(w), K_8BIT)
