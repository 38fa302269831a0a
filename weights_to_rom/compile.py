"""From a checkpoint to the integer model, one tensor at a time (docs/arithmetic.md, the integer model)."""

from collections.abc import Callable, Mapping

import numpy as np

from weights_to_rom.config import LlamaConfig
from weights_to_rom.integer_model import IntegerModel, Norm
from weights_to_rom.model_format import ModelFormat, ceil_to
from weights_to_rom.projections import GROUPS
from weights_to_rom.quantise.blocks import QuantisedMatrix, block_error
from weights_to_rom.quantise.rounding import keep_codes, quantise
from weights_to_rom.readers.base import Checkpoint
from weights_to_rom.row_order import pair_order


def quantise_norm(gain: np.ndarray, dim: int, eps: float, residual_shift: int) -> Norm:
    """Convert a norm's gain and epsilon to integers.  The gain is padded with zeros to a whole number of blocks."""
    scaled = np.asarray(gain, np.float64) * np.sqrt(dim)
    peak = float(np.abs(scaled).max())
    exponent = -14 if peak == 0 else int(np.ceil(np.log2(peak / 32767)))
    while np.rint(peak * 2.0**-exponent) > 32767:
        exponent += 1
    gain_q = np.zeros(ceil_to(dim, 32), np.int16)
    gain_q[:dim] = np.rint(scaled * 2.0**-exponent)
    eps_q = int(min(2**32 - 1, max(1, np.rint(dim * eps * 2.0**24 * 4.0**residual_shift))))
    return Norm(gain_q, exponent, eps_q)


def choose_residual_shift(embedding: np.ndarray) -> int:
    """Choose n so that a small embedding times 2**n has a root mean square of about 2**-4, where LSB 2**-12 suffices.

    An embedding above that is left alone, because large activations need the range: SmolLM2's has a root mean square of 0.1,
    and its residual reaches 24,000.
    """
    rms = float(np.sqrt(np.mean(np.square(embedding, dtype=np.float64))))
    return 0 if rms == 0 else int(np.clip(np.floor(-4 - np.log2(rms)) + 1, 0, 12))


def _padded_rows(matrix: QuantisedMatrix, rows: int) -> QuantisedMatrix:
    """Append rows of d = m = 0, whose results are zero, up to ``rows`` rows."""
    extra = rows - len(matrix.e)
    if not extra:
        return matrix
    q, d, m, e, k = (np.concatenate([part, np.zeros((extra, *part.shape[1:]), part.dtype)]) for part in matrix.parts)
    return QuantisedMatrix(q, d, m, e, k, matrix.bits)


_CLASS = {kind: group for group, kinds in GROUPS.items() for kind in kinds} | {"embed": "embed", "head": "head"}
"""The class of each kind of matrix.  Matrices of one class have one number of bits, ``ModelFormat.<class>_bits``."""


def class_bits(checkpoint: Checkpoint) -> dict[str, int]:
    """Choose the bits of each class of matrices: those of the file's codes, if all matrices of the class agree.

    Otherwise the layers' matrices get four bits, embedding and head eight.
    """
    found: dict[str, set[int]] = {}
    for name, shape in checkpoint.config.tensor_shapes().items():
        if len(shape) == 2:
            blocks = checkpoint.blocks(name)
            found.setdefault(_CLASS[name.rpartition(".")[2]], set()).add(blocks.bits if blocks else 0)
    default = {"embed": 8, "head": 8}
    bits = {kind: (seen.pop() if len(seen) == 1 else 0) or default.get(kind, 4) for kind, seen in found.items()}
    bits.setdefault("head", bits["embed"])
    return {f"{kind}_bits": n for kind, n in bits.items()}


def quantise_checkpoint(
    checkpoint: Checkpoint,
    *,
    wide_bits: int = 32,
    prepared: Mapping[str, QuantisedMatrix] | None = None,
    progress: Callable[[str], None] = lambda name: None,
) -> IntegerModel:
    """Build the integer model of a checkpoint.  One tensor at a time is in memory as floats.

    Parameters
    ----------
    checkpoint : Checkpoint
    wide_bits : int
        Bits of Wide, 24 or 32.
    prepared : mapping of str to QuantisedMatrix, optional
        Matrices that GPTQ has quantised, by canonical name.  Rows are in Hugging Face order, and q carries no factor yet.
    progress : callable
        Is called with the name of each matrix when that matrix is done.
    """
    config: LlamaConfig = checkpoint.config
    fmt = ModelFormat.of(config, wide_bits=wide_bits, **class_bits(checkpoint))
    shift = choose_residual_shift(checkpoint.tensor("embed"))
    row_counts = {"o": fmt.dim_padded, "down": fmt.dim_padded, "gate": fmt.ffn_padded, "up": fmt.ffn_padded}
    q_scale = np.log2(np.e) / np.sqrt(config.head_dim)
    matrices: dict[str, QuantisedMatrix] = {}
    norms: dict[str, Norm] = {}
    kept = requantised = 0
    worst = (0.0, "")

    def codes_of(name: str, bits: int, scale: float) -> QuantisedMatrix:
        nonlocal kept, requantised, worst
        blocks = checkpoint.blocks(name)
        if blocks is not None and blocks.bits == bits:
            matrix, changed = keep_codes(blocks.codes, blocks.scale, blocks.minimum, bits, scale)
            kept, requantised = kept + blocks.scale.size - changed, requantised + changed
            return matrix
        tensor = checkpoint.tensor(name)
        matrix = prepared[name] if prepared and name in prepared else quantise(tensor, bits)
        if scale != 1:
            # The weights are rounded first and multiplied by the constant afterwards: ``quantise`` then still recognises
            # weights that lie on the grid, and keeps their codes.
            matrix, _ = keep_codes(matrix.q, matrix.scale, matrix.minimum, bits, scale)
        error, _ = block_error(tensor * scale, matrix)
        if error > worst[0]:
            worst = (error, name)
        return matrix

    for name, shape in config.tensor_shapes().items():
        kind = name.rpartition(".")[2]
        if len(shape) == 1:
            norms[name] = quantise_norm(checkpoint.tensor(name), config.dim, config.norm_eps, shift)
            continue
        matrix = codes_of(name, getattr(fmt, f"{_CLASS[kind]}_bits"), q_scale if kind == "q" else 1.0)
        if kind in ("q", "k"):
            matrix = matrix.rows(pair_order(shape[0] // config.head_dim, config.head_dim))
        if kind == "embed":
            # Rows of the embedding become the residual, and its padding must be zero.  Eight bits have a code for 0: 128.
            # Four-bit codes come from GGUF, whose rows are whole blocks.
            matrix.q.reshape(shape[0], -1)[:, shape[1] :] = 128
        matrix = _padded_rows(matrix, row_counts.get(kind, shape[0]))
        if kind in ("o", "down") or (kind == "embed" and not config.tied):
            matrix = QuantisedMatrix(matrix.q, matrix.d, matrix.m, (matrix.e + shift).astype(np.int8), matrix.k, matrix.bits)
        matrices[name] = matrix
        progress(name)
    turns = config.rope_frequencies() / (2 * np.pi)
    freq_q = (np.rint(turns * 2.0**32).astype(np.uint64) & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    report = {
        "blocks_kept": kept,
        "blocks_requantised": requantised,
        "worst_block_error": worst[0],
        "worst_block_error_in": worst[1],
        "notes": [*checkpoint.warnings, *checkpoint.notes],
    }
    return IntegerModel(fmt, matrices, norms, freq_q, shift, tuple(config.eos_token_ids), config.bos_token_id, report)
