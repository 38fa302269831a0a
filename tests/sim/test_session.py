"""What every session promises, on one that counts."""

import numpy as np
import pytest

from sim.session import ContextFull, Reply, Sampling, Session, SessionError, generate


class Counting(Session):
    """Replies with the token that follows; remembers what it was fed, and whether a sample was wanted."""

    def __init__(self, max_context=8, slides=False):
        super().__init__(10, max_context, slides)
        self.fed = []

    def _token(self, token, sampling):
        self.fed.append((self.position, token, sampling))
        return None if sampling is None else Reply((token + 1) % 10, np.zeros(10))

    def _reset(self):
        self.fed = []


def test_a_prompt_is_fed_and_only_its_last_token_is_sampled():
    session, sampling = Counting(), Sampling(0.5, 3)
    assert [reply.token for reply in generate(session, [4, 2, 7], 2, sampling)] == [8, 9]
    assert session.fed == [(0, 4, None), (1, 2, None), (2, 7, sampling), (3, 8, sampling)]


def test_ends_after_a_stop_token():
    assert [reply.token for reply in generate(Counting(), [7], 5, stop=[9])] == [8, 9]


def test_ends_where_the_context_is_full():
    session = Counting(max_context=3)
    assert [reply.token for reply in generate(session, [0], 9)] == [1, 2, 3]
    assert session.full
    with pytest.raises(ContextFull, match="all 3 positions are used"):
        session.step(0)
    session.reset()
    assert session.position == 0 and session.step(5).token == 6


def test_a_window_that_slides_is_never_full():
    session = Counting(max_context=3, slides=True)
    assert len(list(generate(session, [0], 9))) == 9
    assert session.position == 9 and not session.full


@pytest.mark.parametrize("token", [-1, 10])
def test_refuses_tokens_that_are_none(token):
    session = Counting()
    with pytest.raises(SessionError, match=rf"token {token} is not in the vocabulary of 10"):
        session.feed([1, token])
    assert session.position == 1


def test_refuses_an_empty_prompt():
    with pytest.raises(SessionError, match="the prompt is empty"):
        next(generate(Counting(), [], 1))
