"""The queue of the fabric's results: whole groups of rows in, beats in row order out."""

from amaranth.hdl import Array, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from hdl.fabric.interface import result_beat


class RowOutput(wiring.Component):
    """o = the results of one group of ``row_lanes`` rows after another, in beats of ``vector_lanes``.

    A group reserves its place in the queue when its first weight is read.  The fabric therefore never has to stop within a
    group: there is always a place for the results.

    With more row lanes than vector lanes a group is several beats.  With fewer, several groups are a beat, and the last beat of
    a matrix is filled up with zeros.

    Latency: ``latency`` = 2 cycles from ``push`` to the group's first beat, if the queue is empty.  Rate: a beat a cycle.

    Parameters
    ----------
    row_lanes : rows of a group
    vector_lanes : results of a beat; divides ``row_lanes`` or is a multiple of it
    wide_bits : bits of a result
    tag_bits : bits of a matrix's tag
    depth : places of the queue, a power of two, at least 2

    Members
    -------
    free : Out(1)              the queue has a free place
    allocate : In(1)           reserve it, for a group of ``beats`` + 1 beats of the matrix ``tag``; only while ``free`` is high
    tag, beats, last : In      with ``allocate``; ``last`` marks the last group of the matrix
    push : In(1)               ``results`` are those of the oldest group without results
    results : In(signed(wide_bits)).array(row_lanes)
    o : Out(stream result_beat)
    """

    latency = 2

    def __init__(self, *, row_lanes: int, vector_lanes: int, wide_bits: int, tag_bits: int, depth: int) -> None:
        self.row_lanes, self.vector_lanes, self.wide_bits = row_lanes, vector_lanes, wide_bits
        self.tag_bits, self.depth = tag_bits, depth
        self.max_beats = max(1, row_lanes // vector_lanes)
        super().__init__(
            {
                "free": Out(1, init=1),
                "allocate": In(1),
                "tag": In(tag_bits),
                "beats": In(range(max(2, self.max_beats))),
                "last": In(1),
                "push": In(1),
                "results": In(signed(wide_bits)).array(row_lanes),
                "o": Out(stream.Signature(result_beat(vector_lanes, wide_bits, tag_bits))),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        pointer_bits = ceil_log2(self.depth)
        allocated, pushed, popped = (Signal(pointer_bits, name=n) for n in ("allocated", "pushed", "popped"))
        taken = Signal(range(self.depth + 1))  # places reserved, until the cycle after their last results have left
        stored = Signal(range(self.depth + 1))  # places with results in them
        pop, popped_before = Signal(), Signal()
        # ``free`` is registered: it gates every issue of the fabric, and ``pop`` depends on the consumer's ``ready``.
        m.d.sync += [
            popped_before.eq(pop),
            self.free.eq((taken != self.depth) & ~((taken == self.depth - 1) & self.allocate) | popped_before),
        ]
        m.d.sync += [
            allocated.eq(allocated + self.allocate),
            pushed.eq(pushed + self.push),
            popped.eq(popped + pop),
            taken.eq(taken + self.allocate - popped_before),
            stored.eq(stored + self.push - pop),
        ]

        meta = data.StructLayout({"tag": self.tag_bits, "last": 1, "beats": range(max(2, self.max_beats))})
        m.submodules.groups = groups = Memory(shape=meta, depth=self.depth, init=[])
        write, group = groups.write_port(), groups.read_port(domain="comb")
        m.d.comb += [
            write.en.eq(self.allocate),
            write.addr.eq(allocated),
            write.data.tag.eq(self.tag),
            write.data.last.eq(self.last),
            write.data.beats.eq(self.beats),
            group.addr.eq(popped),
        ]
        rows = []
        for lane, result in enumerate(self.results):
            m.submodules[f"results_{lane:02}"] = memory = Memory(shape=signed(self.wide_bits), depth=self.depth, init=[])
            write, read = memory.write_port(), memory.read_port(domain="comb")
            m.d.comb += [write.en.eq(self.push), write.addr.eq(pushed), write.data.eq(result), read.addr.eq(popped)]
            rows.append(read.data)

        index = Signal(range(max(2, self.max_beats, self.vector_lanes // self.row_lanes)))
        advance = Signal()
        m.d.comb += advance.eq(~self.o.valid | self.o.ready)
        beat = self.o.payload
        with m.If(advance):
            m.d.sync += self.o.valid.eq(0)
        with m.If(advance & (stored != 0)):
            m.d.sync += beat.tag.eq(group.data.tag)
            if self.row_lanes >= self.vector_lanes:
                ends = index == group.data.beats
                m.d.comb += pop.eq(ends)
                m.d.sync += [self.o.valid.eq(1), beat.last.eq(group.data.last & ends), index.eq(Mux(ends, 0, index + 1))]
                for j in range(self.vector_lanes):
                    m.d.sync += beat.data[j].eq(Array(rows[j :: self.vector_lanes])[index])
            else:
                per_beat = self.vector_lanes // self.row_lanes
                ends = (index == per_beat - 1) | group.data.last
                m.d.comb += pop.eq(1)
                m.d.sync += [self.o.valid.eq(ends), beat.last.eq(group.data.last), index.eq(Mux(ends, 0, index + 1))]
                for j in range(self.vector_lanes):
                    with m.If(index == j // self.row_lanes):
                        m.d.sync += beat.data[j].eq(rows[j % self.row_lanes])
                    with m.Elif(index == 0):
                        m.d.sync += beat.data[j].eq(0)
        return m
