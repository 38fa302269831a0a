"""RMSNorm with a table for the reciprocal square root (docs/arithmetic.md, rmsnorm)."""

import numpy as np
from numpy.typing import ArrayLike

from sim.golden.arithmetic import bitlen, magnitude_or
from weights_to_rom.tables import rsqrt_table

RSQRT = np.array(rsqrt_table(), np.int64)


def rmsnorm(v: ArrayLike, gain_q: ArrayLike, gain_exp: int, eps_q: int) -> tuple[np.ndarray, np.ndarray]:
    """Normalise v Wide[..., dim]: (z int64[..., dim], base int64[...]) with z * 2**base = v / rms(v) * gain.

    ``gain_q`` int[dim], ``gain_exp`` and ``eps_q`` are those of ``integer_model.Norm``.
    """
    v = np.asarray(v, np.int64)
    shift = np.maximum(0, bitlen(magnitude_or(v)) - 15)
    u = v >> shift[..., None]
    t = (u * u).sum(-1) + (np.int64(eps_q) >> (2 * shift))
    n = bitlen(t) - 1
    below = np.where(n >= 6, t >> np.maximum(n - 6, 0), t << np.maximum(6 - n, 0)) & 63
    r = RSQRT[64 * (n & 1) + below]
    return v * r[..., None] * np.asarray(gain_q, np.int64), gain_exp - 15 - (n >> 1) - shift
