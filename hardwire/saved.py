"""The simulated chip in a file, between two tokens, and the text that brought it there.

    hardwire saved 1 SHA256    of all that follows this line
    {...}                      JSON: the chip's files and their SHA-256, the text, the adapters, SHA-256 of the whole state
    ...                        zlib: the chip's state, XOR what it is just after reset; of ROMs nothing is left by that
"""

import hashlib
import json
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hardwire.cli.console import step
from hardwire.compiled import Output

if TYPE_CHECKING:
    from hardwire.conversation import Conversation
    from sim.rtl.chip import RtlChip
    from sim.session import RtlSession

KIND = b"hardwire saved"
VERSION = b"1"


class SavedError(ValueError):
    """A file that --save did not write, or not of this chip: one line that says which and what to do."""


@dataclass(frozen=True)
class Saved:
    """What is in such a file.

    Members
    -------
    path : Path                     the file
    read : list[int]                tokens that the chip's sequence has read
    pending : list[int]             the last token of the text, if the chip has not read that yet
    messages : list[dict]           "role" and "content" of what was said, in a chat
    adapter : int                   the adapter that the text uses, or 0
    adapters : dict[int, str]       ``sim.rtl.chip.frame_sha256`` of what was loaded under each number
    state_sha256 : str              of the chip's whole state, ROMs too
    difference : bytes              zlib: the state, XOR what it is just after reset
    """

    path: Path
    read: list[int]
    pending: list[int]
    messages: list[dict[str, str]]
    adapter: int
    adapters: dict[int, str]
    state_sha256: str
    difference: bytes

    def check_adapter(self, frame: np.ndarray | None) -> None:
        """Raises SavedError if an adapter is given and is not the one with which the text began."""
        from sim.rtl.chip import frame_sha256

        if frame is not None and self.adapter == 0:
            raise SavedError(f"{self.path}: was saved without an adapter: leave --adapter out")
        if frame is not None and self.adapters[self.adapter] != frame_sha256(frame):
            raise SavedError(f"{self.path}: was saved with another adapter than the one that is given")

    def restore(self, chip: "RtlChip") -> None:
        """Bring a chip just after reset to where it was saved.  Raises SavedError if its simulation is another one."""
        state, difference = chip.state(), np.frombuffer(zlib.decompress(self.difference), np.uint8)
        if state.size == difference.size:
            state ^= difference
        # A state of the same chip, of another version of the simulator, would put values where they do not belong.
        if _sha256(state) != self.state_sha256:
            raise SavedError(f"{self.path}: was saved with another build of the simulation: save it again")
        chip.restore(state)
        chip.adapters = dict(self.adapters)


def check_writable(path: Path, backend: str) -> None:
    """Raises SavedError if a session cannot be saved to ``path``: better before a long run than after it."""
    _check_backend(path, backend)
    if path.is_dir():
        raise SavedError(f"{path}: is a folder: name a file")
    if not path.parent.is_dir():
        raise SavedError(f"{path}: {path.parent} is no folder")
    if not os.access(path.parent, os.W_OK):
        raise SavedError(f"{path}: {path.parent} is not writable")


def save(path: Path, output: Output, session: "RtlSession", conversation: "Conversation") -> None:
    """Write a session's chip and its text to ``path``, whole or not at all.  The session goes on as if nothing was."""
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
            "state_sha256": _sha256(state),
        }
        body = json.dumps(about).encode() + b"\n" + zlib.compress(np.bitwise_xor(state, start, out=start), 1)
        temporary = path.with_name(path.name + ".part")
        try:
            temporary.write_bytes(b" ".join((KIND, VERSION, _sha256(body).encode())) + b"\n" + body)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def load(path: Path, output: Output, backend: str = "rtl") -> Saved:
    """What is in a file.  Raises SavedError if it is damaged, or of another chip than that of ``output``."""
    _check_backend(path, backend)
    first, _, body = path.read_bytes().partition(b"\n")
    words = first.removeprefix(KIND).split()
    if not first.startswith(KIND) or len(words) != 2:
        raise SavedError(f"{path}: is not a file that --save wrote")
    if words[0] != VERSION:
        raise SavedError(f"{path}: was saved by another version of hardwire: save it again")
    if words[1].decode("latin1") != _sha256(body):
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


def _sha256(content: bytes | np.ndarray) -> str:
    return hashlib.sha256(content).hexdigest()
