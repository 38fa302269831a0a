"""The LoRA adder: B (A x), rounded as the chip rounds it, added to a matrix' result (docs/arithmetic.md, lora)."""

import numpy as np

from sim.golden.arithmetic import rshr, saturate
from sim.golden.mx import mx
from weights_to_rom.adapters.lora import LoraBlocks

POSITIONS_AT_ONCE = 128
"""Vectors that are multiplied in one pass, as in ``matvec``."""


def lora(y: np.ndarray, mant: np.ndarray, exp: np.ndarray, blocks: LoraBlocks, wide_bits: int) -> np.ndarray:
    """Add B (A x) to the result y of the base matrix: Wide[..., rows] -> Wide[..., rows].

    x is the input of the base matrix in MX blocks: mant int[..., blocks, 32], exp int[..., blocks].
    """
    lead, n_blocks = np.shape(mant)[:-2], np.shape(mant)[-2]
    mant = np.asarray(mant, np.float64).reshape(-1, n_blocks, 32)
    exp = np.asarray(exp, np.int64).reshape(-1, n_blocks)
    y = np.asarray(y, np.int64).reshape(len(mant), -1)
    out = np.empty_like(y)
    for first in range(0, len(mant), POSITIONS_AT_ONCE):
        part = slice(first, first + POSITIONS_AT_ONCE)
        u = _sums(mant[part], exp[part], blocks.a_mant, blocks.a_exp, wide_bits)
        v = _sums(*mx(u, -16, blocks.b_mant.shape[-1]), blocks.b_mant, blocks.b_exp, wide_bits)
        out[part] = saturate(y[part] + saturate(rshr(v, 4), wide_bits), wide_bits)
    return out.reshape(*lead, -1)


def _sums(x_mant: np.ndarray, x_exp: np.ndarray, w_mant: np.ndarray, w_exp: np.ndarray, wide_bits: int) -> np.ndarray:
    """x [n, blocks, b] and w [rows, blocks, b] in MX blocks -> int64[n, rows] of LSB 2**-16, the sums of rounded terms.

    float64 is exact.  A product of mantissas is an integer of at most 2**14 in units of u = 2**(w_exp + x_exp + 16), and a
    sum of 32 of them is at most 2**19.  The addition of 1/2, which rounds, is inexact in two cases only: the sum is beyond
    2**52, and it saturates; or u < 2**-51, so that |sum| < 2**-32 and the term is 0 in any case.
    """
    limit = float(1 << (wide_bits + 4))
    acc = np.zeros((len(x_mant), len(w_mant)))
    for b in range(w_mant.shape[1]):
        x = np.ldexp(x_mant[:, b].astype(np.float64), (x_exp[:, b] + 16)[:, None])
        w = np.ldexp(w_mant[:, b].astype(np.float64), w_exp[:, b].astype(np.int64)[:, None])
        term = x @ w.T
        term += 0.5
        np.floor(term, out=term)
        acc += np.clip(term, -limit, limit - 1, out=term)  # below 2**(wide_bits + 4) * blocks < 2**53
    return acc.astype(np.int64)
