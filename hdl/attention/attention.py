"""Attention: query heads against the KV cache (docs/arithmetic.md, attention)."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hdl.attention.kv_cache import KvCache, kv_beat
from hdl.attention.output import AttentionOutput
from hdl.attention.scores import AttentionScores
from hdl.attention.sums import AttentionSums
from hdl.config import ChipConfig
from hdl.lib.register import Register
from hdl.lib.rom import address_bits
from hdl.lib.skid import Skid
from hdl.lib.streams import mx_beat, scaled_beat
from weights_to_rom.model_format import ModelFormat


class AttentionHeads(wiring.Component):
    """``heads`` query heads at once against the positions that k and v bring.

        q, k -> scores -> sums -> output -> o
                    v ---'

    The units overlap: while one pass is divided and leaves, the next one is summed and the q after that
    comes in.  A word of k and of v a cycle, head_dim / lanes cycles a position, without a gap between
    positions or passes; from the last word of k to the first beat of o ``latency`` cycles.  Passes leave
    ``interval`` cycles apart, or as far as their words take.

    Members
    -------
    q : In(stream mx_beat(vector_lanes))      heads * head_dim values a pass; with ``n_sinks`` each head twice
    k, v : In(stream kv_beat(banks, lanes))   places of a pass; heads / banks heads work on each bank's
    o : Out(stream scaled_beat(vector_lanes, wide_bits + 4))    ``last`` ends every ``passes``-th pass
    """

    def __init__(
        self,
        *,
        heads: int,
        banks: int,
        head_dim: int,
        block: int,
        lanes: int,
        vector_lanes: int,
        max_context: int,
        n_sinks: int,
        wide_bits: int,
        passes: int,
    ):
        for name, value, whole_name, whole in (
            ("banks", banks, "heads", heads),
            ("block", block, "head_dim", head_dim),
            ("lanes", lanes, "block", block),
            ("vector_lanes", vector_lanes, "block", block),
        ):
            if not isinstance(value, int) or value < 1 or whole % value:
                raise ValueError(f"{name} must divide {whole_name} ({whole}), not {value!r}")
        if block not in (8, 16, 32):
            raise ValueError(f"block must be 8, 16 or 32, not {block!r}")
        if wide_bits not in (24, 32):
            raise ValueError(f"wide_bits must be 24 or 32, not {wide_bits!r}")
        shape = {"heads": heads, "head_dim": head_dim, "block": block}
        self._scores = AttentionScores(**shape, banks=banks, lanes=lanes, vector_lanes=vector_lanes, n_sinks=n_sinks)
        self._sums = AttentionSums(**shape, banks=banks, lanes=lanes, max_context=max_context)
        self._output = AttentionOutput(
            **shape, vector_lanes=vector_lanes, max_context=max_context, wide_bits=wide_bits, passes=passes
        )
        # A position's score meets the first of its words of v; head_words - 1 more follow.
        head_words = head_dim // lanes
        self.latency = 1 + self._scores.latency + head_words - 1 + AttentionSums.latency + self._output.latency
        # The words of the last position can follow when all that came before them has left ``sums``.
        self.interval = AttentionOutput.division + heads * head_dim // vector_lanes + 1 + head_words
        super().__init__(
            {
                "q": In(stream.Signature(mx_beat(vector_lanes))),
                "k": In(stream.Signature(kv_beat(banks, lanes))),
                "v": In(stream.Signature(kv_beat(banks, lanes))),
                "o": Out(stream.Signature(scaled_beat(vector_lanes, wide_bits + 4))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.scores = scores = self._scores
        m.submodules.sums = sums = self._sums
        m.submodules.output = output = self._output
        connect(m, flipped(self.q), scores.q)
        # The cache's memories are slow: a register is all that is behind them.  And when sums wait, that is not to reach the
        # cache and all of the scores within the cycle.
        words = {}
        for name, word in (("k", self.k), ("v", self.v)):
            m.submodules[f"{name}_register"] = register = Register(word.payload.shape())
            connect(m, flipped(word), register.i)
            words[name] = register.o
        for name, producer, consumer in (("k", words["k"], scores.k), ("score", scores.o, sums.score), ("v", words["v"], sums.v)):
            m.submodules[f"{name}_skid"] = skid = Skid(consumer.payload.shape())
            connect(m, producer, skid.i)
            connect(m, skid.o, consumer)
        connect(m, sums.sums, output.sums)
        connect(m, output.o, flipped(self.o))
        return m


class Attention(wiring.Component):
    """o = softmax(q k^T) v over the places of a sequence, for every head of one layer.

        i -> k, v -> KV cache --k, v--> heads -> o
          -> q -------------------------'

    k and v of the position are written to its ``place`` first; then places 0 .. place are read, or all of
    them if ``whole``.  ``attention_heads`` heads are worked on at once, in passes: with the first beat of a pass's q
    its kv heads are asked for, and their words wait until q is complete, so attention runs beside the rows of q still
    to come.

    A pass reads words = places * head_dim / attention_lanes.  If q comes a beat a cycle and o does not stall, the first beat of
    a layer leaves ``latency`` + words cycles after the last beat of the first pass's q, and those of further
    passes follow max(words, ``interval``) apart, if their q has come by then.  The next layer's beats wait
    until all of a layer's words have been read.

    Members
    -------
    i : In(stream mx_beat(vector_lanes))      k and v of n_kv_heads, then q of n_heads; exponents -12 .. 13.
                                              With ``n_sinks``: each head of q, then the same for the sinks
    sequence, layer, place, whole : In        of a layer, while its first beat waits
    o : Out(stream scaled_beat(vector_lanes, wide_bits + 4))    n_heads * head_dim values, LSB 2**-16
    """

    def __init__(self, *, model: ModelFormat, config: ChipConfig):
        self.heads, self.rep = config.attention_heads, model.n_rep
        self.vector_lanes = config.vector_lanes
        self.passes = model.n_heads // self.heads
        banks = max(1, self.heads // self.rep)
        self.passes_an_index = banks * self.rep // self.heads
        self.kv_beats = 2 * model.n_kv_heads * model.head_dim // self.vector_lanes
        self.pass_beats = self.heads * model.head_dim // self.vector_lanes * (2 if config.n_sinks else 1)
        self._heads = AttentionHeads(
            heads=self.heads,
            banks=banks,
            head_dim=model.head_dim,
            block=model.kv_block,
            lanes=config.attention_lanes,
            vector_lanes=self.vector_lanes,
            max_context=config.max_context,
            n_sinks=config.n_sinks,
            wide_bits=model.wide_bits,
            passes=self.passes,
        )
        self.cache = KvCache(
            kv_heads=model.n_kv_heads,
            head_dim=model.head_dim,
            lanes=config.attention_lanes,
            vector_lanes=self.vector_lanes,
            banks=banks,
            n_layers=model.n_layers,
            max_context=config.max_context,
            n_sequences=config.n_sequences,
        )
        self.latency = max(0, 4 - self.pass_beats) + self._heads.latency
        self.interval = self._heads.interval
        super().__init__(
            {
                "i": In(stream.Signature(mx_beat(self.vector_lanes))),
                "sequence": In(self.cache.sequence.shape()),
                "layer": In(self.cache.layer.shape()),
                "place": In(self.cache.place.shape()),
                "whole": In(1),
                "o": Out(stream.Signature(scaled_beat(self.vector_lanes, model.wide_bits + 4))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.cache = cache = self.cache
        m.submodules.heads = heads = self._heads
        connect(m, cache.k, heads.k)
        connect(m, cache.v, heads.v)
        connect(m, heads.o, flipped(self.o))
        m.d.comb += [
            cache.sequence.eq(self.sequence),
            cache.layer.eq(self.layer),
            cache.place.eq(self.place),
            cache.whole.eq(self.whole),
            cache.write.payload.eq(self.i.payload),
            heads.q.payload.eq(self.i.payload),
        ]

        beat = Signal(address_bits(max(self.kv_beats, self.pass_beats)))
        passed = Signal(address_bits(self.passes))
        index = Signal.like(cache.request.payload)
        same = Signal(address_bits(self.passes_an_index))  # passes that have read this index
        with m.If(cache.request.ready):
            m.d.sync += cache.request.valid.eq(0)
        with m.FSM(name="part"):
            with m.State("KV"):
                m.d.comb += [cache.write.valid.eq(self.i.valid), self.i.ready.eq(cache.write.ready)]
                with m.If(self.i.valid & self.i.ready):
                    m.d.sync += beat.eq(beat + 1)
                    with m.If(beat == self.kv_beats - 1):
                        m.d.sync += beat.eq(0)
                        m.next = "Q"
            with m.State("Q"):
                # The request of a pass is made with the first beat of its q; until it is accepted, no other can be.
                begin, end = beat == 0, beat == self.pass_beats - 1
                open_ = ~(begin & cache.request.valid)
                m.d.comb += [heads.q.valid.eq(self.i.valid & open_), self.i.ready.eq(heads.q.ready & open_)]
                with m.If(self.i.valid & self.i.ready):
                    m.d.sync += beat.eq(Mux(end, 0, beat + 1))
                    with m.If(begin):
                        m.d.sync += [cache.request.valid.eq(1), cache.request.payload.eq(index)]
                    with m.If(end):
                        m.d.sync += [same.eq(same + 1), passed.eq(passed + 1)]
                        with m.If(same == self.passes_an_index - 1):
                            m.d.sync += [same.eq(0), index.eq(index + 1)]
                        with m.If(passed == self.passes - 1):
                            m.d.sync += [passed.eq(0), index.eq(0)]
                            m.next = "KV"
        return m
