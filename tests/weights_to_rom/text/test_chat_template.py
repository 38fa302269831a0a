"""Chat templates: the text that transformers renders, and bounds for programs that strangers wrote."""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest

from weights_to_rom.text import chat_template
from weights_to_rom.text.chat_template import ChatTemplate
from weights_to_rom.text.errors import TokenizerError

REFERENCE = json.loads(Path("tests/data/chat_templates.json").read_text())
MESSAGES = [{"role": "user", "content": "hi"}]
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
SURROGATES = "surrogates not allowed"


def render(source: str) -> str:
    return ChatTemplate(source).render(MESSAGES, True, {})


@pytest.mark.parametrize("entry", REFERENCE["templates"], ids=lambda entry: entry["template"][:30])
def test_it_renders_what_transformers_renders_and_refuses_what_transformers_refuses(entry):
    try:
        text = ChatTemplate(entry["template"]).render(REFERENCE["messages"], True, REFERENCE["special"])
    except TokenizerError as error:
        text = None
        assert str(error).startswith("chat template: ") and "\n" not in str(error)
    assert text == entry["text"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ raise_exception('roles must\n alternate') }}", "roles must alternate"),
        ("{{ raise_exception('') }}", "TemplateError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError: division by zero"),
        ("{{ '{x}'.format(1) }}", "KeyError: 'x'"),
        ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "is nested too deeply"),
        ("{{ 'x' * (2 ** 70) }}", "OverflowError: cannot fit 'int' into an index-sized integer"),
        ("a\ud800b", f"its text is not Unicode: 'utf-8' codec can't encode character '{chr(92)}ud800' in position 1: {SURROGATES}"),
        ("{{ 'x' * 10 ** 10 }}", "needs too much memory"),
        ("{{ '%9999999999d' % 1 }}", "needs too much memory"),
        ("{{ '{:>9999999999}'.format(1) }}", "needs too much memory"),
        ("{{ ([0] * 10 ** 9) | length }}", "needs too much memory"),
        (ENDLESS.replace("{% endfor", "words{% endfor", 1), "writes more than 1048576 characters"),
        ("{{ 'x' * 1048577 }}", "writes more than 1048576 characters"),
        (ENDLESS, "takes more than 2 seconds"),
        ("{% set n = 10 ** 9 %}{{ (7 ** n) > 0 }}", "takes more than 2 seconds"),
    ],
    ids=lambda value: value[:30],
)
def test_it_ends_in_one_line_within_its_bounds(source, message):
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    with pytest.raises(TokenizerError) as error:
        render(source)
    assert str(error.value) == f"chat template: {message}"
    # the time of the processor, because a busy machine gives little of it
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 4
    assert render("{{ messages[0].content }}") == "hi"


def test_a_text_of_the_greatest_length():
    assert render("{{ 'x' * 1048576 }}") == "x" * 1048576


def test_a_crash_is_one_line():
    render("")
    process = chat_template._worker._process
    assert process is not None
    threading.Timer(0.3, process.kill).start()
    with pytest.raises(TokenizerError, match=r"^chat template: its process ended with status -9$"):
        render(ENDLESS)
    assert render("x") == "x"


def test_templates_share_nothing():
    with pytest.raises(TokenizerError, match="unsafe"):
        render("{{ messages.append(1) }}")
    assert render("{% set messages = [] %}{{ messages | length }}") == "0"
    assert render("{{ messages | length }}") == "1"


def test_threads_share_one_process(monkeypatch):
    """Signals work only in the main thread; the bounds hold in any."""
    monkeypatch.setattr(chat_template, "SECONDS", 0.25)
    said: list[str] = []

    def work(name: str) -> None:
        for _ in range(20):
            said.append(render(f"{name}{{{{ messages[0].content }}}}"))
        try:
            render(ENDLESS)
        except TokenizerError as error:
            said.append(str(error))

    threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(said) == sorted([f"{name}hi" for name in "abc"] * 20 + ["chat template: takes more than 0.25 seconds"] * 3)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_leaves_no_answer_behind():
    render("")
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        render(ENDLESS + "late")
    assert render("next") == "next"


def test_a_process_that_somebody_ended_is_started_again():
    render("")
    process = chat_template._worker._process
    assert process is not None
    process.kill()
    process.wait()
    assert render("next") == "next"


def test_messages_that_are_no_json_are_refused():
    with pytest.raises(TokenizerError, match="chat template: the messages are not JSON: Object of type object"):
        ChatTemplate("").render([{"role": "user", "content": object()}], True, {})


def test_a_process_that_forked_has_its_own():
    render("")
    parent = chat_template._worker._process
    assert parent is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork where threads run: the child starts a process and ends
        child = os.fork()
    if child == 0:
        os._exit(0 if render("child") == "child" and chat_template._worker._process.pid != parent.pid else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert render("parent") == "parent" and chat_template._worker._process is parent


def test_a_process_with_little_memory_renders():
    code = "import resource; resource.setrlimit(resource.RLIMIT_AS, (800 << 20, 800 << 20)); "
    code += "from weights_to_rom.text.chat_template import ChatTemplate; print(ChatTemplate('{{ 1 + 1 }}').render([], False, {}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "2\n"
