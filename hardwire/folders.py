"""Files and folders that appear whole or not at all, and their room on the disk."""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from weights_to_rom.errors import HardwireError
from weights_to_rom.scratch import cache_folder, empty, locked

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The errors of a disk, a quota, or a limit on the size of files that is reached."""

READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
"""The errors of a folder that cannot be written."""


class DiskError(HardwireError):
    """A disk that is full.  The message is one line: the path, the room that it needs, and the room that is left."""


@contextmanager
def room_for(path: Path, needed: int | None = None) -> Iterator[None]:
    """Raise DiskError if the disk of ``path`` is full before the body ends.

    Parameters
    ----------
    path : Path    a file or folder that the body writes
    needed : int   bytes that it takes, as far as they are known
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise DiskError(_full(path, needed, os.strerror(error.errno))) from None


def check_room(path: Path, needed: int) -> None:
    """Raises DiskError if the disk of ``path`` has less than ``needed`` bytes left."""
    if _free(path) < needed:
        raise DiskError(_full(path, needed, os.strerror(errno.ENOSPC)))


def _free(path: Path) -> int:
    return shutil.disk_usage(next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())).free


def _full(path: Path, needed: int | None, reason: str) -> str:
    takes = "" if needed is None else f"it takes about {_size(needed)}, and "
    return f"{path}: {reason}: {takes}{_size(_free(path))} are free on that disk"


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:,.1f} MB" if n_bytes >= 100_000 else f"{n_bytes:,} bytes"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all.  Raises DiskError, and the other errors of a file as OSError."""
    temporary = path.with_name(path.name + ".part")
    try:
        with room_for(path, len(content)):
            temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def written_whole(folder: Path, needed: int | None = None) -> Iterator[Path]:
    """Make a new folder.  It replaces ``folder`` if the body succeeds, and is removed if the body fails.

    Anything that a killed process left of the same folder is removed first; the old folder is put back if that process was
    about to replace it.

    Parameters
    ----------
    folder : Path   the folder
    needed : int    bytes that the new folder takes, for the message about a full disk

    Raises
    ------
    BusyError   if another process writes the folder
    DiskError   if the disk is full
    """
    target = folder.resolve()
    busy = f"{folder}: another hardwire writes it now: wait for its end, or name another folder"
    with room_for(folder, needed):
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target.parent / f".{target.name}-hardwire", busy) as scratch:
            for leftover in _of_earlier_versions(target):
                shutil.rmtree(leftover, ignore_errors=True)
            new, old = scratch / "new", scratch / "old"
            if old.exists() and not target.exists():
                old.replace(target)
            empty(scratch)
            new.mkdir()
            yield new
            if target.exists():
                target.replace(old)
            try:
                new.replace(target)
            except BaseException:
                if old.exists():
                    old.replace(target)
                raise


def _of_earlier_versions(target: Path) -> list[Path]:
    """Return the folders of the name .TARGET-XXXXXXXX, with a random end, that earlier versions have left."""
    named = re.compile(rf"\.{re.escape(target.name)}-[a-z0-9_]{{8}}")
    return [
        folder
        for folder in target.parent.iterdir()
        if named.fullmatch(folder.name) and folder.is_dir() and {part.name for part in folder.iterdir()} == {"new"}
    ]


def place_for(folder: Path, kind: str, there: Callable[[Path], object] = lambda folder: None) -> Path:
    """Return ``folder`` if ``there`` finds a file in it or this process can write to it; otherwise the cache's folder ``kind``.

    Parameters
    ----------
    folder : Path     a folder inside of a compiled model; it need not exist
    kind : str        name of a folder of the cache
    there : Callable  tells whether a folder has what is asked for
    """
    if there(folder) or _writable(folder):
        return folder
    return cache_folder(kind)


def _writable(folder: Path) -> bool:
    """Whether files can be written to a folder, which is made if it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError as error:
        if error.errno in READ_ONLY:
            return False
        raise
