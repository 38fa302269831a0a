"""The microprogram of the shared engine: a token, from embedding to logits (docs/arithmetic.md), a word a cycle.

A word is one operation of the pipeline of ``hdl.engine.engine``.  It reads, multiplies, adds, shifts and writes in the stages
named there, and the next word follows in the next cycle.  The hardware has no interlocks: the program keeps these distances.

=====================  ==========================================================
6 words                from a word to another that multiplies its result (``A.R``)
3 words                from ``Bits.COLLECT`` to a shift by that bit length
5 words                from ``Bits.COLLECT`` to ``Event.SH`` and to an exponent
7 words                from a word to its write, which takes the memory's port
=====================  ==========================================================

A word that meets such a write at the port must not read.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hdl.engine.isa import (
    LAYOUT,
    LIMITS,
    PROGRAM_WORDS,
    RESULT_DISTANCE,
    WRITE_DISTANCE,
    A,
    B,
    Base,
    Bits,
    Event,
    Read,
    Seq,
    Shift,
    Write,
)
from weights_to_rom.model_format import ModelFormat
from weights_to_rom.schedule import Step

MATRIX = "matrix"


@dataclass
class _Assembler:
    """Words, the addresses of labels, and for each word the unit of ``hdl.cycles.token.UNITS`` whose work it does."""

    words: list
    labels: dict
    units: list
    unit: str = "control"

    def label(self, name: str) -> None:
        self.labels[name] = len(self.words)

    def __call__(self, *, to: str | int = 0, limit: str = "dim", **fields) -> None:
        self.words.append({"imm": to, "limit": LIMITS.index(limit)} | fields)
        self.units.append(self.unit)

    def idle(self, n: int) -> None:
        """n cycles, 8 at most."""
        self.words.append({"imm": len(self.words), "limit": n - 1, "seq": Seq.PAUSE})
        self.units.append(self.unit)

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
    """Return the words of a model's program; the second one waits for a token."""
    return _listing(model).assembled()


def program_units(model: ModelFormat) -> tuple[str, ...]:
    """Return the unit that each word of the program works for: MATRIX where that is the matrix of the last ``Event.STEP``."""
    return tuple(_listing(model).units)


def _listing(model: ModelFormat) -> _Assembler:
    w = _Assembler([], {}, [])
    w()
    w.label("idle")
    w(seq=Seq.IDLE, to="idle")
    _trig(w)
    _embed(w)
    w.unit = "norm"
    w.label("layer")
    w(seq=Seq.CALL, to="norm")
    _matrix(w, Step.QKV)
    _rope(w, 0, "k", "kv_pairs")
    _rope(w, model.n_kv_heads * model.head_dim, "q", "qkv_pairs")
    w.unit = "mx"
    w(event=Event.BASE, to=-12)
    _mx_head(w, "mx_k", Write.K, Write.KE, "kv_heads")
    _mx_head(w, "mx_v", Write.V, Write.VE, "kv_heads")
    _mx_head(w, "mx_q", Write.Q, Write.QE, "heads")
    w(event=Event.SET_I, to=0)
    _attention(w)
    w.unit = "mx"
    w(event=Event.BASE, to=-16)
    value = {"read": Read.Y, "a": A.LO, "bsel": B.ONE, "base": Base.ZERO}
    _mx(w, "mx_o", "attn", (value,), (value, {}))
    _matrix(w, Step.O)
    w.unit = "norm"
    w(seq=Seq.CALL, to="residual")
    w(seq=Seq.CALL, to="norm")
    _matrix(w, Step.GATE_UP)
    _swiglu(w)
    w.unit = "mx"
    w(event=Event.BASE, to=-24)
    _mx(w, "mx_down", "ffn", *_long_product(read=Read.PAIR, b=1))
    _matrix(w, Step.DOWN)
    w.unit = "norm"
    w(seq=Seq.CALL, to="residual")
    w.unit = "control"
    w(seq=Seq.LOOP_LAYER, to="layer")
    w(seq=Seq.UNLESS_SAMPLE, to="done")
    w.unit = "norm"
    w(seq=Seq.CALL, to="norm")
    _matrix(w, Step.HEAD)
    w.unit = "control"
    w.label("done")
    w(event=Event.DONE, seq=Seq.JUMP, to="idle")
    _norm(w)
    _matvec(w)
    _residual(w)
    return w


def _trig(w) -> None:
    """cos and sin of each pair's angle at this position."""
    w.unit = "rope"
    w.label("trig")
    w(a=A.FREQ, b=1, bsel=B.POS, base=Base.ZERO)
    w(a=A.FREQ, b=0, bsel=B.POS, base=Base.ACC, shift=Shift.PHASE)
    w.idle(RESULT_DISTANCE - 1)
    w(event=Event.SINE)
    w(a=A.SIN, bsel=B.SIGN, base=Base.ZERO, shift=Shift.PASS, write=Write.SIN)
    w(a=A.SIN, bsel=B.MINUS_SIGN, base=Base.ZERO, shift=Shift.PASS, write=Write.MINUS_SIN, event=Event.SINE, b=1)
    w(a=A.SIN, bsel=B.SIGN, b=1, base=Base.ZERO, shift=Shift.PASS, write=Write.COS, seq=Seq.LOOP_I, limit="half_head", to="trig")


def _embed(w) -> None:
    """The token's row.  The words with ``Read.X`` read a plane of a block, as the fabric does, to get its scale d."""
    w.unit = "embedding"
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
    w.unit = "matvec"
    w(event=Event.STEP, to=int(step))
    w(seq=Seq.CALL, to="matvec")


def _matvec(w) -> None:
    """Five words a term: four read the dot product and scale the previous term, the fifth writes a result."""
    product = {"a": A.P, "bsel": B.D, "base": Base.ZERO}
    offset = {"a": A.S, "bsel": B.M, "base": Base.ACC, "shift": Shift.TERM}
    w.unit = MATRIX
    w.label("matvec")
    w(read=Read.X, **product)
    w(read=Read.X, **offset)
    w(read=Read.X)
    w(read=Read.X)
    w(event=Event.Y, seq=Seq.LOOP_TERM, to="matvec")
    w.unit = "matvec"
    w(**product)
    w(**offset)
    w.idle(2)
    w(event=Event.Y)
    w.idle(4)
    w(event=Event.Y)
    w(seq=Seq.RETURN)


def _residual(w) -> None:
    w.unit = "norm"
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
    w.unit = "norm"
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
    w.unit = "mx"
    _mx(w, "mx_norm", "dim", *_long_product(read=Read.H))
    w(seq=Seq.RETURN)


def _rope(w, start: int, name: str, limit: str) -> None:
    """Rotate the pairs from row ``start`` on in place."""
    w.unit = "rope"
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
    w.unit = "attention"
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
    """a of each pair is written to the upper half of the word that has u."""
    w.unit = "swiglu"
    w.label("silu")
    w(read=Read.PAIR, b=0, event=Event.GATE)
    w(read=Read.PAIR, b=0, a=A.SILU, bsel=B.F, base=Base.ZERO, event=Event.GATE_NEXT)
    w()
    w(a=A.SILU, b=1, bsel=B.F, base=Base.ACC, shift=Shift.SILU, write=Write.PAIR_HI, seq=Seq.LOOP_I, limit="ffn", to="silu")
    w.idle(WRITE_DISTANCE - 1)
