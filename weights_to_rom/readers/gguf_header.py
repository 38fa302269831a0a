"""The header of a GGUF file: its metadata, and the type, shape and place of every tensor.

Source: the page "GGUF" in the documentation of ggml.  The reader of the ``gguf`` package believes every count and length in a
file, and a wrong one lets it run without end or fill the memory; here each is compared with the size of the file first.
"""

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGUFValueType
from gguf import GGMLQuantizationType as Type

from weights_to_rom.other_files import refuse_other_kind
from weights_to_rom.readers.base import CheckpointError

# Bounds of the memory that metadata takes.  The largest published vocabularies have 300,000 tokens and as many merges.
MAX_HEADER_BYTES = 128 << 20
MAX_ELEMENTS = 2 << 20
MAX_ENTRIES = 1 << 16
MAX_DIMENSIONS = 4

_NUMBERS = {
    GGUFValueType.UINT8: "B",
    GGUFValueType.INT8: "b",
    GGUFValueType.UINT16: "H",
    GGUFValueType.INT16: "h",
    GGUFValueType.UINT32: "I",
    GGUFValueType.INT32: "i",
    GGUFValueType.FLOAT32: "f",
    GGUFValueType.BOOL: "?",
    GGUFValueType.UINT64: "Q",
    GGUFValueType.INT64: "q",
    GGUFValueType.FLOAT64: "d",
}
# Numbers of tensor types that ggml no longer has.  Forks use some of them for types of their own.
_REMOVED = {
    4: "Q4_2",
    5: "Q4_3",
    31: "Q4_0_4_4",
    32: "Q4_0_4_8",
    33: "Q4_0_8_8",
    36: "IQ4_NL_4_4, or I2_S of BitNet's fork",
    37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
}
# Only keys with these prefixes are read.  A name or a licence elsewhere may be in any encoding.
_READ = ("llama.", "tokenizer.")


