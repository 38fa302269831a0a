"""What a person sees on stderr: progress, and nothing that a program would have to parse."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

PATIENCE = 2.0
"""Seconds that anything may take without a word."""

stderr = Console(stderr=True, highlight=False, soft_wrap=True)


def say(line: str) -> None:
    """One line on stderr, as it is."""
    stderr.print(line, markup=False)


class Step:
    """Something that takes a while.  ``update`` says how far it is."""

    def __init__(self, name: str, bar: Progress | None):
        self._name, self._bar = name, bar
        self._task = bar.add_task(name, total=None, what="") if bar else None
        self._next, self._pause = time.monotonic() + PATIENCE, PATIENCE

    def update(self, what: str = "", done: float | None = None, total: float = 1.0) -> None:
        """``done`` of ``total``, if that is known, and what is going on."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, what=what, total=None if done is None else total, completed=done or 0)
        elif time.monotonic() > self._next:
            share = "" if done is None else f" {100 * done / total:.0f} %"
            say(f"{self._name} ...{share} {what}".rstrip())
            self._pause *= 2
            self._next = time.monotonic() + self._pause


@contextmanager
def step(name: str, seconds: dict[str, float] | None = None) -> Iterator[Step]:
    """Show a step while it runs: a bar on a terminal, elsewhere a line now and then, ever more rarely.

    A step of two seconds or more leaves a line behind.  ``seconds`` is where its time goes, under its name.
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
    if seconds is not None:
        seconds[name] = round(taken, 2)
    if taken >= PATIENCE:
        say(f"{name}: {taken:.1f} s")


def write(text: str) -> None:
    """Text on stdout, at once."""
    sys.stdout.write(text)
    sys.stdout.flush()
