"""The instruction set of the shared engine: the fields of a word, and the rule for the next word.

One word enters the pipeline of ``hdl.engine.engine`` in each cycle.  The hardware (``hdl.engine.sequencer``) and the count
of cycles (``hdl.engine.cycles``) both read ``RULES``, so that they cannot disagree on which word is next.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from amaranth.lib import data

from weights_to_rom.model_format import ModelFormat

PROGRAM_WORDS = 256
WRITE_DISTANCE = 7
RESULT_DISTANCE = 6


class Seq(IntEnum):
    """Which word is next; ``imm`` is the target.  i, h, layer, p and the fabric's counters are counters."""

    NEXT = 0
    JUMP = 1
    CALL = 2
    RETURN = 3
    LOOP_I = 4  # i + 1, and to the target unless that is ``limit``: then i = 0
    LOOP_32 = 5  # i + 1, and to the target unless that ends a block of 32
    REWIND_32 = 6  # as that, but then i is the block's first again
    LOOP_8 = 7  # as those, for blocks of 8
    REWIND_8 = 8
    UNLESS_I = 9  # to the target unless i is ``limit``: then i = 0
    LOOP_SCORE = 10  # p + 1, and to the target until three beyond the last place: then p = 0
    LOOP_SUM = 11  # p + 1, and to the target until beyond the last place: then p = 0
    LOOP_H = 12  # h + 1, and to the target unless that is ``limit``: then h = 0
    LOOP_TERM = 13  # the fabric's next term, and to the target unless the matrix has ended
    LOOP_LAYER = 14  # the next layer, and to the target if there is one
    WAIT = 15  # to the target until there is a reciprocal
    IDLE = 16  # to the target until there is a token
    UNLESS_SAMPLE = 17  # to the target if no sample is wanted
    PAUSE = 18  # to the target ``limit`` times


class Read(IntEnum):
    """The word that MEM reads in a word's first cycle."""

    NONE = 0
    H = 1  # residual, element i
    Y = 2  # results, element i
    PAIR = 3  # results, element 2i + b
    TRIG = 4  # cosine, sine, -sine of pair i of a head
    X = 5  # the fabric's input, its next word, and a weight word
    Q = 6  # mantissas of query head h
    QE = 7  # its exponent
    K = 8  # mantissas of a key at place p, of h's key-value head
    E = 9  # exponents of key and value
    V = 10  # value (upper half) and record (lower half), elements 4 * (i / 2) ...


class Write(IntEnum):
    """Where a word's result goes: as MEM has it, ``_HI`` the upper half."""

    NONE = 0
    H = 1
    H_HI = 2
    PAIR_0 = 3  # results, element 2i
    PAIR_1 = 4  # 2i + 1
    PAIR_HI = 5  # 2i + 1, upper half
    COS = 6
    SIN = 7
    MINUS_SIN = 8
    X = 9  # byte i of the fabric's input
    Q = 10  # byte i of query head h
    QE = 11
    K = 12  # byte i of the key at this token's place; h is the key-value head
    V = 13
    KE = 14
    VE = 15
    OUT_0 = 16  # results, element 8h + 2i
    OUT_1 = 17


class A(IntEnum):
    """The 32-bit operand."""

    ZERO = 0
    LO = 1  # lower half of MEM
    HI = 2
    P = 3  # the dot product
    S = 4  # -S of the term's block
    R = 5  # the last result
    EPS = 6
    GAIN = 7  # the next gain
    FREQ = 8  # half b of frequency i
    CODE = 9  # code i of the embedding's row: plane high (b), times 16, or low
    MINUS_128 = 10
    SILU = 11  # the table, or MEM where the gate is large
    SIN = 12
    DEN = 13
    NUM = 14  # number b
    EXP = 15  # exponent of the block whose bits were collected


class B(IntEnum):
    """The 16-bit operand."""

    ONE = 0
    D = 1
    M = 2  # m << k
    LO_15 = 3  # lower half of MEM >> 15
    LO_0 = 4  # its fifteen bits below
    HI = 5  # its low bits; of an angle minus its sine
    TABLE = 6
    POS = 7
    COS = 8  # of an angle
    SIN = 9
    KEEP = 10  # what B was
    SIGN = 11  # sign of the sine, or (b) of the cosine
    MINUS_SIGN = 12
    F = 13  # SwiGLU: 256 - f, or (b) f
    R_15 = 14  # reciprocal >> 15
    R_0 = 15


class Base(IntEnum):
    """ACC = base + A * B."""

    HOLD = 0  # ACC stays
    ZERO = 1
    ACC = 2
    ACC_15 = 3  # ACC << 15


class Bits(IntEnum):
    """Magnitude bits of ACC."""

    NONE = 0
    CLEAR = 1
    COLLECT = 2


class Shift(IntEnum):
    """R = sat(rshr(ACC, n)), or without rounding."""

    NONE = 0
    PASS = 1  # n = 0
    SH = 2  # SH, truncated
    SH_2 = 3  # 2 SH, truncated
    BITS_7 = 4  # bits - 7, truncated
    BITS_16 = 5  # bits - 16, truncated
    PHASE = 6  # 30 - sine_bits, truncated
    MX = 7  # max(0, bits - 7), clipped
    ROPE = 8  # 15, Wide
    SILU = 9  # 8
    ADD = 10  # 0, Wide
    TERM = 11  # -(e + xe + 16), wide_bits + 5; a term of a row
    EMBED = 12  # -(e + residual_shift + 12), Wide
    SCORE = 13  # -(qe + ke + 6), 16 bits; a score
    OUT = 14  # nb - 1 - (N - M), wide_bits + 4


