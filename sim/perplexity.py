"""Perplexity of a text: exp of the mean negative log likelihood of its tokens, for float and for integer logits."""

from collections.abc import Callable, Sequence

import numpy as np

Logits = Callable[[Sequence[int]], np.ndarray]
"""A function from a window of T tokens to real logits [T, vocab_size], with an empty cache at its start."""


def negative_log_likelihood(logits: np.ndarray, targets: Sequence[int]) -> np.ndarray:
    """Compute -ln p of each target by logits real[T, vocab_size]: nats, float64[T]."""
    logits = np.asarray(logits, np.float64)
    peak = logits.max(axis=-1, keepdims=True)
    log_sum = np.log(np.exp(logits - peak).sum(axis=-1)) + peak[:, 0]
    return log_sum - logits[np.arange(len(targets)), targets]


def perplexity(
    logits: Logits, tokens: Sequence[int], window: int, progress: Callable[[int], None] = lambda done: None
) -> tuple[float, int]:
    """Return exp of the mean nats a token, and the number of predicted tokens.

    The text is cut into windows.  Each token of a window but the first is predicted from the earlier ones of the window.
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
