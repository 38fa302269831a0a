"""Rounding and saturation, as docs/arithmetic.md, section 1 defines them, on int64 arrays."""

import numpy as np


def rshr(a, n):
    """Shift right by n and round half up; n <= 0 shifts left, exactly.  |a| must leave room for the rounding bit."""
    a, n = np.asarray(a, np.int64), np.asarray(n, np.int64)
    right = np.clip(n, 1, 63)
    rounded = ((a >> (right - 1)) + 1) >> 1
    return np.where(n > 0, rounded, a << np.clip(-n, 0, 63))


def saturate(a, bits: int):
    """a clipped to a ``bits``-bit two's complement integer."""
    return np.clip(a, -(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def rshr_saturate(a, n, bits: int):
    """saturate(rshr(a, n), bits) for any n, without overflow: a left shift that leaves ``bits`` saturates."""
    a, n = np.asarray(a, np.int64), np.asarray(n, np.int64)
    left = np.clip(-n, 0, bits)
    limit = np.int64(1) << (bits - 1 - np.clip(left, 0, bits - 1))
    # |a| >= limit leaves the range after the shift; clip before it, so that int64 holds.
    shifted = saturate(np.clip(a, -limit, limit) << np.minimum(left, bits - 1), bits)
    return np.where(n > 0, saturate(rshr(a, n), bits), np.where(left == bits, saturate(np.sign(a) << (bits - 1), bits), shifted))


def magnitude_or(v, axis=-1):
    """OR of the one's complement magnitudes along an axis: its bit length is that of the largest."""
    return np.bitwise_or.reduce(v ^ (v >> 63), axis=axis)


def bitlen(a):
    """Number of bits of non-negative integers below 2**62."""
    a = np.asarray(a, np.int64)
    high = a >> 31
    # Each half is below 2**31 and so exact in float64; frexp's exponent is the bit length.
    return np.where(high > 0, 31 + np.frexp(high.astype(np.float64))[1], np.frexp((a & 0x7FFFFFFF).astype(np.float64))[1])
