"""hardwire chat, line by line, against the model's chat template and the integer model."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

import hdl.verilog
from hardwire.compiler import compile_model
from hardwire.source import Source
from sim.backends import GoldenSession
from sim.golden.llama import GoldenLlama
from tests.support.cli import SHAPE, TEMPLATE, Hardwire, write_model, write_talker
from weights_to_rom.readers.open import open_checkpoint
from weights_to_rom.text.tokenizer import Tokenizer

LINES = ("What?", "Who is big and red?", "No.")


@pytest.fixture
def hardwire(capsys, monkeypatch) -> Hardwire:
    return Hardwire(capsys, monkeypatch)


@pytest.fixture(scope="module")
def talker(tmp_path_factory) -> Path:
    return write_talker(tmp_path_factory.mktemp("chat") / "talker", "stories-260k")


def small_chip(folder: Path, model: str) -> Path:
    """A compiled model with a context of 64 and no Verilog, for backend golden."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(hdl.verilog, "chip_verilog", lambda *arguments: "")
        compile_model(Source.open(model), folder / "out", simulation=False, max_context=64)
    return folder / "out"


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("chat")
    return small_chip(folder, str(write_talker(folder / "talker")))


def talk(hardwire: Hardwire, *arguments: object, lines=LINES) -> tuple[list[dict], str]:
    """Return the answers, and the text on stderr."""
    result = hardwire("chat", *arguments, "--json", stdin="".join(f"{line}\n" for line in lines))
    assert result.code == 0, result.err
    return [json.loads(line) for line in result.out.splitlines()], result.err


def tokenizer_of(model: Path | str) -> Tokenizer:
    tokenizer = open_checkpoint(model).tokenizer
    assert tokenizer is not None
    return tokenizer


def greedy(llama: GoldenLlama, ids: list[int], n: int, stop=()) -> list[int]:
    """Return tokens of the integer model after it has read ``ids``."""
    written: list[int] = []
    while len(written) < n and not (written and written[-1] in stop):
        written.append(int(np.argmax(llama.extend(ids, last_only=True)[0])))
        ids = written[-1:]
    return written


def history(answers: list[dict], system: str | None = None) -> list[dict[str, str]]:
    told = [{"role": "system", "content": system}] if system else []
    for answer in answers:
        told += [{"role": "user", "content": answer["prompt"]}, {"role": "assistant", "content": answer["text"]}]
    return told


@pytest.mark.parametrize("system", [None, "Be a dog."])
def test_what_is_read_is_the_template_of_all_that_was_said(hardwire, talker, system):
    answers, err = talk(hardwire, talker, "--tokens", 20, *(("--system", system) if system else ()))
    tokenizer, llama, read = tokenizer_of(talker), GoldenLlama(Source.open(str(talker)).quantise()), []
    assert [answer["prompt"] for answer in answers] == list(LINES)
    for number, answer in enumerate(answers):
        read += answer["prompt_tokens"]
        told = [*history(answers[:number], system), {"role": "user", "content": answer["prompt"]}]
        assert read == tokenizer.encode(tokenizer.chat(told), bos=False)
        assert not answer["read_again"]
        assert answer["tokens"] == greedy(llama, answer["prompt_tokens"], 20, tokenizer.eos_ids)
        read += answer["tokens"][:-1]
    assert f"{len(read)} of 512 positions used" in err and "again" not in err


def test_an_answer_ends_with_its_end_token(hardwire, talker, tmp_path):
    whole, err = talk(hardwire, talker, "--tokens", 12, lines=LINES[:1])
    assert "cut off after 12 tokens (--tokens)" in err
    end = whole[0]["tokens"][4]
    other = write_talker(tmp_path / "talker", "stories-260k")
    (other / "generation_config.json").write_text(json.dumps({"eos_token_id": end}))
    answers, err = talk(hardwire, other, "--tokens", 12, lines=LINES[:1])
    assert answers[0]["tokens"] == whole[0]["tokens"][: whole[0]["tokens"].index(end) + 1]
    assert "cut off" not in err


def test_a_template_that_does_not_go_on_is_read_again(hardwire, tmp_path):
    """The template keeps the last message alone, so the session cannot go on from its tokens; a remark says so."""
    template = "{{ messages[-1].role }}: {{ messages[-1].content }}<|end|>assistant: "
    talker = write_talker(tmp_path / "talker", template=template)
    answers, err = talk(hardwire, talker, "--tokens", 6)
    tokenizer, model = tokenizer_of(talker), Source.open(str(talker)).quantise()
    assert [answer["read_again"] for answer in answers] == [False, True, True]
    for answer in answers:
        ids = tokenizer.encode(f"user: {answer['prompt']}<|end|>assistant: ", bos=False)
        assert answer["prompt_tokens"] == ids
        assert answer["tokens"] == greedy(GoldenLlama(model), ids, 6, tokenizer.eos_ids)
    assert err.count("reading all of the conversation again") == 2


