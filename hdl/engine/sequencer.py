"""Choose the word of each cycle, and count the iterations of loops."""

from types import SimpleNamespace

from amaranth.hdl import Array, Const, Module, Mux, Signal
from amaranth.lib.memory import Memory

from hdl.engine.isa import (
    LAYOUT,
    LIMITS,
    PROGRAM_WORDS,
    RULES,
    WRITE_DISTANCE,
    Event,
    Seq,
    limits,
)
from hdl.engine.program import program
from hdl.engine.unit import Unit, later


class Sequencer(Unit):
    """The program, its next word by ``RULES``, and the counters of loops.

    The ROM is read a word ahead: ``word`` is valid in the cycle after its address.  ``event``, ``b1`` and ``i_1`` are fields of
    ``word`` and the counter i, one cycle later; ``i_write`` is i when the word's result is written.
    """

    INPUTS = ("place", "start", "sample", "matrix_ends", "divided")
    OUTPUTS = ("word", "event", "b1", "i", "i_1", "i_write", "h", "layer", "p", "norm", "term_next", "done")

    def elaborate(self, platform) -> Module:
        m = Module()
        model, word = self.model, self.word
        m.submodules.program = rom = Memory(
            shape=LAYOUT,
            depth=PROGRAM_WORDS,
            init=[LAYOUT.from_bits(bits) for bits in program(model)],
            attrs={"ram_style": "block"},
        )
        fetch = rom.read_port()
        m.d.comb += word.eq(fetch.data)
        m.d.sync += [self.event.eq(word.event), self.b1.eq(word.b), self.i_1.eq(self.i)]
        values = limits(model)
        bound = [values[name] for name in LIMITS]
        i = self.i
        m.d.comb += self.i_write.eq(later(m, i, WRITE_DISTANCE, "i_write"))
        last = Signal.like(i)
        m.d.comb += last.eq(Array(Const(b - 1, len(i)) for b in bound)[word.limit])
        pc = Signal(8)
        back = Signal(8)
        jump, paused = Signal(), Signal(3)
        # In the first cycle after a reset no word has been read, so ``begun`` makes the sequencer take the next word.
        begun = Signal()
        m.d.comb += [fetch.addr.eq(Mux(jump, word.imm, pc)), fetch.en.eq(1)]
        m.d.sync += pc.eq(fetch.addr + 1)
        beyond = Signal.like(self.p)
        m.d.sync += [begun.eq(1), beyond.eq(self.place + 3)]
        at = SimpleNamespace(i=i, h=self.h, p=self.p, layer=self.layer, paused=paused, limit=word.limit, last=last)
        at.place, at.beyond, at.last_layer = self.place, beyond, model.n_layers - 1
        at.matrix_ends, at.divided, at.start, at.sample = self.matrix_ends, self.divided, self.start, self.sample
        seq = Signal(Seq)
        m.d.comb += seq.eq(Mux(begun, word.seq, Seq.NEXT))
        with m.Switch(seq):
            for kind, rule in RULES.items():
                with m.Case(kind):
                    m.d.comb += jump.eq(rule.jumps(at))
                    for name in rule.counters:
                        counter = getattr(at, name)
                        m.d.sync += counter.eq(
                            rule.ends(counter) if rule.again is rule.ends else Mux(jump, rule.again(counter), rule.ends(counter))
                        )
                    if rule.calls:
                        m.d.sync += back.eq(pc)
                    if rule.returns:
                        m.d.comb += fetch.addr.eq(back)
        m.d.comb += self.term_next.eq(seq == Seq.LOOP_TERM)
        with m.If(word.event == Event.SET_I):
            m.d.sync += i.eq(word.imm)
        with m.If(self.event == Event.REWIND):
            m.d.sync += [self.layer.eq(0), self.norm.eq(0)]
        with m.If(self.event == Event.NORM):
            m.d.sync += self.norm.eq(self.norm + 1)
        m.d.comb += self.done.eq(self.event == Event.DONE)
        return m
