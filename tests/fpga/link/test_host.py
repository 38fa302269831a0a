"""A host gets the integer model's tokens from a simulated board, with and without noise on the line."""

import json
import random
import re
import time
from itertools import islice

import pytest

from fpga.link.host import LinkError
from hardwire.board_session import board_session
from hardwire.compiled import CompiledError, CompiledModel
from hardwire.compiler import compile_model
from hardwire.source import Source
from hardwire.target import Target
from sim.backends import GoldenSession
from sim.session import ContextFull, Sampling, SessionError, generate
from tests.support.adapters import random_peft_adapter, write_adapter
from tests.support.cli import SHAPE, Hardwire, write_model

pytestmark = pytest.mark.xdist_group("board")  # one worker runs these tests, so that it builds the board once


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("board")
    model = Source.open(str(write_model(folder / "model", config=SHAPE)))
    compile_model(model, folder / "out", simulation=False, block_lanes=8, lora_rank=4)
    write_adapter(folder / "adapter", random_peft_adapter(3, SHAPE, scale=2.0))
    return folder / "out"


@pytest.fixture
def pair(out):
    """Return a function that makes two sessions: with a simulated board, whose line may have noise, and with golden."""
    sessions = []

    def make(noise=0.0, adapter=None):
        output = CompiledModel(out)
        integers = Target(output, adapter=adapter).integer_adapter
        sessions.append(board_session(output, None, noise, integers))
        return sessions[-1], GoldenSession(output.model, output.config.max_context, adapter=integers)

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
        assert board.requests_repeated > 0


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_an_adapter_goes_over_the_line(out, pair, noise):
    board, golden = pair(noise, out.parent / "adapter")
    _, plain = pair()
    written = tokens(board, [4, 5, 6], 12, Sampling(1.0, 3))
    assert written == tokens(golden, [4, 5, 6], 12, Sampling(1.0, 3)) != tokens(plain, [4, 5, 6], 12, Sampling(1.0, 3))
    assert board.line["frames_lost"] > 0 if noise else board.line["frames_lost"] == 0


def test_an_image_that_the_chip_refuses_is_one_line(pair):
    board, golden = pair()
    with pytest.raises(LinkError, match=r"^the chip did not take adapter 1: BAD_LAYOUT$"):
        board.load(1, [1, 2, 3])
    with pytest.raises(LinkError, match=r"^the chip did not take adapter 9: NO_ADAPTER$"):
        board.load(9, [9])
    assert tokens(board, [7], 5) == tokens(golden, [7], 5)
    board._adapter = 2
    with pytest.raises(SessionError, match="the board refused token 7 at position 5: NO_ADAPTER"):
        board.step(7)


def test_noise_costs_less_than_nine_tenths_of_the_speed(pair):
    seconds = {}
    for noise in (0.0, 0.01):
        board, _ = pair(noise)
        start = time.monotonic()
        for _ in range(6):
            board.reset()
            tokens(board, [4, 5, 6, 7], 20)
        seconds[noise] = time.monotonic() - start
    assert seconds[0.01] < 10 * seconds[0.0]


def test_the_line_is_counted(pair):
    board, _ = pair()
    tokens(board, [4, 5], 8)
    quiet = board.line
    assert quiet["frames_lost"] == 0
    # HELLO twice, SAMPLING, two PUTs, a RUN; each reply has an END less than a request.
    assert quiet["bytes_sent"] >= 6 * 14 and quiet["bytes_received"] >= (3 + 9) * 13
    board, _ = pair(0.02)
    tokens(board, [4, 5], 8)
    noisy = board.line
    assert noisy["requests_repeated"] and noisy["bytes_sent"] > quiet["bytes_sent"]


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
    assert all(json.loads(line)["line"]["bytes_sent"] > 0 for line in board)
    for ours, theirs in zip(map(json.loads, board), map(json.loads, golden), strict=True):
        assert ours["tokens"] == theirs["tokens"] and ours["text"] == theirs["text"]


def test_stats_of_a_chat_with_an_adapter(out, hardwire):
    talk = "1 2 3\n/stats\n"
    how = ("--tokens", "4", "--adapter", out.parent / "adapter")
    result = hardwire("chat", out, *how, "--simulate", "--noise", "0.01", stdin=talk)
    assert result.code == 0 and result.out == hardwire("chat", out, *how, "--backend", "golden", stdin=talk).out
    assert re.search(
        r"^line: [\d,]+ bytes sent, [\d,]+ received; \d+ frames lost, \d+ requests repeated$", result.err, re.MULTILINE
    )
    assert "line:" not in hardwire("chat", out, *how, "--backend", "golden", stdin=talk).err


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
