"""MX blocks: int8 mantissas and one power-of-two exponent (docs/arithmetic.md, section 2)."""

import numpy as np
from numpy.typing import ArrayLike

from sim.golden.arithmetic import bitlen, magnitude_or, rshr


def mx(v: ArrayLike, base: ArrayLike, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Convert v int64[..., n], LSB 2**base, to MX blocks: (mant int64[..., blocks, block], exp int64[..., blocks]).

    Zeros fill the last block.  ``base`` is an integer, or an array of the shape of v without its last axis.
    """
    v = np.asarray(v, np.int64)
    n = v.shape[-1]
    padded = -(-n // block) * block
    if padded != n:
        v = np.concatenate([v, np.zeros((*v.shape[:-1], padded - n), np.int64)], axis=-1)
    v = v.reshape(*v.shape[:-1], padded // block, block)
    shift = np.maximum(0, bitlen(magnitude_or(v)) - 7)
    mant = np.clip(rshr(v, shift[..., None]), -127, 127)
    return mant, shift + np.asarray(base, np.int64)[..., None]
