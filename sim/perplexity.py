"""Perplexity: how surprised a model is by a text, in float and on the chip's integers."""

from collections.abc import Callable, Sequence

import numpy as np

Logits = Callable[[Sequence[int]], np.ndarray]
"""A window of tokens -> real logits [T, vocab_size], starting from an empty cache."""


def negative_log_likelihood(logits: np.ndarray, targets: Sequence[int]) -> np.ndarray:
    """logits real[T, vocab_size] -> nats per target, float64[T]."""
    logits = np.asarray(logits, np.float64)
    peak = logits.max(axis=-1, keepdims=True)
    log_sum = np.log(np.exp(logits - peak).sum(axis=-1)) + peak[:, 0]
    return log_sum - logits[np.arange(len(targets)), targets]


def perplexity(
    logits: Logits, tokens: Sequence[int], window: int, progress: Callable[[int], None] = lambda done: None
) -> tuple[float, int]:
    """(exp of the mean nats a token, number of tokens predicted).

    The text is cut into windows; each window's tokens but the first are predicted from those before them in the window.
    """
    total, count = 0.0, 0
    for start in range(0, len(tokens) - 1, window):
        piece = list(tokens[start : start + window + 1])
        if len(piece) < 2:
            break
        total += float(negative_log_likelihood(logits(piece[:-1]), piece[1:]).sum())
        count += len(piece) - 1
        progress(count)
    return float(np.exp(total / count)), count
