"""Writers that write what they are told, right or wrong: GGUF, safetensors, sentencepiece models and llama2.c tokenizers."""

import json
import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np

UINT8, INT8, UINT16, INT16, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64, INT64, FLOAT64 = range(13)
CODES = {UINT8: "B", INT8: "b", UINT16: "H", INT16: "h", UINT32: "I", INT32: "i", FLOAT32: "f", BOOL: "B", UINT64: "Q",
         INT64: "q", FLOAT64: "d"}  # fmt: skip


@dataclass
class Field:
    """One entry of metadata: ``kind`` is the number of a type, ``element`` that of an array's elements."""

    key: str | bytes
    kind: int
    value: Any
    element: int = 0
    length: int | None = None


@dataclass
class TensorInfo:
    """One tensor; ``shape`` rows first.  ``offset`` None puts it after the one before."""

    name: str
    kind: int
    shape: tuple[int, ...]
    data: bytes
    offset: int | None = None


@dataclass
class Gguf:
    """A GGUF file, right or wrong."""

    fields: list[Field]
    tensors: list[TensorInfo]
    magic: bytes = b"GGUF"
    version: int = 3
    counts: tuple[int | None, int | None] = (None, None)
    alignment: int = 32

    def bytes(self) -> bytes:
        n_tensors, n_fields = self.counts
        counts = (len(self.tensors) if n_tensors is None else n_tensors), (len(self.fields) if n_fields is None else n_fields)
        head = [self.magic, struct.pack("<IQQ", self.version, *(n % 2**64 for n in counts))]
        for one in self.fields:
            head += [_text(one.key), struct.pack("<I", one.kind % 2**32), _value(one.kind, one)]
        place, blobs = 0, b""
        for one in self.tensors:
            head.append(_text(one.name) + struct.pack("<I", len(one.shape)))
            head += [struct.pack("<Q", n % 2**64) for n in reversed(one.shape)]
            head.append(struct.pack("<IQ", one.kind % 2**32, (place if one.offset is None else one.offset) % 2**64))
            padded = one.data + bytes(-len(one.data) % self.alignment)
            blobs += padded
            place += len(padded)
        whole = b"".join(head)
        return whole + bytes(-len(whole) % self.alignment) + blobs


def _text(value: Any) -> bytes:
    data = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(data)) + data


def _number(kind: int, value: Any) -> bytes:
    code = CODES.get(kind, "I")
    if code in "fd":
        number = float(value) if isinstance(value, int | float) else 0.0
        with np.errstate(over="ignore"):
            return (np.float32 if code == "f" else np.float64)(number).tobytes()
    number = int(value) if isinstance(value, int | float) and value == value and abs(value) < 1e300 else 0
    size = struct.calcsize(code)
    return (number % 256**size).to_bytes(size, "little")


def _value(kind: int, one: Field) -> bytes:
    if kind == STRING:
        return _text(one.value)
    if kind != ARRAY:
        return _number(kind, one.value)
    entries = one.value if isinstance(one.value, list) else [one.value]
    length = len(entries) if one.length is None else one.length
    data = b"".join(_text(x) if one.element == STRING else _number(one.element, x) for x in entries)
    return struct.pack("<IQ", one.element % 2**32, length % 2**64) + data


@dataclass
class Safetensors:
    """A safetensors file: ``header`` may be any JSON; ``length`` None is its true length."""

    header: Any
    data: bytes
    length: int | None = None

    @classmethod
    def of(cls, tensors: dict[str, np.ndarray], dtypes: dict[str, str] | None = None) -> "Safetensors":
        header, blobs, place = {}, [], 0
        for name, array in tensors.items():
            dtype = (dtypes or {}).get(name, "F32")
            data = array.astype({"F32": "<f4", "F16": "<f2", "F64": "<f8", "U32": "<u4"}[dtype]).tobytes()
            header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [place, place + len(data)]}
            blobs.append(data)
            place += len(data)
        return cls(header, b"".join(blobs))

    def bytes(self) -> bytes:
        text = json.dumps(self.header).encode("utf-8", "surrogatepass")
        return ((len(text) if self.length is None else self.length) % 2**64).to_bytes(8, "little") + text + self.data


def _varint(n: int) -> bytes:
    n %= 2**64
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def _message(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


@dataclass
class SentencePiece:
    """A sentencepiece model: pieces as (text, score, kind); the numbers of its trainer's and its normaliser's fields."""

    pieces: list[tuple[str | bytes, float, int]]
    trainer: dict[int, int] = field(default_factory=lambda: {3: 2, 35: 1, 40: 0, 41: 1, 42: 2, 43: 2**64 - 1})
    normalizer: dict[int, int] = field(default_factory=lambda: {3: 1, 4: 0, 5: 1})
    charsmap: bytes = b""

    def bytes(self) -> bytes:
        out = b""
        for text, score, kind in self.pieces:
            data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
            out += _message(1, _message(1, data) + b"\x15" + struct.pack("<f", score) + b"\x18" + _varint(kind))
        trainer = b"".join(_varint(number << 3) + _varint(value) for number, value in self.trainer.items())
        normalizer = _message(1, b"identity") + (_message(2, self.charsmap) if self.charsmap else b"")
        normalizer += b"".join(_varint(number << 3) + _varint(value) for number, value in self.normalizer.items())
        return out + _message(2, trainer) + _message(3, normalizer)


def llama2c_tokenizer(tokens: list[tuple[float, int, bytes]], longest: int) -> bytes:
    """A llama2.c tokenizer: score, length and bytes of each token."""
    return struct.pack("<I", longest % 2**32) + b"".join(
        struct.pack("<fi", score, (length + 2**31) % 2**32 - 2**31) + data for score, length, data in tokens
    )
