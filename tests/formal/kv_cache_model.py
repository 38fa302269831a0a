# amaranth: UnusedElaboratable=no
"""The KV cache with a model of its inputs so far: the layer under way, one watched word, the requests not yet read."""

from amaranth.hdl import Cat, Const, Fragment, Mux, Signal, Value
from harness import Harness, implies, registers

NAMES = ("kv_heads", "head_dim", "lanes", "vector_lanes", "banks", "n_layers", "max_context", "n_sequences")

SHAPES = {
    "gathered": (2, 4, 4, 2, 1, 2, 3, 2),  # two beats a word, one word a head, two heads in one bank
    "cut": (2, 8, 2, 4, 2, 2, 3, 2),  # two words a beat, four words a head, a bank for each head
    "straight": (4, 6, 2, 2, 2, 2, 3, 2),  # a beat is a word, three words a head, two heads in each of two banks
    "wide": (3, 64, 32, 8, 1, 5, 16, 3),  # four beats a word, two words a head, three heads in one bank
}


class Reader:
    """The model of the stream ``k`` or ``v``.

    waiting     requests that were accepted and have not been streamed to their end
    index       index of the oldest of them
    position    words of the oldest that have moved
    """

    def __init__(self, name, stream, words, index):
        self.name, self.stream = name, stream
        self.moved = stream.valid & stream.ready
        self.waiting = Signal(range(5), name=f"{name}_waiting")
        self.position = Signal(words, name=f"{name}_position")
        self.index = Signal(index, name=f"{name}_index")


