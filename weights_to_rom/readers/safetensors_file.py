"""Safetensors files, read lazily and without torch.

The format (github.com/huggingface/safetensors, "Format"): the header's length as a little-endian uint64, the
header as JSON, then the data; a tensor's ``data_offsets`` count from the end of the header.  The library's
numpy interface has no bfloat16; this module reads the format itself for that reason.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from weights_to_rom.errors import HardwireError

ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


class SafetensorsError(HardwireError):
    """A file is damaged, or has a data type that is not read.  The message names the file and the tensor."""


@dataclass(frozen=True)
class TensorEntry:
    """The type and shape of a tensor, and its bytes in the file: from ``start`` up to ``stop``, which is excluded."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


class SafetensorsFile:
    """One file.  Its header is read at once; ``read`` reads the data of a tensor through a memory map."""

    def __init__(self, path: Path) -> None:
        self.path = path
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > size - 8:
                raise SafetensorsError(f"{path}: truncated: header of {length} bytes in a file of {size}")
            text = file.read(length)
        try:
            header = json.loads(text)
            header.pop("__metadata__", None)
            self.entries = {name: self._entry(raw, 8 + length) for name, raw in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise SafetensorsError(f"{path}: its header is not that of a safetensors file") from None
        for name, entry in self.entries.items():
            start, stop = entry.start, entry.stop
            if not 8 + length <= start <= stop <= size:
                raise SafetensorsError(f"{path}: truncated: {name} lies at bytes {start} to {stop} of {size}")
            if entry.dtype in ITEM_BYTES and stop - start != math.prod(entry.shape) * ITEM_BYTES[entry.dtype]:
                raise SafetensorsError(f"{path}: {name} has {stop - start} bytes, not those of its shape")

    @staticmethod
    def _entry(raw: dict, base: int) -> TensorEntry:
        start, stop = raw["data_offsets"]
        shape = tuple(int(n) for n in raw["shape"])
        return TensorEntry(str(raw["dtype"]), shape, base + int(start), base + int(stop))

    def raw(self, name: str) -> np.ndarray:
        """The bytes of a tensor as a memory map, uint8."""
        entry = self.entries[name]
        if entry.start == entry.stop:
            return np.zeros(0, np.uint8)
        return np.memmap(self.path, np.uint8, mode="r", offset=entry.start, shape=(entry.stop - entry.start,))

    def read(self, name: str) -> np.ndarray:
        """Read a tensor as float32.  This is exact, because float32 holds every value of fp16 and of bfloat16."""
        entry, raw = self.entries[name], self.raw(name)
        if entry.dtype == "BF16":
            # A bfloat16 is the upper half of a float32.
            array = (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
        elif entry.dtype in ITEM_BYTES:
            array = raw.view({"F32": "<f4", "F16": "<f2"}[entry.dtype]).astype(np.float32)
        else:
            raise SafetensorsError(f"{self.path}: {name} has the unsupported type {entry.dtype}")
        return array.reshape(entry.shape)
