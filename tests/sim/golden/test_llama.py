"""The integer model as a whole.

How positions are split up does not matter, and it is the float model of its weights.
"""

from dataclasses import replace

import numpy as np
import pytest

from sim.golden.llama import GoldenLlama
from tests.support.models import RandomBlocks, random_config, random_model
from weights_to_rom.compile import quantise_checkpoint
from weights_to_rom.integer_model import IntegerModel
from weights_to_rom.quantise.float_llama import FloatLlama
from weights_to_rom.row_order import pair_order

SHAPES = {
    "tied": {},
    "untied_3_to_1": {"dim": 48, "n_heads": 3, "n_kv_heads": 1, "head_dim": 16, "ffn_dim": 50, "tied": False},
    "head_dim_48": {"dim": 40, "n_heads": 2, "n_kv_heads": 2, "head_dim": 48, "ffn_dim": 33},
    "one_layer_head_dim_64": {"n_layers": 1, "head_dim": 64, "n_heads": 4, "n_kv_heads": 1},
}


@pytest.mark.parametrize("wide_bits", [24, 32])
@pytest.mark.parametrize("shape", SHAPES)
def test_positions_together_or_one_by_one(shape, wide_bits):
    model = random_model(1, wide_bits, **SHAPES[shape])
    tokens = np.random.default_rng(0).integers(model.format.vocab_size, size=23)
    llama = GoldenLlama(model)
    together = llama.extend(tokens)
    assert together.shape == (23, model.format.vocab_size) and llama.position == 23
    for sizes in ([1] * 23, [7, 1, 15]):
        llama.reset()
        parts = [llama.extend(part) for part in np.split(tokens, np.cumsum(sizes)[:-1])]
        assert np.array_equal(np.concatenate(parts), together)
    llama.reset()
    assert np.array_equal(llama.extend(tokens, last_only=True), together[-1:])
    # The past matters, and only the past.
    other = tokens.copy()
    other[11] = (other[11] + 1) % model.format.vocab_size
    llama.reset()
    changed = (llama.extend(other) != together).any(axis=1)
    assert not changed[:11].any() and changed[11:].all()


def weights_of(model: IntegerModel):
    """tensor(name) for FloatLlama: the integer model's weights in a checkpoint's order and scale."""
    f = model.format
    lift = 2.0**model.residual_shift
    shapes = random_config(
        **{
            name: getattr(f, name)
            for name in (
                "dim",
                "n_layers",
                "n_heads",
                "n_kv_heads",
                "head_dim",
                "ffn_dim",
                "vocab_size",
                "tied",
            )
        }
    ).tensor_shapes()

    def tensor(name: str) -> np.ndarray:
        kind, shape = name.rpartition(".")[2], shapes[name]
        if len(shape) == 1:
            norm = model.norms[name]
            return np.ldexp(norm.gain_q[: f.dim].astype(np.float64), norm.gain_exp) / np.sqrt(f.dim)
        w = model.matrices[name].dequantise()[: shape[0], : shape[1]]
        if kind in ("q", "k"):
            original = np.empty_like(w)
            original[pair_order(len(w) // f.head_dim, f.head_dim)] = w
            w = original
        if kind == "q":
            w = w * np.sqrt(f.head_dim) * np.log(2)
        if kind in ("o", "down") or (kind == "embed" and not f.tied):
            w = w / lift
        return w

    return tensor


@pytest.mark.parametrize("eight_bits", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_close_to_float_on_the_same_weights(shape, eight_bits):
    """What is left is the rounding of activations to eight bits.

    Random weights make sharp attention, and so more of it than a trained model; but far less than any mistake
    does.
    """
    config = random_config(**SHAPES[shape])
    bits = dict.fromkeys(("q", "k", "v", "o", "gate", "up", "down"), 8) if eight_bits else {}
    model = quantise_checkpoint(RandomBlocks(config, 2, bits))
    tokens = np.random.default_rng(1).integers(config.vocab_size, size=48)
    float_logits = FloatLlama(config, weights_of(model), np.float64).forward(tokens)
    logits = GoldenLlama(model).extend(tokens) / 2.0**12

    def distance(a):
        return np.sqrt(np.mean((a - float_logits) ** 2) / np.mean(float_logits**2))

    assert distance(logits) < 0.06
    wrong = replace(model, freq_q=model.freq_q[::-1].copy())
    assert distance(GoldenLlama(wrong).extend(tokens) / 2.0**12) > 0.2


@pytest.mark.parametrize("scale", [2.0**-9, 1.0])
def test_a_small_embedding_is_lifted(scale):
    """Trained models often have embeddings far below one; the residual's LSB is 2**-12 for all."""

    class Scaled(RandomBlocks):
        def _read(self, name):
            tensor = super()._read(name)
            # Everything that is added to the residual stream is that small, so that the model stays the same.
            return tensor * scale if name.rpartition(".")[2] in ("embed", "o", "down") else tensor

    config = random_config(tied=False, norm_eps=1e-12)
    model = quantise_checkpoint(Scaled(config, 3))
    assert model.residual_shift == (0 if scale == 1 else 5)
    tokens = np.random.default_rng(2).integers(config.vocab_size, size=30)
    float_logits = FloatLlama(config, weights_of(model), np.float64).forward(tokens)
    error = GoldenLlama(model).extend(tokens) / 2.0**12 - float_logits
    assert np.sqrt(np.mean(error**2) / np.mean(float_logits**2)) < 0.06
