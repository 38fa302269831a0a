"""A file with the state of the simulated chip between two tokens, and the text that it has read.

hardwire saved 1 SHA256    the hash of everything after this line
{...}                      JSON: the chip's files and their SHA-256, the text, the adapters, SHA-256 of the whole state
...                        zlib: the chip's state XOR its state just after reset, so that ROMs are zeros and take little space
"""

import json
import os
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hardwire.folders import write_whole
from hardwire.progress import step
from hardwire.state import Saved, SavedError, sha256_of
from hardwire.target import Target

if TYPE_CHECKING:
    from hardwire.conversation import Conversation
    from sim.session import Session

KIND = b"hardwire saved"
VERSION = b"1"


def check_writable(path: Path, backend: str) -> None:
    """Raises SavedError if a session cannot be saved to ``path``.  Callers ask before a long run, not after it."""
    _check_backend(path, backend)
    try:
        path.lstat()
    except ValueError:  # a name with a NUL, or with characters that the locale has not
        raise SavedError(f"{str(path)!r}: no file can have this name") from None
    except OSError:
        pass  # there is no such file yet
    if path.is_dir():
        raise SavedError(f"{path}: is a folder: name a file")
    if not path.parent.is_dir():
        raise SavedError(f"{path}: {path.parent} is no folder")
    if not os.access(path.parent, os.W_OK):
        raise SavedError(f"{path}: {path.parent} is not writable")


def save(path: Path, session: "Session", conversation: "Conversation") -> None:
    """Write the chip of a session and its conversation to ``path``, whole or not at all.  The session can go on afterwards."""
    from sim.backends import RtlSession

    if not isinstance(session, RtlSession):
        raise SavedError(f"{path}: only the simulated chip is saved")
    output = conversation.target.compiled()
    with step("save"):
        state, fresh = session.chip.state(), output.chip()
        start = fresh.state()
        fresh.close()
        about = {
            "files": output.about["files"],
            "read": conversation.read,
            "pending": conversation.pending,
            "messages": conversation.messages,
            "adapter": session.adapter,
            "adapters": session.chip.adapters,
            "state_sha256": sha256_of(state),
        }
        body = json.dumps(about).encode() + b"\n" + zlib.compress(np.bitwise_xor(state, start).tobytes(), 1)
        write_whole(path, b" ".join((KIND, VERSION, sha256_of(body).encode())) + b"\n" + body)


def load(path: Path, target: Target, backend: str = "rtl") -> Saved:
    """Read a file that ``save`` wrote.  Raises SavedError if it is damaged, or of another chip than the target's."""
    _check_backend(path, backend)
    output = target.compiled()
    first, _, body = path.read_bytes().partition(b"\n")
    words = first.removeprefix(KIND).split()
    if not first.startswith(KIND) or len(words) != 2:
        raise SavedError(f"{path}: is not a file that --save wrote")
    if words[0] != VERSION:
        raise SavedError(f"{path}: was saved by another version of hardwire: save it again")
    if words[1].decode("latin1") != sha256_of(body):
        raise SavedError(f"{path}: is damaged or cut off (its checksum is not that of its contents): save it again")
    head, _, difference = body.partition(b"\n")
    about, files = json.loads(head), output.about["files"]
    theirs = about.pop("files")
    if other := sorted(name for name in theirs.keys() | files.keys() if theirs.get(name) != files.get(name)):
        raise SavedError(f"{path}: was saved with another chip than {output.folder} ({', '.join(other)} differ)")
    about["adapters"] = {int(number): digest for number, digest in about["adapters"].items()}
    return Saved(path, difference=difference, **about)


def _check_backend(path: Path, backend: str) -> None:
    if backend != "rtl":
        raise SavedError(f"{path}: only the simulated chip is saved and resumed: that takes backend rtl, not {backend}")
