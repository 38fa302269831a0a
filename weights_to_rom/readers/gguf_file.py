"""GGUF files of llamas, through the ``gguf`` package."""

import re
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

from weights_to_rom.config import LlamaConfig, RopeScaling
from weights_to_rom.readers.base import BlockCodes, Checkpoint, CheckpointError, check_tensors, head_size, make_config
from weights_to_rom.readers.gguf_header import GgufTensor, read_header
from weights_to_rom.readers.gguf_schema import Metadata, drop_unknown_ids, read_metadata
from weights_to_rom.readers.gguf_tokenizer import gguf_tokenizer, special_ids
from weights_to_rom.row_order import half_rotation_rows
from weights_to_rom.text.tokenizer import Tokenizer

_LAYER_NAMES = {
    "attn_norm": "attn_norm",
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "ffn_norm": "ffn_norm",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}
_EMBED = "token_embd.weight"
_ROPE_FREQS = "rope_freqs.weight"
_BUFFERS = re.compile(r"rope_freqs\.weight$|blk\.\d+\.attn_rot_embd")
_FLOATS = (Type.F32, Type.F16, Type.BF16)
_KEPT = (Type.Q4_0, Type.Q4_1, Type.Q8_0)


class GgufCheckpoint(Checkpoint):
    """One .gguf file of architecture ``llama``."""

    def __init__(self, path: Path, tokenizer: Tokenizer | None = None) -> None:
        fields, self._tensors = read_header(path)
        self._path = path
        found = {name: tensor.shape for name, tensor in self._tensors.items()}
        warnings = drop_unknown_ids(path, fields, next(iter(found.get(_EMBED, ())), 0))
        metadata = read_metadata(path, fields, vocabulary=tokenizer is None)
        ids = special_ids(fields)
        config = _config(path, ids, metadata, found)
        config = replace(config, rope_scaling=self._rope_scaling(metadata, config))
        self._names = {name: _file_name(name) for name in config.tensor_shapes()}
        buffers = {name for name in found if _BUFFERS.match(name)}
        check_tensors(str(path), config, self._names, found, buffers, self._is_zero)
        ends = [ids[name] for name in ("eot", "eom") if name in ids]
        super().__init__(config, str(path), gguf_tokenizer(path, fields, tokenizer), ends)
        self.warnings = [*warnings, *self.warnings]
        for name, file_name in self._names.items():
            kind = self._tensors[file_name].kind
            if kind not in (*_FLOATS, *_KEPT):
                _check_dequantises(path, file_name, kind)
                self.notes.append(f"{name}: {kind.name} is dequantised and requantised")

    def _read(self, name: str) -> np.ndarray:
        array = _dequantise(self._tensors[self._names[name]], self._path)
        rows = self._rows(name)
        array = array.reshape(self._shapes[name])
        return array if rows is None else array[rows]

    def _is_zero(self, name: str) -> bool:
        tensor = self._tensors[name]
        return tensor.kind in _FLOATS and not _dequantise(tensor, self._path).any()

    def _rope_scaling(self, metadata: Metadata, config: LlamaConfig) -> RopeScaling | None:
        freqs = self._tensors.get(_ROPE_FREQS)
        if freqs is not None and freqs.kind != Type.F32:
            raise CheckpointError(f"{self._path}: {_ROPE_FREQS} is {freqs.kind.name}, not F32")
        return _rope_scaling(self._path, metadata, config, None if freqs is None else _dequantise(freqs, self._path))

    def blocks(self, name: str) -> BlockCodes | None:
        """The codes of a Q4_0, Q4_1 or Q8_0 tensor, rows in Hugging Face order.

        Negative scales (Q4_0 has them) are mirrored: ``q`` becomes ``2**bits - 1 - q``; no value changes.
        Raises CheckpointError for scales that are not finite.
        """
        tensor = self._tensors[self._names[name]]
        if tensor.kind not in _KEPT or len(tensor.shape) != 2:
            return None
        rows = self._rows(name)
        data = np.asarray(tensor.raw(self._path))
        with np.errstate(invalid="ignore"):  # a signalling NaN, which is refused below
            codes, scale, minimum, bits = _split_blocks(data if rows is None else data[rows], tensor.kind)
        self._check_finite(name, scale)
        self._check_finite(name, minimum)
        negative = np.signbit(scale)
        top = 2**bits - 1
        codes = np.where(negative[..., None], top - codes, codes).astype(np.uint8)
        minimum = np.where(negative, minimum - top * scale, minimum).astype(np.float32)
        return BlockCodes(codes, np.abs(scale), minimum, bits)

    def _rows(self, name: str) -> np.ndarray | None:
        part = name.rpartition(".")[2]
        if part not in ("q", "k"):
            return None
        n_heads = self.config.n_heads if part == "q" else self.config.n_kv_heads
        return half_rotation_rows(n_heads, self.config.head_dim)


