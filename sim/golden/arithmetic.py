"""Rounding and saturation, as docs/arithmetic.md, section 1 defines them, on int64 arrays."""

import numpy as np
from numpy.typing import ArrayLike


def rshr(a: ArrayLike, n: ArrayLike) -> np.ndarray:
    """Shift a right by n and round half up: floor(a / 2**n + 1/2).  n <= 0 shifts left and is exact.

    |a| must be below 2**63 - 2**(n - 1), so that int64 holds the sum with the rounding bit.
    """
    a, n = np.asarray(a, np.int64), np.asarray(n, np.int64)
    right = np.clip(n, 1, 63)
    rounded = ((a >> (right - 1)) + 1) >> 1
    return np.where(n > 0, rounded, a << np.clip(-n, 0, 63))


def saturate(a: ArrayLike, bits: int) -> np.ndarray:
    """Clip a to a two's complement integer of ``bits`` bits."""
    return np.clip(a, -(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def rshr_saturate(a: ArrayLike, n: ArrayLike, bits: int) -> np.ndarray:
    """Return saturate(rshr(a, n), bits) for any n.  A left shift beyond ``bits`` bits saturates: int64 never overflows."""
    a, n = np.asarray(a, np.int64), np.asarray(n, np.int64)
    left = np.clip(-n, 0, bits)
    limit = np.int64(1) << (bits - 1 - np.clip(left, 0, bits - 1))
    # |a| >= limit saturates after the shift.  It is clipped first, so that the shift does not overflow int64.
    shifted = saturate(np.clip(a, -limit, limit) << np.minimum(left, bits - 1), bits)
    return np.where(n > 0, saturate(rshr(a, n), bits), np.where(left == bits, saturate(np.sign(a) << (bits - 1), bits), shifted))


def magnitude_or(v: np.ndarray, axis: int = -1) -> np.ndarray:
    """OR the one's complement magnitudes (v or ~v) along an axis.  The result has as many bits as the largest of them."""
    return np.bitwise_or.reduce(v ^ (v >> 63), axis=axis)


def bitlen(a: ArrayLike) -> np.ndarray:
    """Return the bit length of integers from 0 to 2**62 - 1.  That of 0 is 0."""
    a = np.asarray(a, np.int64)
    high = a >> 31
    # Each half is below 2**31 and so exact in float64; frexp's exponent is the bit length.
    return np.where(high > 0, 31 + np.frexp(high.astype(np.float64))[1], np.frexp((a & 0x7FFFFFFF).astype(np.float64))[1])
