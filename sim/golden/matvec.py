"""One matrix times MX vectors (docs/arithmetic.md, section 3)."""

import numpy as np

from sim.golden.arithmetic import rshr, saturate
from weights_to_rom.planes import planes


def matvec(matrix, mant, exp, wide_bits: int):
    """mant int[..., blocks, 32], exp int[..., blocks] -> Wide[..., rows].

    float64 is exact here: |T| < 2**25, and where 2**shift lifts T beyond 2**53 the term saturates all the same.
    """
    lead = np.shape(mant)[:-2]
    n_blocks = mant.shape[-2]
    x = np.asarray(mant, np.float32).reshape(-1, n_blocks, 32)
    exp = np.asarray(exp, np.int64).reshape(-1, n_blocks)
    s = x.sum(-1, dtype=np.float64)
    limit = float(1 << (wide_bits + 4))
    acc = np.zeros((len(x), len(matrix.e)))
    for plane in planes(matrix):
        lift = (plane.m.astype(np.int64) << plane.k[:, None]).astype(np.float64)
        for b in range(n_blocks):
            # float32 is exact: |P| <= 32 * 15 * 127 < 2**24.
            p = x[:, b] @ plane.q[:, b].T.astype(np.float32)
            t = p.astype(np.float64)
            t *= plane.d[:, b]
            t -= s[:, b, None] * lift[:, b]
            # The exponent is a sum, so the scale is a product of powers of two: exact.
            t *= np.ldexp(1.0, exp[:, b] + 16)[:, None]
            t *= np.ldexp(1.0, plane.e)
            t += 0.5
            np.floor(t, out=t)
            np.clip(t, -limit, limit - 1, out=t)
            acc += t
    # |acc| < 2**(wide_bits + 5) * terms < 2**53.
    y = saturate(rshr(acc.astype(np.int64), 4), wide_bits)
    return y.reshape(*lead, -1)
