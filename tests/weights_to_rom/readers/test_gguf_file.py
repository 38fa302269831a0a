"""GGUF files, written by the gguf package."""

from dataclasses import replace

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from tests.support.checkpoints import SHAPE, gguf_name, interleave, interleaved, random_weights, write_gguf
from weights_to_rom.config import RopeScaling
from weights_to_rom.readers.base import CheckpointError
from weights_to_rom.readers.open import open_checkpoint

# Rows of every matrix a multiple of 32 elements.
TIED = replace(SHAPE, tied=True, n_heads=4, n_kv_heads=4)
HEADS = {"q": "n_heads", "k": "n_kv_heads"}


@pytest.mark.parametrize("config", [SHAPE, TIED])
@pytest.mark.parametrize("kind", [Type.F32, Type.F16, Type.BF16])
def test_floats(tmp_path, config, kind):
    weights = random_weights(config)
    write_gguf(tmp_path / "model.gguf", config, weights=weights, kind=kind)
    checkpoint = open_checkpoint(tmp_path / "model.gguf")
    assert checkpoint.config == config
    assert checkpoint.tokenizer is None and checkpoint.notes == []
    for name, array in weights.items():
        if array.ndim == 2:
            array = gguf.quants.dequantize(gguf.quants.quantize(array, kind), kind)
        assert np.array_equal(checkpoint.tensor(name), array), name
        assert checkpoint.blocks(name) is None


def to_file_order(config, name, array):
    """A matrix back in the order of the file's rows."""
    part = name.rpartition(".")[2]
    return interleave(array, getattr(config, HEADS[part])) if part in HEADS else array


@pytest.mark.parametrize(("kind", "bits"), [(Type.Q4_0, 4), (Type.Q4_1, 4), (Type.Q8_0, 8)])
def test_codes_are_kept(tmp_path, kind, bits):
    weights = random_weights(SHAPE)
    write_gguf(tmp_path / "model.gguf", weights=weights, kind=kind)
    checkpoint = open_checkpoint(tmp_path / "model.gguf")
    assert checkpoint.notes == []
    for name, array in interleaved(SHAPE, weights).items():
        if array.ndim == 1:
            assert checkpoint.blocks(name) is None
            continue
        raw = gguf.quants.quantize(array, kind)
        dequantised = gguf.quants.dequantize(raw, kind)
        blocks = checkpoint.blocks(name)
        n_blocks = array.shape[1] // 32
        assert blocks.bits == bits
        assert (blocks.codes.dtype, blocks.codes.shape) == (np.uint8, (len(array), n_blocks, 32))
        assert blocks.scale.dtype == blocks.minimum.dtype == np.float32
        assert blocks.scale.shape == blocks.minimum.shape == (len(array), n_blocks)
        assert blocks.codes.max() < 2**bits and blocks.scale.min() >= 0
        assert np.array_equal(blocks.values(), checkpoint.tensor(name))
        assert np.array_equal(to_file_order(SHAPE, name, blocks.values()), dequantised), name
        # The file's fp16 scales, but for their sign.
        scales = raw.reshape(len(array), n_blocks, -1)[..., :2].copy().view(np.float16)[..., 0]
        assert np.array_equal(to_file_order(SHAPE, name, blocks.scale), np.abs(scales.astype(np.float32)))
        if kind == Type.Q4_0:
            assert (scales < 0).any() and (scales > 0).any(), "the test needs both signs"
            eights = to_file_order(SHAPE, name, blocks.minimum / np.where(blocks.scale > 0, blocks.scale, 1))
            assert np.array_equal(eights, np.where(scales < 0, 7, 8))


