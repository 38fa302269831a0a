"""Shared by all tests: their text, and the compiled parts of simulations."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

PAGE = """Once upon a time there was a little dog named Tim. He didn't like  the rain:
it was 12345 times too wet!

    def f(x):
\treturn x**2 + 1  # tabs\tand    spaces
\t\t
Zażółć gęślą jaźń, naïve café, Straße, ½ ﬁne ™ 東京の天気は？ Привет, мир! שלום مرحبا हिन्दी 한국어
🐉🐲👨‍👩‍👧 emoji 1️⃣ <b>HTML</b> &amp; https://example.org/a?b=c#d === ------ ...... ''' $$$ aaaaaaa
 The end """


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT interrupts this process, also where the shell that started it has ignored the signal, as for a background job."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def page() -> str:
    """A page of text that is hard on tokenizers."""
    return PAGE


@pytest.fixture(scope="session")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the objects that all simulations share, also those of other xdist workers."""
    return tmp_path_factory.getbasetemp().parent / "verilator-runtime"
