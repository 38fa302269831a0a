"""The residual stream: one saturating addition."""

import numpy as np

from sim.golden.arithmetic import saturate


def residual(h, y, wide_bits: int):
    """h + y, Wide."""
    return saturate(np.asarray(h, np.int64) + y, wide_bits)
