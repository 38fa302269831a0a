"""ROM images: the integer model as words in the order in which the chip reads them.

``weights_to_rom.rom_map`` declares the words; this module fills in their fields.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from weights_to_rom.integer_model import IntegerModel
from weights_to_rom.model_format import BLOCK
from weights_to_rom.pack.planes import planes
from weights_to_rom.quantise.blocks import QuantisedMatrix
from weights_to_rom.rom_map import ROW_WORD, Field, Rom, Word, rom_map, stage_roms, weight_word

NO_TOKEN = 0xFFFFFFFF
"""The end-of-text word of a model that has none."""

_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)


@dataclass(frozen=True)
class RomImage:
    """The contents of one ROM: ``nibbles`` uint8[depth, ceil(width / 4)], least significant nibble first.

    ``width`` counts the bits of a word.
    """

    name: str
    width: int
    nibbles: np.ndarray

    @property
    def depth(self) -> int:
        """Number of words."""
        return len(self.nibbles)

    @classmethod
    def of(cls, rom: Rom, **fields: np.ndarray) -> "RomImage":
        """Fill ``rom`` with ``fields``, which ``words`` describes.

        Raises ValueError unless the words fill the ROM exactly.
        """
        image = cls(rom.name, rom.width, words(rom.word, **fields))
        if image.depth != rom.depth:
            raise ValueError(f"{rom.name} has {rom.depth} words, not {image.depth}")
        return image

    def hex_text(self) -> bytes:
        """The image in the format of ``$readmemh``: a word a line, most significant digit first."""
        lines = np.full((self.depth, self.nibbles.shape[1] + 1), ord("\n"), np.uint8)
        lines[:, :-1] = _HEX[self.nibbles[:, ::-1]]
        return lines.tobytes()

    def ints(self) -> list[int]:
        """The words as Python ints."""
        return [int(line, 16) for line in self.hex_text().split()]


def words(word: Word, **fields: np.ndarray) -> np.ndarray:
    """Pack integers into words: nibbles uint8[..., ceil(width / 4)], least significant nibble first.

    Each field of ``word`` is given by its name: an array [..., copies * count], or flat [n * copies * count] for n words.
    """
    parts = []
    for field in word.fields:
        values = np.asarray(fields.pop(field.name))
        if values.ndim == 1:
            values = values.reshape(-1, word.copies * field.count)
        parts.append((field, values.reshape(*values.shape[:-1], word.copies, field.count)))
    if fields:
        raise ValueError(f"there is no field {', '.join(fields)}: there are {', '.join(f.name for f in word.fields)}")
    # Words are assembled from nibbles where all fields but the last are whole nibbles, else from bits.  A bit takes a byte
    # as a nibble does, so that weights, which are of the first kind, would take four times the memory as bits.
    size = 4 if word.copies == 1 and all(field.bits % 4 == 0 for field in word.fields[:-1]) else 1
    columns = np.concatenate([_digits(field, values, size) for field, values in parts], axis=-1)
    columns = columns.reshape(*columns.shape[:-2], -1)
    if size == 4:
        return columns
    padded = np.zeros((*columns.shape[:-1], -(-word.width // 4) * 4), np.uint8)
    padded[..., : word.width] = columns
    return padded.reshape(*columns.shape[:-1], -1, 4) @ np.array([1, 2, 4, 8], np.uint8)


def _digits(field: Field, values: np.ndarray, size: int) -> np.ndarray:
    """Split integers [..., count] into digits of ``size`` bits [..., count * digits], least significant digit first.

    Negative integers are in two's complement.
    """
    n_digits = -(-field.bits // size)
    if n_digits == 1 and not field.signed:
        return values.astype(np.uint8)
    values = values.astype(np.int64) & ((1 << field.bits) - 1)
    digits = (values[..., None] >> (size * np.arange(n_digits))) & ((1 << size) - 1)
    return digits.astype(np.uint8).reshape(*values.shape[:-1], -1)


def stack(*matrices: QuantisedMatrix) -> QuantisedMatrix:
    """Concatenate the rows of matrices that have the same inputs."""
    q, d, m, e, k = (np.concatenate(parts) for parts in zip(*(matrix.parts for matrix in matrices), strict=True))
    return QuantisedMatrix(q, d, m, e, k, matrices[0].bits)


def in_turns(gate: QuantisedMatrix, up: QuantisedMatrix, vector_lanes: int) -> QuantisedMatrix:
    """Interleave the rows of gate and up: ``vector_lanes`` rows of gate, the same rows of up, the next rows of gate, ..."""
    rows = np.arange(2 * len(gate.e)).reshape(2, -1, vector_lanes).swapaxes(0, 1).reshape(-1)
    return stack(gate, up).rows(rows)


def matrices_in_order(
    model: IntegerModel, vector_lanes: int, layers: Sequence[int] | None = None, head: bool = True
) -> Iterator[QuantisedMatrix]:
    """Yield the matrices that the fabric reads, in the order of ``schedule``: of ``layers`` (by default all), then the head."""
    for i in range(model.format.n_layers) if layers is None else layers:
        q, k, v, o, gate, up, down = (model.matrices[f"layers.{i}.{kind}"] for kind in ("q", "k", "v", "o", "gate", "up", "down"))
        yield stack(k, v, q)
        yield o
        yield in_turns(gate, up, vector_lanes)
        yield down
    if head:
        yield model.head


def matrix_words(matrix: QuantisedMatrix, row_lanes: int, block_lanes: int) -> np.ndarray:
    """Pack a matrix for the row lanes: nibbles uint8[words, row_lanes, ceil(4.5 * block_lanes / 4)].

    Rows of zeros fill the last group, because the fabric computes ``row_lanes`` rows at a time.
    """
    subs, word = BLOCK // block_lanes, weight_word(block_lanes)
    n_rows, n_blocks, _ = matrix.q.shape
    groups = -(-n_rows // row_lanes)
    slice_bits = block_lanes // 2
    columns = []
    for plane in planes(matrix):
        dm = plane.d.astype(np.uint16) | plane.m.astype(np.uint16) << 8
        slices = (dm[..., None] >> (slice_bits * np.arange(subs, dtype=np.uint16))) & ((1 << slice_bits) - 1)
        columns.append(words(word, code=plane.q.reshape(n_rows, n_blocks, subs, block_lanes), dm=slices[..., None]))
    filled = np.stack(columns, axis=2)  # [rows, blocks, planes, subs, nibbles]
    padded = np.zeros((groups * row_lanes, *filled.shape[1:]), np.uint8)
    padded[:n_rows] = filled
    padded = padded.reshape(groups, row_lanes, -1, filled.shape[-1])
    return padded.swapaxes(1, 2).reshape(-1, row_lanes, filled.shape[-1])


def row_words(matrix: QuantisedMatrix, row_lanes: int) -> np.ndarray:
    """Pack e and k of each row of a matrix: nibbles uint8[groups, ceil(10 * row_lanes / 4)].

    A matrix of two planes has the e of its low plane here.
    """
    k = np.full(len(matrix.e), 3) if matrix.bits == 8 else matrix.k
    e, k = (np.pad(rows.astype(np.int64), (0, -len(rows) % row_lanes)) for rows in (matrix.e, k))
    return words(ROW_WORD.times(row_lanes), e=e, k=k)


def _weights(matrices: Sequence[QuantisedMatrix], block_lanes: int, roms: Sequence[Rom], rows: Rom) -> Iterator[RomImage]:
    """Yield the images of ``roms``, one for each row lane, and then the image of ``rows``."""
    filled = np.concatenate([matrix_words(m, len(roms), block_lanes) for m in matrices])
    for lane, rom in enumerate(roms):
        yield RomImage(rom.name, rom.width, filled[:, lane])
    yield RomImage(rows.name, rows.width, np.concatenate([row_words(m, len(roms)) for m in matrices]))


def stage_images(
    model: IntegerModel,
    *,
    row_lanes: int,
    block_lanes: int,
    vector_lanes: int,
    layers: Sequence[int] | None = None,
    head: bool = True,
    prefix: str = "",
) -> Iterator[RomImage]:
    """Yield the ROM images of a stage.  ``rom_map.stage_roms`` explains the parameters."""
    f = model.format
    layers = range(f.n_layers) if layers is None else layers
    roms = stage_roms(
        f, row_lanes=row_lanes, block_lanes=block_lanes, vector_lanes=vector_lanes, layers=layers, head=head, prefix=prefix
    )
    matrices = list(matrices_in_order(model, vector_lanes, layers, head))
    lanes = [roms[f"{prefix}weights_{lane:02}"] for lane in range(row_lanes)]
    yield from _weights(matrices, block_lanes, lanes, roms[prefix + "rows"])
    norms = [model.norms[f"layers.{i}.{kind}"] for i in layers for kind in ("attn_norm", "ffn_norm")]
    if head:
        norms.append(model.norms["norm"])
    yield RomImage.of(roms[prefix + "gain"], gain=np.concatenate([norm.gain_q for norm in norms]))
    yield RomImage.of(
        roms[prefix + "norm"], eps=np.array([norm.eps_q for norm in norms]), exponent=np.array([norm.gain_exp for norm in norms])
    )
    freq = model.freq_q.astype(np.int64)
    yield RomImage.of(roms[prefix + "freq"], turns=np.stack([freq & 0xFFFF, freq >> 16], axis=-1).reshape(-1))


def rom_images(model: IntegerModel, *, row_lanes: int, block_lanes: int, vector_lanes: int) -> Iterator[RomImage]:
    """Yield the image of every ROM of a chip with these lanes, in the order of ``rom_map``."""
    f = model.format
    roms = rom_map(f, row_lanes=row_lanes, block_lanes=block_lanes, vector_lanes=vector_lanes)
    yield from stage_images(model, row_lanes=row_lanes, block_lanes=block_lanes, vector_lanes=vector_lanes)
    end = model.eos_token_ids[0] if model.eos_token_ids else NO_TOKEN
    shift = model.residual_shift if f.tied else 0
    yield RomImage.of(roms["constant"], residual_shift=np.array([shift]), end_token=np.array([end]))
    if not f.tied:
        yield from _weights([model.matrices["embed"]], block_lanes, [roms["embedding_00"]], roms["embedding_rows"])


def write_rom_images(images: Iterator[RomImage], folder: Path) -> dict:
    """Write ``NAME.hex`` for each image, then ``manifest.json``, and return the manifest.

    Each file takes its name when it is complete, so that no reader meets half a file.
    """
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
