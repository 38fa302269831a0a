"""The integer model: what it does to a checkpoint's matrices, and its file."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.support.models import RandomBlocks, RandomCheckpoint, random_config
from weights_to_rom.compile import choose_residual_shift, class_bits, quantise_checkpoint, quantise_norm, with_residual_shift
from weights_to_rom.integer_model import IntegerModel, IntegerModelError, matrix_names
from weights_to_rom.quantise.rounding import quantise
from weights_to_rom.readers.base import BlockCodes, CheckpointError
from weights_to_rom.row_order import pair_order

ODD = {
    "dim": 40,
    "n_heads": 5,
    "n_kv_heads": 1,
    "head_dim": 24,
    "ffn_dim": 33,
    "vocab_size": 77,
    "tied": False,
}


class Codes(RandomCheckpoint):
    """A file that holds codes of some matrices, by whole name."""

    def __init__(self, config, bits: dict[str, int]):
        super().__init__(config)
        self._bits = bits

    def blocks(self, name: str) -> BlockCodes | None:
        if name not in self._bits:
            return None
        matrix = quantise(self._read(name), self._bits[name])
        return BlockCodes(matrix.q, matrix.scale.astype(np.float32), matrix.minimum.astype(np.float32), matrix.bits)


def every(kinds: str, bits: int, layers: int = 2) -> dict[str, int]:
    return {f"layers.{i}.{kind}": bits for i in range(layers) for kind in kinds.split()}


# The file


def test_save_and_load(tmp_path):
    checkpoint = RandomBlocks(random_config(**ODD, eos_token_ids=(5, 6), bos_token_id=1), 0, {"down": 8})
    model = quantise_checkpoint(checkpoint, wide_bits=24)
    model.save(tmp_path / "model.safetensors")
    loaded = IntegerModel.load(tmp_path / "model.safetensors")
    assert (loaded.format, loaded.residual_shift, loaded.report) == (
        model.format,
        model.residual_shift,
        model.report,
    )
    assert (loaded.eos_token_ids, loaded.bos_token_id) == ((5, 6), 1)
    assert np.array_equal(loaded.freq_q, model.freq_q) and loaded.freq_q.dtype == np.uint32
    assert set(loaded.matrices) == set(model.matrices) == set(matrix_names(model.format))
    for name, matrix in model.matrices.items():
        got = loaded.matrices[name]
        assert got.bits == matrix.bits
        for part, dtype in (
            ("q", np.uint8),
            ("d", np.uint8),
            ("m", np.uint8),
            ("e", np.int8),
            ("k", np.uint8),
        ):
            a, b = getattr(got, part), getattr(matrix, part)
            assert a.dtype == b.dtype == dtype and np.array_equal(a, b)
    assert set(loaded.norms) == set(model.norms)
    for name, norm in model.norms.items():
        got = loaded.norms[name]
        assert (got.gain_exp, got.eps_q) == (norm.gain_exp, norm.eps_q)
        assert got.gain_q.dtype == np.int16 and np.array_equal(got.gain_q, norm.gain_q)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_the_same_model_is_the_same_file(tmp_path):
    for name in "ab":
        quantise_checkpoint(RandomCheckpoint(random_config())).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("keep", [0, 5, 100, 0.5, -1])
def test_truncated_file(tmp_path, keep):
    path = tmp_path / "model.safetensors"
    quantise_checkpoint(RandomCheckpoint(random_config())).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(IntegerModelError, match=r"model\.safetensors: cannot be read as an integer model"):
        IntegerModel.load(path)


def test_no_file(tmp_path):
    with pytest.raises(IntegerModelError, match=r"nothing\.safetensors: cannot be read"):
        IntegerModel.load(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"about": '{"kind": "hardwire integer model 0"}'}])
def test_file_of_another_kind(tmp_path, metadata):
    path = tmp_path / "other.safetensors"
    save_file({"x": np.zeros(3, np.float32)}, path, metadata)
    with pytest.raises(IntegerModelError, match=r"other\.safetensors: is not a 'hardwire integer model 1' file"):
        IntegerModel.load(path)


# Matrices


def test_padding():
    """Rows that compute padding give zero; the embedding is zero in the padded columns."""
    model = quantise_checkpoint(RandomCheckpoint(random_config(**ODD)))
    f = model.format
    assert (f.dim_padded, f.ffn_padded, f.attn_padded) == (64, 64, 128)
    for name, rows, real, blocks in (
        ("q", 120, 120, 2),
        ("k", 24, 24, 2),
        ("o", 64, 40, 4),
        ("gate", 64, 33, 2),
        ("up", 64, 33, 2),
        ("down", 64, 40, 2),
    ):
        matrix = model.matrices[f"layers.1.{name}"]
        assert matrix.q.shape == (rows, blocks, 32) and matrix.d.shape == matrix.m.shape == (rows, blocks)
        assert not matrix.dequantise()[real:].any() and matrix.dequantise()[:real].any(axis=1).all()
    embed = model.matrices["embed"].dequantise()
    assert embed.shape == (77, 64) and not embed[:, 40:].any() and embed[:, :40].any(axis=1).all()
    assert model.norms["norm"].gain_q.shape == (64,)
    assert not model.norms["norm"].gain_q[40:].any() and model.norms["norm"].gain_q[:40].all()


def test_pair_order():
    assert pair_order(2, 8).tolist() == [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]


@pytest.mark.parametrize("shape", [{}, ODD])
def test_rows_and_folded_constants(shape):
    """k has another order only, v not even that; q carries log2(e) / sqrt(head_dim), o and down the shift."""
    config = random_config(**shape)
    checkpoint = RandomCheckpoint(config)
    model = quantise_checkpoint(checkpoint)
    plain = {kind: quantise(checkpoint.tensor(f"layers.0.{kind}"), 4) for kind in ("q", "k", "v", "o", "down")}
    got = {kind: model.matrices[f"layers.0.{kind}"] for kind in plain}
    order = pair_order(config.n_kv_heads, config.head_dim)
    assert np.array_equal(got["k"].dequantise(), plain["k"].dequantise()[order])
    assert np.array_equal(got["v"].dequantise(), plain["v"].dequantise())
    q = plain["q"].dequantise()[pair_order(config.n_heads, config.head_dim)] * np.log2(np.e) / np.sqrt(config.head_dim)
    assert np.array_equal(got["q"].q, plain["q"].q[pair_order(config.n_heads, config.head_dim)])
    assert np.abs(got["q"].dequantise() - q).max() < 0.01 * np.abs(q).max()  # scales of 8 bits, rounded once more
    for kind in ("o", "down"):
        shifted = plain[kind].dequantise() * 2.0**model.residual_shift
        assert np.array_equal(got[kind].dequantise()[: config.dim], shifted)


@pytest.mark.parametrize(
    ("rms", "shift"),
    [(0, 0), (1, 0), (0.0625, 1), (0.0626, 0), (0.05, 1), (0.02, 2), (2.0**-12.5, 9), (2.0**-28, 25), (2.0**-40, 31)],
)
def test_residual_shift(rms, shift):
    """The root mean square comes to lie in (2**-4, 2**-3], unless it is above or too far below."""
    embedding = np.full((10, 32), rms, np.float32)
    assert choose_residual_shift(embedding) == shift


@pytest.mark.parametrize("wide_bits", [24, 32])
def test_a_large_embedding_stays_within_half_of_wide(wide_bits):
    embedding = np.full((10, 32), 1.0, np.float32)
    for exponent in range(-20, 31):
        embedding[3, 5] = -(2.0**exponent)
        shift = choose_residual_shift(embedding, wide_bits)
        # LSB 2**-12, and half of the range is 2**(wide_bits - 2).
        assert shift == min(0, wide_bits - 2 - 12 - exponent)


@pytest.mark.parametrize("eps", [1e-5, 0.3, 5.0, 1e9])
@pytest.mark.parametrize("rms", [2.0**-30, 1.0])
def test_the_shift_leaves_room_for_epsilon(rms, eps):
    """The norm's constant is exact: it is never clipped.  The next larger shift would not do."""
    embedding = np.full((10, 32), rms, np.float32)
    shift, free = choose_residual_shift(embedding, eps=eps), choose_residual_shift(embedding)
    wanted = 32 * eps * 2.0**24 * 4.0**shift
    assert wanted < 2**31 and (shift == free or 4 * wanted >= 2**31)
    assert quantise_norm(np.ones(32), 32, eps, shift).eps_q == max(1, round(wanted))


