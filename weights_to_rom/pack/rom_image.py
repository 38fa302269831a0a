"""ROM images: the integer model as words in the order in which the chip reads them.

Word layouts, from the least significant bit:

    weights_NN      a row lane's beat: block_lanes codes of 4 bits, then block_lanes / 2 bits of d | m << 8: slice s of
                    the block's s-th beat, so that d and m are whole with its last
    rows            a row group: for each lane e (7 bits signed), k (3 bits)
    gain            vector_lanes norm gains of 16 bits, signed; all norms in the order of use
    norm            eps_q (32 bits), gain exponent (8 bits, signed): one word a norm
    freq            turns per position of the vector_lanes / 2 pairs of a beat, 32 bits each
    constant        residual shift of a tied embedding (6 bits), end-of-text token (32 bits)
    embedding_00, embedding_rows    an untied embedding table, as one row lane
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from weights_to_rom.integer_model import IntegerModel
from weights_to_rom.model_format import BLOCK
from weights_to_rom.pack.planes import planes
from weights_to_rom.quantise.blocks import QuantisedMatrix

NO_TOKEN = 0xFFFFFFFF
"""The end-of-text word of a model that has none."""

_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)


@dataclass(frozen=True)
class RomImage:
    """One ROM's contents: ``nibbles`` uint8[depth, ceil(width / 4)], least significant first."""

    name: str
    width: int
    nibbles: np.ndarray

    @property
    def depth(self) -> int:
        return len(self.nibbles)

    @classmethod
    def from_bits(cls, name: str, bits: np.ndarray) -> "RomImage":
        """From bits [depth, width], least significant first."""
        depth, width = bits.shape
        padded = np.zeros((depth, -(-width // 4) * 4), np.uint8)
        padded[:, :width] = bits
        return cls(name, width, padded.reshape(depth, -1, 4) @ np.array([1, 2, 4, 8], np.uint8))

    def hex_text(self) -> bytes:
        """The image for ``$readmemh``: a word a line, most significant digit first."""
        lines = np.full((self.depth, self.nibbles.shape[1] + 1), ord("\n"), np.uint8)
        lines[:, :-1] = _HEX[self.nibbles[:, ::-1]]
        return lines.tobytes()

    def ints(self) -> list[int]:
        """The words as Python ints."""
        return [int(line, 16) for line in self.hex_text().split()]


def _field(values: np.ndarray, width: int) -> np.ndarray:
    """Integers [...] -> bits [..., width], two's complement, least significant first."""
    return ((np.asarray(values, np.int64)[..., None] >> np.arange(width)) & 1).astype(np.uint8)


def stack(*matrices: QuantisedMatrix) -> QuantisedMatrix:
    """Matrices of the same inputs, one above the other."""
    parts = (np.concatenate([getattr(m, name) for m in matrices]) for name in ("q", "d", "m", "e", "k"))
    return QuantisedMatrix(*parts, matrices[0].bits)


def _take_rows(matrix: QuantisedMatrix, order: np.ndarray) -> QuantisedMatrix:
    return QuantisedMatrix(*(getattr(matrix, n)[order] for n in ("q", "d", "m", "e", "k")), matrix.bits)


def in_turns(gate: QuantisedMatrix, up: QuantisedMatrix, vector_lanes: int) -> QuantisedMatrix:
    """``vector_lanes`` rows of gate, then the same rows of up, and so on."""
    rows = np.arange(2 * len(gate.e)).reshape(2, -1, vector_lanes).swapaxes(0, 1).reshape(-1)
    return _take_rows(stack(gate, up), rows)


def matrices_in_order(model: IntegerModel, vector_lanes: int) -> Iterator[QuantisedMatrix]:
    """The matrices as the fabric sees them, in the order of ``schedule.all_matrices``."""
    for i in range(model.format.n_layers):
        q, k, v, o, gate, up, down = (model.matrices[f"layers.{i}.{kind}"] for kind in ("q", "k", "v", "o", "gate", "up", "down"))
        yield stack(k, v, q)
        yield o
        yield in_turns(gate, up, vector_lanes)
        yield down
    yield model.head


def matrix_words(matrix: QuantisedMatrix, row_lanes: int, block_lanes: int) -> np.ndarray:
    """Nibbles uint8[words, row_lanes, ceil(4.5 * block_lanes / 4)] of one matrix, rows padded to whole groups."""
    subs = BLOCK // block_lanes
    n_rows, n_blocks, _ = matrix.q.shape
    groups = -(-n_rows // row_lanes)
    slice_bits = block_lanes // 2
    columns = []
    for plane in planes(matrix):
        dm = plane.d.astype(np.uint16) | plane.m.astype(np.uint16) << 8
        parts = (dm[..., None] >> (slice_bits * np.arange(subs, dtype=np.uint16))) & ((1 << slice_bits) - 1)
        scale = (parts[..., None] >> (4 * np.arange(-(-slice_bits // 4), dtype=np.uint16))) & 15
        codes = plane.q.reshape(n_rows, n_blocks, subs, block_lanes)
        columns.append(np.concatenate([codes, scale.astype(np.uint8)], axis=-1))
    words = np.stack(columns, axis=2)  # [rows, blocks, planes, subs, nibbles]
    padded = np.zeros((groups * row_lanes, *words.shape[1:]), np.uint8)
    padded[:n_rows] = words
    padded = padded.reshape(groups, row_lanes, -1, words.shape[-1])
    return padded.swapaxes(1, 2).reshape(-1, row_lanes, words.shape[-1])


def row_words(matrix: QuantisedMatrix, row_lanes: int) -> np.ndarray:
    """Bits uint8[groups, 10 * row_lanes] of one matrix: e and k of each row, the low plane's e of an eight-bit row."""
    groups = -(-len(matrix.e) // row_lanes)
    bits = np.zeros((groups * row_lanes, 10), np.uint8)
    k = np.full(len(matrix.e), 3) if matrix.bits == 8 else matrix.k
    bits[: len(matrix.e)] = np.concatenate([_field(matrix.e, 7), _field(k, 3)], axis=-1)
    return bits.reshape(groups, -1)


def _weights(matrices: list[QuantisedMatrix], row_lanes: int, block_lanes: int, prefix: str) -> Iterator[RomImage]:
    words = np.concatenate([matrix_words(m, row_lanes, block_lanes) for m in matrices])
    for lane in range(row_lanes):
        yield RomImage(f"{prefix}_{lane:02d}", 9 * block_lanes // 2, words[:, lane])


def _rows(matrices: list[QuantisedMatrix], row_lanes: int, name: str) -> RomImage:
    return RomImage.from_bits(name, np.concatenate([row_words(m, row_lanes) for m in matrices]))


def rom_images(model: IntegerModel, *, row_lanes: int, block_lanes: int, vector_lanes: int) -> Iterator[RomImage]:
    """Every ROM of a chip with these lanes."""
    f = model.format
    matrices = list(matrices_in_order(model, vector_lanes))
    yield from _weights(matrices, row_lanes, block_lanes, "weights")
    yield _rows(matrices, row_lanes, "rows")
    norms = [model.norms[f"layers.{i}.{kind}"] for i in range(f.n_layers) for kind in ("attn_norm", "ffn_norm")]
    norms.append(model.norms["norm"])
    gains = np.concatenate([norm.gain_q for norm in norms]).reshape(-1, vector_lanes)
    yield RomImage.from_bits("gain", _field(gains, 16).reshape(len(gains), -1))
    yield RomImage.from_bits(
        "norm", np.concatenate([_field([norm.eps_q for norm in norms], 32), _field([norm.gain_exp for norm in norms], 8)], axis=-1)
    )
    yield RomImage.from_bits("freq", _field(model.freq_q, 32).reshape(f.head_dim // vector_lanes, -1))
    end = model.eos_token_ids[0] if model.eos_token_ids else NO_TOKEN
    shift = model.residual_shift if f.tied else 0
    yield RomImage.from_bits("constant", np.concatenate([_field([shift], 6), _field([end], 32)], axis=-1))
    if not f.tied:
        embedding = [model.matrices["embed"]]
        yield from _weights(embedding, 1, block_lanes, "embedding")
        yield _rows(embedding, 1, "embedding_rows")


def write_rom_images(images: Iterator[RomImage], folder: Path) -> dict:
    """Write ``NAME.hex`` for each image and ``manifest.json``; returns the manifest.  Each file is whole or not there."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = {}
    for image in images:
        text = image.hex_text()
        _write(folder / f"{image.name}.hex", text)
        manifest[image.name] = {"width": image.width, "depth": image.depth, "sha256": hashlib.sha256(text).hexdigest()}
    _write(folder / "manifest.json", json.dumps(manifest, indent=1).encode() + b"\n")
    return manifest


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(content)
    temporary.replace(path)
