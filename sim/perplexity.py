"""How well logits predict a text, and how far they are from other logits: perplexity, KL divergence, equal first choices."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

Logits = Callable[[Sequence[int]], np.ndarray]
"""A function from a window of T tokens to real logits [T, vocab_size], with an empty cache at its start."""

AT_ONCE = 64
"""Tokens whose probabilities are in memory at once."""


@dataclass(frozen=True)
class Comparison:
    """Two models on the same text; the averages are over its predicted tokens.

    Members
    -------
    perplexity : float             exp of the mean nats a token, of the model
    reference_perplexity : float   the same, of the reference
    kl_divergence : float          mean of the sum of p * ln(p / q), p the reference's probabilities, q the model's: nats
    same_first : float             share of tokens for which both have the same likeliest token
    n_tokens : int                 number of predicted tokens
    """

    perplexity: float
    reference_perplexity: float
    kl_divergence: float
    same_first: float
    n_tokens: int


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Compute ln of the probabilities by logits real[..., vocab_size]: float64."""
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def negative_log_likelihood(logits: np.ndarray, targets: Sequence[int]) -> np.ndarray:
    """Compute -ln p of each target by logits real[T, vocab_size]: nats, float64[T]."""
    return -log_softmax(logits)[np.arange(len(targets)), targets]


def perplexity(
    logits: Logits, tokens: Sequence[int], window: int, progress: Callable[[int], None] = lambda done: None
) -> tuple[float, int]:
    """Return exp of the mean nats a token, and the number of predicted tokens.

    The text is cut into windows.  Each token of a window but the first is predicted from the earlier ones of the window.
    """
    total, count = 0.0, 0
    for given, targets in _windows(tokens, window):
        total += float(negative_log_likelihood(logits(given), targets).sum())
        count += len(targets)
        progress(count)
    return float(np.exp(total / count)), count


def compare(
    logits: Logits,
    reference: Logits,
    tokens: Sequence[int],
    window: int,
    progress: Callable[[int], None] = lambda done: None,
) -> Comparison:
    """Compare logits with those of a reference on a text, which is cut into windows as in ``perplexity``."""
    nats, reference_nats, divergence, same, count = 0.0, 0.0, 0.0, 0, 0
    for given, targets in _windows(tokens, window):
        of_model, of_reference = logits(given), reference(given)
        for first in range(0, len(targets), AT_ONCE):
            part = slice(first, first + AT_ONCE)
            q, p = log_softmax(of_model[part]), log_softmax(of_reference[part])
            at = np.arange(len(q)), targets[part]
            nats -= float(q[at].sum())
            reference_nats -= float(p[at].sum())
            divergence += float((np.exp(p) * (p - q)).sum())
            same += int((of_model[part].argmax(axis=-1) == of_reference[part].argmax(axis=-1)).sum())
        count += len(targets)
        progress(count)
    return Comparison(float(np.exp(nats / count)), float(np.exp(reference_nats / count)), divergence / count, same / count, count)


def _windows(tokens: Sequence[int], window: int) -> Iterator[tuple[list[int], list[int]]]:
    """Yield the tokens that each window is given, and those that it predicts."""
    for start in range(0, len(tokens) - 1, window):
        piece = list(tokens[start : start + window + 1])
        yield piece[:-1], piece[1:]
