"""Float and golden sessions: a batch is one token after the other, and the context ends at the same place."""

import numpy as np
import pytest

from sim.backends import FloatSession, GoldenSession
from sim.session import ContextFull, Sampling, SessionError, generate
from tests.support.models import RandomCheckpoint, random_config
from weights_to_rom.compile import quantise_checkpoint

CONFIG = random_config(max_seq_len=12)
CHECKPOINT = RandomCheckpoint(CONFIG, 5)
MODEL = quantise_checkpoint(CHECKPOINT)
PROMPT = [3, 14, 15, 9, 26]

SESSIONS = {
    "float": lambda **options: FloatSession(CONFIG, CHECKPOINT.tensor, **options),
    "golden": lambda **options: GoldenSession(MODEL, **options),
}


@pytest.mark.parametrize("backend", SESSIONS)
@pytest.mark.parametrize("options", [{}, {"max_context": 6, "n_sinks": 2}], ids=["fixed", "slides"])
def test_feeding_is_stepping(backend, options):
    fed, stepped = SESSIONS[backend](**options), SESSIONS[backend](**options)
    fed.feed(PROMPT)
    for token in PROMPT:
        stepped.step(token)
    for token in (7, 8, 9):
        a, b = fed.step(token), stepped.step(token)
        assert a.token == b.token
        np.testing.assert_array_equal(a.logits, b.logits)


@pytest.mark.parametrize("backend", SESSIONS)
def test_a_reset_forgets(backend):
    session, sampling = SESSIONS[backend](), Sampling(0.8, 4)
    first = [reply.token for reply in generate(session, PROMPT, 4, sampling)]
    session.reset()
    assert [reply.token for reply in generate(session, PROMPT, 4, sampling)] == first
    session.reset()
    assert [reply.token for reply in generate(session, PROMPT, 4, Sampling(0.8, 5))] != first


@pytest.mark.parametrize("backend", SESSIONS)
def test_the_context_ends(backend):
    session = SESSIONS[backend](max_context=4)
    session.feed(PROMPT[:4])
    with pytest.raises(ContextFull):
        session.feed([1])
    session.reset()
    with pytest.raises(ContextFull):
        session.feed(PROMPT)
    assert session.position == 4


@pytest.mark.parametrize("backend", SESSIONS)
def test_a_wrong_token_is_refused(backend):
    session = SESSIONS[backend]()
    with pytest.raises(SessionError, match="token 50 is not in the vocabulary of 50"):
        session.feed([1, 50])
    assert session.position == 1


def test_greedy_sessions_choose_the_largest_logit():
    for make in SESSIONS.values():
        reply = make().step(3)
        assert reply.token == int(np.argmax(reply.logits))
