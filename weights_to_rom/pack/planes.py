"""Matrices as the fabric sees them: planes of four-bit blocks (docs/arithmetic.md, section 2)."""

from typing import NamedTuple

import numpy as np

from weights_to_rom.quantise.blocks import QuantisedMatrix


class Plane(NamedTuple):
    """Four-bit blocks with the exponents they are scaled by."""

    q: np.ndarray  # uint8[rows, blocks, 32], 0..15
    d: np.ndarray  # uint8[rows, blocks]
    m: np.ndarray  # uint8[rows, blocks]
    e: np.ndarray  # int[rows]
    k: np.ndarray  # int[rows]


def planes(matrix: QuantisedMatrix) -> list[Plane]:
    """The planes of a matrix in the order of their terms: one of four bits, or the high and the low of eight."""
    e, d = matrix.e.astype(np.int64), matrix.d
    if matrix.bits == 4:
        return [Plane(matrix.q, d, matrix.m, e, matrix.k.astype(np.int64))]
    k = np.full(len(e), 3)
    return [Plane(matrix.q >> 4, d, d, e + 4, k), Plane(matrix.q & 15, d, np.zeros_like(d), e, k)]
