"""Rows of the embedding table as Wide (docs/arithmetic.md, embedding)."""

import numpy as np

from sim.golden.arithmetic import rshr_saturate


def embedding(matrix, tokens, residual_shift: int, wide_bits: int):
    """tokens int[...] -> Wide[..., blocks * 32]."""
    tokens = np.asarray(tokens)
    q, d, m = (getattr(matrix, name)[tokens].astype(np.int64) for name in ("q", "d", "m"))
    e, k = (getattr(matrix, name)[tokens].astype(np.int64) for name in ("e", "k"))
    v = d[..., None] * q - (m << k[..., None])[..., None]
    y = rshr_saturate(v, -(e + residual_shift + 12)[..., None, None], wide_bits)
    return y.reshape(*tokens.shape, -1)
