"""One matrix times MX vectors (docs/arithmetic.md, section 3)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sim.golden.arithmetic import rshr, saturate
from weights_to_rom.pack.planes import planes
from weights_to_rom.quantise.blocks import QuantisedMatrix

POSITIONS_AT_ONCE = 128
"""Vectors that are multiplied in one pass.  With so few, the terms of a block stay in the second-level cache."""


@dataclass(frozen=True)
class PreparedMatrix:
    """A matrix as the factors of its terms, so that one small matrix product gives the terms of a block for all rows.

    ``factors`` float64[planes, blocks, 34, rows]: 2**e * d * q for the 32 inputs, then -2**(e+k) * m for their sum, then
    one half for rounding.  ``top`` is the largest e.
    """

    factors: np.ndarray
    top: int


def prepare(matrix: QuantisedMatrix) -> PreparedMatrix:
    """Lay a matrix out for ``matvec``."""
    n_rows, n_blocks, _ = matrix.q.shape
    parts = planes(matrix)
    factors = np.empty((len(parts), n_blocks, 34, n_rows))
    for out, plane in zip(factors, parts, strict=True):
        scale = np.ldexp(plane.d.astype(np.float64), plane.e[:, None])
        out[:, :32] = (plane.q * scale[..., None]).transpose(1, 2, 0)
        out[:, 32] = -np.ldexp(plane.m.astype(np.float64), (plane.e + plane.k)[:, None]).T
        out[:, 33] = 0.5
    return PreparedMatrix(factors, int(max(plane.e.max() for plane in parts)))


def matvec(matrix: QuantisedMatrix | PreparedMatrix, mant: np.ndarray, exp: np.ndarray, wide_bits: int) -> np.ndarray:
    """Multiply the matrix by vectors in MX blocks: mant int[..., blocks, 32], exp int[..., blocks] -> Wide[..., rows].

    float64 is exact.  Every product in T * 2**(e + exp + 16) is a multiple of u = 2**(e + exp + 16), and every sum of
    them is below 2**26 * u.  The 1/2 that rounds is part of the sum.  Adding it could lose bits only if u < 2**-50; the
    term is then below 2**-24, so that floor(term + 1/2) is 0 in any case.
    """
    if not isinstance(matrix, PreparedMatrix):
        matrix = prepare(matrix)
    lead, n_blocks = np.shape(mant)[:-2], np.shape(mant)[-2]
    mant = np.asarray(mant, np.float64).reshape(-1, n_blocks, 32)
    exp = np.asarray(exp, np.int64).reshape(-1, n_blocks)
    out = np.empty((len(mant), matrix.factors.shape[-1]), np.int64)
    for first in range(0, len(mant), POSITIONS_AT_ONCE):
        part = slice(first, first + POSITIONS_AT_ONCE)
        out[part] = _matvec(matrix, mant[part], exp[part], wide_bits)
    return out.reshape(*lead, -1)


def saturating_terms(matrix: PreparedMatrix, mant: np.ndarray, exp: np.ndarray, wide_bits: int) -> int:
    """Count the terms of a ``matvec`` that saturate.  The arguments are those of ``matvec``."""
    if not _may_saturate(matrix, exp, wide_bits):
        return 0
    n_blocks = np.shape(mant)[-2]
    limit = float(1 << (wide_bits + 4))
    terms = _terms(matrix, np.reshape(mant, (-1, n_blocks, 32)), np.reshape(exp, (-1, n_blocks)), wide_bits)
    return sum(int(((term < -limit) | (term >= limit)).sum()) for term, may_saturate in terms if may_saturate)


def _matvec(matrix: PreparedMatrix, mant: np.ndarray, exp: np.ndarray, wide_bits: int) -> np.ndarray:
    limit = float(1 << (wide_bits + 4))
    acc = np.zeros((len(mant), matrix.factors.shape[-1]))
    for term, may_saturate in _terms(matrix, mant, exp, wide_bits):
        if may_saturate:
            np.clip(term, -limit, limit - 1, out=term)
        acc += term  # below 2**(wide_bits + 5) * terms < 2**53
    return saturate(rshr(acc.astype(np.int64), 4), wide_bits)


def _may_saturate(matrix: PreparedMatrix, exp: np.ndarray, wide_bits: int) -> bool:
    """Whether a term of inputs with the exponents ``exp`` can reach twice the range of Wide: |T| < 2**25."""
    return int(np.max(exp)) + 16 + matrix.top + 25 > wide_bits + 3


def _terms(matrix: PreparedMatrix, mant: np.ndarray, exp: np.ndarray, wide_bits: int) -> Iterator[tuple[np.ndarray, bool]]:
    """Yield the rounded terms [positions, rows] of each block and plane, and whether they may need saturation.

    All of them are in one array, which the caller may change.
    """
    n_positions, n_blocks, _ = mant.shape
    scale = np.ldexp(1.0, exp + 16)[..., None]
    x = np.empty((n_blocks, n_positions, 34))
    x[:, :, :32] = (mant * scale).swapaxes(0, 1)
    x[:, :, 32] = (mant.sum(-1, keepdims=True) * scale)[..., 0].T
    x[:, :, 33] = 1
    term = np.empty((n_positions, matrix.factors.shape[-1]))
    for b in range(n_blocks):
        may_saturate = _may_saturate(matrix, exp[:, b], wide_bits)
        for plane in matrix.factors:
            np.matmul(x[b], plane[b], out=term)
            np.floor(term, out=term)
            yield term, may_saturate
