"""The prompt of the test benches, and the tokens with which the integer model continues it."""

import numpy as np

from hardwire.target import Target
from sim.session import generate
from weights_to_rom.errors import HardwireError

PROMPT = "Once upon a time"
"""The text of the prompt; ``hardwire run OUT --prompt`` with this text gives the same tokens."""

RANDOM = 6
"""Tokens of the prompt of a model without a tokenizer."""

N_TOKENS = 4
"""Tokens that follow the prompt, if the context holds them: an event-driven simulator needs seconds for each."""


def first_tokens(target: Target) -> dict:
    """Return the prompt's tokens and the tokens that follow greedily, and the text of both if there is a tokenizer."""
    room = target.max_context
    ids = _prompt(target)[: max(1, room + 1 - N_TOKENS)]
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
    return np.random.default_rng(1).integers(target.vocab_size, size=RANDOM).tolist()
