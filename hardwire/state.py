"""The state of a simulated chip and its text, as a file keeps them (``hardwire.saved`` writes and reads the file)."""

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
        if sha256_of(state) != self.state_sha256:
            raise SavedError(f"{self.path}: was saved with another build of the simulation: save it again")
        chip.restore(state)
        chip.adapters = dict(self.adapters)


def sha256_of(content: bytes | np.ndarray) -> str:
    return hashlib.sha256(content).hexdigest()
