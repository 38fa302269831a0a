"""Compare the block RAMs of a finished bitstream with the memories of the design."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fpga.job import BlockRam, Site
from fpga.toolchain import Toolchain
from synth.run import BuildError

WordsOf = Callable[[Sequence[int], int], list[int]]
"""The type of ``Toolchain.words_of``."""


@dataclass(frozen=True)
class Equal:
    """The result for a memory whose block RAMs hold the right words.

    Parameters
    ----------
    memory : str
        The flattened name of the memory.
    words, bits : int
        The number of compared words, and the bits of the largest word.
    block_rams : int
        The number of block RAMs that hold the memory.  It is 0 if Yosys made logic of the memory: then nothing was compared.
    """

    memory: str
    words: int
    bits: int
    block_rams: int


def verify(toolchain: Toolchain, bitstream: Path, netlist: Path, contents: Mapping[str, list[int]]) -> list[Equal]:
    """Compare a bitstream with ``contents``, and return one result for each memory.

    Parameters
    ----------
    toolchain : Toolchain
        The tool flow that made the bitstream.
    bitstream, netlist : Path
        The two files of one ``fpga.job.Placed``.
    contents : mapping of str to list of int
        The words of each memory of the design, by flattened name (``fpga.memories.contents``).

    Raises
    ------
    BuildError
        A word differs, a block RAM that belongs to no memory is not empty, or the netlist belongs to another design.
    """
    blocks, held = toolchain.block_rams(netlist), toolchain.unpack(bitstream)
    if missing := sorted(name for name, block in blocks.items() if block.site not in held):
        raise BuildError(f"{missing[0]}: has no contents in {bitstream.parent}'s bitstream: build it again")
    equal, known = [], set()
    for memory, expected in contents.items():
        own = {name: block for name, block in blocks.items() if name.rsplit(".", 2)[0] == memory}
        known |= {block.site for block in own.values()}
        if own:
            _compare(memory, expected, memory_words(memory, expected, own, held, toolchain.words_of))
        equal.append(Equal(memory, len(expected), max(expected).bit_length(), len(own)))
    if not any(memory.block_rams for memory in equal):
        raise BuildError(f"{netlist} has none of the design's memories in block RAM: build it again")
    names = {block.site: name for name, block in blocks.items()}
    for site, raw in held.items():
        if site not in known and any(raw):
            raise BuildError(f"block RAM {names.get(site, site)}: has contents, and is no ROM of the design")
    return equal


def memory_words(
    memory: str,
    expected: Sequence[int],
    blocks: Mapping[str, BlockRam],
    held: Mapping[Site, Sequence[int]],
    words_of: WordsOf,
) -> list[int]:
    """Return the words of a memory, put together from its block RAMs.

    Yosys leaves out a bit that is the same in all words of a ROM.  This function takes such a bit from ``expected``, and all
    others from the bitstream.  Each column of block RAMs holds the next ``width`` of the bits that vary.  The rows of a column hold
    further words, or the same words again, because a ROM with several readers has copies.

    Parameters
    ----------
    memory : str
        The flattened name of the memory.
    expected : sequence of int
        The words that the memory should have.
    blocks : mapping of str to BlockRam
        The block RAMs of the netlist by name, ``MEMORY.ROW.COLUMN``.
    held : mapping of Site to sequence of int
        The raw contents of the block RAMs in the bitstream.
    words_of : WordsOf
        The function that turns raw contents into words.

    Raises
    ------
    BuildError
        The block RAMs do not make a memory of this size, or two copies differ.
    """
    places = {
        (int(match[1]), int(match[2])): block
        for name, block in blocks.items()
        if (match := re.fullmatch(re.escape(memory) + r"\.(\d+)\.(\d+)", name))
    }
    ones, zeros = -1, 0
    for word in expected:
        ones, zeros = ones & word, zeros | word
    varying = [bit for bit in range(zeros.bit_length()) if (zeros & ~ones) >> bit & 1]
    wrong = BuildError(f"{memory}: {len(places)} block RAMs in the netlist are not those for {len(varying)} bits that vary")
    if not places:
        raise wrong
    stored = {place: words_of(held[block.site], block.width) for place, block in sorted(places.items())}
    if {row for row, _ in places} == {0}:
        stored = _as_rows(stored, len(expected))
    read, bits = [ones] * len(expected), iter(varying)
    for column in sorted({column for _, column in stored}):
        rows = [words for (_, at), words in stored.items() if at == column]
        words = _without_copies([word for row in rows for word in row], len(rows), len(expected))
        if words is None:
            raise BuildError(f"{memory}: the copies of its slice {column} differ")
        if len(words) < len(expected):
            raise wrong
        width = next(block.width for (_, at), block in places.items() if at == column)
        for k, bit in zip(range(width), bits, strict=False):
            for address in range(len(expected)):
                read[address] |= (words[address] >> k & 1) << bit
    if next(bits, None) is not None:
        raise wrong
    return read


def _as_rows(stored: dict[tuple[int, int], list[int]], n_words: int) -> dict[tuple[int, int], list[int]]:
    """Return the block RAMs of a deep memory by row and column.

    Yosys numbers all block RAMs of such a memory as columns of row 0: first the columns of the first words, then the columns of the
    next words, and so on.
    """
    columns = sorted(column for _, column in stored)
    deep = -(-n_words // len(stored[0, columns[0]]))
    if deep == 1 or len(columns) % deep:
        return stored
    across = len(columns) // deep
    return {(n // across, columns[n % across]): stored[0, column] for n, column in enumerate(columns)}


def _without_copies(words: list[int], rows: int, n_words: int) -> list[int] | None:
    """Return the words of one copy from the words of all copies in ``rows`` block RAMs, or None if the copies differ."""
    depth = len(words) // rows
    size = depth * -(-n_words // depth)
    return words[:size] if all(words[i] == words[i % size] for i in range(size, len(words))) else None


def _compare(memory: str, expected: Sequence[int], read: Sequence[int]) -> None:
    """Raise BuildError with the first word that differs and its wrong bits."""
    for at, (right, found) in enumerate(zip(expected, read, strict=True)):
        if wrong := right ^ found:
            bits = ", ".join(str(bit) for bit in range(wrong.bit_length()) if wrong >> bit & 1)
            raise BuildError(f"{memory}: word {at} of the bitstream differs in bits {bits}: {found:x}, not {right:x}")