@pytest.mark.parametrize("tied", [True, False])
def test_what_the_residual_shift_scales(tied):
    class Small(RandomCheckpoint):
        def _read(self, name):
            return super()._read(name) * (0.01 if name == "embed" else 1)

    config = random_config(tied=tied, norm_eps=1e-5)
    checkpoint = Small(config)
    model = quantise_checkpoint(checkpoint)
    assert model.residual_shift == 3
    embed = quantise(checkpoint.tensor("embed"), 8).dequantise()
    # A tied table is the head, too: the embedding unit shifts what it reads there.
    assert np.array_equal(model.matrices["embed"].dequantise(), embed if tied else 8 * embed)
    assert model.norms["norm"].eps_q == round(32 * 1e-5 * 2**24 * 64)


@pytest.mark.parametrize(("scale", "said"), [(1e12, "larger"), (1e-14, "smaller")])
@pytest.mark.parametrize("kind", ["q", "embed"])
def test_weights_beyond_the_blocks_are_refused(kind, scale, said):
    class Scaled(RandomCheckpoint):
        def _read(self, name):
            return super()._read(name) * np.float32(scale if name.rpartition(".")[2] == kind else 1)

    with pytest.raises(
        CheckpointError, match=f"^random weights 0: the weights of .*{kind} are {said} than blocks of integers hold"
    ):
        quantise_checkpoint(Scaled(random_config()))


