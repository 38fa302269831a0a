# amaranth: UnusedElaboratable=no
"""The last unit of attention: it divides the weighted sums of v by the sum of the weights."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import ceil_log2

from hdl.attention.sums import sums_signature
from hdl.lib.bits import bitlen, rshr, saturate
from hdl.lib.divider import Reciprocal
from hdl.lib.pipeline import delayed
from hdl.lib.rom import address_bits
from hdl.lib.skid import Skid
from hdl.lib.streams import scaled_beat
from hdl.lib.wide_product import WideProduct

BASE = -16
"""A result's LSB is 2**BASE."""


class AttentionOutput(wiring.Component):
    """o = sat(rshr(num * R, nb - 1 - lift), wide_bits + 4), R = 2**31 // (den >> (nb - 16)), nb = bitlen(den).

        den -> bitlen -> shift -> reciprocal of each head --.
        num -> select --------------------------------------- * -> shift -> round -> o

    ``num``, ``den`` and ``lift`` are those of ``hdl.attention.sums``.  Each head has a divider of its own; one head a cycle
    enters the dividers.

    Latency: ``latency`` cycles from ``sums.valid`` to the first beat of ``o``.  Rate: then a beat a cycle.  ``sums`` can bring
    the next pass ``interval`` cycles after this one: the division, a cycle for each beat, and one more for the registered
    ``sums.ready``.

    Parameters
    ----------
    heads : heads of a pass
    head_dim : elements of a head
    block : elements of an MX block of v, which share a lift; divides ``head_dim``
    vector_lanes : elements of a beat of ``o``; divides ``block``, and the quotient is a power of two
    max_context : positions of a pass, at most; it decides the widths of ``sums``
    wide_bits : width of the residual vector, 24 or 32; a result has 4 bits more
    passes : passes of a vector of ``o``

    Members
    -------
    sums : In(sums_signature)                                   one pass
    o : Out(stream scaled_beat(vector_lanes, wide_bits + 4))    LSB 2**-16, heads in order; ``last`` ends every
                                                                ``passes``-th pass
    """

    def __init__(self, *, heads: int, head_dim: int, block: int, vector_lanes: int, max_context: int, wide_bits: int, passes: int):
        self.heads, self.head_dim, self.block = heads, head_dim, block
        self.vector_lanes, self.passes = vector_lanes, passes
        self.wide_bits, self.max_context = wide_bits, max_context
        super().__init__(
            {
                "sums": In(sums_signature(heads, head_dim, block, max_context)),
                "o": Out(stream.Signature(scaled_beat(vector_lanes, wide_bits + 4))),
            }
        )
        self._dividers = [Reciprocal(bits=2) for _ in range(heads)]
        # |num| < 2**(len(num) - 1), and R <= 2**16 is signed here.
        self._products = [WideProduct(a_width=len(self.sums.num[0][0]), b_width=18) for _ in range(vector_lanes)]
        division = 2 + self._dividers[0].latency  # den and its shift are registered first
        self.latency = division + 1 + self._products[0].latency + 2
        self.interval = division + heads * head_dim // vector_lanes + 1

    def elaborate(self, platform):
        m = Module()
        sums, o = self.sums, self.o
        head_beats = self.head_dim // self.vector_lanes
        beats = self.heads * head_beats

        # One head a cycle enters the dividers.  den >= 2**15, since the maximum's own weight is at least 2**15, so nb >= 16.
        fed = Signal(range(self.heads + 1))
        den, whole_den = (Signal.like(sums.den[0], name=name, reset_less=True) for name in ("den", "whole_den"))
        above = Signal(address_bits(len(den) - 15))  # nb - 16
        above_of = Array(Signal.like(above, name=f"above_{h}") for h in range(self.heads))
        at_den, at_above = Signal(), Signal()
        den_head, above_head = Signal(address_bits(self.heads)), Signal(address_bits(self.heads))
        m.d.sync += [at_den.eq(0), at_above.eq(at_den)]
        with m.If(sums.valid & (fed != self.heads)):
            m.d.sync += [den.eq(Array(sums.den)[fed]), den_head.eq(fed), at_den.eq(1), fed.eq(fed + 1)]
        with m.If(at_den):
            bits = bitlen(den[16:])
            m.d.sync += [whole_den.eq(den), above.eq(bits), above_of[den_head].eq(bits), above_head.eq(den_head)]
        dividers = self._dividers
        for h, divider in enumerate(dividers):
            m.submodules[f"reciprocal_{h}"] = divider
            # The divider is ready here: its result of the pass before was taken before that pass's ``sums`` were.
            m.d.comb += [divider.i.payload.eq(whole_den >> above), divider.i.valid.eq(at_above & (above_head == h))]

        # Quotients leave the dividers head by head.  ``advance`` moves every stage of the pipeline from here to the skid
        # buffer; it is the skid's registered ready, so that it does not depend on ``o.ready`` within the cycle.
        m.submodules.skid = skid = Skid(o.payload.shape())
        connect(m, skid.o, flipped(o))
        advance, out = skid.i.ready, skid.i.payload
        head, beat = Signal(address_bits(self.heads)), Signal(address_bits(head_beats))
        flat = Signal(address_bits(beats))  # head * head_beats + beat
        passed = Signal(address_bits(self.passes))
        go, head_end, end, ended = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            go.eq(Array(d.o.valid for d in dividers)[head]),
            head_end.eq(beat == head_beats - 1),
            end.eq(flat == beats - 1),
            sums.ready.eq(ended),
        ]
        # ``sums.ready`` is registered because the dividers and the sums are far apart on a die.
        m.d.sync += ended.eq(advance & go & end)
        with m.If(ended):
            m.d.sync += fed.eq(0)
        with m.If(advance & go):
            m.d.sync += [beat.eq(Mux(head_end, 0, beat + 1)), flat.eq(Mux(end, 0, flat + 1))]
            with m.If(head_end):
                m.d.sync += head.eq(Mux(end, 0, head + 1))
                m.d.comb += [divider.o.ready.eq(head == h) for h, divider in enumerate(dividers)]
            with m.If(end):
                m.d.sync += passed.eq(Mux(passed == self.passes - 1, 0, passed + 1))

        num = [Signal.like(sums.num[0][0], name=f"num_{j}", reset_less=True) for j in range(self.vector_lanes)]
        inverse = Signal(17, reset_less=True)
        # nb - 1 - lift, less the last bit of the shift, which is left for rounding: nb - 2 - lift.
        # At least 1, since nb >= 16 and lift <= 13; at most len(den) - 2 + 12, since nb <= len(den) and lift >= -12.
        right = Signal(range(len(den) - 16 + 14 + 12 + 1))
        at_num, last = Signal(), Signal()
        with m.If(advance):
            m.d.sync += at_num.eq(go)
            with m.If(go):
                block = flat >> ceil_log2(self.block // self.vector_lanes)
                lift = Array(lift for of_head in sums.lift for lift in of_head)[block]
                m.d.sync += [
                    inverse.eq(Array(d.o.payload for d in dividers)[head]),
                    right.eq(14 + above_of[head] - lift),
                    last.eq(end & (passed == self.passes - 1)),
                ]
                for j, n in enumerate(num):
                    every = [of_head[e] for of_head in sums.num for e in range(j, self.head_dim, self.vector_lanes)]
                    m.d.sync += n.eq(Array(every)[flat])

        for j, product in enumerate(self._products):
            m.submodules[f"product_{j}"] = product
            m.d.comb += [product.a.eq(num[j]), product.b.eq(inverse), product.en.eq(advance)]
        marks = Cat(at_num, last, right)
        *_, marks = delayed(m, marks, self._products[0].latency, name="beside_product", en=advance, reset_less=False, first=0)
        at_product, product_last, shift = marks[0], marks[1], marks[2:]

        # |num * R| < 2**(len(num) - 1) * 2**16: len(num) + 16 bits with the sign.
        shifted = [Signal(signed(len(num[0]) + 16), name=f"shifted_{j}", reset_less=True) for j in range(self.vector_lanes)]
        at_shifted, shifted_last = Signal(), Signal()
        at_out, last_out = Signal(), Signal()
        data_out = [Signal(signed(self.wide_bits + 4), name=f"out_{j}", reset_less=True) for j in range(self.vector_lanes)]
        m.d.comb += [
            skid.i.valid.eq(at_out),
            out.base.eq(BASE),
            out.last.eq(last_out),
            *(to.eq(y) for to, y in zip(out.data, data_out, strict=True)),
        ]
        with m.If(advance):
            m.d.sync += [at_shifted.eq(at_product), at_out.eq(at_shifted)]
            with m.If(at_product):
                m.d.sync += [s.eq(product.p >> shift) for s, product in zip(shifted, self._products, strict=True)]
                m.d.sync += shifted_last.eq(product_last)
            with m.If(at_shifted):
                m.d.sync += last_out.eq(shifted_last)
                m.d.sync += [y.eq(saturate(rshr(s, 1), self.wide_bits + 4)) for y, s in zip(data_out, shifted, strict=True)]
        return m
