"""The header of GGUF files: equal to that of the gguf package, and refused where a count, a length or a type cannot be."""

import struct

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from tests.support.checkpoints import write_gguf
from weights_to_rom.readers import gguf_header
from weights_to_rom.readers.base import CheckpointError
from weights_to_rom.readers.gguf_header import read_header
from weights_to_rom.readers.open import open_checkpoint


def many_fields(writer: gguf.GGUFWriter) -> None:
    for code, low, high in (("uint8", 0, 255), ("int8", -128, 127), ("uint16", 0, 2**16 - 1), ("int16", -(2**15), 2**15 - 1),
                            ("uint32", 0, 2**32 - 1), ("int32", -(2**31), 2**31 - 1), ("uint64", 0, 2**64 - 1),
                            ("int64", -(2**63), 2**63 - 1), ("float32", -1.5, 3.25), ("float64", -1e300, 1 / 3)):  # fmt: skip
        getattr(writer, f"add_{code}")(f"x.{code}.low", low)
        getattr(writer, f"add_{code}")(f"x.{code}.high", high)
    writer.add_bool("x.bool", True)
    writer.add_string("x.string", "é 你好 \n")
    writer.add_array("x.texts", ["a", "", "é"])
    writer.add_array("x.integers", [1, -2, 3])
    writer.add_array("x.floats", [1.5, -2.25])


