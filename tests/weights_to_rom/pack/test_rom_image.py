"""ROM images, read back by the layout in their module's docstring: every number of the model is there."""

import hashlib
import json

import numpy as np
import pytest

from hdl.config import ChipConfig
from hdl.verilog import rom_specs
from tests.support.models import RandomBlocks, random_config
from weights_to_rom.integer_model import IntegerModel, quantise_checkpoint
from weights_to_rom.pack.rom_image import NO_TOKEN, RomImage, rom_images, write_rom_images

SHAPES = {
    "tied": ({}, {}),
    "untied_no_multiples": (
        {
            "dim": 40,
            "n_heads": 5,
            "n_kv_heads": 1,
            "head_dim": 24,
            "ffn_dim": 33,
            "vocab_size": 77,
            "tied": False,
        },
        {"q": 8, "k": 8, "v": 8, "down": 8},
    ),
    "untied_four_bit_embedding": ({"dim": 64, "n_layers": 1, "tied": False}, {"embed": 4}),
    "four_bit_head": ({"n_layers": 1, "vocab_size": 101}, {"embed": 4}),
}
LANES = [(1, 4, 2), (2, 32, 8), (6, 8, 2), (12, 16, 4), (64, 32, 8)]


@pytest.fixture(scope="module", params=SHAPES)
def model(request) -> IntegerModel:
    shape, bits = SHAPES[request.param]
    return quantise_checkpoint(RandomBlocks(random_config(eos_token_ids=(7, 9), **shape), 4, bits))


def signed(value: int, bits: int) -> int:
    return value - (value >> (bits - 1) << bits)


