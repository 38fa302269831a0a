"""Numbers outside the chip's range: they are counted, and the residual stream is scaled until the range holds it."""

import numpy as np
import pytest

from sim.golden.llama import GoldenLlama
from sim.ranges import ROOM, RangeError, fit_residual, measure_ranges
from tests.support.models import RandomCheckpoint, random_config
from weights_to_rom.compile import quantise_checkpoint, with_residual_shift
from weights_to_rom.quantise.float_llama import FloatLlama

EPS = 1e-5
TOKENS = np.random.default_rng(4).integers(50, size=24).tolist()


class Scaled(RandomCheckpoint):
    """Random weights; ``scales`` multiplies matrices, by the last part of their names."""

    def __init__(self, scales, **changes):
        super().__init__(random_config(norm_eps=EPS, **changes), 6)
        self._scales = scales

    def _read(self, name):
        return super()._read(name) * np.float32(self._scales.get(name.rpartition(".")[2], 1))


def stream(scale):
    """The factors of a model whose embedding, o and down are multiplied by ``scale``: RMSNorm divides by it again."""
    return dict.fromkeys(("embed", "o", "down"), scale)


def test_an_ordinary_model_stays_as_it_is():
    model = quantise_checkpoint(RandomCheckpoint(random_config(), 6))
    fitted, ranges = fit_residual(model, EPS, TOKENS)
    assert fitted is model
    assert ranges.as_dict()["saturated"] == {"residual": 0, "terms": 0, "results": 0, "scores": 0, "logits": 0}
    assert ranges.warning() == "" and ranges.first == "" and ranges.flat == 0
    h = []
    golden = GoldenLlama(model)
    golden.observe = lambda unit, layer, parts: h.extend(parts.values() if unit == "residual" else ())
    golden.extend(TOKENS)
    assert ranges.peak == max(np.abs(values).max() for values in h) / 2**31


@pytest.mark.parametrize("wide_bits", [24, 32])
@pytest.mark.parametrize("exponent", [-6, 14, 19, 25])
def test_a_residual_of_any_scale(exponent, wide_bits):
    """The codes are those of the unscaled model, because the factor is a power of two; so the logits are as close to float."""
    plain = quantise_checkpoint(Scaled({}, tied=False), wide_bits=wide_bits)
    model, ranges = fit_residual(quantise_checkpoint(Scaled(stream(2.0**exponent), tied=False), wide_bits=wide_bits), EPS, TOKENS)
    assert ranges.holds_residual and not ranges.warning()
    expected, got = (GoldenLlama(m).extend(TOKENS) for m in (plain, model))
    checkpoint = Scaled(stream(2.0**exponent), tied=False)
    reference = FloatLlama(checkpoint.config, checkpoint.tensor, np.float64).forward(TOKENS) * 2**12
    error, usual = (np.sqrt(np.mean((logits - reference) ** 2) / np.mean(reference**2)) for logits in (got, expected))
    assert error < 1.05 * usual


def test_a_saturated_residual_is_counted():
    """The model at a shift that is too large for it, as every model was compiled once."""
    model = with_residual_shift(quantise_checkpoint(Scaled(stream(2.0**20), tied=False)), 0, EPS)
    ranges = measure_ranges(model, TOKENS)
    assert ranges.peak == 1.0 and ranges.saturated["residual"] > 100 and ranges.first == "embedding"
    assert not ranges.holds_residual
    assert ranges.warning().startswith("the chip's answers may be wrong: on 24 tokens its numbers saturate (")
    fitted, after = fit_residual(model, EPS, TOKENS)
    assert after.holds_residual and after.peak >= ROOM / 2  # no bit is given away
    assert after.residual_shift == fitted.residual_shift < 0


@pytest.mark.parametrize(
    ("scales", "kind", "place"),
    [
        ({"v": 1e6}, "results", "layers.0.v"),
        ({"gate": 1e7, "up": 1e-3}, "results", "layers.0.gate"),
        ({"q": 1e4}, "scores", "layers.0.attention"),
        ({"head": 1e7}, "logits", "head"),
    ],
)
def test_other_numbers_that_saturate(scales, kind, place):
    ranges = measure_ranges(quantise_checkpoint(Scaled(scales, tied=False)), TOKENS)
    assert ranges.saturated[kind] > 0 and ranges.first == place
    assert f" {kind}" in ranges.warning() and f"the first in {place}" in ranges.warning()


def test_terms_that_cancel():
    """Two blocks of inputs with opposite weights: the terms saturate, and their sum is small again."""

    class Cancelling(Scaled):
        def _read(self, name):
            tensor = super()._read(name)
            if name.endswith("embed"):
                tensor[:, 32:] = tensor[:, :32]
            if name.endswith(".v"):
                tensor[:, 32:] = -tensor[:, :32]
            return np.abs(tensor) if name.endswith("norm") and "attn" not in name else tensor

    model = quantise_checkpoint(Cancelling({"v": 1e6}, dim=64, tied=False))
    ranges = measure_ranges(model, TOKENS)
    assert ranges.saturated["terms"] > 0


def test_logits_that_vanish():
    ranges = measure_ranges(quantise_checkpoint(Scaled({"head": 1e-6}, tied=False)), TOKENS)
    assert ranges.flat == len(TOKENS)
    assert ranges.warning().endswith("are too small (the logits of 24 tokens lie within 256 steps of each other)")


def test_an_embedding_that_is_small_against_epsilon():
    """The norm's epsilon leaves no room for the shift that the embedding needs."""
    model = quantise_checkpoint(Scaled({"embed": 1e-6, "o": 1e-6, "down": 1e-6}, tied=False))
    _, ranges = fit_residual(model, EPS, TOKENS)
    assert ranges.coarse == len(TOKENS) and ranges.flat > 0
    assert "its numbers are too small (the embeddings of 24 tokens have fewer than 7 bits, and the logits of " in ranges.warning()


def test_a_residual_that_leaves_few_bits_of_its_embedding():
    _, ranges = fit_residual(quantise_checkpoint(Scaled({"o": 3e6, "down": 3e6}, tied=False)), EPS, TOKENS)
    assert ranges.holds_residual and 16 <= np.median(ranges.embedded) < 128
    assert ranges.warning().endswith(f"are too small (the embeddings of {ranges.coarse} tokens have fewer than 7 bits)")


@pytest.mark.parametrize(("wide_bits", "cure"), [(24, r"checkpoint, or compile with --wide-bits 32$"), (32, "checkpoint$")])
def test_a_residual_that_outgrows_its_embedding(wide_bits, cure):
    """A shift that holds the sums would leave no bit of the embedding."""
    model = quantise_checkpoint(Scaled({"o": 1e10, "down": 1e10}, tied=False), wide_bits=wide_bits)
    with pytest.raises(RangeError, match=rf"^the residual stream grows beyond {wide_bits} bits .* in layers\.0\..*{cure}"):
        fit_residual(model, EPS, TOKENS)


def test_a_residual_that_no_shift_holds():
    model = quantise_checkpoint(Scaled({"embed": 1e9, "v": 1e6, "o": 1e10}, tied=False))
    with pytest.raises(RangeError, match=r"^the residual stream saturates in layers\.0\.o, even times 2\^-32: scale "):
        fit_residual(model, EPS, TOKENS)
