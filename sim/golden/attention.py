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


def attention(q_mant, q_exp, k_mant, k_exp, v_mant, v_exp, wide_bits: int, n_positions=None, sinks=None):
    """Mantissas [..., c, n] of q and [..., T, c, n] of k and v -> int64[..., c * n], LSB 2**-16.

    ``sinks``: (n_sinks, mantissas, exponents) of the q that meets the first n_sinks places.

    Without ``n_positions`` a query sees all T.  With it, int[Q] in ascending order, the first axis of q has Q queries, and
    query i sees the first n_positions[i] positions: a causal batch (k and v have no such axis, or one of
    length 1).
    """
    score = scores(q_mant, q_exp, k_mant, k_exp)
    if sinks is not None:
        n_sinks, *sink_q = sinks
        score[..., :n_sinks] = scores(*sink_q, k_mant[..., :n_sinks, :, :], k_exp[..., :n_sinks, :])
    v_mant, v_exp = np.asarray(v_mant, np.int64), np.asarray(v_exp, np.int64)
    n_time = score.shape[-1]
    whole, e2 = score >> 6, EXP2[score & 63]
    den = e2[..., 0].copy()
    den_max = whole[..., 0].copy()
    num_max = whole[..., 0, None] + v_exp[..., 0, :]
    num = e2[..., 0, None, None] * v_mant[..., 0, :, :]
    for t in range(1, n_time):
        # The queries that see position t are the last ones of an ascending batch.
        live = ... if n_positions is None else slice(int(np.searchsorted(n_positions, t, side="right")), None)
        v_t, ve_t = v_mant[..., t, :, :], v_exp[..., t, :]
        i, e = whole[..., t][live], e2[..., t][live]
        new = np.maximum(den_max[live], i)
        den[live] = (den[live] >> np.minimum(new - den_max[live], 63)) + (e >> np.minimum(new - i, 63))
        den_max[live] = new
        r = i[..., None] + ve_t
        new = np.maximum(num_max[live], r)
        part, rescale = num[live], np.minimum(new - num_max[live], 63)
        grown = rescale > 0
        if grown.any():
            part[grown] >>= rescale[grown][:, None]
        part += (e[..., None] >> np.minimum(new - r, 63))[..., None] * v_t
        num_max[live] = new
    nb = bitlen(den)
    reciprocal = (1 << 31) // (den >> (nb - 16))
    shift = (nb - 1)[..., None] - (num_max - den_max[..., None])
    out = saturate(rshr(num * reciprocal[..., None, None], shift[..., None]), wide_bits + 4)
    return out.reshape(*out.shape[:-2], -1)
