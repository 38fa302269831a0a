"""SwiGLU: silu(gate) * up, SiLU by a table with linear interpolation (docs/arithmetic.md, swiglu)."""

import numpy as np
from numpy.typing import ArrayLike

from weights_to_rom.tables import silu_tables

VALUE, STEP = (np.array(t, np.int64) for t in silu_tables())
EDGE = 8 << 12


def silu(gate: ArrayLike) -> np.ndarray:
    """Compute gate * sigmoid(gate), Wide -> Wide.  0 below -8, the identity from 8 on."""
    gate = np.asarray(gate, np.int64)
    w = np.clip(gate + EDGE, 0, 2 * EDGE - 1)
    inside = VALUE[w >> 8] + ((STEP[w >> 8] * (w & 255) + 128) >> 8)
    return np.where(gate >= EDGE, gate, np.where(gate < -EDGE, 0, inside))


def swiglu(gate: ArrayLike, up: ArrayLike) -> np.ndarray:
    """Compute silu(gate) * up, Wide and Wide -> int64 of LSB 2**-24; the MX conversion follows."""
    return silu(gate) * np.asarray(up, np.int64)