def test_an_answer_in_other_tokens_than_the_tokenizers_is_read_again(hardwire, talker, monkeypatch):
    """The model's tokens must equal those of the template, not only spell the same text."""
    tokenizer = tokenizer_of(talker)
    first, second = (tokenizer.encode(letter, bos=False)[0] for letter in "th")
    assert len(tokenizer.encode("th", bos=False)) == 1
    answers = iter([first, second, *[tokenizer.eos_ids[0]] * 2])
    step = GoldenSession.step
    monkeypatch.setattr(
        GoldenSession, "step", lambda self, token, sampling: replace(step(self, token, sampling), token=next(answers))
    )
    answers, _ = talk(hardwire, talker, lines=LINES[:2])
    assert answers[0]["text"] == "th" and answers[1]["read_again"]
    assert answers[1]["prompt_tokens"] == tokenizer.encode(
        tokenizer.chat([*history(answers[:1]), {"role": "user", "content": LINES[1]}]), bos=False
    )


def test_a_model_without_template_continues_lines(hardwire):
    answers, err = talk(hardwire, "stories-260k", "--tokens", 8, lines=("Once upon a time", "", " The dog"))
    tokenizer, llama = tokenizer_of("stories-260k"), GoldenLlama(Source.open("stories-260k").quantise())
    assert err.count("has no chat template: the model continues what you write") == 1 and "cut off" not in err
    pending: list[int] = []
    for line, answer in zip(("Once upon a time", "", " The dog"), answers, strict=True):
        ids = [*pending, *(tokenizer.encode(line, bos=not pending) if line else [])]
        assert (answer["prompt"], answer["prompt_tokens"]) == (line, ids)
        assert answer["tokens"] == greedy(llama, ids, 8)
        pending = answer["tokens"][-1:]
    result = hardwire("chat", "stories-260k", "--tokens", 8, stdin="Once upon a time\n\n The dog\n")
    assert result.out == "".join(f"{answer['text']}\n" for answer in answers)


def test_a_model_without_tokenizer_continues_numbers(hardwire, tmp_path):
    model = write_model(tmp_path / "model")
    answers, err = talk(hardwire, model, "--tokens", 3, lines=("7 9", "hello", "41", "8"))
    llama, pending = GoldenLlama(Source.open(str(model)).quantise()), []
    for line, answer in zip(((7, 9), (8,)), answers, strict=True):
        assert answer["prompt_tokens"] == [*pending, *line]
        assert answer["tokens"] == greedy(llama, answer["prompt_tokens"], 3)
        pending = answer["tokens"][-1:]
    assert "not 'hello'" in err and "token 41 is not in the vocabulary of 41" in err


def test_a_full_context_says_so_and_what_to_do(hardwire, small):
    lines = ("Hello there", "So?", "x" * 9, "No", "/reset", "No")
    answers, err = talk(hardwire, small, "--backend", "golden", "--tokens", 12, lines=lines)
    assert [answer["prompt"] for answer in answers] == ["Hello there", "So?", "No"]
    read = [len(answer["prompt_tokens"]) for answer in answers]
    # The last token of an answer is read with the next prompt, or has no position left.
    assert [len(answer["tokens"]) for answer in answers] == [12, 64 - (read[0] + 11 + read[1]) + 1, 12]
    assert "64 of 64 positions used" in err
    assert "the context is full, and the answer cut off: /reset starts a new conversation" in err
    assert err.count("and the context holds 64: /reset starts a new conversation") == 2
    alone, _ = talk(hardwire, small, "--backend", "golden", "--tokens", 12, lines=("No",))
    assert answers[2]["tokens"] == alone[0]["tokens"] and answers[2]["prompt_tokens"] == alone[0]["prompt_tokens"]


