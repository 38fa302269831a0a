"""A host gets the integer model's tokens from a simulated board, with and without noise on the line."""

import json
import random
from itertools import islice

import pytest

from fpga.link.host import LinkError
from hardwire.board_session import board_session
from hardwire.compiled import CompiledError, CompiledModel
from hardwire.compiler import compile_model
from hardwire.source import Source
from sim.backends import GoldenSession
from sim.session import ContextFull, Sampling, generate
from tests.support.cli import SHAPE, Hardwire, write_model

pytestmark = pytest.mark.xdist_group("board")  # one worker runs these tests, so that it builds the board once


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("board")
    compile_model(Source.open(str(write_model(folder / "model", config=SHAPE))), folder / "out", simulation=False, block_lanes=8)
    return folder / "out"


@pytest.fixture
def pair(out):
    """Return a function that makes two sessions: with a simulated board, whose line may have noise, and with golden."""
    sessions = []

    def make(noise=0.0):
        output = CompiledModel(out)
        sessions.append(board_session(output, None, noise))
        return sessions[-1], GoldenSession(output.model, output.config.max_context)

    yield make
    for session in sessions:
        session.close()


GREEDY = Sampling()


def tokens(session, prompt, n, sampling=GREEDY, stop=()):
    return [reply.token for reply in generate(session, prompt, n, sampling, stop)]


@pytest.mark.parametrize("noise", [0.0, 0.003, 0.02])
def test_the_board_writes_what_golden_writes(pair, noise):
    board, golden = pair(noise)
    rng = random.Random(1)
    for sampling in (Sampling(), Sampling(1.0, 5)):
        board.reset()
        golden.reset()
        for n in (9, 4):  # the second text continues the first
            prompt = [rng.randrange(board.vocab_size) for _ in range(n)]
            assert tokens(board, prompt, 7, sampling) == tokens(golden, prompt, 7, sampling)
            assert board.position == golden.position
    if noise == 0.02:
        assert board.said_again > 0


def test_a_text_fills_the_context_and_no_more(pair):
    board, golden = pair()
    assert tokens(board, [1, 2], 10**6) == tokens(golden, [1, 2], 10**6)
    assert board.full and board.position == board.max_context
    with pytest.raises(ContextFull, match="the context is full"):
        board.step(1)
    with pytest.raises(ContextFull):
        board.feed([1])


def test_it_ends_with_the_text(pair):
    """An answer ends at the board's end token, at another stop token, or goes beyond the end token."""
    board, golden = pair()
    free = tokens(golden, [3], 12)
    for stop in ([board._end_token], [free[4]], []):
        board.reset()
        golden.reset()
        assert tokens(board, [3], 12, stop=stop) == tokens(golden, [3], 12, stop=stop)
        assert board.position == golden.position


def test_an_answer_that_is_cut_short_goes_on_where_it_was_cut(pair):
    """The caller stops reading an answer while the board is already further."""
    board, golden = pair()
    for session in (board, golden):
        list(islice(generate(session, [4, 5], 20, Sampling(), [session.vocab_size]), 3))
    assert board.position == golden.position
    board.reset()
    golden.reset()
    replies = generate(board, [4, 5], 20)
    cut = [next(replies).token for _ in range(3)]
    replies.close()
    assert cut == tokens(golden, [4, 5], 3) and board.position == golden.position
    assert tokens(board, [7], 5) == tokens(golden, [7], 5)


def test_a_board_with_another_model_is_refused(out, monkeypatch):
    identity = CompiledModel(out).identity
    monkeypatch.setattr("fpga.link.host.BoardSession._greet", lambda self: identity ^ 1)
    with pytest.raises(LinkError, match=f"the board holds another model or chip.*{identity:016x}.*flash it again"):
        board_session(CompiledModel(out), None)


def test_where_there_is_no_board(out, tmp_path, monkeypatch):
    with pytest.raises(CompiledError, match=r"No such file|could not open port"):
        board_session(CompiledModel(out), str(tmp_path / "tty"))
    monkeypatch.setattr("hardwire.board_session._candidates", list)
    with pytest.raises(CompiledError, match=r"no serial port of a board was found.*--port"):
        board_session(CompiledModel(out), "auto")


def test_a_line_on_which_nobody_answers(out, monkeypatch):
    import os

    monkeypatch.setattr("fpga.link.host.GREETINGS", 2)
    ours, theirs = os.openpty()
    with pytest.raises(CompiledError, match="has not answered for 1 s"):
        board_session(CompiledModel(out), os.ttyname(theirs))
    os.close(ours)
    os.close(theirs)


@pytest.fixture
def hardwire(capsys, monkeypatch):
    return Hardwire(capsys, monkeypatch)


def test_a_chat_over_a_noisy_line(out, hardwire):
    """The command line, the protocol and the board's Verilog work together."""
    talk = "1 2 3\n4 5\n/reset\n6\n"
    golden, board = (
        hardwire("chat", out, "--tokens", "4", "--json", *how, stdin=talk).out.splitlines()
        for how in (["--backend", "golden"], ["--simulate", "--noise", "0.01"])
    )
    assert len(board) == 3
    for ours, theirs in zip(map(json.loads, board), map(json.loads, golden), strict=True):
        assert ours["tokens"] == theirs["tokens"] and ours["text"] == theirs["text"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--noise", "0.01"], "add --simulate"),
        (["--simulate", "--port", "auto"], "choose one"),
        (["--simulate", "--backend", "golden"], "choose one"),
        (["--simulate", "--save", "x"], "only the simulated chip is saved"),
    ],
)
def test_options_that_do_not_go_together(out, hardwire, options, complaint):
    result = hardwire("chat", out, *options)
    assert complaint in " ".join(result.err.split()) and result.code != 0