@pytest.mark.parametrize("kind", [Type.Q4_0, Type.Q4_1, Type.Q8_0])
def test_negative_scales_are_mirrored(tmp_path, kind):
    # Written into the file itself, since no quantiser writes them for all three types.
    weights = random_weights(SHAPE)
    path = tmp_path / "model.gguf"
    write_gguf(path, weights=weights, kind=kind)
    tensor = next(t for t in gguf.GGUFReader(path).tensors if t.name == gguf_name("layers.1.down"))
    raw = np.array(tensor.data)
    blocks = raw.reshape(64, 5, -1)
    blocks[:, :, 1] ^= 0x80
    data = bytearray(path.read_bytes())
    data[tensor.data_offset : tensor.data_offset + raw.size] = raw.tobytes()
    path.write_bytes(data)
    found = open_checkpoint(path).blocks("layers.1.down")
    assert found.scale.min() >= 0 and (found.scale > 0).any()
    expected = gguf.quants.dequantize(raw, kind)
    if kind == Type.Q4_1:
        # The minimum becomes 15 d + m, which is one more rounding in float32.
        np.testing.assert_allclose(found.values(), expected, rtol=0, atol=1e-6)
    else:
        assert np.array_equal(found.values(), expected)


def test_other_types_are_dequantised_with_a_note(tmp_path):
    weights = random_weights(SHAPE)
    kinds = {"layers.0.q": Type.Q5_0, "layers.1.up": Type.Q5_1}
    write_gguf(tmp_path / "model.gguf", weights=weights, kind=Type.Q4_0, kinds=kinds)
    checkpoint = open_checkpoint(tmp_path / "model.gguf")
    assert checkpoint.notes == [
        "layers.0.q: Q5_0 is dequantised and requantised",
        "layers.1.up: Q5_1 is dequantised and requantised",
    ]
    for name, kind in kinds.items():
        assert checkpoint.blocks(name) is None
        raw = gguf.quants.quantize(interleaved(SHAPE, weights)[name], kind)
        assert np.array_equal(to_file_order(SHAPE, name, checkpoint.tensor(name)), gguf.quants.dequantize(raw, kind))


def divisors(config, scaling):
    """As the converter of llama.cpp writes ``rope_freqs``: what each frequency is divided by."""
    factors = []
    for frequency in config.rope_theta ** -(np.arange(0, config.head_dim, 2, dtype=np.float32) / config.head_dim):
        wavelength = 2 * np.pi / frequency
        if wavelength < scaling.original_max_seq_len / scaling.high_freq_factor:
            factors.append(1)
        elif wavelength > scaling.original_max_seq_len / scaling.low_freq_factor:
            factors.append(scaling.factor)
        else:
            smooth = (scaling.original_max_seq_len / wavelength - scaling.low_freq_factor) / (
                scaling.high_freq_factor - scaling.low_freq_factor
            )
            factors.append(1 / ((1 - smooth) / scaling.factor + smooth))
    return np.array(factors, np.float32)


LLAMA3 = replace(TIED, dim=128, n_heads=2, n_kv_heads=1, head_dim=64, rope_theta=500000.0)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama3_rope_scaling(tmp_path, factor):
    scaling = RopeScaling(factor, 1.0, 4.0, 8192)
    write_gguf(tmp_path / "model.gguf", LLAMA3, extra={"rope_freqs.weight": divisors(LLAMA3, scaling)})
    assert open_checkpoint(tmp_path / "model.gguf").config == replace(LLAMA3, rope_scaling=scaling)


def test_other_rope_scaling_of_that_form_is_recovered(tmp_path):
    scaling = RopeScaling(5.0, 1.5, 7.0, 3000)
    write_gguf(tmp_path / "model.gguf", LLAMA3, extra={"rope_freqs.weight": divisors(LLAMA3, scaling)})
    # Only ratios of the parameters are in the file, and only they count.
    found = open_checkpoint(tmp_path / "model.gguf").config.rope_frequencies()
    np.testing.assert_allclose(found, replace(LLAMA3, rope_scaling=scaling).rope_frequencies(), rtol=2e-6)


def test_rope_divisors_of_one_are_no_scaling(tmp_path):
    write_gguf(tmp_path / "model.gguf", LLAMA3, extra={"rope_freqs.weight": np.ones(32, np.float32)})
    assert open_checkpoint(tmp_path / "model.gguf").config.rope_scaling is None


def rope(**options):
    return lambda writer: [getattr(writer, f"add_rope_scaling_{name}")(value) for name, value in options.items()]


def test_linear_scaling_by_one_is_none(tmp_path):
    write_gguf(tmp_path / "model.gguf", fields=rope(type=gguf.RopeScalingType.LINEAR, factor=1.0))
    assert open_checkpoint(tmp_path / "model.gguf").config == SHAPE


