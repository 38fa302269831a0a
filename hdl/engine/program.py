"""The microprogram of the shared engine: a token, from embedding to logits (docs/arithmetic.md), a word a cycle.

A word is an operation on its way through the pipeline of ``hdl.engine.engine``; what it reads, multiplies, adds,
shifts and writes happens in the stages named there, so that an operation a cycle can begin.  There are no interlocks:
the program keeps the distances.  A result can be multiplied again (``A.R``) six words on; the bit length of what
was collected is there for a shift three words on, for ``SH`` and exponents five; a write takes the memory's port seven
words on, where no word may read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from amaranth.lib import data

from weights_to_rom.model_format import ModelFormat
from weights_to_rom.schedule import Step

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
    """What is read in a word's first cycle: MEM."""

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
    """What else happens, in a word's second cycle."""

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
    RECORD = 15  # in the first cycle: write how place p - 3 weighs, beside half b of its value
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


@dataclass
class _Assembler:
    words: list
    labels: dict

    def label(self, name: str) -> None:
        self.labels[name] = len(self.words)

    def __call__(self, *, to: str | int = 0, limit: str = "dim", **fields) -> None:
        self.words.append({"imm": to, "limit": LIMITS.index(limit)} | fields)

    def idle(self, n: int) -> None:
        """n cycles, 8 at most."""
        self.words.append({"imm": len(self.words), "limit": n - 1, "seq": Seq.PAUSE})

    def assembled(self) -> list[int]:
        if len(self.words) > PROGRAM_WORDS:
            raise ValueError(f"the program has {len(self.words)} words, not at most {PROGRAM_WORDS}")
        return [
            LAYOUT.const(
                word | {"imm": (self.labels[word["imm"]] if isinstance(word["imm"], str) else word["imm"]) & 255}
            ).as_bits()
            for word in self.words
        ]


def program(model: ModelFormat) -> list[int]:
    """The words; the first waits for a token."""
    w = _Assembler([], {})
    w()
    w.label("idle")
    w(seq=Seq.IDLE, to="idle")
    _trig(w)
    _embed(w)
    w.label("layer")
    w(seq=Seq.CALL, to="norm")
    _matrix(w, Step.QKV)
    _rope(w, 0, "k", "kv_pairs")
    _rope(w, model.n_kv_heads * model.head_dim, "q", "qkv_pairs")
    w(event=Event.BASE, to=-12)
    _mx_head(w, "mx_k", Write.K, Write.KE, "kv_heads")
    _mx_head(w, "mx_v", Write.V, Write.VE, "kv_heads")
    _mx_head(w, "mx_q", Write.Q, Write.QE, "heads")
    w(event=Event.SET_I, to=0)
    _attention(w)
    w(event=Event.BASE, to=-16)
    value = {"read": Read.Y, "a": A.LO, "bsel": B.ONE, "base": Base.ZERO}
    _mx(w, "mx_o", "attn", (value,), (value, {}))
    _matrix(w, Step.O)
    w(seq=Seq.CALL, to="residual")
    w(seq=Seq.CALL, to="norm")
    _matrix(w, Step.GATE_UP)
    _swiglu(w)
    w(event=Event.BASE, to=-24)
    _mx(w, "mx_down", "ffn", *_long_product(read=Read.PAIR, b=1))
    _matrix(w, Step.DOWN)
    w(seq=Seq.CALL, to="residual")
    w(seq=Seq.LOOP_LAYER, to="layer")
    w(seq=Seq.UNLESS_SAMPLE, to="done")
    w(seq=Seq.CALL, to="norm")
    _matrix(w, Step.HEAD)
    w.label("done")
    w(event=Event.DONE, seq=Seq.JUMP, to="idle")
    _norm(w)
    _matvec(w)
    _residual(w)
    return w.assembled()


def _trig(w) -> None:
    """cos and sin of each pair's angle at this position."""
    w.label("trig")
    w(a=A.FREQ, b=1, bsel=B.POS, base=Base.ZERO)
    w(a=A.FREQ, b=0, bsel=B.POS, base=Base.ACC, shift=Shift.PHASE)
    w.idle(RESULT_DISTANCE - 1)
    w(event=Event.SINE)
    w(a=A.SIN, bsel=B.SIGN, base=Base.ZERO, shift=Shift.PASS, write=Write.SIN)
    w(a=A.SIN, bsel=B.MINUS_SIGN, base=Base.ZERO, shift=Shift.PASS, write=Write.MINUS_SIN, event=Event.SINE, b=1)
    w(a=A.SIN, bsel=B.SIGN, b=1, base=Base.ZERO, shift=Shift.PASS, write=Write.COS, seq=Seq.LOOP_I, limit="half_head", to="trig")


