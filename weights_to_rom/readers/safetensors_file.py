"""Safetensors files, read lazily and without torch.

The format (github.com/huggingface/safetensors, "Format"): the header's length as a little-endian uint64, the
header as JSON, then the data; a tensor's ``data_offsets`` count from the end of the header.  The library's
numpy interface has no bfloat16; this module reads the format itself for that reason.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from weights_to_rom.errors import HardwireError
from weights_to_rom.json_file import parse_json_object
from weights_to_rom.other_files import refuse_other_kind
from weights_to_rom.schema import Schema, Text, checked, short

ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
# Headers of published models have less than 4 MB.  The library's bound is 100 MB, which would take gigabytes when parsed.
MAX_HEADER_BYTES = 8 << 20
# Elements that are converted at a time where a whole tensor is not needed.
_PART = 1 << 22


class SafetensorsError(HardwireError):
    """A file is damaged, or has a data type that is not read.  The message names the file and the tensor."""


@dataclass(frozen=True)
class TensorEntry:
    """The type and shape of a tensor, and its bytes in the file: from ``start`` up to ``stop``, which is excluded."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


_Sizes = Annotated[
    list[Annotated[int, Field(ge=0, le=2**48)]],
    Field(max_length=32, fail_fast=True, description="a list of sizes, each below 2**48"),
]
_Offsets = Annotated[list[Annotated[int, Field(le=2**63)]], Field(min_length=2, max_length=2, description="two offsets")]


class _Entry(Schema):
    dtype: Text
    shape: _Sizes
    data_offsets: _Offsets


class SafetensorsFile:
    """One file.  Its header is read at once; ``read`` reads the data of a tensor through a memory map.

    Raises SafetensorsError for a header that is damaged or asks for bytes that the file does not have.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > size - 8:
                refuse_other_kind(path, SafetensorsError)
                raise SafetensorsError(f"{path}: truncated: header of {length} bytes in a file of {size}")
            if length > MAX_HEADER_BYTES:
                raise SafetensorsError(
                    f"{path}: its header has {length} bytes, more than {MAX_HEADER_BYTES}: not a safetensors file"
                )
            text = file.read(length)
        where = f"{path}: its header is not that of a safetensors file"
        header = parse_json_object(text, where, SafetensorsError, unique=True)
        header.pop("__metadata__", None)
        self.entries = {name: self._entry(name, raw, 8 + length, size) for name, raw in header.items()}
        end = 8 + length
        for name, entry in sorted(self.entries.items(), key=lambda item: (item[1].start, item[1].stop)):
            if entry.start < end:
                raise SafetensorsError(f"{path}: damaged: {name} shares bytes with the tensor before it")
            end = entry.stop

    def _entry(self, name: str, raw: object, base: int, size: int) -> TensorEntry:
        if not isinstance(raw, dict):
            raise SafetensorsError(f"{self.path}: {name} must be an object with dtype, shape and data_offsets, not {short(raw)}")
        fields = checked(_Entry, raw, f"{self.path}: {name}", SafetensorsError)
        start, stop = (base + offset for offset in fields.data_offsets)
        if not base <= start <= stop <= size:
            raise SafetensorsError(f"{self.path}: truncated: {name} lies at bytes {start} to {stop} of {size}")
        if fields.dtype in ITEM_BYTES and stop - start != math.prod(fields.shape) * ITEM_BYTES[fields.dtype]:
            raise SafetensorsError(f"{self.path}: {name} has {stop - start} bytes, not those of its shape")
        return TensorEntry(fields.dtype, tuple(fields.shape), start, stop)

    def raw(self, name: str) -> np.ndarray:
        """The bytes of a tensor as a memory map, uint8."""
        entry = self.entries[name]
        if entry.start == entry.stop:
            return np.zeros(0, np.uint8)
        return np.memmap(self.path, np.uint8, mode="r", offset=entry.start, shape=(entry.stop - entry.start,))

    def read(self, name: str) -> np.ndarray:
        """Read a tensor as float32.  This is exact, because float32 holds every value of fp16 and of bfloat16."""
        return self._floats(name, self.raw(name)).reshape(self.entries[name].shape)

    def parts(self, name: str) -> Iterator[np.ndarray]:
        """Read a tensor as float32[n], some millions of elements at a time, which takes little memory."""
        raw, step = self.raw(name), _PART * ITEM_BYTES.get(self.entries[name].dtype, 1)
        for start in range(0, len(raw), step):
            yield self._floats(name, raw[start : start + step])

    def _floats(self, name: str, raw: np.ndarray) -> np.ndarray:
        dtype = self.entries[name].dtype
        if dtype == "BF16":
            # A bfloat16 is the upper half of a float32.
            return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
        if dtype in ITEM_BYTES:
            return raw.view({"F32": "<f4", "F16": "<f2"}[dtype]).astype(np.float32)
        raise SafetensorsError(f"{self.path}: {name} has the unsupported type {dtype}")


def equal_tensors(file: SafetensorsFile, name: str, other: SafetensorsFile, other_name: str) -> bool:
    """Whether two tensors have the same shape and the same values, in the same type or in another."""
    if file.entries[name].shape != other.entries[other_name].shape:
        return False
    pairs = zip(file.parts(name), other.parts(other_name), strict=True)
    return all(np.array_equal(part, other_part) for part, other_part in pairs)