def refused(path, message):
    with pytest.raises(CheckpointError, match=message) as error:
        open_checkpoint(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "qwen2"}, "not a Llama: general.architecture is 'qwen2'"),
        ({"fields": lambda w: w.add_expert_count(8)}, "llama.expert_count is 8"),
        ({"fields": lambda w: w.add_sliding_window(512)}, "llama.attention.sliding_window is 512"),
        ({"fields": lambda w: w.add_uint16("split.count", 3)}, "one part of a model in 3 files: merge them"),
        ({"fields": rope(type=gguf.RopeScalingType.YARN, factor=4.0)}, r"rope scaling 'yarn' \(factor 4.0\)"),
        (
            {"fields": rope(type=gguf.RopeScalingType.LINEAR, factor=2.0)},
            r"rope scaling 'linear' \(factor 2.0\)",
        ),
        ({"fields": rope(factor=2.0)}, r"rope scaling 'linear' \(factor 2.0\)"),
        (
            {"extra": {"rope_freqs.weight": np.arange(1, 9, dtype=np.float32)}},
            "rope_freqs.weight are not those of",
        ),
        (
            {"extra": {"rope_freqs.weight": np.ones(7, np.float32)}},
            "rope_freqs.weight is not 8 numbers of 1 or more",
        ),
        (
            {"extra": {"rope_freqs.weight": np.full(8, 0x7F800001, np.uint32).view(np.float32)}},  # signalling NaN
            "rope_freqs.weight is not 8 numbers of 1 or more",
        ),
        ({"extra": {"blk.0.attn_q.bias": np.ones(96, np.float32)}}, "the bias blk.0.attn_q.bias"),
        (
            {"extra": {"blk.1.attn_q_norm.weight": np.ones(16, np.float32)}},
            "holds blk.1.attn_q_norm.weight, which",
        ),
        (
            {"extra": {"blk.0.ffn_gate_inp.weight": np.ones(16, np.float32)}},
            "holds blk.0.ffn_gate_inp.weight, which",
        ),
    ],
)
def test_what_is_refused(tmp_path, options, message):
    write_gguf(tmp_path / "model.gguf", **options)
    refused(tmp_path / "model.gguf", message)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (replace(SHAPE, n_layers=3), "the tensor blk.2.attn_norm.weight is missing"),
        (replace(SHAPE, n_layers=1), r"holds blk\.1\.\S+ and 8 more tensors, which"),
        (replace(SHAPE, ffn_dim=192), r"blk\.0\.ffn_gate\.weight has shape \(160, 64\), not \(192, 64\)"),
        (replace(SHAPE, dim=96), r"token_embd\.weight has shape \(75, 64\), not \(75, 96\)"),
        (replace(SHAPE, n_kv_heads=1), r"blk\.0\.attn_k\.weight has shape \(32, 64\), not \(16, 64\)"),
    ],
)
def test_tensors_that_do_not_fit_the_metadata(tmp_path, config, message):
    weights = random_weights(SHAPE)
    write_gguf(tmp_path / "model.gguf", config, weights=weights)
    refused(tmp_path / "model.gguf", message)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("llama.attention.key_length", 12, "llama.attention.value_length is 16, not head_dim \\(12\\)"),
        ("llama.rope.dimension_count", 8, "llama.rope.dimension_count is 8, not head_dim \\(16\\)"),
        ("llama.attention.head_count_kv", 4, r"n_heads \(6\) must be a multiple of n_kv_heads \(4\)"),
        ("llama.context_length", 0, "llama.context_length must be an integer from 1 to 2147483647, not 0"),
    ],
)
def test_metadata_that_is_refused(tmp_path, field, value, message):
    path = tmp_path / "model.gguf"
    write_gguf(path)
    reader = gguf.GGUFReader(path, "r+")
    reader.fields[field].parts[-1][0] = value
    reader.data.flush()
    refused(path, message)


