"""Weights as blocks of integers: 32 codes along the inputs, a scale and a minimum a block, exponents a row.

    weight = 2^e * d * q  -  2^(e+k) * m        q in 0..15 (or 0..255), d and m in 0..255, k in 0..4

Tensors of eight bits are symmetric, ``weight = 2^e * d * (q - 128)``: m = d and k = 7 in the same formula.
Every weight is thus an integer of at most 16 bits times 2^e, so that ``dequantise`` is exact.
"""

from dataclasses import dataclass

import numpy as np

from weights_to_rom.model_format import BLOCK

E_MIN, E_MAX = -40, 23
K_MAX = 4
K_8BIT = 7

BLOCKS_AT_ONCE = 8192  # Temporaries then take 1 MB.  Larger ones leave the cache, smaller ones cost more calls.


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

    @property
    def parts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """q, d, m, e and k; the first index of each is the row."""
        return self.q, self.d, self.m, self.e, self.k

    def rows(self, which: slice | np.ndarray) -> "QuantisedMatrix":
        """The matrix of the rows ``which``, a numpy index."""
        q, d, m, e, k = (part[which] for part in self.parts)
        return QuantisedMatrix(q, d, m, e, k, self.bits)

    def dequantise(self) -> np.ndarray:
        """The weights, exactly: float64[rows, n_blocks * 32].  Columns of the padding hold -2^(e+k) * m."""
        w = self.q * self.scale[..., None] - self.minimum[..., None]
        return w.reshape(len(w), -1)


def block_error(w: np.ndarray, qm: QuantisedMatrix) -> tuple[float, float]:
    """Compute the worst and the mean relative error of a block: the rms of its errors over the rms weight of its row.

    The row's rms is the measure because a result adds up the errors of all blocks of its row.  Padding does not count.  A
    row of zeros that stays zero has the error 0.
    """
    rows, inputs = w.shape
    n_blocks = qm.d.shape[1]
    in_block = np.minimum(BLOCK, inputs - BLOCK * np.arange(n_blocks))
    at_once = max(1, BLOCKS_AT_ONCE // n_blocks)
    worst = total = 0.0
    for first in range(0, rows, at_once):
        part = slice(first, first + at_once)
        exact = np.asarray(w[part], np.float64)
        got = qm.rows(part).dequantise()
        got[:, :inputs] -= exact
        got[:, inputs:] = 0
        rms = np.sqrt((got**2).reshape(-1, n_blocks, BLOCK).sum(axis=2) / in_block)
        of_row = np.sqrt(np.mean(exact**2, axis=1))[:, None]
        relative = np.divide(rms, of_row, out=np.where(rms > 0, np.inf, 0.0), where=of_row > 0)
        worst, total = max(worst, float(relative.max())), total + float(relative.sum())
    return worst, total / (rows * n_blocks)


def row_format(s: np.ndarray, mu: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Choose e and k of rows by their largest scale ``s`` and their largest minimum ``mu``, both float64[rows]."""

    def exponent(largest: np.ndarray) -> np.ndarray:
        """The smallest x for which ``largest / 2**x`` rounds to 255 or less."""
        fraction, x = np.frexp(largest)
        return np.where(largest > 0, x - 8 + (fraction * 256 >= 255.5), -(1 << 16))

    e = exponent(s)
    if bits == 8:
        return np.where(s > 0, np.clip(e, E_MIN, E_MAX), 0), np.full(len(s), K_8BIT)
    e_m = exponent(mu)
    e = np.clip(np.maximum(e, e_m - K_MAX), E_MIN, E_MAX)
    zero = (s <= 0) & (mu <= 0)
    return np.where(zero, 0, e), np.where(zero, 0, np.clip(e_m - e, 0, K_MAX))
