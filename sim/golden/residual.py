"""The residual stream: one saturating addition."""

import numpy as np
from numpy.typing import ArrayLike

from sim.golden.arithmetic import saturate


def residual(h: ArrayLike, y: ArrayLike, wide_bits: int) -> np.ndarray:
    """Add h and y, saturating: Wide."""
    return saturate(np.asarray(h, np.int64) + np.asarray(y, np.int64), wide_bits)