class Event(IntEnum):
    """A further effect of a word, in its second cycle unless it says otherwise."""

    NONE = 0
    EMBED = 1  # point at the token's row
    ROW = 2  # read its e and k
    REWIND = 3  # all ROMs at their first words, the first layer
    SH = 4  # SH = max(0, bits - 15)
    NORM = 5  # XB = ge - 15 - (n >> 1) - SH, and look up 1 / sqrt
    BASE = 6  # XB = imm
    SUM = 7  # no mantissas so far
    BLOCK = 8  # keep exponent and sum of an input block
    STEP = 9  # the fabric begins matrix imm
    Y = 10  # in the first cycle: write a row's result, if there is one
    SET_I = 11  # in the first cycle: i = imm
    QUERY = 12  # keep MEM, and begin a head
    QUERY_EXP = 13
    KEY_EXP = 14
    RECORD = 15  # in the first cycle: write the weight of place p - 3 into the word that has half b of its value
    SUMS = 16  # p * v of elements 2i, 2i + 1
    DIVIDE = 17  # reciprocal of R
    GATE = 18  # look up SiLU
    GATE_NEXT = 19
    SINE = 20  # look up the sine of R, or (b) the cosine
    DONE = 21


LIMITS = ("dim", "attn", "ffn", "half_head", "kv_pairs", "qkv_pairs", "kv_heads", "heads")
"""Names of ``limit``: constants of a shape."""

LAYOUT = data.StructLayout(
    {"imm": 8, "seq": 5, "limit": 3, "read": 4, "write": 5, "b": 1, "a": 4, "bsel": 4, "base": 2, "bits": 2, "shift": 4, "event": 5}
)
"""A word of 47 bits: three block RAMs hold 256."""


def limits(model: ModelFormat) -> dict[str, int]:
    """Return the constants that the names of ``LIMITS`` stand for, by name."""
    kv = model.n_kv_heads * model.head_dim
    return {
        "dim": model.dim_padded,
        "attn": model.attn_dim,
        "ffn": model.ffn_padded,
        "half_head": model.head_dim // 2,
        "kv_pairs": kv // 2,
        "qkv_pairs": model.qkv_rows // 2,
        "kv_heads": model.n_kv_heads,
        "heads": model.n_heads,
    }


def _increment(counter):
    return counter + 1


def _zero(counter):
    return 0


@dataclass(frozen=True)
class Rule:
    """Which word is next, and what becomes of the counters.

    Each function takes and returns integers in ``hdl.engine.cycles`` and Amaranth values in ``hdl.engine.sequencer``: it may
    use operators that both have, and no ``not``, ``and``, ``or`` or ``if``.

    Parameters
    ----------
    jumps : function of the state
        not 0 if the next word is ``imm``, else the following word is next
    counters : names of counters that the word changes
    again : function of a counter
        the counter's next value if the word jumps
    ends : function of a counter
        the counter's next value if the word does not jump
    calls : bool
        the word keeps the address of the following word
    returns : bool
        the next word is the one whose address the last call kept
    """

    jumps: Callable[[Any], Any]
    counters: tuple[str, ...] = ()
    again: Callable[[Any], Any] = _increment
    ends: Callable[[Any], Any] = _zero
    calls: bool = False
    returns: bool = False


def _rewind(n: int):
    """The next value within an aligned block of n."""
    return lambda counter: (counter & -n) | ((counter + 1) & (n - 1))


RULES = {
    Seq.NEXT: Rule(lambda at: 0),
    Seq.JUMP: Rule(lambda at: 1),
    Seq.CALL: Rule(lambda at: 1, calls=True),
    Seq.RETURN: Rule(lambda at: 0, returns=True),
    Seq.LOOP_I: Rule(lambda at: at.i != at.last, ("i",)),
    Seq.LOOP_32: Rule(lambda at: (at.i & 31) != 31, ("i",), ends=_increment),
    Seq.REWIND_32: Rule(lambda at: (at.i & 31) != 31, ("i",), again=_rewind(32), ends=_rewind(32)),
    Seq.LOOP_8: Rule(lambda at: (at.i & 7) != 7, ("i",), ends=_increment),
    Seq.REWIND_8: Rule(lambda at: (at.i & 7) != 7, ("i",), again=_rewind(8), ends=_rewind(8)),
    Seq.UNLESS_I: Rule(lambda at: at.i != at.last + 1, ("i",), again=lambda i: i),
    Seq.LOOP_SCORE: Rule(lambda at: at.p != at.beyond, ("p",)),
    Seq.LOOP_SUM: Rule(lambda at: at.p != at.place, ("p",)),
    Seq.LOOP_H: Rule(lambda at: at.h != at.last, ("h",)),
    Seq.LOOP_TERM: Rule(lambda at: at.matrix_ends == 0),
    Seq.LOOP_LAYER: Rule(lambda at: at.layer != at.last_layer, ("layer",), ends=_increment),
    Seq.WAIT: Rule(lambda at: at.divided == 0),
    Seq.IDLE: Rule(lambda at: at.start == 0, ("i", "h", "p"), again=_zero),
    Seq.UNLESS_SAMPLE: Rule(lambda at: at.sample == 0),
    Seq.PAUSE: Rule(lambda at: at.paused != at.limit, ("paused",)),
}
"""The rule of each ``Seq``.  A state has the counters ``i``, ``h``, ``p`` (a place of the cache), ``layer`` and ``paused``, and:

limit         field of the word
last          the constant that ``limit`` names, less 1
place         the token's place in its sequence
beyond        place + 3: a score is recorded three iterations after it began
last_layer    n_layers - 1
matrix_ends   this term is the last one of its matrix
divided       the reciprocal is there
start, sample as the engine's ports
"""
