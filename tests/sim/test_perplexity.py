"""Perplexity, KL divergence and equal first choices, against values that are worked out by hand."""

import numpy as np
import pytest

from sim.perplexity import AT_ONCE, compare, log_softmax, negative_log_likelihood, perplexity


def table(probabilities):
    """Logits that give a token's successor the probabilities of the token's row; a constant is added, which changes nothing."""
    rows = np.log(np.array(probabilities)) + 3.0
    return lambda tokens: rows[list(tokens)]


P = [[1 / 2, 1 / 4, 1 / 4], [1 / 8, 3 / 4, 1 / 8], [1 / 3, 1 / 3, 1 / 3]]
Q = [[1 / 4, 1 / 2, 1 / 4], [1 / 8, 3 / 4, 1 / 8], [1 / 2, 1 / 4, 1 / 4]]


def test_log_softmax_of_large_logits():
    assert log_softmax(np.array([[5000.0, 5000.0]])) == pytest.approx(np.full((1, 2), -np.log(2)), abs=1e-12)
    assert negative_log_likelihood(np.array([[0, 0, 0]], np.int64), [2]) == pytest.approx([np.log(3)])


def test_perplexity_by_hand():
    tokens = [0, 1, 1, 2]  # p = 1/4, 3/4, 1/8
    value, count = perplexity(table(P), tokens, 2)
    assert count == 3 and value == pytest.approx((1 / 4 * 3 / 4 * 1 / 8) ** (-1 / 3))


@pytest.mark.parametrize("window", [1, 2, 64])
def test_a_comparison_by_hand(window):
    """The window does not matter here, because these logits read the last token only."""
    done = []
    found = compare(table(Q), table(P), [0, 1, 2, 0], window, done.append)
    assert found.n_tokens == done[-1] == 3
    assert found.perplexity == pytest.approx((1 / 2 * 1 / 8 * 1 / 2) ** (-1 / 3))
    assert found.reference_perplexity == pytest.approx((1 / 4 * 1 / 8 * 1 / 3) ** (-1 / 3))
    after_0 = 1 / 2 * np.log(2) + 1 / 4 * np.log(1 / 2)
    after_2 = 1 / 3 * np.log(2 / 3) + 2 / 3 * np.log(4 / 3)
    assert found.kl_divergence == pytest.approx((after_0 + 0 + after_2) / 3)
    # After 0 the first choices differ; after 1 and after 2 (the first of three equals) they are the same.
    assert found.same_first == pytest.approx(2 / 3)


def test_a_model_is_at_no_distance_from_itself():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(3 * AT_ONCE, 20))
    tokens = rng.integers(20, size=2 * AT_ONCE + 5).tolist()
    found = compare(lambda given: rows[: len(given)], lambda given: rows[: len(given)], tokens, 1000)
    assert (found.kl_divergence, found.same_first, found.n_tokens) == (0.0, 1.0, 2 * AT_ONCE + 4)
    assert found.perplexity == found.reference_perplexity == pytest.approx(perplexity(lambda g: rows[: len(g)], tokens, 1000)[0])