def test_an_epsilon_that_no_shift_holds():
    with pytest.raises(CheckpointError, match=r"^random weights 0: the epsilon of its norms is 1e\+30, which no chip holds"):
        quantise_checkpoint(RandomCheckpoint(random_config(norm_eps=1e30)))


@pytest.mark.parametrize("shift", [-20, -3, 0, 5])
@pytest.mark.parametrize("tied", [True, False])
def test_another_residual_shift(tied, shift):
    """The same model, as if it had been quantised with that shift; back again it is the first one."""
    checkpoint = RandomCheckpoint(random_config(tied=tied, norm_eps=1e-4))
    model = quantise_checkpoint(checkpoint)
    other = with_residual_shift(model, shift, 1e-4)
    assert other.residual_shift == shift
    for name, matrix in model.matrices.items():
        scaled = name.endswith((".o", ".down")) or (name == "embed" and not tied)
        assert np.array_equal(other.matrices[name].dequantise(), matrix.dequantise() * (2.0**shift if scaled else 1))
    for norm in other.norms.values():
        assert norm.eps_q == max(1, round(32 * 1e-4 * 2.0**24 * 4.0**shift))
    again = with_residual_shift(other, model.residual_shift, 1e-4)
    assert all(np.array_equal(again.matrices[name].e, matrix.e) for name, matrix in model.matrices.items())