@pytest.mark.parametrize("kind", [Type.F32, Type.BF16, Type.Q4_0, Type.Q8_0, Type.Q5_1])
@pytest.mark.parametrize("alignment", [32, 256])
def test_equals_the_package(tmp_path, kind, alignment):
    path = tmp_path / "model.gguf"
    write_gguf(path, kind=kind, fields=lambda w: (w.add_custom_alignment(alignment), many_fields(w)))
    reader = gguf.GGUFReader(path)
    fields, tensors = read_header(path)
    expected = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert fields == expected and [type(v) for v in fields.values()] == [type(v) for v in expected.values()]
    assert list(tensors) == [tensor.name for tensor in reader.tensors]
    for tensor in reader.tensors:
        own = tensors[tensor.name]
        assert (own.kind, own.shape) == (tensor.tensor_type, tuple(reversed(tensor.shape.tolist())))
        assert own.raw(path).tobytes() == tensor.data.tobytes()


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def field(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(name: str = "t", shape: tuple[int, ...] = (1,), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def file(
    *entries: bytes, tensors: tuple[bytes, ...] = (), version: int = 3, n_fields: int | None = None, n_tensors: int | None = None
):
    counts = len(tensors) if n_tensors is None else n_tensors, len(entries) if n_fields is None else n_fields
    head = b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join(entries) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + bytes(64)


STRING, ARRAY, UINT8, UINT32 = 8, 9, 0, 4
HUGE = struct.pack("<Q", 2**63)

DAMAGED = {
    "of version 1, of 2023": file(version=1),
    "of version 4: versions 2 and 3": file(version=4),
    "of version 0:": file(version=0),
    "a big-endian GGUF file": file(version=3 << 24),
    "a key at byte 32 takes 9223372036854775808 bytes, the file has": file(HUGE),
    "it has 9223372036854775808 fields and 0 tensors, more than 65536": file(n_fields=2**63),
    "it has 0 fields and 65537 tensors, more than 65536": file(n_tensors=2**16 + 1),
    "a number at byte 24 takes 8 bytes, the file has 26": file(n_tensors=2**16)[:26],
    "x has a value of type 13, and there are types 0 to 12": file(field("x", 13, b"")),
    "x has a value of type 77": file(field("x", ARRAY, struct.pack("<IQ", 77, 1))),
    "x is a list of lists": file(field("x", ARRAY, struct.pack("<IQIQ", ARRAY, 1, UINT8, 0))),
    "x at byte .* takes 1000000 bytes": file(field("x", ARRAY, struct.pack("<IQ", UINT8, 10**6))),
    "the lists up to x have 9223372036854775808 entries, more than": file(field("x", ARRAY, struct.pack("<I", UINT8) + HUGE)),
    r"a number at byte .* takes 8 bytes": file(field("x", ARRAY, struct.pack("<IQ", STRING, 10**6))),
    "it holds x twice": file(field("x", UINT8, b"\1"), field("x", UINT8, b"\1")),
    "it holds the tensor t twice": file(tensors=(tensor(), tensor())),
    "t has 5 dimensions, not 1 to 4": file(tensors=(tensor(shape=(1,) * 5),)),
    "t has 0 dimensions": file(tensors=(tensor(shape=()),)),
    r"t has the shape \(3, 0\)": file(tensors=(tensor(shape=(0, 3)),)),
    "t lies at bytes 96 to 85899346016, the file has 160": file(tensors=(tensor(shape=(2**31, 10)),)),
    "t lies at bytes 18446744073709551": file(tensors=(tensor(offset=2**64 - 64),)),
    "t lies at bytes 96 to 1461501637330902918203684832716283019655932543072": file(tensors=(tensor(shape=(2**63, 2**63, 2**32)),)),
    r"rows of t have 33 elements, no multiple of 32 \(Q4_0\)": file(tensors=(tensor(shape=(33,), kind=2),)),
    r"t has the tensor type 31 \(Q4_0_4_4\), which ggml removed: quantise": file(tensors=(tensor(kind=31),)),
    r"t has the tensor type 36 \(IQ4_NL_4_4, or I2_S of BitNet's fork\)": file(tensors=(tensor(kind=36),)),
    "t has the tensor type 99, which ggml does not define: it is of a fork": file(tensors=(tensor(kind=99),)),
    "general.alignment must be a power of two, not 24": file(field("general.alignment", UINT32, struct.pack("<I", 24))),
    "general.alignment must be a power of two, not 0": file(field("general.alignment", UINT32, struct.pack("<I", 0))),
    "general.alignment must be a power of two, not '32'": file(field("general.alignment", STRING, text("32"))),
    "tokenizer.x at byte .* is not UTF-8": file(field("tokenizer.x", STRING, text(b"caf\xe9"))),
    r"llama.x\[1\] at byte .* is not UTF-8": file(
        field("llama.x", ARRAY, struct.pack("<IQ", STRING, 2) + text("a") + text(b"\xff"))
    ),
    "a key at byte .* is not UTF-8": file(text(b"\xff") + struct.pack("<I", UINT8) + b"\1"),
}


@pytest.mark.parametrize("message", DAMAGED)
def test_damaged_headers(tmp_path, message):
    path = tmp_path / "model.gguf"
    path.write_bytes(DAMAGED[message])
    with pytest.raises(CheckpointError, match=message) as caught:
        read_header(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_metadata_is_bounded(tmp_path, monkeypatch):
    path = tmp_path / "model.gguf"
    path.write_bytes(file(field("x", STRING, text("y" * 1000))))
    assert read_header(path)[0] == {"x": "y" * 1000}
    monkeypatch.setattr(gguf_header, "MAX_HEADER_BYTES", 500)
    with pytest.raises(CheckpointError, match="takes 1000 bytes, metadata may have 500"):
        read_header(path)


def test_a_name_in_another_encoding_does_no_harm(tmp_path):
    """Nobody reads general.name; llama.cpp loads such a file."""
    path = tmp_path / "model.gguf"
    write_gguf(path, fields=lambda w: w.add_name("Modele"))
    path.write_bytes(path.read_bytes().replace(b"Modele", b"Mod\xe8le"))
    assert open_checkpoint(path).tensor("norm").shape == (64,)


def test_zero_biases_are_no_biases(tmp_path):
    write_gguf(tmp_path / "model.gguf", extra={"blk.0.attn_q.bias": np.zeros(96, np.float32)})
    assert open_checkpoint(tmp_path / "model.gguf").notes == []
    for value in (1e-30, np.nan):
        write_gguf(tmp_path / "model.gguf", extra={"blk.0.attn_q.bias": np.full(96, value, np.float32)})
        with pytest.raises(CheckpointError, match=r"the bias blk\.0\.attn_q\.bias, which is not zero"):
            open_checkpoint(tmp_path / "model.gguf")
    write_gguf(tmp_path / "model.gguf", extra={"blk.0.attn_sinks.bias": np.zeros(96, np.float32)})
    with pytest.raises(CheckpointError, match=r"holds blk\.0\.attn_sinks\.bias, which a Llama"):
        open_checkpoint(tmp_path / "model.gguf")
