"""Progress of long steps.  The library reports it; the command line, or a server, shows it."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol


class Step(Protocol):
    """Work that is going on."""

    def update(self, what: str = "", done: float | None = None, total: float = 1.0) -> None:
        """Tell that ``done`` of ``total`` is finished, if that is known, and ``what`` is being worked on."""


class _Silent:
    def update(self, what: str = "", done: float | None = None, total: float = 1.0) -> None:
        pass


Display = Callable[[str], AbstractContextManager[Step]]
"""Shows a step of a name for as long as its context lasts."""


def silent(name: str) -> AbstractContextManager[Step]:
    """Show nothing: the display by default."""
    return nullcontext(_Silent())


_display: Display = silent


def show_with(display: Display) -> None:
    """Show every step from now on with ``display``.  Without this call steps are silent."""
    global _display
    _display = display


@contextmanager
def step(name: str, seconds: dict[str, float] | None = None) -> Iterator[Step]:
    """Show a step while its body runs, and note under its name in ``seconds`` how long it took."""
    start = time.monotonic()
    with _display(name) as running:
        yield running
    if seconds is not None:
        seconds[name] = round(time.monotonic() - start, 2)
