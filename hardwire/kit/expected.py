"""The prompt of the test benches, and the tokens with which the integer model continues it."""

import numpy as np

from hardwire.target import Target
from sim.session import generate
from weights_to_rom.errors import HardwireError

PROMPT = "Once upon a time"
"""The text of the prompt, of which a test bench reads the first tokens."""

MOST_PROMPT = 6
"""Tokens of the longest prompt: an event-driven simulator needs seconds for each."""

N_TOKENS = 4
"""Tokens that follow the prompt, if the context holds them."""


def first_tokens(target: Target) -> dict:
    """Return the prompt's tokens and the tokens that follow greedily, and the text of both if there is a tokenizer."""
    ids = _prompt(target)
    room = target.max_context
    ids = ids[: max(1, min(MOST_PROMPT, room // 2))]
    session = target.session("golden")
    tokens = [reply.token for reply in generate(session, ids, min(N_TOKENS, room - len(ids) + 1))]
    session.close()
    found: dict = {"prompt": ids, "tokens": tokens}
    if target.tokenizer is not None:
        found["text"] = target.tokenizer.decode([*ids, *tokens])
    return found


def _prompt(target: Target) -> list[int]:
    """Return the tokens of PROMPT, or random ones for a model whose tokenizer has none for it."""
    if target.tokenizer is not None:
        try:
            return target.tokenizer.encode(PROMPT, bos=True)
        except HardwireError:
            pass
    return np.random.default_rng(1).integers(target.vocab_size, size=MOST_PROMPT).tolist()
