"""SwiGLU: silu(gate) * up, SiLU by a table with linear interpolation (docs/arithmetic.md, swiglu)."""

import numpy as np

from weights_to_rom.tables import silu_tables

VALUE, STEP = (np.array(t, np.int64) for t in silu_tables())
EDGE = 8 << 12


def silu(gate):
    """Wide -> Wide."""
    gate = np.asarray(gate, np.int64)
    w = np.clip(gate + EDGE, 0, 2 * EDGE - 1)
    inside = VALUE[w >> 8] + ((STEP[w >> 8] * (w & 255) + 128) >> 8)
    return np.where(gate >= EDGE, gate, np.where(gate < -EDGE, 0, inside))


def swiglu(gate, up):
    """Wide, Wide -> int64 of LSB 2**-24, before the MX conversion."""
    return silu(gate) * np.asarray(up, np.int64)
