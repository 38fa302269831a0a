"""Is the model in the bitstream?  Every block RAM of a build's bitstream, against what the design's memories hold."""

from dataclasses import dataclass
from pathlib import Path

from fpga.boards import Board
from fpga.ecp5 import readback as ecp5_readback
from fpga.ecp5.toolchain import BuildError
from fpga.ice40 import readback as ice40_readback


@dataclass(frozen=True)
class Equal:
    """A memory that the bitstream holds: its name, and its size.  One without block RAMs is logic, and was not looked at."""

    memory: str
    words: int
    bits: int
    block_rams: int


def verify(board: Board, folder: Path, contents: dict[str, list[int]]) -> list[Equal]:
    """Compare the bitstream in ``folder``, with routed.json beside it, with ``contents``, the words of memories by name.

    Raises BuildError for the first word that differs, and for a block RAM with contents that is no memory's.
    """
    readback = ice40_readback if board.device.family.name == "ice40" else ecp5_readback
    blocks, held = readback.block_rams(folder / "routed.json"), readback.unpack(folder)
    if missing := sorted(name for name, block in blocks.items() if block.site not in held):
        raise BuildError(f"{missing[0]}: has no contents in {folder}'s bitstream: build it again")
    equal, known = [], set()
    for memory, expected in contents.items():
        mine = {name: block for name, block in blocks.items() if name.rsplit(".", 2)[0] == memory}
        known |= {block.site for block in mine.values()}
        if mine:
            _compare(memory, expected, _words(readback, memory, expected, mine, held))
        equal.append(Equal(memory, len(expected), max(expected).bit_length(), len(mine)))
    if not any(memory.block_rams for memory in equal):
        raise BuildError(f"{folder}/routed.json has none of the design's memories in block RAM: build it again")
    names = {block.site: name for name, block in blocks.items()}
    for site, rows in held.items():
        if site not in known and any(rows):
            raise BuildError(f"block RAM {names.get(site, site)}: has contents, and is no ROM of the design")
    return equal


def _words(readback, memory: str, expected: list[int], blocks: dict, held: dict) -> list[int]:
    try:
        return readback.words(memory, expected, blocks, held)
    except ValueError as error:
        raise BuildError(str(error)) from None


def _compare(memory: str, expected: list[int], read: list[int]) -> None:
    for at, (right, found) in enumerate(zip(expected, read, strict=True)):
        if wrong := right ^ found:
            bits = ", ".join(str(bit) for bit in range(wrong.bit_length()) if wrong >> bit & 1)
            raise BuildError(f"{memory}: word {at} of the bitstream differs in bits {bits}: {found:x}, not {right:x}")