def _embed(w) -> None:
    """The token's row; reading a plane of a block as the fabric does brings its d."""
    w(event=Event.EMBED)
    w(event=Event.ROW)
    w.label("embed")
    for _ in range(4):
        w(read=Read.X)
    w()
    w.label("element")
    w(a=A.CODE, b=1, bsel=B.D, base=Base.ZERO)
    w(a=A.CODE, b=0, bsel=B.D, base=Base.ACC)
    w(a=A.MINUS_128, bsel=B.D, base=Base.ACC, shift=Shift.EMBED, write=Write.H, seq=Seq.LOOP_32, to="element")
    for _ in range(3):
        w(read=Read.X)
    w(read=Read.X, seq=Seq.UNLESS_I, limit="dim", to="embed")
    w(event=Event.REWIND)


def _matrix(w, step: Step) -> None:
    w(event=Event.STEP, to=int(step))
    w(seq=Seq.CALL, to="matvec")


def _matvec(w) -> None:
    """Five words a term: four of the dot product, beside the scaling of the term before; the fifth writes a result."""
    product = {"a": A.P, "bsel": B.D, "base": Base.ZERO}
    offset = {"a": A.S, "bsel": B.M, "base": Base.ACC, "shift": Shift.TERM}
    w.label("matvec")
    w(read=Read.X, **product)
    w(read=Read.X, **offset)
    w(read=Read.X)
    w(read=Read.X)
    w(event=Event.Y, seq=Seq.LOOP_TERM, to="matvec")
    w(**product)
    w(**offset)
    w.idle(2)
    w(event=Event.Y)
    w.idle(4)
    w(event=Event.Y)
    w(seq=Seq.RETURN)


def _residual(w) -> None:
    w.label("residual")
    w(read=Read.Y, a=A.LO, bsel=B.ONE, base=Base.ZERO)
    w(read=Read.H, a=A.LO, bsel=B.ONE, base=Base.ACC, shift=Shift.ADD, write=Write.H)
    w(seq=Seq.LOOP_I, limit="dim", to="residual")
    w.idle(WRITE_DISTANCE - 2)
    w(seq=Seq.RETURN)


def _mx(w, name: str, limit: str, collect: Sequence[dict], convert: Sequence[dict]) -> None:
    """Blocks of 32 into the fabric's input: values twice, first for their bits, then for their mantissas."""
    w.label(name)
    w(bits=Bits.CLEAR)
    w.label(f"{name}_bits")
    *first, last = collect
    for word in first:
        w(**word)
    w(**last, bits=Bits.COLLECT, seq=Seq.REWIND_32, to=f"{name}_bits")
    w(event=Event.SUM)
    w()
    w.label(f"{name}_mants")
    convert = [dict(word) for word in convert]
    [word for word in convert if word][-1] |= {"shift": Shift.MX, "write": Write.X}
    *first, last = convert
    for word in first:
        w(**word)
    w(**last, seq=Seq.LOOP_32, to=f"{name}_mants")
    w.idle(WRITE_DISTANCE - 2)
    w(event=Event.BLOCK, seq=Seq.UNLESS_I, limit=limit, to=name)


def _long_product(**read) -> tuple[Sequence[dict], Sequence[dict]]:
    """Upper half times lower half, fifteen bits at a time: for the bits, and with room for a write."""
    high = read | {"a": A.HI, "bsel": B.LO_15, "base": Base.ZERO}
    low = read | {"a": A.HI, "bsel": B.LO_0, "base": Base.ACC_15}
    return (high, low), (high, low, {})


def _norm(w) -> None:
    w.label("norm")
    w(bits=Bits.CLEAR)
    w.label("norm_bits")
    w(read=Read.H, a=A.LO, bsel=B.ONE, base=Base.ZERO, bits=Bits.COLLECT, seq=Seq.LOOP_I, limit="dim", to="norm_bits")
    w.idle(4)
    w(event=Event.SH)
    w.label("norm_u")  # u = v >> SH
    w(read=Read.H, a=A.LO, bsel=B.ONE, base=Base.ZERO, shift=Shift.SH, write=Write.H_HI)
    w(seq=Seq.LOOP_I, limit="dim", to="norm_u")
    w(a=A.EPS, bsel=B.ONE, base=Base.ZERO, shift=Shift.SH_2)
    w.idle(RESULT_DISTANCE - 1)
    w(a=A.R, bsel=B.ONE, base=Base.ZERO, bits=Bits.CLEAR)
    w.label("norm_squares")
    w(read=Read.H, a=A.HI, bsel=B.HI, base=Base.ACC, seq=Seq.LOOP_I, limit="dim", to="norm_squares")
    w(a=A.ZERO, base=Base.ACC_15, bits=Bits.COLLECT)  # t << 15, so that there are seven bits
    w.idle(2)
    w(shift=Shift.BITS_7)
    w.idle(RESULT_DISTANCE - 1)
    w(event=Event.NORM)
    w.label("norm_gains")  # r * g
    w(a=A.GAIN, bsel=B.TABLE, base=Base.ZERO, shift=Shift.PASS, write=Write.H_HI)
    w(seq=Seq.LOOP_I, limit="dim", to="norm_gains")
    w.idle(WRITE_DISTANCE - 2)
    _mx(w, "mx_norm", "dim", *_long_product(read=Read.H))
    w(seq=Seq.RETURN)