class KvCacheModel(Harness):
    """The cache ``dut`` and its model.  Inputs are free, but for the rules in the cache's docstring.

    The layer that is written:
    beat        number of beats that have moved; ``first``: none has; ``ending``: the last one moves in this cycle
    there       sequence, layer, place and whole of the beats that are offered
    here        the same of the last complete layer, which requests read; ``present``: there is one

    One word, any one:
    watched     its value (0 is k, 1 is v), sequence, layer, place, head, and its number within the head
    address     its address in its memory; ``stored``: the content there, or the word that is being written there
    appended    the word of the beat that is offered, if ``offered``; ``held``: the word that was appended last, or 0

    The requests:
    words       words of a request
    recent      indices of the last three, the newest first
    k, v        a Reader each
    """

    def __init__(self, module, shape, invariants):
        super().__init__(invariants)
        (
            self.kv_heads,
            self.head_dim,
            self.lanes,
            self.vector_lanes,
            self.banks,
            self.n_layers,
            self.max_context,
            self.n_sequences,
        ) = shape
        self.indices = self.kv_heads // self.banks
        self.head_words = self.head_dim // self.lanes
        self.slot_words = self.max_context * self.head_words
        self.beats = 2 * self.kv_heads * self.head_dim // self.vector_lanes
        self.dut = dut = module.KvCache(**dict(zip(NAMES, shape, strict=True)))
        self.ports = [dut.sequence, dut.layer, dut.place, dut.whole]
        self.free(dut.write.valid, dut.write.payload, *self.ports, dut.request.valid, dut.request.payload, dut.k.ready, dut.v.ready)
        self._layer()
        self._watch()
        self._requests()
        self._assume()
        if self.invariants:
            self._state_invariants()
            self._reader_invariants()

    def slot(self, sequence, layer):
        """Address of the first word of index 0 at place 0."""
        return (sequence * self.n_layers + layer) * (self.indices * self.slot_words)

    def _layer(self):
        m, write = self.m, self.dut.write
        self.beat = Signal(range(self.beats))
        self.present = Signal()
        self.here = [Signal.like(port, name=f"here_{port.name}") for port in self.ports]
        self.first = self.beat == 0
        self.there = [Mux(self.first, port, known) for port, known in zip(self.ports, self.here, strict=True)]
        self.moved = write.valid & write.ready
        self.ending = self.moved & (self.beat == self.beats - 1)
        with m.If(self.moved):
            m.d.sync += self.beat.eq(Mux(self.ending, 0, self.beat + 1))
            with m.If(self.first):
                m.d.sync += Cat(self.here).eq(Cat(self.ports))
            with m.If(self.ending):
                m.d.sync += self.present.eq(1)

    def _watch(self):
        m, payload = self.m, self.dut.write.payload
        limits = {
            "value": 2,
            "sequence": self.n_sequences,
            "layer": self.n_layers,
            "place": self.max_context,
            "head": self.kv_heads,
            "word": self.head_words,
        }
        self.watched = w = {name: self.arbitrary(limit, f"watched_{name}") for name, limit in limits.items()}
        self.number = (w["value"] * self.kv_heads + w["head"]) * self.head_words + w["word"]  # in its layer
        mant = Value.cast(payload.mant)
        gather = max(1, self.lanes // self.vector_lanes)
        cut = max(1, self.vector_lanes // self.lanes)
        self.early = [Signal.like(mant, name=f"early_{k}") for k in range(gather - 1)]
        for k, early in enumerate(self.early):
            with m.If(self.moved & (self.beat % gather == k)):
                m.d.sync += early.eq(mant)
        self.appended = Signal(8 * self.lanes + 8)
        m.d.comb += self.appended.eq(
            Cat(*self.early, mant.word_select(self.number % cut, 8 * min(self.lanes, self.vector_lanes)), payload.exp)
        )
        here = Cat(port == w[name] for port, name in zip(self.there, ("sequence", "layer", "place"), strict=False))
        self.offered = self.dut.write.valid & here.all() & (self.beat == self.number * gather // cut + gather - 1)
        self.held = Signal.like(self.appended)
        with m.If(self.offered & self.dut.write.ready):
            m.d.sync += self.held.eq(self.appended)

        # Each memory gets a second, combinational read port, which shows the content of the watched address.
        unit = self.dut.elaborate(None)
        self.memories = [[unit.submodules[f"{name}_{u}"] for u in range(self.banks)] for name in "kv"]
        self.address = self.slot(w["sequence"], w["layer"]) + (
            w["head"] // self.banks * self.slot_words + w["place"] * self.head_words + w["word"]
        )
        self.stored = Signal.like(self.held)
        for v, memories in enumerate(self.memories):
            for u, memory in enumerate(memories):
                port = memory.read_port(domain="comb")
                m.d.comb += port.addr.eq(self.address)
                (write,) = memory.write_ports
                with m.If((w["value"] == v) & (w["head"] % self.banks == u)):
                    m.d.comb += self.stored.eq(Mux(write.en & (write.addr == self.address), write.data, port.data))
        m.submodules.dut = self.fragment = Fragment.get(unit, None)

    def _requests(self):
        m, dut = self.m, self.dut
        *_, place, whole = self.here
        self.words = Signal(range(self.slot_words + 1))
        m.d.comb += self.words.eq(Mux(whole, self.max_context, place + 1) * self.head_words)
        self.accepted = dut.request.valid & dut.request.ready
        self.recent = [Signal.like(dut.request.payload, name=f"recent_{k}") for k in range(3)]
        with m.If(self.accepted):
            m.d.sync += Cat(self.recent).eq(Cat(dut.request.payload, *self.recent))
        self.k, self.v = self.readers = [
            Reader(name, getattr(dut, name), self.words.shape(), dut.request.payload.shape()) for name in "kv"
        ]
        for r in self.readers:
            done = r.moved & (r.position == self.words - 1)
            m.d.sync += r.waiting.eq(r.waiting + self.accepted - done)
            with m.If(r.moved):
                m.d.sync += r.position.eq(Mux(done, 0, r.position + 1))
            with m.Switch(r.waiting):
                for n, index in enumerate(self.recent, 1):
                    with m.Case(n):
                        m.d.comb += r.index.eq(index)

    def _assume(self):
        dut = self.dut
        self.assume(self.stays(dut.write))
        self.assume(self.stays(dut.request))
        offered, where = dut.write.valid & self.first, Cat(self.ports)
        self.assume(implies(self.before(offered & ~dut.write.ready), where == self.before(where)))
        limits = (self.n_sequences, self.n_layers, self.max_context, 2)
        for port, limit in zip(self.ports, limits, strict=True):
            self.assume(implies(offered, port < limit))
        self.assume(implies(dut.request.valid, dut.request.payload < self.indices))

    def _state_invariants(self):
        dut, invariant = self.dut, self.invariant
        reg = registers(self.fragment)
        encoding = self.fragment.generated["layer"].encoding
        empty, locate, write, serve = (reg["layer_state"] == encoding[s] for s in ("EMPTY", "LOCATE", "WRITE", "SERVE"))

        # The cache counts the layer's progress in digits (value, index, bank, word, part), the model in beats.
        part, index = reg.get("part", Const(0)), reg["index"]
        words = ((reg["value"] * self.indices + index) * self.banks + reg["bank"]) * self.head_words + reg["sub"]
        gather = max(1, self.lanes // self.vector_lanes)
        cut = max(1, self.vector_lanes // self.lanes)
        invariant(
            "digits",
            (reg["sub"] < self.head_words)
            & (reg["bank"] < self.banks)
            & (index < self.indices)
            & (part < gather * cut)
            & (reg["offset"] == index * self.slot_words),
        )
        invariant("beats", self.beat * cut + (part if cut > 1 else 0) == words * gather + (part if gather > 1 else 0))
        if cut > 1:
            invariant("a beat that is being cut stays", implies(part != 0, dut.write.valid))
        for filled in range(1, gather):
            there = reg["early"][-filled * 8 * self.vector_lanes :]
            invariant("gathered beats", implies(part == filled, there == Cat(self.early[:filled])))

        def located(sequence, layer, place, whole):
            base = self.slot(sequence, layer)
            first = place * self.head_words
            return (
                (reg["base"] == base) & (reg["final"] == base + Mux(whole, self.slot_words - self.head_words, first)),
                reg["origin"] == base + first,
            )

        fresh = Cat(self.beat, part) == 0
        idle = Cat(reg["pending"], reg["busy"], dut.k.valid, dut.v.valid) == 0
        invariant("state", empty | locate | write | serve)
        invariant("empty", implies(empty, fresh & idle & ~self.present))
        invariant(
            "locate",
            implies(
                locate,
                fresh
                & idle
                & dut.write.valid
                & (reg["whole"] == dut.whole)
                & (reg["row"] == dut.sequence * self.n_layers + dut.layer)
                & (reg["first"] == dut.place * self.head_words),
            ),
        )
        invariant("write", implies(write, idle & implies(self.first, dut.write.valid) & Cat(located(*self.there)).all()))
        invariant("serve", implies(serve, fresh & self.present & located(*self.here)[0]))
        invariant("readers", implies(~idle, serve))
        invariant(
            "here",
            Cat(
                port < limit for port, limit in zip(self.here, (self.n_sequences, self.n_layers, self.max_context), strict=False)
            ).all(),
        )

        # The words of a beat that is cut into several are stored before the beat moves.
        early = write & self.offered & (part > self.number % cut) if cut > 1 else Const(0)
        invariant("watched word", self.stored == Mux(early, self.appended, self.held))

    def _reader_invariants(self):
        reg, invariant = registers(self.fragment), self.invariant
        invariant("recent", Cat(r < self.indices for r in self.recent).all())
        starts, ends = ([reg[name] + index * self.slot_words for index in self.recent] for name in ("base", "final"))
        for n, r in enumerate(self.readers):
            o, pending, busy = r.stream, reg["pending"][n], reg["busy"][n]
            final = o.valid & o.payload.last
            read = Mux(o.valid & ~final, r.position + 1, 0)  # words so far of the request that is being read
            invariant(f"{r.name}: requests", r.waiting == pending + busy + final)
            invariant(f"{r.name}: output", implies(o.valid, (busy | final) & (final == (r.position == self.words - 1))))
            invariant(f"{r.name}: position", (r.position < self.words) & implies(~o.valid, r.position == 0))
            invariant(
                f"{r.name}: next", implies(pending, (reg["start"] == starts[0]) & (reg["end"] == ends[0] + self.head_words - 1))
            )
            invariant(
                f"{r.name}: current",
                implies(
                    busy,
                    (read < self.words)
                    & (reg[f"{r.name}_addr"] == Mux(pending, starts[1], starts[0]) + read)
                    & (reg[f"{r.name}_until"] == Mux(pending, ends[1], ends[0]) + self.head_words - 1),
                ),
            )