def test_missing_and_repeated_fields(tmp_path):
    path = tmp_path / "model.gguf"
    write_gguf(path)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"llama.attention.layer_norm_rms_epsilon", b"llama.attention.layer_norm_rms_epsilom"))
    refused(path, "llama.attention.layer_norm_rms_epsilon is missing")
    path.write_bytes(data.replace(b"token_embd.weight", b"token_emby.weight"))
    refused(path, "the tensor token_embd.weight is missing")
    path.write_bytes(data.replace(b"llama.attention.head_count_kv", b"llama.attention.head_count_kw"))
    refused(path, r"blk\.0\.attn_k\.weight has shape \(32, 64\), not \(96, 64\)")
    write_gguf(path, fields=lambda w: w.add_uint32("llama.vocab_sizes", 1))
    path.write_bytes(path.read_bytes().replace(b"llama.vocab_sizes", b"llama.block_count"))
    refused(path, "damaged GGUF file: it holds llama.block_count twice")


def per_layer(path, **lists):
    """Write lists where the format has a number: ``head_count=[6, 6]``."""
    names = {f"llama.attention.{key}": values for key, values in lists.items()}
    write_gguf(path, fields=lambda w: [w.add_array(f"{key[:-5]}_list", values) for key, values in names.items()])
    data = path.read_bytes()
    for key in names:
        number, entries = key.encode(), f"{key[:-5]}_list".encode()
        data = data.replace(number + b"\4\0\0\0", number[:-5] + b"_none\4\0\0\0").replace(entries, number)
    path.write_bytes(data)


def test_equal_numbers_for_each_layer_are_one_number(tmp_path):
    per_layer(tmp_path / "model.gguf", head_count=[6, 6], head_count_kv=[2, 2])
    assert open_checkpoint(tmp_path / "model.gguf").config == SHAPE


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([2, 3], "llama.attention.head_count_kv differs between layers"),
        ([2], "llama.attention.head_count_kv has 1 entries, llama.block_count is 2"),
        (["2", "2"], "llama.attention.head_count_kv must be an integer from 1 to 2147483647, not '2'"),
    ],
)
def test_other_lists_for_layers_are_refused(tmp_path, values, message):
    per_layer(tmp_path / "model.gguf", head_count_kv=values)
    refused(tmp_path / "model.gguf", message)


@pytest.mark.parametrize(("value", "kind"), [(np.nan, "NaN"), (np.inf, "infinite")])
def test_values_that_are_not_finite(tmp_path, value, kind):
    weights = random_weights(SHAPE)
    weights["layers.1.ffn_norm"][5] = value
    write_gguf(tmp_path / "model.gguf", weights=weights, kind=Type.Q4_1)
    path = tmp_path / "model.gguf"
    checkpoint = open_checkpoint(path)
    with pytest.raises(CheckpointError, match=rf"layers\.1\.ffn_norm holds 1 values .*{kind}, at \(5,\)"):
        checkpoint.tensor("layers.1.ffn_norm")
    # A scale of a block: fp16 with all exponent bits set.
    reader = gguf.GGUFReader(path, "r+")
    tensor = next(t for t in reader.tensors if t.name == gguf_name("layers.0.v"))
    tensor.data.reshape(32, 2, 20)[3, 1, :2].view(np.float16)[:] = value
    reader.data.flush()
    with pytest.raises(CheckpointError, match=rf"layers\.0\.v holds 1 values .*{kind}, at \(3, 1\)"):
        open_checkpoint(path).blocks("layers.0.v")
    with pytest.raises(CheckpointError, match=r"layers\.0\.v holds 32 values .* at \(3, 32\)"):
        open_checkpoint(path).tensor("layers.0.v")


def test_a_signalling_nan_in_a_scale(tmp_path):
    path = tmp_path / "model.gguf"
    write_gguf(path, kind=Type.Q8_0)
    reader = gguf.GGUFReader(path, "r+")
    tensor = next(t for t in reader.tensors if t.name == gguf_name("layers.0.v"))
    tensor.data.reshape(32, 2, 34)[3, 1, :2] = 0x01, 0x7C
    reader.data.flush()
    with pytest.raises(CheckpointError, match=r"layers\.0\.v holds 1 values .*NaN, at \(3, 1\)"):
        open_checkpoint(path).blocks("layers.0.v")


def test_integer_tensors_are_refused(tmp_path):
    path = tmp_path / "model.gguf"
    writer_extra = {"output.weight": np.ones((75, 64), np.int32)}
    write_gguf(path, replace(SHAPE, tied=True), extra=writer_extra)
    refused(path, "output.weight has the unsupported type I32")
