"""From a checkpoint to the integer model, one tensor at a time (docs/arithmetic.md, the integer model)."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from weights_to_rom.config import LlamaConfig
from weights_to_rom.integer_model import IntegerModel, Norm
from weights_to_rom.model_format import ModelFormat, ceil_to
from weights_to_rom.projections import GROUPS
from weights_to_rom.quantise.blocks import E_MAX, E_MIN, QuantisedMatrix, block_error
from weights_to_rom.quantise.rounding import keep_codes, quantise
from weights_to_rom.readers.base import Checkpoint, CheckpointError
from weights_to_rom.row_order import pair_order

RESIDUAL_SHIFTS = (-32, 31)
"""The least and the greatest ``residual_shift``: the chip's constant has six bits."""


def quantise_norm(gain: np.ndarray, dim: int, eps: float, residual_shift: int) -> Norm:
    """Convert a norm's gain and epsilon to integers.  The gain is padded with zeros to a whole number of blocks."""
    scaled = np.asarray(gain, np.float64) * np.sqrt(dim)
    peak = float(np.abs(scaled).max())
    exponent = -14 if peak == 0 else int(np.ceil(np.log2(peak / 32767)))
    while np.rint(peak * 2.0**-exponent) > 32767:
        exponent += 1
    gain_q = np.zeros(ceil_to(dim, 32), np.int16)
    gain_q[:dim] = np.rint(scaled * 2.0**-exponent)
    return Norm(gain_q, exponent, _eps_q(dim, eps, residual_shift))


def _eps_q(dim: int, eps: float, residual_shift: int) -> int:
    return int(min(2**32 - 1, max(1, np.rint(dim * eps * 2.0**24 * 4.0**residual_shift))))


def choose_residual_shift(embedding: np.ndarray, wide_bits: int = 32, eps: float = 0.0) -> int:
    """Choose n so that a small embedding times 2**n has a root mean square of about 2**-4, where LSB 2**-12 suffices.

    An embedding above that is left alone, because large activations need the range: SmolLM2's has a root mean square of 0.1,
    and its residual reaches 24,000.  n is less, and may be negative, where the largest embedding would take more than half of
    Wide's range, or where the norms' ``eps`` times dim * 4**n would not fit 31 bits.
    """
    rms = float(np.sqrt(np.mean(np.square(embedding, dtype=np.float64))))
    shift = 0 if rms == 0 else int(max(0, np.floor(-4 - np.log2(rms)) + 1))
    if peak := float(np.abs(embedding).max()):
        shift = min(shift, int(np.floor(wide_bits - 14 - np.log2(peak))))
    if eps > 0:
        shift = min(shift, int(np.floor((31 - 24 - np.log2(embedding.shape[1] * eps)) / 2)))
    return int(np.clip(shift, *RESIDUAL_SHIFTS))


def with_residual_shift(model: IntegerModel, shift: int, eps: float) -> IntegerModel:
    """Scale the residual stream of a model by another power of two.

    Parameters
    ----------
    model : IntegerModel
    shift : int    the new ``residual_shift``, within RESIDUAL_SHIFTS
    eps : float    the epsilon of the checkpoint's norms
    """
    by, tied = shift - model.residual_shift, model.format.tied

    def scaled(name: str, matrix: QuantisedMatrix) -> QuantisedMatrix:
        if name.rpartition(".")[2] not in (("o", "down") if tied else ("o", "down", "embed")):
            return matrix
        # A row that meets the least exponent is too small for any bit of the residual at this shift.
        e = np.clip(matrix.e.astype(np.int16) + by, -64, 63).astype(np.int8)
        return QuantisedMatrix(matrix.q, matrix.d, matrix.m, e, matrix.k, matrix.bits)

    eps_q = _eps_q(model.format.dim, eps, shift)
    return replace(
        model,
        matrices={name: scaled(name, matrix) for name, matrix in model.matrices.items()},
        norms={name: replace(norm, eps_q=eps_q) for name, norm in model.norms.items()},
        residual_shift=shift,
    )


def _padded_rows(matrix: QuantisedMatrix, rows: int) -> QuantisedMatrix:
    """Append rows of d = m = 0, whose results are zero, up to ``rows`` rows."""
    extra = rows - len(matrix.e)
    if not extra:
        return matrix
    q, d, m, e, k = (np.concatenate([part, np.zeros((extra, *part.shape[1:]), part.dtype)]) for part in matrix.parts)
    return QuantisedMatrix(q, d, m, e, k, matrix.bits)


def _unclipped(matrix: QuantisedMatrix, name: str, checkpoint: Checkpoint) -> QuantisedMatrix:
    """Return the matrix.  Raises CheckpointError if its weights met a limit of the exponents, where quantisation clips them."""
    if (matrix.e == E_MAX).any() or (matrix.e == E_MIN).all():
        size = "larger" if (matrix.e == E_MAX).any() else "smaller"
        raise CheckpointError(
            f"{checkpoint.source}: the weights of {name} are {size} than blocks of integers hold (about 2^-41 to 2^30): "
            "scale the checkpoint"
        )
    return matrix


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

    Raises
    ------
    CheckpointError
        The weights of a matrix are outside the range of the blocks, or the epsilon of the norms is too large for any shift.
    """
    config: LlamaConfig = checkpoint.config
    fmt = ModelFormat.of(config, wide_bits=wide_bits, **class_bits(checkpoint))
    shift = choose_residual_shift(checkpoint.tensor("embed"), wide_bits, config.norm_eps)
    if _eps_q(config.dim, config.norm_eps, shift) >= 1 << 31:
        raise CheckpointError(f"{checkpoint.source}: the epsilon of its norms is {config.norm_eps:g}, which no chip holds")
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
            return _unclipped(matrix, name, checkpoint)
        tensor = checkpoint.tensor(name)
        matrix = _unclipped(prepared[name] if prepared and name in prepared else quantise(tensor, bits), name, checkpoint)
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
            norms[name] = quantise_norm(checkpoint.tensor(name), config.dim, config.norm_eps, 0)
            continue
        matrix = codes_of(name, getattr(fmt, f"{_CLASS[kind]}_bits"), q_scale if kind == "q" else 1.0)
        if kind in ("q", "k"):
            matrix = matrix.rows(pair_order(shape[0] // config.head_dim, config.head_dim))
        if kind == "embed":
            # Rows of the embedding become the residual, and its padding must be zero.  Eight bits have a code for 0: 128.
            # Four-bit codes come from GGUF, whose rows are whole blocks.
            matrix.q.reshape(shape[0], -1)[:, shape[1] :] = 128
        matrices[name] = _padded_rows(matrix, row_counts.get(kind, shape[0]))
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
    model = IntegerModel(fmt, matrices, norms, freq_q, 0, tuple(config.eos_token_ids), config.bos_token_id, report)
    return with_residual_shift(model, shift, config.norm_eps)
