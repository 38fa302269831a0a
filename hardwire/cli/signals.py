"""Ctrl-C and SIGTERM end a command, always and quietly."""

import os
import signal
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

AGAIN_SECONDS = 0.001
"""The pause after which an exception that Python has discarded is raised again."""


class Ending:
    """The signal that ends the command: its exit status, which is 128 + the signal's number, or 0 as long as none came."""

    status: int = 0

    def handle(self, number: int, frame: FrameType | None = None) -> None:
        """End the tools that the command has started, and raise KeyboardInterrupt for SIGINT, SystemExit for another signal."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        self.status = 128 + number
        end_children()
        self.again()

    def again(self, *_: Any) -> None:
        """Raise the exception of the signal."""
        if self.status == 128 + signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(self.status)


def end_children() -> None:
    """Kill every process that this one has started, and those that they have started: compilers, Yosys, nextpnr.

    A second signal waits until all are killed.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGALRM))
    try:
        for process in _below(os.getpid()):
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _below(process: int) -> list[int]:
    """List the processes that a process has started, and theirs: each stands before its own, so that it starts no others."""
    children = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # a process that has just ended
            children[int(stat.read_text().rpartition(")")[2].split()[1])].append(int(stat.parent.name))
    found = [*children[process]]
    for one in found:
        found += children[one]
    return found


@contextmanager
def ending() -> Iterator[Ending]:
    """Turn SIGINT and SIGTERM into exceptions of the body.

    Python discards an exception in a destructor or in the callback of a weak reference, and calls ``sys.unraisablehook``.
    A timer then raises the exception once more, in the code that goes on.  A SIGINT that is ignored, as in a shell's background
    job, stays ignored.
    """
    told, hook = Ending(), sys.unraisablehook

    def discarded(unraisable: Any) -> None:
        if isinstance(unraisable.exc_value, (KeyboardInterrupt, SystemExit)) and told.status:
            signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS)
        else:
            hook(unraisable)

    handlers = {signal.SIGTERM: told.handle, signal.SIGALRM: told.again}
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        handlers[signal.SIGINT] = told.handle
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    sys.unraisablehook = discarded
    try:
        yield told
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)
