"""Rows of the embedding table as Wide (docs/arithmetic.md, embedding)."""

import numpy as np
from numpy.typing import ArrayLike

from sim.golden.arithmetic import rshr_saturate
from weights_to_rom.quantise.blocks import QuantisedMatrix


def embedding(matrix: QuantisedMatrix, tokens: ArrayLike, residual_shift: int, wide_bits: int) -> np.ndarray:
    """Look up the rows of tokens int[...] and shift them left by ``residual_shift``: Wide[..., blocks * 32]."""
    tokens = np.asarray(tokens)
    q, d, m, e, k = (part[tokens].astype(np.int64) for part in matrix.parts)
    v = d[..., None] * q - (m << k[..., None])[..., None]
    y = rshr_saturate(v, -(e + residual_shift + 12)[..., None, None], wide_bits)
    return y.reshape(*tokens.shape, -1)
