# amaranth: UnusedElaboratable=no
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
    """o = softmax(q k^T) v for ``heads`` query heads at once, over the positions that ``k`` and ``v`` bring.

        q, k -> scores -> sums -> output -> o
                    v ---'

    One run over all positions is a pass: q of ``heads`` heads, then every position's k and v, then ``heads`` * head_dim
    results.  The units overlap: while ``output`` divides the sums of one pass, ``sums`` adds up the next pass and ``scores``
    takes in the q of the pass after that.

    Latency: ``latency`` cycles from the last word of ``k`` to the first beat of ``o``.  Rate: one word of ``k`` and one of
    ``v`` a cycle, so head_dim / lanes cycles a position, without a gap between positions or passes.  The first beats of two
    passes are ``interval`` cycles apart, or as many cycles as the pass has words where that is more.

    Parameters
    ----------
    heads : query heads of a pass
    banks : kv heads of a word of ``k`` and ``v``; heads / banks query heads share one, which is GQA
    head_dim : elements of a head
    block : elements of an MX block of q, k and v: 8, 16 or 32
    lanes : elements of one kv head in a word of ``k`` and ``v``; divides ``block``
    vector_lanes : elements of a beat of ``q`` and ``o``; divides ``block``
    max_context : positions of a pass, at most
    n_sinks : positions at the start that meet a second q of their own (docs/arithmetic.md, attention); 0 for none
    wide_bits : width of the residual vector, 24 or 32; a result has 4 bits more
    passes : passes of a vector of ``o``, which has n_heads heads

    Members
    -------
    q : In(stream mx_beat(vector_lanes))      heads * head_dim values a pass; with ``n_sinks`` each head twice
    k, v : In(stream kv_beat(banks, lanes))   the positions of a pass in order, ``last`` on the last word
    o : Out(stream scaled_beat(vector_lanes, wide_bits + 4))    LSB 2**-16; ``last`` ends every ``passes``-th pass

    Raises
    ------
    ValueError : an argument is not one of the values above; the message names it
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
        for name, value, multiple_name, multiple in (
            ("banks", banks, "heads", heads),
            ("block", block, "head_dim", head_dim),
            ("lanes", lanes, "block", block),
            ("vector_lanes", vector_lanes, "block", block),
        ):
            if not isinstance(value, int) or value < 1 or multiple % value:
                raise ValueError(f"{name} must divide {multiple_name} ({multiple}), not {value!r}")
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
        # One cycle for the register of k.  A position's score moves together with the first of its words of v, and
        # head_words - 1 more words of v follow.
        head_words = head_dim // lanes
        self.latency = 1 + self._scores.latency + head_words - 1 + self._sums.latency + self._output.latency
        # The last position of the next pass, head_words words, enters ``sums`` when ``output`` has taken this pass's sums.
        self.interval = self._output.interval + head_words
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
        # k and v come from large memories with a long access time, so that a register takes each word without any logic in
        # between.  The skid buffers keep the ready of ``sums`` out of the cycle in which the cache and ``scores`` decide
        # whether they move.
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
    """o = softmax(q k^T) v over the positions of a sequence, for every head of one layer.

        i -> k, v -> KV cache --k, v--> heads -> o
          -> q -------------------------'

    The KV cache keeps each position of a sequence at a place, 0 .. max_context - 1.  k and v of the new position are
    written to ``place``; then places 0 .. place are read, or every place if ``whole``, which says that the sliding window
    is full.  The heads are worked on in passes of ``attention_heads``.  The first beat of a pass's q requests the pass's kv
    heads from the cache, and their words wait until q is complete: the cache is read while the fabric still computes
    further rows of q.

    Latency: a pass reads words = places * head_dim / attention_lanes.  Without stalls the first beat of ``o`` follows
    ``latency`` + words cycles after the last beat of the first pass's q.  Rate: the first beats of two passes are
    max(words, ``interval``) cycles apart, if the second one's q is there.  The next layer's first beat waits until every
    word of this layer has been read.

    Parameters
    ----------
    model : shape of the model: n_heads, n_kv_heads, head_dim, kv_block (elements of an MX block), wide_bits; n_layers is the
        number of layers whose k and v the cache holds, in a stage of some layers the number of those
    config : options of the chip: attention_heads (heads of a pass), attention_lanes (elements of one kv head that are read a
        cycle), vector_lanes, max_context, n_sequences, n_sinks

    Members
    -------
    i : In(stream mx_beat(vector_lanes))      k and v of n_kv_heads, then q of n_heads; exponents -12 .. 13.
                                              With ``n_sinks``: each head of q, then the same head for the sinks
    sequence : In(range(n_sequences))         the sequence whose position is written and read
    layer : In(range(n_layers))               number of the layer, counted from the first one of the cache
    place : In(range(max_context))            where the position is written
    whole : In(1)                             every place of the sequence holds a position: the window is full
    o : Out(stream scaled_beat(vector_lanes, wide_bits + 4))    n_heads * head_dim values, LSB 2**-16

    ``sequence``, ``layer``, ``place`` and ``whole`` are taken while the first beat of a layer waits on ``i``.
    """

    def __init__(self, *, model: ModelFormat, config: ChipConfig):
        heads = config.attention_heads
        self.vector_lanes = config.vector_lanes
        self.passes = model.n_heads // heads
        banks = max(1, heads // model.n_rep)
        # Consecutive passes whose kv heads are the same request: more than one where a kv head has more query heads than a pass.
        self.passes_a_request = banks * model.n_rep // heads
        self.kv_beats = 2 * model.n_kv_heads * model.head_dim // self.vector_lanes
        self.pass_beats = heads * model.head_dim // self.vector_lanes * (2 if config.n_sinks else 1)
        self.heads = AttentionHeads(
            heads=heads,
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
        # The request is registered a cycle after q's first beat; q's beats cover the cache's latency where there are enough.
        self.latency = max(0, 1 + self.cache.latency - self.pass_beats) + self.heads.latency
        self.interval = self.heads.interval
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
        m.submodules.heads = heads = self.heads
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
        same = Signal(address_bits(self.passes_a_request))  # passes so far that made the request ``index``
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
                # The first beat of a pass's q makes the request.  It waits while the request of the pass before is not accepted.
                begin, end = beat == 0, beat == self.pass_beats - 1
                open_ = ~(begin & cache.request.valid)
                m.d.comb += [heads.q.valid.eq(self.i.valid & open_), self.i.ready.eq(heads.q.ready & open_)]
                with m.If(self.i.valid & self.i.ready):
                    m.d.sync += beat.eq(Mux(end, 0, beat + 1))
                    with m.If(begin):
                        m.d.sync += [cache.request.valid.eq(1), cache.request.payload.eq(index)]
                    with m.If(end):
                        m.d.sync += [same.eq(same + 1), passed.eq(passed + 1)]
                        with m.If(same == self.passes_a_request - 1):
                            m.d.sync += [same.eq(0), index.eq(index + 1)]
                        with m.If(passed == self.passes - 1):
                            m.d.sync += [passed.eq(0), index.eq(0)]
                            m.next = "KV"
        return m
