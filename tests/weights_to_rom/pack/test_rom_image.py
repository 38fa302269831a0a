"""ROM images, read back by the layout that rom_map prints: every number of the model is there."""

import hashlib
import json

import numpy as np
import pytest

from tests.support.models import RandomBlocks, random_config
from weights_to_rom.compile import quantise_checkpoint
from weights_to_rom.integer_model import IntegerModel
from weights_to_rom.pack.rom_image import NO_TOKEN, RomImage, rom_images, stage_images, words, write_rom_images
from weights_to_rom.rom_map import Field, Rom, Word, rom_map, stage_roms
from weights_to_rom.schedule import head_matrix

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
def test_the_images_are_those_of_the_map(model, row_lanes, block_lanes, vector_lanes):
    lanes = {"row_lanes": row_lanes, "block_lanes": block_lanes, "vector_lanes": vector_lanes}
    images = [(image.name, image.width, image.depth) for image in rom_images(model, **lanes)]
    assert images == [(rom.name, rom.width, rom.depth) for rom in rom_map(model.format, **lanes).values()]


@pytest.mark.parametrize("head", [False, True])
def test_the_images_of_a_stage(model, head):
    """A stage of the last layer has that layer's part of each ROM of the chip, under its prefix, and the chip's freq."""
    f, lanes = model.format, {"row_lanes": 2, "block_lanes": 16, "vector_lanes": 4}
    layers = [f.n_layers - 1]
    whole = {image.name: image for image in rom_images(model, **lanes)}
    images = {image.name: image for image in stage_images(model, **lanes, layers=layers, head=head, prefix="s1_")}
    sizes = {name: (image.width, image.depth) for name, image in images.items()}
    assert sizes == {
        name: (rom.width, rom.depth) for name, rom in stage_roms(f, **lanes, layers=layers, head=head, prefix="s1_").items()
    }
    assert list(images) == [f"s1_{name}" for name in ("weights_00", "weights_01", "rows", "gain", "norm", "freq")]
    left_out = {
        "weights": 0 if head else head_matrix(f).words(2, 16),
        "rows": 0 if head else head_matrix(f).groups(2),
        "gain": 0 if head else f.dim_padded // 4,
        "norm": 0 if head else 1,
        "freq": 0,
    }
    for name, image in images.items():
        want = whole[name.removeprefix("s1_")].ints()
        end = len(want) - left_out[name.removeprefix("s1_").partition("_")[0]]
        assert image.ints() == want[end - image.depth : end]


@pytest.mark.parametrize("width", [1, 4, 9, 38])
def test_hex_text(width):
    values = [0, 1, (1 << width) - 1, 1 << (width - 1), 0x2A5C963F18 & ((1 << width) - 1)]
    image = RomImage.of(Rom("x", Word((Field("value", width, "any"),)), 5), value=np.array(values))
    assert (image.depth, image.ints()) == (5, values)
    assert image.hex_text().decode() == "".join(f"{word:0{-(-width // 4)}x}\n" for word in values)


@pytest.mark.parametrize("copies", [1, 3])
@pytest.mark.parametrize("widths", [(4, 8, 2), (4, 4), (7, 3), (1, 16, 5), (32, 8)])
def test_fields_of_words(widths, copies):
    """Random fields, signed in turns, are found again at their bits; a field that is not there is refused."""
    rng = np.random.default_rng(0)
    counts = [1 + 2 * (i == 0) for i in range(len(widths))]
    signs = [bool(i % 2) for i in range(len(widths))]
    word = Word(
        tuple(Field(f"f{i}", bits, "", signs[i], counts[i]) for i, bits in enumerate(widths)),
        copies,
    )
    values = {
        f.name: rng.integers(*((-(1 << f.bits - 1), 1 << f.bits - 1) if f.signed else (0, 1 << f.bits)), (9, copies * f.count))
        for f in word.fields
    }
    image = RomImage.of(Rom("x", word, 9), **values)
    for n, got in enumerate(image.ints()):
        assert got < 1 << word.width
        for copy in range(copies):
            for field in word.fields:
                for index in range(field.count):
                    value = got & ((1 << field.bits) - 1)
                    got >>= field.bits
                    want = int(values[field.name][n, copy * field.count + index])
                    assert (signed(value, field.bits) if field.signed else value) == want
    flat = {name: array.reshape(-1) for name, array in values.items()}
    assert RomImage.of(Rom("x", word, 9), **flat).ints() == image.ints()
    with pytest.raises(ValueError, match="there is no field other: there are f0"):
        words(word, other=np.zeros(1), **values)
    with pytest.raises(ValueError, match="x has 8 words, not 9"):
        RomImage.of(Rom("x", word, 8), **values)


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
