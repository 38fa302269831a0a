"""From matrices to blocks: floats are rounded to nearest, and the codes of a file are kept."""

import numpy as np

from weights_to_rom.model_format import BLOCK
from weights_to_rom.quantise.blocks import BLOCKS_AT_ONCE, QuantisedMatrix, row_format
from weights_to_rom.quantise.recover import recover
from weights_to_rom.quantise.search import fit_blocks, row_exponents


def quantise(w: np.ndarray, bits: int, importance: np.ndarray | None = None) -> QuantisedMatrix:
    """Round ``w[rows, inputs]`` to nearest, with a search for the scale and the minimum of each block.

    The search minimises each block's sum of ``importance * error**2``; ``importance[inputs]`` defaults to ones.
    A row that lies on the grid, for example a dequantised one, is recovered without any error.
    2**e is the unit in which the row's largest scale is 128..255 (the search for integers may then choose a
    slightly smaller scale), or a larger unit if a minimum needs it at k = 4.  e is clamped to -40..23: scales
    below 2^-41 become zero, scales above 2^31 saturate.

    Raises ``ValueError`` for weights that are NaN or infinite.
    """
    rows, inputs = w.shape
    n_blocks = -(-inputs // BLOCK)
    h = None
    if importance is not None:
        h = np.full(n_blocks * BLOCK, 1e-6, np.float32)  # not 0, because a block of unused inputs must have a scale, too
        h[:inputs] = np.maximum(importance / np.max(importance), h[:inputs])
        h = h.reshape(n_blocks, BLOCK)
    parts = []
    at_once = max(1, BLOCKS_AT_ONCE // n_blocks)
    for first in range(0, rows, at_once):
        chunk = np.asarray(w[first : first + at_once], np.float64)
        # Padding repeats the last weight, so that it does not widen the range of the block.
        chunk = np.pad(chunk, ((0, 0), (0, n_blocks * BLOCK - inputs)), mode="edge")
        parts.append(_quantise_rows(chunk.reshape(len(chunk), n_blocks, BLOCK), bits, h))
    q, d, m, e, k = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    q.reshape(rows, -1)[:, inputs:] = 0
    return QuantisedMatrix(q, d, m, e, k, bits)


def keep_codes(
    codes: np.ndarray,
    scale: np.ndarray,
    minimum: np.ndarray,
    bits: int,
    row_scale: float | np.ndarray = 1.0,
) -> tuple[QuantisedMatrix, int]:
    """Convert a file's blocks ``scale * codes - minimum`` and keep their codes.

    Returns the matrix, and the number of blocks that could not keep their codes.

    ``codes[rows, n_blocks, 32]``; ``scale`` and ``minimum[rows, n_blocks]`` are rounded to eight bits against
    the row's power of two, the minimum so that the block keeps its mean.  Eight bits mean
    ``scale * (codes - 128)`` and do not read ``minimum``.  ``row_scale``, a positive number or one a row,
    multiplies the weights first.

    Four-bit blocks with a negative scale are mirrored (q' = 15 - q), which is exact.  Blocks whose minimum is
    negative (all weights positive), and eight-bit blocks with a negative scale, are requantised and counted.
    """
    row_scale = np.broadcast_to(np.asarray(row_scale, np.float64), len(codes))[:, None]
    s = scale * row_scale
    q = np.array(codes, np.uint8)
    if bits == 8:
        largest = np.abs(s).max(axis=1)
        e, k = row_format(largest, largest, bits)
        d = np.rint(np.ldexp(s, -e[:, None]))
        m, unfit, mu = d, d < 0, 128 * s
    else:
        mu = minimum * row_scale
        mirrored = s < 0
        q[mirrored] = 15 - q[mirrored]
        mu = np.where(mirrored, mu - 15 * s, mu)
        s = np.abs(s)
        # A block with a negative minimum needs a larger scale: its lowest code becomes 0.
        needed = s + np.maximum(-mu, 0) / 15
        e, k = row_format(needed.max(axis=1), np.maximum(mu, 0).max(axis=1), bits)
        d = np.clip(np.rint(np.ldexp(s, -e[:, None])), 0, 255)
        rounded = np.ldexp(d, e[:, None])
        m = np.rint(np.ldexp(mu + (rounded - s) * q.mean(axis=2), -(e + k)[:, None]))
        unfit = m < 0
    d, m = (np.clip(x, 0, 255).astype(np.uint8) for x in (d, m))
    if unfit.any():
        weights = q[unfit] * s[unfit][:, None] - mu[unfit][:, None]
        row = np.nonzero(unfit)[0]
        q[unfit], d[unfit], m[unfit] = (a[:, 0] for a in fit_blocks(weights[:, None], e[row], k[row], bits))
    return QuantisedMatrix(q, d, m, e.astype(np.int8), k.astype(np.uint8), bits), int(unfit.sum())


def _quantise_rows(w: np.ndarray, bits: int, h: np.ndarray | None) -> tuple[np.ndarray, ...]:
    """q, d, m, e, k of the blocks ``w[rows, n_blocks, 32]``."""
    if not np.isfinite(w).all():
        raise ValueError("weights must be finite: a NaN or an infinity cannot be quantised")
    e, k = row_exponents(w, bits)
    result = (*fit_blocks(w, e, k, bits, h), e.astype(np.int8), k.astype(np.uint8))
    on_grid, exact = recover(w, bits)
    for array, recovered in zip(result, exact, strict=True):
        array[on_grid] = recovered
    return result
