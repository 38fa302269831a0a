"""Rotary position embedding by a phase accumulator and a quarter-wave sine (docs/arithmetic.md, rope)."""

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from sim.golden.arithmetic import rshr, saturate
from weights_to_rom.tables import sine_table


@lru_cache
def _sine(sine_bits: int) -> np.ndarray:
    return np.array(sine_table(sine_bits), np.int64)


def rotation(pos: ArrayLike, freq_q: ArrayLike, sine_bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute (cos, sin), int64[..., pairs], LSB 2**-15, of the angles at positions int[...]."""
    phase = (np.asarray(pos, np.uint64)[..., None] * np.asarray(freq_q, np.uint64)) & np.uint64(0xFFFFFFFF)
    index = (phase >> np.uint64(30 - sine_bits)).astype(np.int64)
    quadrant, a = index >> sine_bits, index & ((1 << sine_bits) - 1)
    table = _sine(sine_bits)
    rising, falling = table[a], table[(1 << sine_bits) - 1 - a]
    odd = quadrant & 1
    sin = np.where(odd, falling, rising) * np.where(quadrant & 2, -1, 1)
    cos = np.where(odd, rising, falling) * np.where(odd ^ (quadrant >> 1), -1, 1)
    return cos, sin


def rope(x: ArrayLike, pos: ArrayLike, freq_q: ArrayLike, wide_bits: int, sine_bits: int = 10) -> np.ndarray:
    """Rotate x Wide[..., heads, head_dim] by the angles of positions int[...].  Elements 2 j and 2 j + 1 are a pair."""
    x = np.asarray(x, np.int64)
    cos, sin = rotation(pos, freq_q, sine_bits)
    cos, sin = cos[..., None, :], sin[..., None, :]
    even, odd = x[..., 0::2], x[..., 1::2]
    out = np.empty_like(x)
    out[..., 0::2] = saturate(rshr(even * cos - odd * sin, 15), wide_bits)
    out[..., 1::2] = saturate(rshr(even * sin + odd * cos, 15), wide_bits)
    return out
