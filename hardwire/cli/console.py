"""The console of the command line: progress and remarks go to stderr, text and figures to stdout."""

import io
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

PATIENCE = 2.0
"""Seconds after which a step shows its first line if stderr is no terminal."""

stderr = Console(stderr=True, highlight=False, soft_wrap=True)


def say(line: str) -> None:
    """Print one line on stderr.  Brackets in it are text, not markup."""
    stderr.print(line, markup=False)


class Warnings:
    """Print a warning on stderr, once: a command may open the same file twice."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def __call__(self, line: str) -> None:
        """Print ``line``, unless it was printed before."""
        if line not in self._said:
            self._said.add(line)
            say(f"warning: {line}")


class Step:
    """A step on the screen: ``update`` moves its bar, or prints a line now and then."""

    def __init__(self, name: str, bar: Progress | None):
        self._name, self._bar = name, bar
        self._task = bar.add_task(name, total=None, what="") if bar else None
        self._next, self._pause = time.monotonic() + PATIENCE, PATIENCE

    def update(self, what: str = "", done: float | None = None, total: float = 1.0) -> None:
        """Show that ``done`` of ``total`` is finished, if that is known, and ``what`` is being worked on."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, what=what, total=None if done is None else total, completed=done or 0)
        elif time.monotonic() > self._next:
            share = "" if done is None else f" {100 * done / total:.0f} %"
            say(f"{self._name} ...{share} {what}".rstrip())
            self._pause *= 2
            self._next = time.monotonic() + self._pause


@contextmanager
def step(name: str) -> Iterator[Step]:
    """Show a step while it runs: a bar on a terminal, elsewhere a line now and then, with a pause that doubles.

    A step of PATIENCE or more leaves a line with its time.
    """
    start = time.monotonic()
    if stderr.is_terminal:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.fields[what]}", markup=False),
        )
        with Progress(*columns, console=stderr, transient=True) as bar:
            yield Step(name, bar)
    else:
        yield Step(name, None)
    taken = time.monotonic() - start
    if taken >= PATIENCE:
        say(f"{name}: {taken:.1f} s")


def take_any_text() -> None:
    """Let no text end the command.

    Bytes of stdin that are not text become lone surrogates, which ``unicode_of`` refuses line by line.  Characters that stdout or
    stderr cannot show are written as their escapes.
    """
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "backslashreplace"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def write(text: str) -> None:
    """Write text to stdout, and flush it."""
    sys.stdout.write(text)
    sys.stdout.flush()
