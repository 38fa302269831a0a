"""Perplexity of a model on a text file."""

import time
from pathlib import Path

from hardwire.cli.console import step
from hardwire.source import read_text
from hardwire.target import Target
from weights_to_rom.text.tokenizer import TokenizerError


def evaluate(subject: Target, text: Path, n_tokens: int, backend: str, window: int) -> dict:
    """Perplexity of the first ``n_tokens`` tokens of a file, as ``hardwire perplexity --json`` prints it.

    The text is cut into windows that start with an empty context; every token but the first is predicted.
    """
    from sim.perplexity import perplexity

    if subject.tokenizer is None:
        raise TokenizerError(f"{subject.name}: has no tokenizer to read {text} with")
    # The first token is given, the ``n_tokens`` after it are predicted.
    tokens = subject.tokenizer.encode(read_text(text))[: n_tokens + 1]
    if len(tokens) < 2:
        raise TokenizerError(f"{text}: has {len(tokens)} tokens: perplexity needs two or more")
    window = min(window, subject.max_context)
    logits = subject.logits(backend)
    start = time.monotonic()
    with step("perplexity") as running:
        value, count = perplexity(
            logits,
            tokens,
            window,
            lambda done: running.update(f"{done} of {len(tokens) - 1} tokens", done, len(tokens) - 1),
        )
    return {
        "perplexity": round(value, 4),
        "tokens": count,
        "window": window,
        "backend": backend,
        "seconds": round(time.monotonic() - start, 2),
    }
