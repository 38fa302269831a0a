"""GPTQ against its definition, and against rounding to nearest."""

import numpy as np
import pytest

from weights_to_rom.config import LlamaConfig
from weights_to_rom.model_format import BLOCK
from weights_to_rom.quantise.float_llama import FloatLlama
from weights_to_rom.quantise.gptq import DAMPING, gptq, quantise_with_hessian
from weights_to_rom.quantise.rounding import quantise
from weights_to_rom.quantise.search import fit_blocks

CONFIG = LlamaConfig(dim=48, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=16, ffn_dim=72, vocab_size=97, max_seq_len=64)


def correlated(rng, length, inputs, rank):
    """Inputs that mostly lie in ``rank`` directions, as those of trained models do."""
    noise = 0.2 * rng.standard_normal((length, inputs))
    return rng.standard_normal((length, rank)) @ rng.standard_normal((rank, inputs)) + noise


def output_error(x, w, qm):
    return np.linalg.norm(x @ (qm.dequantise()[:, : w.shape[1]] - w).T)


@pytest.mark.parametrize("inputs", [32, 64, 172, 20])
def test_output_error_is_lower_than_that_of_rounding_to_nearest(inputs):
    rng = np.random.default_rng(inputs)
    w, x = rng.standard_normal((60, inputs)), correlated(rng, 2000, inputs, max(4, inputs // 8))
    ours = quantise_with_hessian(w, x.T @ x)
    assert output_error(x, w, ours) < 0.6 * output_error(x, w, quantise(w, 4))
    assert not ours.q.reshape(60, -1)[:, inputs:].any()
    assert ours.q.max() <= 15 and ours.k.max() <= 4


def test_independent_inputs_leave_rounding_to_nearest():
    w = np.random.default_rng(1).standard_normal((50, 96))
    ours, nearest = quantise_with_hessian(w, 3 * np.eye(96)), quantise(w, 4)
    for name in "qdmek":
        np.testing.assert_array_equal(getattr(ours, name), getattr(nearest, name))


def test_every_error_is_made_good_by_least_squares():
    """The columns not yet rounded are those that least squares gives, solved anew after each column."""
    rng = np.random.default_rng(2)
    x = correlated(rng, 300, 64, 8)
    hessian = x.T @ x
    w = rng.standard_normal((20, 64))
    qm = quantise_with_hessian(w, hessian)
    damped = hessian + DAMPING * np.mean(np.diag(hessian)) * np.eye(64)
    todo, done = w.copy(), qm.dequantise()
    for j in range(64):
        block = j // BLOCK
        if j % BLOCK == 0:  # what an error costs is what the columns after it cannot make up for
            cost = np.ones(BLOCK)
            for i in range(j, j + BLOCK):
                rest = slice(i + 1, 64)
                explained = damped[i, rest] @ np.linalg.solve(damped[rest, rest], damped[rest, i])
                cost[i - j] = damped[i, i] - explained
            fitted = fit_blocks(todo[:, None, j : j + BLOCK], qm.e, qm.k, 4, (cost / cost.max())[None])
            # All but near ties, where the last bit of the cost decides.
            assert np.mean(fitted[1][:, 0] == qm.d[:, block]) > 0.8
            assert np.mean(fitted[2][:, 0] == qm.m[:, block]) > 0.8
        code = np.rint((todo[:, j] + qm.minimum[:, block]) / qm.scale[:, block]).clip(0, 15)
        np.testing.assert_array_equal(code, qm.q[:, block, j % BLOCK])
        rest = slice(j + 1, 64)
        error = done[:, j] - todo[:, j]
        todo[:, rest] -= np.linalg.solve(damped[rest, rest], np.outer(damped[rest, j], error)).T


def test_rows_on_the_grid_are_kept():
    rng = np.random.default_rng(3)
    w = quantise(rng.standard_normal((20, 100)), 4).dequantise()[:, :100]
    w[7] += 0.01 * rng.standard_normal(100)
    x = correlated(rng, 400, 100, 9)
    got = quantise_with_hessian(w, x.T @ x).dequantise()[:, :100]
    others = np.delete(np.arange(20), 7)
    np.testing.assert_array_equal(got[others], w[others])
    assert 0 < np.abs(got[7] - w[7]).max() < 0.5


def test_unused_inputs_and_zero_rows():
    rng = np.random.default_rng(4)
    x = correlated(rng, 200, 64, 6)
    x[:, [3, 40, 41]] = 0
    w = rng.standard_normal((10, 64))
    w[2] = 0
    qm = quantise_with_hessian(w, x.T @ x)
    assert not qm.dequantise()[2].any()
    assert output_error(x, w, qm) < output_error(x, w, quantise(w, 4))
    np.testing.assert_array_equal(quantise_with_hessian(w, np.zeros((64, 64))).q, quantise(w, 4).q)


def random_model():
    """The embedding has few directions, so that what reaches the linears is correlated."""
    rng = np.random.default_rng(5)
    weights = {
        name: np.ones(shape) if len(shape) == 1 else rng.standard_normal(shape) / np.sqrt(shape[1])
        for name, shape in CONFIG.tensor_shapes().items()
    }
    weights["embed"] = correlated(rng, CONFIG.vocab_size, CONFIG.dim, 6)
    return weights, rng.integers(0, CONFIG.vocab_size, 1500)


def test_a_whole_model():
    weights, tokens = random_model()
    told = []
    ours = gptq(CONFIG, weights.__getitem__, tokens, told.append)
    linears = [n for n, s in CONFIG.tensor_shapes().items() if len(s) == 2 and n != "embed"]
    assert told == list(ours) == linears

    fresh = np.random.default_rng(6).integers(0, CONFIG.vocab_size, (8, 64))
    exact = FloatLlama(CONFIG, weights.__getitem__)
    nearest = {name: quantise(weights[name], 4) for name in linears}

    seen = {}
    exact.forward(fresh[0], capture=seen.__setitem__)
    for name in linears[:3]:  # those whose inputs no quantised matrix has changed
        assert output_error(seen[name], weights[name], ours[name]) < 0.8 * output_error(seen[name], weights[name], nearest[name])

    def logit_error(matrices):
        changed = weights | {n: m.dequantise()[:, : weights[n].shape[1]] for n, m in matrices.items()}
        model = FloatLlama(CONFIG, changed.__getitem__)
        return np.sqrt(np.mean([np.square(model.forward(t) - exact.forward(t)).mean() for t in fresh]))

    assert logit_error(ours) < 0.8 * logit_error(nearest)


def test_matrices_see_what_the_quantised_ones_before_them_produce():
    """o's Hessian is that of the quantised q, k and v, not of the float ones."""
    weights, tokens = random_model()
    ours = gptq(CONFIG, weights.__getitem__, tokens[:64])
    first = {n: ours[n].dequantise()[:, : CONFIG.dim] for n in ("layers.0.q", "layers.0.k", "layers.0.v")}
    seen = {}
    model = FloatLlama(CONFIG, (weights | first).__getitem__)
    model.forward(tokens[:64], capture=seen.__setitem__)
    x = seen["layers.0.o"]
    want = quantise_with_hessian(weights["layers.0.o"].astype(np.float32), (x.T @ x).astype(np.float64))
    np.testing.assert_array_equal(ours["layers.0.o"].q, want.q)


def test_calibration_text_must_not_be_empty():
    weights, _ = random_model()
    with pytest.raises(ValueError, match="needs calibration text"):
        gptq(CONFIG, weights.__getitem__, [])