def _rope(w, start: int, name: str, limit: str) -> None:
    """Pairs from row ``start`` on turn in place."""
    name = f"rope_{name}"
    turned = {"a": A.LO, "bsel": B.KEEP, "base": Base.ACC, "shift": Shift.ROPE}
    w(event=Event.SET_I, to=start)
    w.label(name)
    w(read=Read.TRIG, bsel=B.COS)
    w(bsel=B.KEEP)
    w(read=Read.PAIR, b=0, a=A.LO, bsel=B.KEEP, base=Base.ZERO)
    w(read=Read.TRIG, bsel=B.HI)
    w(read=Read.PAIR, b=1, **turned, write=Write.PAIR_0)
    w(read=Read.TRIG, bsel=B.SIN)
    w(bsel=B.KEEP)
    w(read=Read.PAIR, b=0, a=A.LO, bsel=B.KEEP, base=Base.ZERO)
    w(read=Read.TRIG, bsel=B.COS)
    w(read=Read.PAIR, b=1, **turned, write=Write.PAIR_1, seq=Seq.LOOP_I, limit=limit, to=name)
    w.idle(WRITE_DISTANCE - 1)


def _mx_head(w, name: str, mants: Write, exp: Write, limit: str) -> None:
    """Blocks of 8, from row i on: a head each."""
    value = {"read": Read.Y, "a": A.LO, "bsel": B.ONE, "base": Base.ZERO}
    w.label(name)
    w(bits=Bits.CLEAR)
    w.label(f"{name}_bits")
    w(**value, bits=Bits.COLLECT, seq=Seq.REWIND_8, to=f"{name}_bits")
    w.idle(2)
    w.label(f"{name}_mants")
    w(**value, shift=Shift.MX, write=mants)
    w(seq=Seq.LOOP_8, to=f"{name}_mants")
    w(a=A.EXP, bsel=B.ONE, base=Base.ZERO, shift=Shift.PASS, write=exp)
    w.idle(WRITE_DISTANCE - 1)
    w(seq=Seq.LOOP_H, limit=limit, to=name)


def _attention(w) -> None:
    w.label("head")
    w(read=Read.Q, event=Event.QUERY, bits=Bits.CLEAR)
    w(read=Read.QE, event=Event.QUERY_EXP)
    w.label("score")
    w(read=Read.K)
    w(read=Read.E, event=Event.KEY_EXP)
    w(a=A.P, bsel=B.ONE, base=Base.ZERO, shift=Shift.SCORE, event=Event.RECORD, b=0)
    w(event=Event.RECORD, b=1, seq=Seq.LOOP_SCORE, to="score")
    w(a=A.DEN, bsel=B.ONE, base=Base.ZERO, bits=Bits.COLLECT)
    w.idle(2)
    w(shift=Shift.BITS_16)
    w.idle(RESULT_DISTANCE - 1)
    w(event=Event.DIVIDE)
    w.label("sum")
    w(read=Read.V, event=Event.SUMS, seq=Seq.LOOP_SUM, to="sum")
    w.label("wait")
    w(seq=Seq.WAIT, to="wait")
    for b, to in enumerate((Write.OUT_0, Write.OUT_1)):
        w(a=A.NUM, b=b, bsel=B.R_15, base=Base.ZERO)
        w(a=A.NUM, b=b, bsel=B.R_0, base=Base.ACC_15, shift=Shift.OUT, write=to)
    w.idle(WRITE_DISTANCE - 1)
    w(seq=Seq.LOOP_I, limit="half_head", to="sum")
    w(seq=Seq.LOOP_H, limit="heads", to="head")


def _swiglu(w) -> None:
    """a beside u."""
    w.label("silu")
    w(read=Read.PAIR, b=0, event=Event.GATE)
    w(read=Read.PAIR, b=0, a=A.SILU, bsel=B.F, base=Base.ZERO, event=Event.GATE_NEXT)
    w()
    w(a=A.SILU, b=1, bsel=B.F, base=Base.ACC, shift=Shift.SILU, write=Write.PAIR_HI, seq=Seq.LOOP_I, limit="ffn", to="silu")
    w.idle(WRITE_DISTANCE - 1)
