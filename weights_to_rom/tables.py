"""The function tables of docs/arithmetic.md, section 4: the same for every model.

Each function returns plain Python ints, ready to be memory contents.  float64 and round half to even throughout.
"""

import numpy as np


def _ints(values: np.ndarray) -> list[int]:
    return [int(v) for v in np.rint(values)]


def rsqrt_table() -> list[int]:
    """RSQRT[64 * o + i] = 2**15 / sqrt(2**o * (1 + (i + 0.5) / 64)): 128 entries, 15 bits, LSB 2**-15."""
    mantissa = 1 + (np.arange(64) + 0.5) / 64
    return _ints(2.0**15 / np.sqrt(np.concatenate([mantissa, 2 * mantissa])))


def sine_table(sine_bits: int) -> list[int]:
    """A quadrant of the sine, sampled at the midpoints of 2**sine_bits steps: 15 bits, LSB 2**-15."""
    n = 1 << sine_bits
    return _ints(np.minimum(32767, np.rint(2.0**15 * np.sin((np.arange(n) + 0.5) * (np.pi / 2 / n)))))


def exp2_table() -> list[int]:
    """EXP2[f] = 2**15 * 2**(f / 64): 64 entries, 16 bits, in [1, 2) at LSB 2**-15."""
    return _ints(2.0 ** (15 + np.arange(64) / 64))


def silu_tables() -> tuple[list[int], list[int]]:
    """(V, D): SiLU at -8 + i / 16 and its step to the next entry, LSB 2**-12; 256 entries each.

    V is 16 bits signed, D 10 bits signed.
    """
    x = -8 + np.arange(257) / 16
    values = np.rint(2.0**12 * x / (1 + np.exp(-x)))
    return _ints(values[:-1]), _ints(np.diff(values))


def log2_table() -> list[int]:
    """LOG[i] = log2(1 + (i + 0.5) / 256): 256 entries, 12 bits, LSB 2**-12."""
    return _ints(2.0**12 * np.log2(1 + (np.arange(256) + 0.5) / 256))


def gumbel_table() -> list[int]:
    """H[i] = log2(-log2(1 - z) / z) at z = (i + 0.5) / 128: 64 entries, 13 bits, LSB 2**-12."""
    z = (np.arange(64) + 0.5) / 128
    return _ints(2.0**12 * np.log2(-np.log2(1 - z) / z))
