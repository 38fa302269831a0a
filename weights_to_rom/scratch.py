"""A folder for work in progress.  One process at a time has it, and empties it of anything that a killed process left there."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from weights_to_rom.errors import HardwireError

LOCK = "lock"
"""The file in the folder that a process locks.  The system unlocks the file when the process ends, however it ends."""


class BusyError(HardwireError):
    """Another process works there.  The message is one line that names the place."""


@contextmanager
def locked(folder: Path, busy: str | None = None) -> Iterator[Path]:
    """Make ``folder`` if it is not there, lock it for the body, and remove it afterwards.

    The folder may hold leftovers of a process that was killed: ``empty`` removes them.

    Parameters
    ----------
    folder : Path   the parent folder exists
    busy : str      message of the BusyError if another process has the folder; without one, wait for that process

    Raises
    ------
    BusyError   if another process has the folder
    """
    lock = _acquired(folder, busy)
    try:
        yield folder
    finally:
        empty(folder)
        (folder / LOCK).unlink(missing_ok=True)
        with suppress(OSError):  # the next process may have made its own lock there already
            folder.rmdir()
        lock.close()


def empty(folder: Path) -> None:
    """Remove everything in a locked folder."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != LOCK:
            path.unlink(missing_ok=True)


def remove_leftover(folder: Path) -> None:
    """Remove a folder that a killed process left; one that another process has stays."""
    if folder.is_dir():
        # A folder that cannot be written keeps its leftovers.
        with suppress(BusyError, OSError), locked(folder, "in use"):
            pass


def cache_folder(kind: str) -> Path:
    """Return the folder of the user's cache for things of ``kind``.  Raises OSError if it cannot be made."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hardwire" / kind
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _acquired(folder: Path, busy: str | None) -> TextIO:
    while True:
        # Not exist_ok: it fails if the process that has the folder removes it after mkdir has failed, before exist_ok looks.
        with suppress(FileExistsError):
            folder.mkdir()
        try:
            lock = (folder / LOCK).open("w")
        except FileNotFoundError:
            continue  # the process that had the folder has just removed it
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if busy is None else fcntl.LOCK_NB))
            if os.path.samestat(os.fstat(lock.fileno()), (folder / LOCK).stat()):
                return lock
        except BlockingIOError:
            lock.close()
            raise BusyError(busy or f"{folder}: is in use") from None
        except FileNotFoundError:
            pass
        lock.close()
