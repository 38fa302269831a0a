"""Attention of one query head, online softmax to base two (docs/arithmetic.md, attention)."""

import numpy as np

from sim.golden.arithmetic import bitlen, rshr, rshr_saturate, saturate
from weights_to_rom.tables import exp2_table

EXP2 = np.array(exp2_table(), np.int64)


def scores(q_mant: np.ndarray, q_exp: np.ndarray, k_mant: np.ndarray, k_exp: np.ndarray) -> np.ndarray:
    """Score each key for each query: q [..., c, n], k [..., T, c, n] -> int64[..., T], LSB 2**-6, 16 bits."""
    # float64 is exact: |P| < 2**19.
    p = np.einsum("...cn,...tcn->...tc", np.asarray(q_mant, np.float64), np.asarray(k_mant, np.float64)).astype(np.int64)
    shift = -(np.asarray(q_exp)[..., None, :] + k_exp + 6)
    return saturate(rshr_saturate(p, shift, 20).sum(-1), 16)


def attention(
    q_mant: np.ndarray,
    q_exp: np.ndarray,
    k_mant: np.ndarray,
    k_exp: np.ndarray,
    v_mant: np.ndarray,
    v_exp: np.ndarray,
    wide_bits: int,
    n_positions: np.ndarray | None = None,
    sinks: tuple[int, np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    """Attend with one query head: sum over t of softmax(q k_t) v_t, int64[..., c * n], LSB 2**-16.

    Parameters
    ----------
    q_mant, q_exp
        MX blocks of q: mantissas [..., c, n], exponents [..., c].
    k_mant, k_exp, v_mant, v_exp
        MX blocks of the T keys and values: mantissas [..., T, c, n], exponents [..., T, c].
    wide_bits
        Bits of Wide; the result saturates at ``wide_bits + 4``.
    n_positions
        int[Q] in ascending order, for a causal batch: the first axis of q has Q queries, and query i sees the first
        n_positions[i] positions.  k and v lack that axis, or it has length 1.  By default a query sees all T.
    sinks
        (n_sinks, mantissas, exponents): the first n_sinks keys are multiplied by this q instead.
    """
    score = scores(q_mant, q_exp, k_mant, k_exp)
    if sinks is not None:
        n_sinks, sink_mant, sink_exp = sinks
        score[..., :n_sinks] = scores(sink_mant, sink_exp, k_mant[..., :n_sinks, :, :], k_exp[..., :n_sinks, :])
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