class Reader:
    """The words of weight ROMs and of their row ROM, as the fabric reads them: from the first to the last."""

    def __init__(self, lanes: list[list[int]], rows: list[int], block_lanes: int):
        self._lanes, self._rows, self._block_lanes = lanes, rows, block_lanes
        self._word = self._group = 0

    def matrix(self, n_rows: int, n_blocks: int, planes: int) -> np.ndarray:
        """Weights float64[n_rows, n_blocks * 32]: integers of 16 bits times powers of two."""
        b, r = self._block_lanes, len(self._lanes)
        groups = -(-n_rows // r)
        out = np.zeros((groups * r, n_blocks, 32))
        for group in range(groups):
            for block in range(n_blocks):
                for plane in range(planes):
                    for lane in range(r):
                        q, dm = [], 0
                        for s in range(32 // b):
                            word = self._lanes[lane][self._word + s]
                            q += [word >> (4 * i) & 15 for i in range(b)]
                            dm |= word >> (4 * b) << (b // 2 * s)
                        row = self._rows[self._group] >> (10 * lane) & 1023
                        e, k = signed(row & 127, 7) + (4 if planes == 2 and plane == 0 else 0), row >> 7
                        d, m = dm & 255, dm >> 8
                        out[group * r + lane, block] += np.ldexp(np.array(q) * d, e) - np.ldexp(m, e + k)
                    self._word += 32 // b
            self._group += 1
        assert not out[n_rows:].any(), "rows that only fill a group must give zero"
        return out[:n_rows].reshape(n_rows, -1)

    def assert_ends(self) -> None:
        assert {len(lane) for lane in self._lanes} == {self._word} and len(self._rows) == self._group


@pytest.mark.parametrize(("row_lanes", "block_lanes", "vector_lanes"), LANES)
def test_every_weight_is_in_its_place(model, row_lanes, block_lanes, vector_lanes):
    f = model.format
    images = {
        image.name: image.ints()
        for image in rom_images(model, row_lanes=row_lanes, block_lanes=block_lanes, vector_lanes=vector_lanes)
    }
    lanes = [images[f"weights_{lane:02d}"] for lane in range(row_lanes)]
    reader = Reader(lanes, images["rows"], block_lanes)
    weights = {name: matrix.dequantise() for name, matrix in model.matrices.items()}
    dim, attn, ffn = f.dim_padded // 32, f.attn_padded // 32, f.ffn_padded // 32
    for i in range(f.n_layers):
        layer = {kind: weights[f"layers.{i}.{kind}"] for kind in ("q", "k", "v", "o", "gate", "up", "down")}
        got = reader.matrix(f.qkv_rows, dim, f.qkv_bits // 4)
        assert np.array_equal(got, np.concatenate([layer["k"], layer["v"], layer["q"]]))
        assert np.array_equal(reader.matrix(f.dim_padded, attn, f.o_bits // 4), layer["o"])
        got = reader.matrix(2 * f.ffn_padded, dim, f.gate_up_bits // 4)
        turns = got.reshape(-1, 2, vector_lanes, got.shape[1])
        assert np.array_equal(turns[:, 0].reshape(layer["gate"].shape), layer["gate"])
        assert np.array_equal(turns[:, 1].reshape(layer["up"].shape), layer["up"])
        assert np.array_equal(reader.matrix(f.dim_padded, ffn, f.down_bits // 4), layer["down"])
    head = weights["embed" if f.tied else "head"]
    assert np.array_equal(reader.matrix(f.vocab_size, dim, f.head_bits // 4), head)
    reader.assert_ends()
    assert f.tied == ("embedding_00" not in images)
    if not f.tied:
        reader = Reader([images["embedding_00"]], images["embedding_rows"], block_lanes)
        assert np.array_equal(reader.matrix(f.vocab_size, dim, f.embed_bits // 4), weights["embed"])
        reader.assert_ends()


@pytest.mark.parametrize("vector_lanes", [2, 8])
def test_constants(model, vector_lanes):
    f = model.format
    images = {image.name: image.ints() for image in rom_images(model, row_lanes=2, block_lanes=32, vector_lanes=vector_lanes)}
    order = [f"layers.{i}.{kind}" for i in range(f.n_layers) for kind in ("attn_norm", "ffn_norm")] + ["norm"]
    norms = [model.norms[name] for name in order]
    gains = [signed(word >> (16 * lane) & 0xFFFF, 16) for word in images["gain"] for lane in range(vector_lanes)]
    assert gains == [int(gain) for norm in norms for gain in norm.gain_q]
    assert [(word & 0xFFFFFFFF, signed(word >> 32, 8)) for word in images["norm"]] == [
        (norm.eps_q, norm.gain_exp) for norm in norms
    ]
    freq = [word >> (32 * pair) & 0xFFFFFFFF for word in images["freq"] for pair in range(vector_lanes // 2)]
    assert freq == [int(turns) for turns in model.freq_q]
    (constant,) = images["constant"]
    assert (signed(constant & 63, 6), constant >> 6) == (model.residual_shift if f.tied else 0, 7)


def test_a_model_without_an_end_of_text():
    model = quantise_checkpoint(RandomBlocks(random_config()))
    images = {i.name: i.ints() for i in rom_images(model, row_lanes=1, block_lanes=32, vector_lanes=2)}
    assert images["constant"][0] >> 6 == NO_TOKEN


@pytest.mark.parametrize(("row_lanes", "block_lanes", "vector_lanes"), LANES)
def test_the_verilog_expects_just_these(model, row_lanes, block_lanes, vector_lanes):
    config = ChipConfig.for_model(model.format, row_lanes=row_lanes, block_lanes=block_lanes, vector_lanes=vector_lanes)
    images = rom_images(model, row_lanes=row_lanes, block_lanes=block_lanes, vector_lanes=vector_lanes)
    assert [(i.name, i.width, i.depth) for i in images] == [
        (spec.name, spec.width, spec.depth) for spec in rom_specs(model.format, config)
    ]


@pytest.mark.parametrize("width", [1, 4, 9, 38])
def test_hex_text(width):
    words = [0, 1, (1 << width) - 1, 1 << (width - 1), 0x2A5C963F18 & ((1 << width) - 1)]
    bits = np.array([[word >> i & 1 for i in range(width)] for word in words], np.uint8)
    image = RomImage.from_bits("x", bits)
    assert (image.depth, image.ints()) == (5, words)
    assert image.hex_text().decode() == "".join(f"{word:0{-(-width // 4)}x}\n" for word in words)


def test_files_and_manifest(model, tmp_path):
    lanes = {"row_lanes": 2, "block_lanes": 8, "vector_lanes": 2}
    manifest = write_rom_images(rom_images(model, **lanes), tmp_path / "rom")
    assert json.loads((tmp_path / "rom" / "manifest.json").read_text()) == manifest
    assert {path.name for path in (tmp_path / "rom").iterdir()} == {
        "manifest.json",
        *(f"{n}.hex" for n in manifest),
    }
    for image in rom_images(model, **lanes):
        content = (tmp_path / "rom" / f"{image.name}.hex").read_bytes()
        assert [int(word, 16) for word in content.decode().splitlines()] == image.ints()
        assert manifest[image.name] == {
            "width": image.width,
            "depth": image.depth,
            "sha256": hashlib.sha256(content).hexdigest(),
        }