def test_a_text_that_fills_the_context_says_so_too(hardwire, tmp_path):
    """A line with more characters than positions left is refused; so is an empty line once all positions are used."""
    lines = ("x" * 40, "y" * 10, "z" * 11, "y" * 3, "", "", "/reset", "", "w")
    out = small_chip(tmp_path, "stories-tiny")
    answers, err = talk(hardwire, out, "--backend", "golden", "--tokens", 5, lines=lines)
    # Read and written, of 64: 1 + 40 + 4, then 1 + 10 + 4; of the last answer's tokens one is not read yet.
    assert [(answer["prompt"][:1], len(answer["tokens"])) for answer in answers] == [("x", 5), ("y", 5), ("y", 1), ("w", 5)]
    assert "the prompt has 11 tokens after 61 others, and the context holds 64: /reset starts a new conversation" in err
    assert err.count("the context is full: all 64 positions are used: /reset starts a new conversation") == 2


def test_a_nearly_full_context_says_so(hardwire, small):
    _, err = talk(hardwire, small, "--backend", "golden", "--tokens", 12, lines=("Hello there, you",))
    assert "nearly full" not in err
    _, err = talk(hardwire, small, "--backend", "golden", "--tokens", 30, lines=("Hello there, you",))
    assert "the context is nearly full: /reset starts a new conversation" in err


def test_a_refused_line_leaves_the_conversation_as_it_was(hardwire, small):
    lines = ("Hello", "x" * 60, "So?")
    answers, _ = talk(hardwire, small, "--backend", "golden", "--tokens", 5, lines=lines)
    plain, _ = talk(hardwire, small, "--backend", "golden", "--tokens", 5, lines=("Hello", "So?"))
    assert [answer["tokens"] for answer in answers] == [answer["tokens"] for answer in plain]


def test_commands(hardwire, talker, tmp_path):
    lines = ("/stats", "/help", "/sing loudly", "/save", f"/save {tmp_path / 'x'}", "Hi", "/stats", "/quit", "Never said")
    result = hardwire("chat", talker, "--tokens", 5, stdin="\n".join(lines))
    err = result.err
    assert result.code == 0 and result.out.count("\n") == 1
    assert "nothing was answered yet" in err and "/reset" in err and "there is no /sing" in err
    assert "/save needs a file" in err and "takes backend rtl, not golden" in err and not (tmp_path / "x").exists()
    assert err.count("5 written at") == 2 and "Traceback" not in err


def test_temperature_and_seed(hardwire, talker):
    said = {}
    for seed in (1, 1, 2):
        answers, _ = talk(hardwire, talker, "--tokens", 10, "--temperature", 1.5, "--seed", seed, lines=LINES[:2])
        ids = [answer["tokens"] for answer in answers]
        assert said.setdefault(seed, ids) == ids
    assert said[1] != said[2]


def test_ctrl_c_stops_an_answer_and_the_conversation_goes_on(hardwire, talker, monkeypatch):
    step, steps = GoldenSession.step, []

    def interrupted(self, token, sampling):
        steps.append(token)
        if len(steps) == 3:
            signal.raise_signal(signal.SIGINT)
        return step(self, token, sampling)

    monkeypatch.setattr(GoldenSession, "step", interrupted)
    answers, err = talk(hardwire, talker, "--tokens", 10)
    assert [len(answer["tokens"]) for answer in answers] == [3, 10, 10]
    assert not any(answer["read_again"] for answer in answers) and "stopped\n" in err
    tokenizer = tokenizer_of(talker)
    read = [*answers[0]["prompt_tokens"], *answers[0]["tokens"][:-1], *answers[1]["prompt_tokens"]]
    told = [*history(answers[:1]), {"role": "user", "content": LINES[1]}]
    assert read == tokenizer.encode(tokenizer.chat(told), bos=False)


def test_ctrl_c_stops_a_prompt(hardwire, talker, monkeypatch):
    feed, feeds = GoldenSession.feed, []

    def interrupted(self, tokens):
        feeds.append(tokens)
        if len(feeds) == 1:
            signal.raise_signal(signal.SIGINT)
        return feed(self, tokens)

    monkeypatch.setattr(GoldenSession, "feed", interrupted)
    long = "The dog was big. " * 20
    answers, err = talk(hardwire, talker, "--tokens", 4, lines=(long, "Hi", "So?"))
    # The tokens of the first line do not begin the conversation with the second, so they are read again.
    assert [(answer["prompt"], answer["read_again"]) for answer in answers] == [("Hi", True), ("So?", False)]
    assert "stopped before the answer" in err
    tokenizer = tokenizer_of(talker)
    assert answers[0]["prompt_tokens"] == tokenizer.encode(tokenizer.chat([{"role": "user", "content": "Hi"}]), bos=False)


