"""Matrices as planes of four-bit blocks, the fabric's only format (docs/arithmetic.md, section 2)."""

from typing import NamedTuple

import numpy as np

from weights_to_rom.quantise.blocks import QuantisedMatrix


class Plane(NamedTuple):
    """A plane: a matrix of four-bit codes.  A matrix of eight bits is the sum of two planes, weight = high + low.

    weight = 2**e * d * q - 2**(e + k) * m
    """

    q: np.ndarray  # uint8[rows, blocks, 32], 0..15
    d: np.ndarray  # uint8[rows, blocks]
    m: np.ndarray  # uint8[rows, blocks]
    e: np.ndarray  # int[rows]
    k: np.ndarray  # int[rows]


def planes(matrix: QuantisedMatrix) -> list[Plane]:
    """Split a matrix into planes: one for four bits, the high and then the low one for eight.

    The fabric adds the terms of a block in this order.
    """
    e, d = matrix.e.astype(np.int64), matrix.d
    if matrix.bits == 4:
        return [Plane(matrix.q, d, matrix.m, e, matrix.k.astype(np.int64))]
    k = np.full(len(e), 3)
    return [Plane(matrix.q >> 4, d, d, e + 4, k), Plane(matrix.q & 15, d, np.zeros_like(d), e, k)]