def _split_blocks(data: np.ndarray, kind: Type) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Codes, scale, minimum and bits of raw blocks, uint8[rows, bytes]; scales signed as the file has them.

    The layouts are ``block_q4_0``, ``block_q4_1`` and ``block_q8_0`` of llama.cpp's ``ggml-common.h``: fp16
    scale, for Q4_1 fp16 offset, then the codes; a byte of 4-bit codes holds elements j and j + 16 (high).
    """
    blocks = data.reshape(len(data), -1, gguf.GGML_QUANT_SIZES[kind][1])
    scale = np.ascontiguousarray(blocks[..., :2]).view("<f2")[..., 0].astype(np.float32)
    if kind == Type.Q8_0:
        # from int8 to codes 0..255, of which 128 is zero
        return blocks[..., 2:] ^ np.uint8(128), scale, 128 * scale, 8
    if kind == Type.Q4_0:
        packed, minimum = blocks[..., 2:], 8 * scale
    else:
        packed = blocks[..., 4:]
        minimum = -np.ascontiguousarray(blocks[..., 2:4]).view("<f2")[..., 0].astype(np.float32)
    return np.concatenate([packed & 15, packed >> 4], axis=-1), scale, minimum, 4


def _file_name(name: str) -> str:
    if name in ("embed", "norm", "head"):
        return {"embed": "token_embd", "norm": "output_norm", "head": "output"}[name] + ".weight"
    _, layer, part = name.split(".")
    return f"blk.{layer}.{_LAYER_NAMES[part]}.weight"


def _dequantise(tensor: GgufTensor, path: Path) -> np.ndarray:
    # An infinite scale times a code of 0 gives a NaN, and a large one an infinity; tensor() reports both.
    with np.errstate(invalid="ignore", over="ignore"):
        return gguf.quants.dequantize(np.asarray(tensor.raw(path)), tensor.kind)


def _check_dequantises(path: Path, name: str, kind: Type) -> None:
    try:
        gguf.quants.dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except NotImplementedError:
        raise CheckpointError(f"{path}: {name} has the unsupported type {kind.name}") from None


def _config(path: Path, ids: dict[str, int], metadata: Metadata, found: dict[str, tuple[int, ...]]) -> LlamaConfig:
    head_dim = metadata.key_length or head_size(str(path), metadata.dim, metadata.n_heads)
    for key, value in (("attention.value_length", metadata.value_length), ("rope.dimension_count", metadata.rope_dimensions)):
        if value not in (None, head_dim):
            raise CheckpointError(f"{path}: llama.{key} is {value}, not head_dim ({head_dim}): not supported")
    if len(found.get(_EMBED, ())) != 2:
        raise CheckpointError(f"{path}: the tensor {_EMBED} is missing")
    return make_config(
        str(path),
        dim=metadata.dim,
        n_layers=metadata.n_layers,
        n_heads=metadata.n_heads,
        n_kv_heads=metadata.n_kv_heads or metadata.n_heads,
        head_dim=head_dim,
        ffn_dim=metadata.ffn_dim,
        vocab_size=found[_EMBED][0],
        max_seq_len=metadata.max_seq_len,
        norm_eps=_shortest(metadata.norm_eps),
        rope_theta=_shortest(metadata.rope_theta),
        tied="output.weight" not in found,
        bos_token_id=ids.get("bos"),
        eos_token_ids=(ids["eos"],) if "eos" in ids else (),
    )


def _shortest(value: float) -> float:
    """The shortest decimal with the same float32, because a file stores float32 and its writer meant that decimal."""
    return float(str(np.float32(value)))


def _rope_scaling(path: Path, metadata: Metadata, config: LlamaConfig, freqs: np.ndarray | None) -> RopeScaling | None:
    """Reconstruct Llama 3's scaling from the divisors of the frequencies, because a GGUF file holds nothing else of it."""
    kind = metadata.rope_kind
    stretch = metadata.rope_linear if metadata.rope_factor is None else metadata.rope_factor
    # A factor of 0 or 1 stretches nothing, and "none" forbids it.
    if kind not in ("none", "linear") or (kind == "linear" and stretch not in (0.0, 1.0)):
        raise CheckpointError(f"{path}: rope scaling {kind!r} (factor {stretch}) is not supported, only Llama-3's")
    if freqs is None:
        return None
    with np.errstate(invalid="ignore"):  # a signalling NaN; it is refused in the next line
        divisors = freqs.astype(np.float64)
    if divisors.shape != (config.head_dim // 2,) or not np.isfinite(divisors).all() or divisors.min() < 1:
        raise CheckpointError(f"{path}: {_ROPE_FREQS} is not {config.head_dim // 2} numbers of 1 or more")
    if (divisors == 1).all():
        return None
    original = metadata.rope_original
    factor = float(str(np.float32(divisors.max())))
    plain = config.rope_frequencies()
    for scaling in _candidates(plain, divisors, factor, original):
        scaled = replace(config, rope_scaling=scaling).rope_frequencies()
        # The tolerance is that of float32, in which the divisors are computed and stored.
        if np.allclose(plain / scaled, divisors, rtol=2e-6, atol=0):
            return scaling
    raise CheckpointError(f"{path}: the divisors in {_ROPE_FREQS} are not those of Llama-3's rope scaling")


def _candidates(plain: np.ndarray, divisors: np.ndarray, factor: float, original: int) -> list[RopeScaling]:
    """List the scalings to try: the constants of the published Llama 3 models, and those computed from blended frequencies.

    Between the kept and the divided frequencies, ``1 / divisor = (1 - s) / factor + s``, and ``s`` is linear in the
    frequency: ``s = (original * frequency / 2 pi - low) / (high - low)``.  A line through two frequencies or more gives
    ``low`` and ``high`` for any ``original``, because only the ratios of the three matter.
    """
    candidates = [RopeScaling(factor, 1.0, 4.0, original)]
    blended = np.flatnonzero((divisors > 1) & (divisors < divisors.max()))
    if len(blended) >= 2:
        smooth = (1 / divisors[blended] - 1 / factor) / (1 - 1 / factor)
        slope, offset = np.polyfit(plain[blended] / (2 * np.pi), smooth, 1)
        if slope > 0 > offset:
            low = original * -offset / slope
            candidates.append(RopeScaling(factor, low, low + original / slope, original))
    return candidates
