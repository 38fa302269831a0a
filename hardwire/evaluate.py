"""Perplexity of a model on a text file, and its distance from the same model in floating point."""

import time
from pathlib import Path

from hardwire.progress import step
from hardwire.source import read_text
from hardwire.target import Target
from weights_to_rom.text.errors import TokenizerError


def evaluate(target: Target, text: Path, n_tokens: int, backend: str, window: int, against: str | None = None) -> dict:
    """Measure the perplexity of a model on the beginning of a text file; ``hardwire perplexity --json`` prints the result.

    Parameters
    ----------
    target : Target   the model; it needs a tokenizer
    text : Path       the file
    n_tokens : int    tokens to predict; the first token of the text is given
    backend : str     golden or float
    window : int      tokens of a window; each window starts with an empty context
    against : str     golden or float: the result has the KL divergence from this backend's probabilities, too, and the share of
                      tokens for which both backends have the same likeliest token

    Raises TokenizerError for a text of fewer than two tokens.
    """
    from sim.perplexity import compare, perplexity

    if target.tokenizer is None:
        raise TokenizerError(f"{target.name}: has no tokenizer to read {text} with")
    # The first token is given, the ``n_tokens`` after it are predicted.
    tokens = target.tokenizer.encode(read_text(text))[: n_tokens + 1]
    if len(tokens) < 2:
        raise TokenizerError(f"{text}: has {len(tokens)} tokens: perplexity needs two or more")
    window = min(window, target.max_context)
    logits, reference = target.logits(backend), target.logits(against) if against else None
    start = time.monotonic()
    compared: dict = {}
    with step("perplexity") as running:

        def progress(done: int) -> None:
            running.update(f"{done} of {len(tokens) - 1} tokens", done, len(tokens) - 1)

        if reference is None:
            value, count = perplexity(logits, tokens, window, progress)
        else:
            found = compare(logits, reference, tokens, window, progress)
            value, count = found.perplexity, found.n_tokens
            compared = {
                "against": against,
                "against_perplexity": round(found.reference_perplexity, 4),
                "kl_divergence": round(found.kl_divergence, 6),
                "same_first_choice": round(found.same_first, 6),
            }
    return {
        "perplexity": round(value, 4),
        "n_tokens": count,
        "window": window,
        "backend": backend,
        **compared,
        "seconds": round(time.monotonic() - start, 2),
    }