@pytest.mark.parametrize("eps", [0.0, 1e-5, 1e30])
@pytest.mark.parametrize("peak", [0.0, 1e-6, 1.0, 32767 / 2**15 / np.sqrt(40), 1000.0])
def test_norms(peak, eps):
    gain = np.random.default_rng(0).uniform(-peak, peak, 40)
    gain[3] = peak
    norm = quantise_norm(gain, 40, eps, 2)
    scaled = gain * np.sqrt(40)
    assert np.abs(np.ldexp(norm.gain_q[:40].astype(float), norm.gain_exp) - scaled).max() <= 2.0 ** (norm.gain_exp - 1)
    assert not peak or 16383 < norm.gain_q.max() <= 32767  # the smallest exponent that fits
    assert norm.eps_q == {0.0: 1, 1e-5: round(40 * 1e-5 * 2**24 * 16), 1e30: 2**32 - 1}[eps]


def test_frequencies_are_turns():
    config = random_config(head_dim=16, rope_theta=500.0)
    freq_q = quantise_checkpoint(RandomCheckpoint(config)).freq_q
    assert freq_q.tolist() == [round(500.0 ** (-j / 8) / (2 * np.pi) * 2**32) for j in range(8)]


def test_parameters_counts_what_the_checkpoint_holds():
    for shape in ({}, ODD):
        config = random_config(**shape)
        model = quantise_checkpoint(RandomCheckpoint(config))
        assert model.parameters() == sum(int(np.prod(shape)) for shape in config.tensor_shapes().values())


# Bits


@pytest.mark.parametrize(
    ("tied", "codes", "expected"),
    [
        (True, {}, {}),
        (False, {}, {}),
        (True, every("q k v o gate up down", 4), {}),
        (
            True,
            every("q k v o gate up down", 8),
            dict.fromkeys(("qkv_bits", "o_bits", "gate_up_bits", "down_bits"), 8),
        ),
        (True, every("q k", 8) | every("v", 4), {}),  # one kind, one width: the default
        (True, every("down", 8, layers=1), {}),  # eight bits in one layer of two
        (True, every("gate up", 8) | every("down", 4), {"gate_up_bits": 8}),
        (True, {"embed": 4}, {"embed_bits": 4, "head_bits": 4}),  # a tied head is the embedding
        (False, {"embed": 4}, {"embed_bits": 4}),
        (False, {"head": 4, "embed": 8}, {"head_bits": 4}),
    ],
)
def test_bits_of_a_kind(tied, codes, expected):
    default = {"qkv_bits": 4, "o_bits": 4, "gate_up_bits": 4, "down_bits": 4, "embed_bits": 8, "head_bits": 8}
    checkpoint = Codes(random_config(tied=tied, ffn_dim=64), codes)
    assert class_bits(checkpoint) == default | expected
    model = quantise_checkpoint(checkpoint)
    assert {name: getattr(model.format, name) for name in default} == default | expected


def test_codes_of_a_mixed_file_are_kept_where_the_kind_has_their_bits():
    """v's four-bit codes stay; q and k have eight bits, which the kind has not, and are quantised anew."""
    config = random_config(n_layers=1, ffn_dim=64)
    checkpoint = Codes(config, every("q k", 8, 1) | every("v", 4, 1))
    model = quantise_checkpoint(checkpoint)
    v = checkpoint.blocks("layers.0.v")
    assert np.array_equal(model.matrices["layers.0.v"].q, v.codes)
    assert model.matrices["layers.0.k"].bits == 4
    assert model.report["blocks_kept"] == v.scale.size and model.report["blocks_requantised"] == 0


def test_prepared_matrices_are_taken():
    config = random_config(n_layers=1)
    checkpoint = RandomCheckpoint(config)
    prepared = quantise(checkpoint.tensor("layers.0.down"), 4)
    prepared = replace(prepared, q=15 - prepared.q)
    model = quantise_checkpoint(checkpoint, prepared={"layers.0.down": prepared})
    assert np.array_equal(model.matrices["layers.0.down"].q[:32], prepared.q)
    assert model.report["worst_block_error_in"] == "layers.0.down"
    json.dumps(model.report)
