"""The KV cache: keys and values of every sequence, layer and place, as MX blocks of attention.

A place holds k and v of one position of a sequence.  A slot holds the max_context places of one kv head.  A word is what a
memory holds at one address: ``lanes`` elements of one head at one place.
"""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory, MemoryData
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from hdl.lib.ram import NEVER_BOTH
from hdl.lib.rom import address_bits
from hdl.lib.streams import EXP_BITS, mx_beat


def kv_word(lanes: int) -> data.StructLayout:
    """A word of one kv head: ``lanes`` mantissas of an MX block and the block's exponent."""
    return data.StructLayout({"mant": data.ArrayLayout(signed(8), lanes), "exp": signed(EXP_BITS)})


def kv_beat(banks: int, lanes: int) -> data.StructLayout:
    """The same word of ``banks`` consecutive kv heads; ``last`` marks the last word of a request's last place."""
    return data.StructLayout({"bank": data.ArrayLayout(kv_word(lanes), banks), "last": 1})


class KvCache(wiring.Component):
    """Writes k and v of one position to its place in a layer; streams the places back, as often as requested.

    Writing: a layer begins with the first beat on ``write``.  The cache takes ``sequence``, ``layer``, ``place`` and
    ``whole`` with it and keeps them until the next layer begins.  kv_heads * head_dim values of k come first, then as many
    of v, heads in order.

    Reading: each request streams ``banks`` kv heads, banks * index and up, one from each bank, on ``k`` and on ``v``, word
    by word and place by place: places 0 .. place, or all of them if ``whole`` (docs/arithmetic.md, attention).

    The next layer's first beat waits until every request has been read to its end.  Therefore no memory is read and written
    in one cycle (a single-port SRAM is enough), and a request always brings the position that was just written.

    kv head j lives in bank j % banks.  Each bank has a memory for k and one for v, each of

        n_sequences * n_layers * (kv_heads / banks) * max_context * (head_dim / lanes) words

    of 8 * lanes + 8 bits.  The address counts through sequence, layer, j // banks, place and word; word counts fastest.

    Latency: ``latency`` = 3 cycles from a request to its first word, if the streams are idle.  Rate: one word a cycle on
    ``k`` and on ``v``, each at its own pace.  A request that is made while another one is served follows it without a gap.
    A layer's first beat takes 2 cycles more than the others; then a beat moves each cycle, or each vector_lanes / lanes
    cycles where that is more.

    Parameters
    ----------
    kv_heads : kv heads of a layer
    head_dim : elements of a head
    lanes : elements of a word; divides ``head_dim``, and divides ``vector_lanes`` or is a multiple of it
    vector_lanes : elements of a beat of ``write``; divides ``head_dim``
    banks : kv heads that are read at once; divides ``kv_heads``
    n_layers : layers that the cache holds
    max_context : places of a sequence
    n_sequences : sequences that the cache holds

    Members
    -------
    write : In(stream mx_beat(vector_lanes))      k, then v, of one position of one layer
    sequence, layer, place : In                   where they go; each below its parameter
    whole : In(1)                                 every place holds a position of the sequence
    request : In(stream, index)                   kv heads banks * index .. banks * index + banks - 1
    k, v : Out(stream kv_beat(banks, lanes))      words of the requests in order

    Raises
    ------
    ValueError : an argument is not one of the values above; the message names it
    """

    def __init__(
        self,
        *,
        kv_heads: int,
        head_dim: int,
        lanes: int,
        vector_lanes: int,
        banks: int,
        n_layers: int,
        max_context: int,
        n_sequences: int,
    ):
        for name, value in (
            ("kv_heads", kv_heads),
            ("head_dim", head_dim),
            ("lanes", lanes),
            ("vector_lanes", vector_lanes),
            ("banks", banks),
            ("n_layers", n_layers),
            ("max_context", max_context),
            ("n_sequences", n_sequences),
        ):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, not {value!r}")
        if kv_heads % banks:
            raise ValueError(f"banks must divide kv_heads ({kv_heads}), not {banks!r}")
        for name, value in (("lanes", lanes), ("vector_lanes", vector_lanes)):
            if head_dim % value:
                raise ValueError(f"{name} must divide head_dim ({head_dim}), not {value!r}")
        if lanes % vector_lanes and vector_lanes % lanes:
            raise ValueError(f"one of lanes ({lanes}) and vector_lanes ({vector_lanes}) must divide the other")
        self.lanes, self.vector_lanes, self.banks = lanes, vector_lanes, banks
        self.n_layers = n_layers
        self.latency = 3
        self.indices = kv_heads // banks
        self.head_words = head_dim // lanes
        self.slot_words = max_context * self.head_words
        self.depth = n_sequences * n_layers * self.indices * self.slot_words
        self.k_data, self.v_data = (
            [MemoryData(shape=kv_word(lanes), depth=self.depth, init=[]) for _ in range(banks)] for _ in range(2)
        )
        super().__init__(
            {
                "write": In(stream.Signature(mx_beat(vector_lanes))),
                "sequence": In(address_bits(n_sequences)),
                "layer": In(address_bits(n_layers)),
                "place": In(address_bits(max_context)),
                "whole": In(1),
                "request": In(stream.Signature(address_bits(self.indices))),
                "k": Out(stream.Signature(kv_beat(banks, lanes))),
                "v": Out(stream.Signature(kv_beat(banks, lanes))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        memories = []
        for name, contents in (("k", self.k_data), ("v", self.v_data)):
            memories.append([Memory(d, attrs=NEVER_BOTH) for d in contents])
            for u, memory in enumerate(memories[-1]):
                m.submodules[f"{name}_{u}"] = memory

        address = address_bits(self.depth)
        row = Signal(address_bits(self.depth // (self.indices * self.slot_words)))  # sequence * n_layers + layer
        first = Signal(address_bits(self.slot_words))  # first word of the place within a slot
        # Addresses within the slot of index 0 of this sequence and layer: the first word of place 0, of this place, and of the
        # last place that is read.
        base = Signal(address)
        origin = Signal(address)
        final = Signal(address)
        whole = Signal()

        # There is a reader for k and one for v.  ``start`` and ``end`` keep a request until both readers have taken it.
        start = Signal(address)  # the request's first word
        end = Signal(address)  # its last word
        pending = Signal(2)  # the reader has not taken it yet
        busy = Signal(2)  # the reader is reading a request
        for r, (name, o) in enumerate((("k", self.k), ("v", self.v))):
            ports = [memory.read_port() for memory in memories[r]]
            self._reader(m, name, ports, o, start, end, pending[r], busy[r])

        # Address, data and enable of a write are registered: the memories are large, and no request reads the word so soon.
        written = Signal(data.StructLayout({"data": kv_word(self.lanes), "addr": address}), reset_less=True)
        writes = [[Signal(name=f"writes_{name}_{u}") for u in range(self.banks)] for name in "kv"]
        for bank, of_value in zip(memories, writes, strict=True):
            for memory, now in zip(bank, of_value, strict=True):
                port = memory.write_port()
                m.d.sync += port.en.eq(now)
                m.d.comb += [port.addr.eq(written.addr), port.data.eq(written.data)]
        with m.FSM(name="layer"):

            def begin():
                # A layer does not begin while a request of the layer before waits, since it would read the wrong place.  Nor
                # does it begin while a word waits in a memory's output register, since a write may change that of an SRAM.
                idle = ~(pending | busy | Cat(self.k.valid, self.v.valid)).any()
                with m.If(self.write.valid & ~self.request.valid & idle):
                    m.d.sync += [
                        row.eq(_times(self.sequence, self.n_layers) + self.layer),
                        first.eq(_times(self.place, self.head_words)),
                        whole.eq(self.whole),
                    ]
                    m.next = "LOCATE"

            with m.State("EMPTY"):
                begin()
            with m.State("LOCATE"):
                located = _times(row, self.indices * self.slot_words)
                m.d.sync += [
                    base.eq(located),
                    origin.eq(located + first),
                    final.eq(located + Mux(whole, self.slot_words - self.head_words, first)),
                ]
                m.next = "WRITE"
            with m.State("WRITE"):
                with m.If(self._write(m, writes, written, origin)):
                    m.next = "SERVE"
            with m.State("SERVE"):
                begin()
                m.d.comb += self.request.ready.eq(~pending.any())
                with m.If(self.request.valid & self.request.ready):
                    slot = _times(self.request.payload, self.slot_words)
                    m.d.sync += [
                        start.eq(base + slot),
                        end.eq(final + slot + self.head_words - 1),
                        pending.eq(0b11),
                    ]
        return m

    def _write(self, m, writes, written, origin):
        """Cut each beat into words, or gather beats into a word; each word is written a cycle later.

        ``writes[v][bank]`` is high in the cycle in which ``written`` gets a word of that memory.  Returns a signal that is
        high with the layer's last word.
        """
        beat = self.write.payload
        sub = Signal(address_bits(self.head_words))
        bank = Signal(address_bits(self.banks))
        index = Signal(address_bits(self.indices))
        value = Signal()  # 0 while k is written, 1 while v is
        offset = Signal(address_bits(self.depth))  # of the head's first word, counted from ``origin``
        done = Signal()

        word = Signal(kv_word(self.lanes))
        whole = Signal()  # ``word`` is complete
        m.d.comb += [word.exp.eq(beat.exp), whole.eq(self.write.valid)]
        parts = max(self.lanes, self.vector_lanes) // min(self.lanes, self.vector_lanes)
        if parts == 1:
            m.d.comb += [word.mant.eq(beat.mant), self.write.ready.eq(1)]
        else:
            part = Signal(address_bits(parts))
            final = part == parts - 1
            with m.If(self.write.valid):
                m.d.sync += part.eq(Mux(final, 0, part + 1))
            if self.lanes > self.vector_lanes:
                width = 8 * self.vector_lanes
                early = Signal(8 * self.lanes - width)  # the word's earlier beats
                with m.If(self.write.valid):
                    m.d.sync += early.eq(Cat(early, beat.mant)[width:])
                m.d.comb += [word.mant.eq(Cat(early, beat.mant)), whole.eq(self.write.valid & final), self.write.ready.eq(1)]
            else:
                m.d.comb += [word.mant.eq(beat.mant.as_value().word_select(part, 8 * self.lanes)), self.write.ready.eq(final)]

        m.d.sync += [written.data.eq(word), written.addr.eq(origin + offset + sub)]
        for v, of_value in enumerate(writes):
            m.d.comb += [to.eq(whole & (value == v) & (bank == u)) for u, to in enumerate(of_value)]
        with m.If(whole):
            m.d.sync += sub.eq(sub + 1)
            with m.If(sub == self.head_words - 1):
                m.d.sync += [sub.eq(0), bank.eq(bank + 1)]
                with m.If(bank == self.banks - 1):
                    m.d.sync += [bank.eq(0), index.eq(index + 1), offset.eq(offset + self.slot_words)]
                    with m.If(index == self.indices - 1):
                        m.d.sync += [index.eq(0), offset.eq(0), value.eq(~value)]
                        m.d.comb += done.eq(value)
        return done

    def _reader(self, m, name, ports, o, start, end, pending, busy):
        """Read ``start`` .. ``end`` from every port of one value.

        The memory's own output register is the payload of ``o``, so that ``port.en`` holds it while ``o`` waits.
        """
        addr, until = Signal.like(start, name=f"{name}_addr"), Signal.like(end, name=f"{name}_until")
        advance, final = Signal(name=f"{name}_advance"), Signal(name=f"{name}_final")
        m.d.comb += [
            advance.eq(~o.valid | o.ready),
            final.eq(addr == until),
        ]
        for port, word in zip(ports, o.payload.bank, strict=True):
            m.d.comb += [port.addr.eq(addr), port.en.eq(busy & advance), word.eq(port.data)]
        with m.If(advance):
            m.d.sync += o.valid.eq(busy)
            with m.If(busy):
                m.d.sync += [addr.eq(addr + 1), o.payload.last.eq(final)]
                with m.If(final):
                    m.d.sync += busy.eq(0)
        with m.If(pending & (~busy | (advance & final))):
            m.d.sync += [addr.eq(start), until.eq(end), busy.eq(1), pending.eq(0)]


def _times(value, constant: int):
    """value * constant as a sum of shifted values, so that synthesis spends no multiplier on it."""
    return sum((value << k for k in range(ceil_log2(constant + 1)) if constant >> k & 1), value[:0])