def test_ctrl_c_stops_a_line_that_is_continued(hardwire, monkeypatch):
    """The end of the last answer was read with the first part of the line, and is not read twice."""
    feed, fed = GoldenSession.feed, []

    def interrupted(self, tokens):
        fed.extend(tokens)
        if len(tokens) == 64:
            signal.raise_signal(signal.SIGINT)
        return feed(self, tokens)

    monkeypatch.setattr(GoldenSession, "feed", interrupted)
    long = "The dog was big. " * 40
    answers, err = talk(hardwire, "stories-260k", "--tokens", 1, lines=("Once", long, " So"))
    tokenizer = tokenizer_of("stories-260k")
    assert [answer["prompt"] for answer in answers] == ["Once", " So"] and "stopped before the answer" in err
    line = tokenizer.encode(long, bos=False)
    once = tokenizer.encode("Once")
    assert fed == [*once[:-1], *answers[0]["tokens"], *line[:63], *answers[1]["prompt_tokens"][:-1]]
    assert answers[1]["prompt_tokens"] == tokenizer.encode(" So", bos=False)


def test_half_a_character_at_the_end_is_said_to_be_one(hardwire, tmp_path, monkeypatch):
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_only = tokenizers.Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    bytes_only.pre_tokenizer, bytes_only.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    model = write_model(tmp_path / "model", config=replace(SHAPE, vocab_size=len(letters)))
    tokenizer = Tokenizer(bytes_only, chat_template="{{ messages[-1].content }}")
    tokenizer.save(model)
    halves, step = iter(tokenizer.encode("é")[:1] * 2), GoldenSession.step
    monkeypatch.setattr(
        GoldenSession, "step", lambda self, token, sampling: replace(step(self, token, sampling), token=next(halves))
    )
    answers, _ = talk(hardwire, model, "--tokens", 1, lines=("Hi", "Hi So?"))
    assert [(answer["text"], answer["read_again"]) for answer in answers] == [("\N{REPLACEMENT CHARACTER}", False)] * 2


def test_ctrl_c_twice_ends(hardwire, talker, monkeypatch):
    def twice(self, token, sampling):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(GoldenSession, "step", twice)
    before = signal.getsignal(signal.SIGINT)
    result = hardwire("chat", talker, stdin="Hi\n")
    assert result.code == 130 and result.err.splitlines()[-1] == "interrupted"
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (("stories-260k", "--system", "Be a dog."), 1, "has no chat template, which --system needs"),
        (("stories-260k", "--save", "x"), 1, "takes backend rtl, not golden"),
        (("stories-260k", "--resume", "x"), 1, "takes backend rtl, not golden"),
        (("stories-260k", "--backend", "rtl"), 1, "is not compiled"),
        (("nowhere",), 1, "nowhere: no such file"),
        (("stories-260k", "--tokens", 0), 2, "--tokens"),
    ],
)
def test_bad_input_is_one_line(hardwire, arguments, code, complaint):
    result = hardwire("chat", *arguments, stdin="Hi\n")
    assert result.code == code and not result.out
    assert result.err.startswith("error: ") and complaint in result.err and result.err.count("\n") == 1


def test_a_template_that_refuses_is_one_line(hardwire, tmp_path):
    refusal = "{% if messages[-1].content == 'No.' %}{{ raise_exception('be polite') }}{% endif %}"
    answers, err = talk(hardwire, write_talker(tmp_path / "talker", template=refusal + TEMPLATE), "--tokens", 3)
    assert len(answers) == 2 and "chat template: be polite" in err


def test_on_a_terminal(talker):
    """Prompt, answer, Ctrl-C at the prompt, and Ctrl-D."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", "from hardwire.cli.main import main; main()", "chat", str(talker), "--tokens", "4"],
        stdin=follower, stdout=follower, stderr=subprocess.PIPE, env=os.environ | {"TERM": "dumb"}, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # fmt: skip
    os.close(follower)
    seen = b""

    def until(what: bytes) -> None:
        nonlocal seen
        while what not in seen:
            assert select.select([leader], [], [], 60)[0], seen
            seen += os.read(leader, 1000)
        seen = seen[seen.index(what) + len(what) :]

    until(b"> ")
    while not select.select([leader], [], [], 0.2)[0]:  # a signal that comes before readline waits is not seen by it
        process.send_signal(signal.SIGINT)
    until(b"> ")
    os.write(leader, b"Hi\n")
    until(b"Hi\r\n")
    until(b"> ")
    os.write(leader, b"\x04")
    assert process.stderr is not None
    err = process.stderr.read().decode()
    assert process.wait(timeout=60) == 0
    process.stderr.close()
    os.close(leader)
    assert "Ctrl-D or /quit ends" in err and "4 written at" in err and "Traceback" not in err
