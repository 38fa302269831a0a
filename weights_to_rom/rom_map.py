"""Every ROM of a chip: its name, the fields of its words, and its depth.

This module is the only declaration of the layout.  ``weights_to_rom.pack`` packs words by it, the units of ``hdl`` take the
widths of their ROM ports from it, ``hdl.verilog`` writes the ROMs from it, and ``rom_map_page`` prints it for people.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from weights_to_rom.model_format import BLOCK, ModelFormat
from weights_to_rom.schedule import embedding_matrix, head_matrix, layer_matrices


@dataclass(frozen=True)
class Field:
    """``count`` integers of ``bits`` bits each, the first in the lowest bits.

    ``meaning`` explains the integers to people and names the unit of one LSB.
    """

    name: str
    bits: int
    meaning: str
    signed: bool = False
    count: int = 1


@dataclass(frozen=True)
class Word:
    """The word of a ROM: ``fields`` from the low bits up.  The word repeats all of them ``copies`` times."""

    fields: tuple[Field, ...]
    copies: int = 1

    @property
    def width(self) -> int:
        """Bits of the word."""
        return self.copies * sum(field.bits * field.count for field in self.fields)

    def slice(self, name: str) -> slice:
        """The bits of a field in the first copy."""
        low = 0
        for field in self.fields:
            high = low + field.bits * field.count
            if field.name == name:
                return slice(low, high)
            low = high
        raise KeyError(name)

    def times(self, copies: int) -> "Word":
        """Concatenate ``copies`` of this word, the first in the lowest bits."""
        return Word(self.fields, self.copies * copies)


@dataclass(frozen=True)
class Rom:
    """A ROM of ``depth`` words.  The file ``<name>.hex`` holds its contents."""

    name: str
    word: Word
    depth: int

    @property
    def width(self) -> int:
        """Bits of a word."""
        return self.word.width


def weight_word(block_lanes: int) -> Word:
    """The word that a row lane reads each beat: ``block_lanes`` codes of a block, and that beat's slice of the block's d and m."""
    return Word(
        (
            Field("code", 4, "weight codes of the beat's elements, 0 to 15; element j at bit 4j", count=block_lanes),
            Field("dm", block_lanes // 2, "slice s of d | m << 8 in beat s of a block, from the low bits up"),
        )
    )


ROW_WORD = Word(
    (
        Field("e", 7, "exponent of the row's d * q, of the low plane if there are two", signed=True),
        Field("k", 3, "the row's m has the exponent e + k; 0 to 4"),
    )
)
"""A row lane reads this word once a row: weight = 2**e * d * q - 2**(e + k) * m."""

GAIN_WORD = Word((Field("gain", 16, "gain * sqrt(dim) of an element; LSB 2**exponent of its norm", signed=True),))
"""RMSNorm reads one such word for each element of a beat."""

NORM_WORD = Word(
    (
        Field("eps", 32, "dim * eps * 4**residual_shift; LSB 2**-24"),
        Field("exponent", 8, "exponent of the norm's gains", signed=True),
    )
)
"""RMSNorm reads this word once a norm.  The ROM holds the norms in the order in which a token uses them."""

FREQ_WORD = Word((Field("turns", 16, "half of the turns that a pair makes each position, low half first; LSB 2**-32"),))
"""RoPE reads one such word for each element of a beat.  The words of a pair of elements are the halves of 32 bits."""

CONSTANT_WORD = Word(
    (
        Field("residual_shift", 6, "left shift of a row of a tied embedding into the residual; 0 if untied", signed=True),
        Field("end_token", 32, "number of the end-of-text token; all ones for a model without one"),
    )
)
"""The only word of the ROM ``constant``, which belongs to the chip and to none of its stages."""


def _weights(name: str, rows: str, lanes: int, word: Word, n_words: int, n_groups: int) -> Iterator[Rom]:
    for lane in range(lanes):
        yield Rom(f"{name}_{lane:02}", word, n_words)
    yield Rom(rows, ROW_WORD.times(lanes), n_groups)


def stage_roms(
    model: ModelFormat,
    *,
    row_lanes: int,
    block_lanes: int,
    vector_lanes: int,
    layers: Sequence[int] | None = None,
    head: bool = True,
    prefix: str = "",
) -> dict[str, Rom]:
    """The ROMs of a stage, by name.

    Parameters
    ----------
    model : ModelFormat
    row_lanes, block_lanes, vector_lanes : int
        As in ``hdl.config.ChipConfig``.
    layers : sequence of int, optional
        The model's layers that the stage computes; by default all.
    head : bool
        Whether the stage ends in the final norm and the LM head.
    prefix : str
        Begins the name of each ROM, so that the stages of a chain have ROMs of their own.
    """
    n_layers = model.n_layers if layers is None else len(layers)
    matrices = layer_matrices(model) * n_layers + ((head_matrix(model),) if head else ())
    n_norms = 2 * n_layers + head
    n_words = sum(matrix.words(row_lanes, block_lanes) for matrix in matrices)
    n_groups = sum(matrix.groups(row_lanes) for matrix in matrices)
    roms = [
        *_weights(prefix + "weights", prefix + "rows", row_lanes, weight_word(block_lanes), n_words, n_groups),
        Rom(prefix + "gain", GAIN_WORD.times(vector_lanes), n_norms * model.dim_padded // vector_lanes),
        Rom(prefix + "norm", NORM_WORD, n_norms),
        Rom(prefix + "freq", FREQ_WORD.times(vector_lanes), model.head_dim // vector_lanes),
    ]
    return {rom.name: rom for rom in roms}


def rom_map(model: ModelFormat, *, row_lanes: int, block_lanes: int, vector_lanes: int) -> dict[str, Rom]:
    """The ROMs of a chip, by name: those of a stage with every layer and the head, and the chip's own.

    ``weights_to_rom.pack.rom_image.rom_images`` gives the images in this order.
    """
    roms = stage_roms(model, row_lanes=row_lanes, block_lanes=block_lanes, vector_lanes=vector_lanes)
    own = [Rom("constant", CONSTANT_WORD, 1)]
    if not model.tied:
        table = embedding_matrix(model)
        own += _weights("embedding", "embedding_rows", 1, weight_word(block_lanes), table.words(1, block_lanes), table.groups(1))
    return roms | {rom.name: rom for rom in own}


FORMULAS = {
    "weights_NN": ("9 * block_lanes // 2", "sum(matrix.words(row_lanes, block_lanes) for matrix in all_matrices(model))"),
    "rows": ("10 * row_lanes", "sum(matrix.groups(row_lanes) for matrix in all_matrices(model))"),
    "gain": ("16 * vector_lanes", "(2 * model.n_layers + 1) * model.dim_padded // vector_lanes"),
    "norm": ("40", "2 * model.n_layers + 1"),
    "freq": ("16 * vector_lanes", "model.head_dim // vector_lanes"),
    "constant": ("38", "1"),
    "embedding_NN": ("9 * block_lanes // 2", "embedding_matrix(model).words(1, block_lanes)"),
    "embedding_rows": ("10", "embedding_matrix(model).groups(1)"),
}
"""Width and depth of each ROM for people; the tests hold them against ``rom_map``."""


def rom_map_page() -> str:
    """The reference page of the ROM layout, as Markdown."""
    shape = {"dim": 64, "n_layers": 1, "n_heads": 4, "n_kv_heads": 2, "head_dim": 16, "ffn_dim": 64, "vocab_size": 64}
    model = ModelFormat(**shape, max_seq_len=64, tied=False)
    roms = rom_map(model, row_lanes=1, block_lanes=BLOCK, vector_lanes=1)
    lines = [
        "# ROM layout",
        "",
        "A chip reads its model from these ROMs.  The contents of a ROM stand in `NAME.hex`, one hexadecimal word a line, and",
        "`manifest.json` holds the width, the depth and the SHA-256 of each.  `weights_to_rom/rom_map.py` declares the layout and",
        "prints this page.",
        "",
        "## Words",
        "",
        "| ROM | width in bits | depth in words |",
        "|---|---|---|",
        *(f"| `{name}` | `{width}` | `{depth}` |" for name, (width, depth) in FORMULAS.items()),
        "",
        "`NN` numbers the row lanes from 00. An untied model has an embedding table in ROMs of its own, read by one lane.",
        "The matrices stand in the order of `weights_to_rom/schedule.py`: in each layer the stacked rows of k, v and q, then o,",
        "then `vector_lanes` rows of gate and as many of up by turns, then down; after the last layer the LM head.",
        "",
        "## Fields",
        "",
        "The fields of a word stand in this order from the least significant bit up.",
        "",
        "| ROM | field | bits | signed | times | meaning |",
        "|---|---|---|---|---|---|",
    ]
    times = {
        "weights_NN": {"code": "block_lanes", "dm": "1"},
        "rows": "row_lanes",
        "gain": "vector_lanes",
        "freq": "vector_lanes",
    }
    times["embedding_NN"] = times["weights_NN"]
    for name in FORMULAS:
        for field in roms[name.replace("NN", "00")].word.fields:
            of_rom = times.get(name, "1")
            repeated = of_rom if isinstance(of_rom, str) else of_rom[field.name]
            bits = "block_lanes // 2" if field.name == "dm" else field.bits
            meaning = field.meaning.replace("|", "\\|")
            lines.append(f"| `{name}` | `{field.name}` | {bits} | {'yes' if field.signed else 'no'} | {repeated} | {meaning} |")
    lines += [
        "",
        "A weight is 2^e * d * q - 2^(e + k) * m, with q from 0 to 15; a weight of eight bits is two such terms",
        "(the arithmetic, section 2). A block's d and m are complete with the last beat of the block.",
        "",
    ]
    return "\n".join(lines)