@dataclass(frozen=True)
class GgufTensor:
    """A tensor of a file: rows first in ``shape``, its type, and its bytes from ``start`` up to ``stop``, which is excluded."""

    kind: Type
    shape: tuple[int, ...]
    start: int
    stop: int

    def raw(self, path: Path) -> np.ndarray:
        """Map the tensor's bytes, uint8[..., bytes of a row]."""
        shape = (*self.shape[:-1], (self.stop - self.start) // math.prod(self.shape[:-1]))
        return np.memmap(path, np.uint8, mode="r", offset=self.start, shape=shape)


def read_header(path: Path) -> tuple[dict[str, Any], dict[str, GgufTensor]]:
    """Read the metadata as Python values by key, and the tensors by name.

    Raises CheckpointError for another kind of file, and for each count, length, type and place that the file cannot have.
    """
    with path.open("rb") as file:
        magic = file.read(4)
        if magic != b"GGUF":
            refuse_other_kind(path, CheckpointError)
            raise CheckpointError(f"{path}: not a GGUF file")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Header(path, data).read()


class _Header:
    """A cursor in the bytes of a file, which never leaves them."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path, self._data = path, data
        self._size = len(data)
        self._end = min(self._size, MAX_HEADER_BYTES)
        self._at = 4
        self._elements = 0

    def read(self) -> tuple[dict[str, Any], dict[str, GgufTensor]]:
        version = self._number("I")
        if version and version & 0xFFFF == 0:
            raise CheckpointError(f"{self._path}: a big-endian GGUF file: convert it to little-endian")
        if version == 1:
            raise CheckpointError(f"{self._path}: a GGUF file of version 1, of 2023: convert the model again with a "
                                  "current llama.cpp")  # fmt: skip
        if version not in (2, 3):
            raise CheckpointError(f"{self._path}: a GGUF file of version {version}: versions 2 and 3 can be read")
        n_tensors, n_fields = self._number("Q"), self._number("Q")
        if max(n_tensors, n_fields) > MAX_ENTRIES:
            raise self._damaged(f"it has {n_fields} fields and {n_tensors} tensors, more than {MAX_ENTRIES}")
        fields: dict[str, Any] = {}
        for _ in range(n_fields):
            key = self._string("a key")
            if key in fields:
                raise self._damaged(f"it holds {key} twice")
            fields[key] = self._value(key, self._number("I"))
        places: dict[str, tuple[Type, tuple[int, ...], int]] = {}
        for _ in range(n_tensors):
            name = self._string("the name of a tensor")
            if name in places:
                raise self._damaged(f"it holds the tensor {name} twice")
            places[name] = self._tensor(name)
        alignment = fields.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20 or alignment & (alignment - 1):
            raise CheckpointError(f"{self._path}: general.alignment must be a power of two, not {alignment!r}")
        base = -(-self._at // alignment) * alignment
        return fields, {name: self._placed(name, base, *place) for name, place in places.items()}

    def _damaged(self, fault: str) -> CheckpointError:
        return CheckpointError(f"{self._path}: truncated or damaged GGUF file: {fault}")

    def _take(self, n_bytes: int, what: str) -> int:
        """Move over ``n_bytes``, and return the place where they begin."""
        if n_bytes > self._end - self._at:
            limit = f"the file has {self._size}" if self._end == self._size else f"metadata may have {MAX_HEADER_BYTES}"
            raise self._damaged(f"{what} at byte {self._at} takes {n_bytes} bytes, {limit}")
        self._at += n_bytes
        return self._at - n_bytes

    def _number(self, code: str) -> Any:
        return struct.unpack_from(f"<{code}", self._data, self._take(struct.calcsize(f"<{code}"), "a number"))[0]

    def _string(self, what: str, errors: str = "strict") -> str:
        length = self._number("Q")
        start = self._take(length, what)
        try:
            return self._data[start : start + length].decode("utf-8", errors)
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{self._path}: {what} at byte {start} is not UTF-8 ({error.reason})") from None

    def _value(self, key: str, number: int) -> Any:
        kind = self._type(key, number)
        errors = "strict" if key.startswith(_READ) else "replace"
        if kind == GGUFValueType.STRING:
            return self._string(key, errors)
        if kind != GGUFValueType.ARRAY:
            return self._number(_NUMBERS[kind])
        element, length = self._type(key, self._number("I")), self._number("Q")
        if element == GGUFValueType.ARRAY:
            raise self._damaged(f"{key} is a list of lists")
        self._elements += length
        if self._elements > MAX_ELEMENTS:
            raise self._damaged(f"the lists up to {key} have {self._elements} entries, more than {MAX_ELEMENTS}")
        if element == GGUFValueType.STRING:
            return [self._string(f"{key}[{i}]", errors) for i in range(length)]
        code = f"<{length}{_NUMBERS[element]}"
        return list(struct.unpack_from(code, self._data, self._take(struct.calcsize(code), key)))

    def _type(self, key: str, number: int) -> GGUFValueType:
        try:
            return GGUFValueType(number)
        except ValueError:
            raise self._damaged(f"{key} has a value of type {number}, and there are types 0 to 12") from None

    def _tensor(self, name: str) -> tuple[Type, tuple[int, ...], int]:
        n_dimensions = self._number("I")
        if not 1 <= n_dimensions <= MAX_DIMENSIONS:
            raise self._damaged(f"{name} has {n_dimensions} dimensions, not 1 to {MAX_DIMENSIONS}")
        shape = tuple(reversed([self._number("Q") for _ in range(n_dimensions)]))
        number, offset = self._number("I"), self._number("Q")
        if 0 in shape:
            raise self._damaged(f"{name} has the shape {shape}")
        try:
            return Type(number), shape, offset
        except ValueError:
            pass
        if number in _REMOVED:
            known = f" ({_REMOVED[number]}), which ggml removed: quantise the model again, for example to Q4_0"
        else:
            known = ", which ggml does not define: it is of a fork or of a later release; quantise the model to Q4_0 or Q8_0"
        raise CheckpointError(f"{self._path}: {name} has the tensor type {number}{known}")

    def _placed(self, name: str, base: int, kind: Type, shape: tuple[int, ...], offset: int) -> GgufTensor:
        block, block_bytes = GGML_QUANT_SIZES[kind]
        if shape[-1] % block:
            raise self._damaged(f"rows of {name} have {shape[-1]} elements, no multiple of {block} ({kind.name})")
        start, n_bytes = base + offset, math.prod(shape) // block * block_bytes
        if start + n_bytes > self._size:
            raise self._damaged(f"{name} lies at bytes {start} to {start + n_bytes}, the file has {self._size}")
        return GgufTensor(kind, shape, start, start + n_bytes)
