"""FloatLlama against stored logits of transformers, and against itself fed in other ways."""

import numpy as np
import pytest

from tests.data.generators.make_float_llama_reference import CASES, FOLDER, case, difference, random_tokens, random_weights
from weights_to_rom.quantise.float_llama import FloatLlama, silu

NAMES = list(CASES)


def model(name, dtype=np.float64):
    config = CASES[name]
    return FloatLlama(config, random_weights(config).__getitem__, dtype), random_tokens(config)


@pytest.mark.parametrize("name", NAMES)
def test_equals_transformers(name):
    llama, tokens = model(name)
    assert difference(llama.forward(tokens), np.load(FOLDER / f"{name}.npy")) < 1e-9


@pytest.mark.parametrize("name", NAMES)
def test_float32(name):
    llama, tokens = model(name, np.float32)
    logits = llama.forward(tokens)
    assert logits.dtype == np.float32
    assert difference(logits, np.load(FOLDER / f"{name}.npy")) < 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_steps_equal_the_whole(name):
    llama, tokens = model(name)
    whole = llama.forward(tokens)
    first = llama.extend(tokens[:7])
    rest = [llama.step(t) for t in tokens[7:20]]
    last = llama.extend(tokens[20:])
    np.testing.assert_allclose(np.concatenate((first, rest, last)), whole, rtol=0, atol=1e-11)
    llama.reset()
    np.testing.assert_allclose(llama.step(tokens[0]), whole[0], rtol=0, atol=1e-11)


def test_forward_leaves_the_cache():
    llama, tokens = model("gqa2_16")
    llama.extend(tokens[:5])
    llama.forward(tokens[::-1])
    np.testing.assert_allclose(llama.step(tokens[5]), llama.forward(tokens[:6])[-1], rtol=0, atol=1e-11)


def test_the_llama3_case_uses_every_band():
    """Some frequencies are kept, some divided, some blended: else the stored logits would test little."""
    config = CASES["llama3_16"]
    ratio = config.rope_frequencies() * config.rope_theta ** (np.arange(0, 16, 2) / 16)
    assert ratio[0] == 1
    assert np.isclose(ratio[-1], 1 / config.rope_scaling.factor)
    assert np.any((ratio < 0.99) & (ratio > 1.01 / config.rope_scaling.factor))


@pytest.mark.parametrize("name", ["mha_8", "gqa2_16"])
def test_capture_sees_the_input_of_every_matrix(name):
    llama, tokens = model(name)
    config = CASES[name]
    seen = {}
    logits = llama.forward(tokens, capture=lambda key, x: seen.setdefault(key, x.copy()))
    matrices = {key: shape for key, shape in config.tensor_shapes().items() if len(shape) == 2}
    if not config.tied:
        del matrices["embed"]
    assert {key: x.shape for key, x in seen.items()} == {key: (len(tokens), shape[1]) for key, shape in matrices.items()}
    head = "embed" if config.tied else "head"
    np.testing.assert_array_equal(seen[head] @ random_weights(config)[head].T, logits)
    np.testing.assert_array_equal(seen["layers.0.q"], seen["layers.0.v"])
    down_input = silu(seen["layers.1.gate"] @ random_weights(config)["layers.1.gate"].T) * (
        seen["layers.1.up"] @ random_weights(config)["layers.1.up"].T
    )
    np.testing.assert_allclose(seen["layers.1.down"], down_input, rtol=1e-12)


def test_silu_of_any_size():
    x = np.array([-1e4, -30.0, 0.0, 1.0, 1e4])
    np.testing.assert_allclose(silu(x), [0, -30 / (1 + np.exp(30)), 0, 1 / (1 + np.exp(-1)), 1e4], atol=1e-14)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([], "at least one token"),
        ([[1, 2]], "not of shape"),
        ([3, 61], "token 61 is not in the vocabulary of 61"),
        ([-1], "token -1 is not in the vocabulary"),
    ],
)
def test_refused_tokens(tokens, message):
    config = case(1, 1, 8, n_layers=1)
    with pytest.raises(ValueError, match=message):
        FloatLlama(config, random_weights(config).__getitem__).forward(tokens)
