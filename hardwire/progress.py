"""Progress of long steps, and warnings.  The library reports them; the command line, or a server, shows them."""

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


def _ignore(line: str) -> None:
    pass


_display: Display = silent
_warn: Callable[[str], None] = _ignore


def show_with(display: Display, warning: Callable[[str], None] = _ignore) -> None:
    """Show every step from now on with ``display``, and every warning with ``warning``.  Without this call both are silent."""
    global _display, _warn
    _display, _warn = display, warning


def warn(line: str) -> None:
    """Tell a person, in one line, about something that may make the model's answers wrong.  A display may say a line once."""
    _warn(line)


@contextmanager
def step(name: str, seconds: dict[str, float] | None = None) -> Iterator[Step]:
    """Show a step while its body runs, and note under its name in ``seconds`` how long it took."""
    start = time.monotonic()
    with _display(name) as running:
        yield running
    if seconds is not None:
        seconds[name] = round(time.monotonic() - start, 2)
