"""The state of a simulated chip and its text, in memory.  ``hardwire.saved`` writes it to a file, and reads it."""

import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from weights_to_rom.errors import HardwireError

if TYPE_CHECKING:
    from sim.rtl.chip import RtlChip


class SavedError(HardwireError):
    """A file that --save did not write, or that is of another chip: one line that names the file and the cure."""


@dataclass(frozen=True)
class Saved:
    """The contents of a file of ``hardwire.saved``.

    Members
    -------
    path : Path                     the file
    read : list[int]                tokens that the chip's sequence has read
    pending : list[int]             the last token of the text, if the chip has not read that yet
    messages : list[dict]           "role" and "content" of what was said, in a chat
    adapter : int                   the adapter that the text uses, or 0
    adapters : dict[int, str]       SHA-256 of the load image of each adapter, by its number
    state_sha256 : str              SHA-256 of the chip's whole state, ROMs included
    difference : bytes              zlib: the state XOR the state just after reset
    """

    path: Path
    read: list[int]
    pending: list[int]
    messages: list[dict[str, str]]
    adapter: int
    adapters: dict[int, str]
    state_sha256: str
    difference: bytes

    def check_adapter(self, image: np.ndarray | None) -> None:
        """Raises SavedError if the load image of an adapter is given, and the text began without it or with another one."""
        from sim.rtl.chip import load_image_sha256

        if image is not None and self.adapter == 0:
            raise SavedError(f"{self.path}: was saved without an adapter: leave --adapter out")
        if image is not None and self.adapters[self.adapter] != load_image_sha256(image):
            raise SavedError(f"{self.path}: was saved with another adapter than the one that is given")

    def restore(self, chip: "RtlChip") -> None:
        """Set a chip just after reset to the saved state.  Raises SavedError if the simulation is of another build."""
        state, difference = chip.state(), np.frombuffer(zlib.decompress(self.difference), np.uint8)
        if state.size == difference.size:
            state ^= difference
        # Another build may keep the same signals at other addresses.  The hash of the state differs then.
        if sha256_of(state) != self.state_sha256:
            raise SavedError(f"{self.path}: was saved with another build of the simulation: save it again")
        chip.restore(state)
        chip.adapters = dict(self.adapters)


def sha256_of(content: bytes | np.ndarray) -> str:
    """Return the SHA-256 of bytes, or of the bytes of an array, in hexadecimal."""
    return hashlib.sha256(content.tobytes() if isinstance(content, np.ndarray) else content).hexdigest()
