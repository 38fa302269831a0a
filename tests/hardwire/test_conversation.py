"""A conversation without a console, as a server holds it."""

from pathlib import Path

import pytest

from hardwire.conversation import Conversation
from hardwire.target import Target
from sim.session import Sampling
from tests.support.cli import write_model


@pytest.fixture(scope="module")
def target(tmp_path_factory) -> Target:
    return Target(write_model(Path(tmp_path_factory.mktemp("conversation")) / "model"))


def test_it_tells_how_far_a_prompt_is_read(target, capfd):
    """The answer goes to a function, and nothing is printed."""
    conversation, session, seen = Conversation(target, chat=False), target.session("golden"), []
    session.at_once = 4
    prompt = conversation.prompt("1 2 3 4 5 6 7 8 9 10")
    assert conversation.feed(session, prompt, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(0, 9), (4, 9), (8, 9)]
    written: list[str] = []
    replies = list(conversation.answer(session, prompt, 3, Sampling(), (), written.append))
    assert "".join(written) == "".join(f" {reply.token}" for reply in replies) == conversation.text
    assert conversation.read == [*range(1, 11), *(reply.token for reply in replies[:-1])]
    assert conversation.pending == [replies[-1].token]
    assert capfd.readouterr() == ("", "")


def test_a_prompt_that_is_stopped_can_be_continued(target):
    conversation, session = Conversation(target, chat=False), target.session("golden")
    session.at_once = 3
    prompt = conversation.prompt("1 2 3 4 5 6 7 8")
    assert not conversation.feed(session, prompt, stopped=lambda: True)
    assert conversation.read == [1, 2, 3] and session.position == 3
    rest = conversation.prompt("4 5 6 7 8")
    assert conversation.feed(session, rest)
    stopped = list(conversation.answer(session, rest, 2, Sampling(), (), lambda text: None))
    other = Conversation(target, chat=False)
    whole, again = target.session("golden"), other.prompt("1 2 3 4 5 6 7 8")
    other.feed(whole, again)
    assert [r.token for r in stopped] == [r.token for r in other.answer(whole, again, 2, Sampling(), (), lambda text: None)]


def test_an_answer_that_is_stopped_ends_after_its_token(target):
    conversation, session = Conversation(target, chat=False), target.session("golden")
    prompt = conversation.prompt("1 2")
    conversation.feed(session, prompt)
    assert len(list(conversation.answer(session, prompt, 9, Sampling(), (), lambda text: None, stopped=lambda: True))) == 1
