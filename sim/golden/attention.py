"""Attention of one query head, online softmax to base two (docs/arithmetic.md, attention)."""

import numpy as np

from sim.golden.arithmetic import bitlen, rshr, rshr_saturate, saturate
from weights_to_rom.tables import exp2_table

EXP2 = np.array(exp2_table(), np.int64)


def scores(q_mant, q_exp, k_mant, k_exp):
    """q [..., c, n], k [..., T, c, n] -> int64[..., T], LSB 2**-6, 16 bits."""
    # float64 is exact: |P| < 2**19.
    p = np.einsum("...cn,...tcn->...tc", np.asarray(q_mant, np.float64), np.asarray(k_mant, np.float64)).astype(np.int64)
    shift = -(np.asarray(q_exp)[..., None, :] + k_exp + 6)
    return saturate(rshr_saturate(p, shift, 20).sum(-1), 16)


def attention(q_mant, q_exp, k_mant, k_exp, v_mant, v_exp, wide_bits: int, n_positions=None):
    """Mantissas [..., c, n] of q and [..., T, c, n] of k and v -> int64[..., c * n], LSB 2**-16.

    ``n_positions`` int[...] limits a query to its first positions (a causal batch); all T without it.
    """
    score = scores(q_mant, q_exp, k_mant, k_exp)
    v_mant, v_exp = np.asarray(v_mant, np.int64), np.asarray(v_exp, np.int64)
    n_time = score.shape[-1]
    whole, e2 = score >> 6, EXP2[score & 63]
    den = e2[..., 0].copy()
    den_max = whole[..., 0].copy()
    num_max = whole[..., 0, None] + v_exp[..., 0, :]
    num = e2[..., 0, None, None] * v_mant[..., 0, :, :]
    for t in range(1, n_time):
        live = None if n_positions is None else np.asarray(n_positions) > t
        i, e = whole[..., t], e2[..., t]
        new = np.maximum(den_max, i)
        new_den = (den >> np.minimum(new - den_max, 63)) + (e >> np.minimum(new - i, 63))
        r = i[..., None] + v_exp[..., t, :]
        new_n = np.maximum(num_max, r)
        p = e[..., None] >> np.minimum(new_n - r, 63)
        new_num = (num >> np.minimum(new_n - num_max, 63)[..., None]) + p[..., None] * v_mant[..., t, :, :]
        if live is None:
            den, den_max, num, num_max = new_den, new, new_num, new_n
        else:
            den, den_max = np.where(live, new_den, den), np.where(live, new, den_max)
            num, num_max = np.where(live[..., None, None], new_num, num), np.where(live[..., None], new_n, num_max)
    nb = bitlen(den)
    reciprocal = (1 << 31) // (den >> (nb - 16))
    shift = (nb - 1)[..., None] - (num_max - den_max[..., None])
    out = saturate(rshr(num * reciprocal[..., None, None], shift[..., None]), wide_bits + 4)
    return out.reshape(*out.shape[:-2], -1)
