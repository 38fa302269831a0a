"""The fabric: matrices in ROM times MX vectors, ``row_lanes`` rows and ``block_lanes`` elements a cycle."""

from collections.abc import Sequence
from functools import partial

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import ceil_log2

from hdl.fabric.code_dot import MULTIPLIERS, total_shape
from hdl.fabric.interface import TAG_BITS, command_layout, result_beat
from hdl.fabric.row_lane import SCALE_SHAPE, TERM_FRACTION, RowLane, word_bits
from hdl.fabric.row_output import RowOutput
from hdl.fabric.x_buffer import XBuffer
from hdl.lib.pipeline import delayed, registered
from hdl.lib.rom import RomPort
from hdl.lib.shared_module import add_part
from hdl.lib.streams import mx_beat
from weights_to_rom.model_format import BLOCK
from weights_to_rom.rom_map import ROW_WORD
from weights_to_rom.schedule import MatrixShape

HIGH_PLANE = 4
"""The high plane of an eight-bit row counts 2**4 as much as the low one."""


class Matvec(wiring.Component):
    """y = W x for one matrix of the ROM after another (docs/arithmetic.md, section 3; ``hdl.fabric.interface``).

    The k-th command multiplies the k-th vector.  A group is ``row_lanes`` rows, which are computed at the same time.  A part is
    ``block_lanes`` elements of a block.  The weight ROM has, for each matrix, for each of its groups, for each block, for each
    plane (high first), a word for each part.

    A group reserves a place in the result queue before its first weight is read, so that nothing after the ROM ever stalls.

    Latency: ``latency`` cycles from the cycle that uses a group's last weight (``busy`` is high) to the group's first beat on
    ``o``: 10 + log2(block_lanes), one more if a block is several words, two more with Booth's multiplier.  ``queue_latency`` is
    the part of it up to the result queue.

    Rate: a group takes blocks * planes * (32 // block_lanes) cycles, and groups follow each other without a gap.  The first
    weight is used two cycles after the command moved, or three cycles after its vector's last beat if that is later.  There is
    one idle cycle between two matrices whose vectors have arrived.

    Parameters
    ----------
    row_lanes : rows that are computed at the same time
    block_lanes : elements of a weight word: 4, 8, 16 or 32
    vector_lanes : results of a beat of ``o``; divides ``row_lanes`` or is a multiple of it
    x_lanes : elements of a beat of ``x``; divides ``block_lanes``
    multiplier : a name of ``code_dot.MULTIPLIERS``
    wide_bits : bits of a result, 24 or 32
    matrices : shapes of all matrices in the weight ROM, in the order of the ROM
    queue : groups that the result queue holds at least; it always holds all groups that the pipeline can have under way

    Members
    -------
    command : In(stream command_layout)
    x : In(stream mx_beat(x_lanes))    vectors, whole blocks; one may be written while another is read
    weights : Out(RomPort)       of a WeightRom: a word of ``row_lane.word_bits`` for each row lane
    rows : Out(RomPort)          of a RowRom: e (7 bits signed) | k << 7 for each row lane, a word a group
    o : Out(stream result_beat)  Wide, in row order: ceil(rows / vector_lanes) beats a matrix; the last beat is filled up with
                                 zeros
    busy : Out(1)                a weight word is used in this cycle

    Raises
    ------
    ValueError : an argument is not one of the values above; the message names it
    """

    def __init__(
        self,
        *,
        row_lanes: int,
        block_lanes: int,
        vector_lanes: int,
        x_lanes: int,
        multiplier: str,
        wide_bits: int,
        matrices: Sequence[MatrixShape],
        queue: int = 0,
    ) -> None:
        if block_lanes not in (4, 8, 16, BLOCK):
            raise ValueError(f"block_lanes must be 4, 8, 16 or 32, not {block_lanes!r}")
        if row_lanes % vector_lanes and vector_lanes % row_lanes:
            raise ValueError(f"one of row_lanes ({row_lanes}) and vector_lanes ({vector_lanes}) must divide the other")
        if multiplier not in MULTIPLIERS:
            raise ValueError(f"multiplier must be one of {', '.join(MULTIPLIERS)}, not {multiplier!r}")
        if not matrices:
            raise ValueError("matrices must not be empty")
        self.row_lanes, self.block_lanes, self.vector_lanes, self.x_lanes = row_lanes, block_lanes, vector_lanes, x_lanes
        self.multiplier = MULTIPLIERS[multiplier](block_lanes)
        # Stages count from the cycle that chooses a word: in stage 0 the input buffer is read, and the ROM at the latest; the word
        # arrives in stage 1, in which ``busy`` is high.
        self._product = 1 + self.multiplier.block_latency
        self._result = self._product + RowLane.AFTER_PRODUCT
        self.queue_latency = self._result - 1
        self.latency = self.queue_latency + RowOutput.latency
        self.wide_bits = wide_bits
        self.max_blocks = max(matrix.blocks for matrix in matrices)
        terms = [matrix.blocks * matrix.planes for matrix in matrices]
        self.max_terms = max(terms)
        # A group keeps its place from its first word until two cycles after the last of its results has left the queue.
        beats = max(1, row_lanes // vector_lanes)
        group_cycles = max(min(terms) * (BLOCK // block_lanes), beats)
        under_way = 1 + -(-(self._result + 1 + beats) // group_cycles)
        self.queue_depth = 1 << ceil_log2(max(2, under_way, queue))
        self.command_layout = command_layout(max_blocks=self.max_blocks, max_rows=max(matrix.rows for matrix in matrices))
        depth = {
            "weights": sum(matrix.words(row_lanes, block_lanes) for matrix in matrices),
            "rows": sum(matrix.groups(row_lanes) for matrix in matrices),
        }
        super().__init__(
            {
                "command": In(stream.Signature(self.command_layout)),
                "x": In(stream.Signature(mx_beat(x_lanes))),
                "weights": Out(RomPort(width=word_bits(block_lanes), depth=depth["weights"], lanes=row_lanes)),
                "rows": Out(RomPort(width=ROW_WORD.width, depth=depth["rows"], lanes=row_lanes)),
                "o": Out(stream.Signature(result_beat(vector_lanes, wide_bits, TAG_BITS))),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.x_buffer = buffer = XBuffer(block_lanes=self.block_lanes, x_lanes=self.x_lanes, max_blocks=self.max_blocks)
        m.submodules.output = output = RowOutput(
            row_lanes=self.row_lanes,
            vector_lanes=self.vector_lanes,
            wide_bits=self.wide_bits,
            tag_bits=TAG_BITS,
            depth=self.queue_depth,
        )
        connect(m, flipped(self.x), buffer.i)
        connect(m, output.o, flipped(self.o))

        # Stage 0 chooses one word after another.  Registers say in advance whether a word ends its block, group or matrix, because
        # the choice has to reach all of the fabric in the same cycle.
        parts = BLOCK // self.block_lanes
        command = Signal(self.command_layout)
        remaining = Signal.like(command.rows)
        # active: words are chosen.  waits: the command's vector has not arrived.  fresh: no word of the command was chosen yet.
        active, waits, fresh = Signal(), Signal(), Signal()
        word = Signal(buffer.address_bits)  # within the vector
        block = Signal(range(max(2, self.max_blocks)))
        last_block = Signal()  # block == command.blocks - 1
        part = Signal(range(max(2, parts)))
        low_plane = Signal()
        first_term = Signal(init=1)
        group_starts = Signal(init=1)  # first_term & (part == 0)
        last_group = Signal()  # remaining <= row_lanes
        issue, block_ends, group_ends = (Signal(name=n) for n in ("issue", "block_ends", "group_ends"))
        m.d.comb += [
            self.command.ready.eq(~active & ~waits),
            issue.eq(active & (output.free | ~group_starts)),
            block_ends.eq(part == parts - 1),
            group_ends.eq(block_ends & (low_plane | ~command.two_planes) & last_block),
            buffer.word.eq(word),
            buffer.release.eq(issue & group_ends & last_group),
            output.allocate.eq(issue & group_starts),
            output.tag.eq(command.tag),
            output.last.eq(last_group),
            output.beats.eq(Mux(last_group, (remaining - 1) >> ceil_log2(self.vector_lanes), output.max_beats - 1)),
        ]
        with m.If(self.command.valid & self.command.ready):
            taken = self.command.payload
            m.d.sync += [
                command.eq(taken),
                remaining.eq(taken.rows),
                active.eq(buffer.completes),
                waits.eq(~buffer.completes),
                fresh.eq(1),
                last_block.eq(taken.blocks == 1),
                last_group.eq(taken.rows <= self.row_lanes),
            ]
        with m.If(waits & buffer.completes):
            m.d.sync += [active.eq(1), waits.eq(0)]
        with m.If(issue):
            m.d.sync += [fresh.eq(0), part.eq(part + 1), word.eq(word + 1), group_starts.eq(0)]
            with m.If(block_ends):
                m.d.sync += [part.eq(0), first_term.eq(0)]
                with m.If(command.two_planes & ~low_plane):  # the same block once more
                    m.d.sync += [low_plane.eq(1), word.eq(word - (parts - 1))]
                with m.Else():
                    m.d.sync += [low_plane.eq(0), block.eq(block + 1), last_block.eq(block == command.blocks - 2)]
            with m.If(group_ends):
                m.d.sync += [
                    word.eq(0),
                    block.eq(0),
                    first_term.eq(1),
                    group_starts.eq(1),
                    last_block.eq(command.blocks == 1),
                    remaining.eq(remaining - self.row_lanes),
                    last_group.eq(remaining <= 2 * self.row_lanes),
                ]
                with m.If(last_group):
                    m.d.sync += active.eq(0)

        def at(stage: int, value, name: str, since: int = 0) -> Value:
            """``value``, a signal of stage ``since``, delayed to ``stage``."""
            return delayed(m, Value.cast(value), stage - since, name=name, reset_less=False, first=since + 1)[-1]

        # The row constants of a group arrive together with the product of its first word and stay until that of the next group,
        # so that no lane needs registers for them.
        p = self._product
        restart = fresh & command.restart
        m.d.comb += self.busy.eq(at(1, issue, "busy"))
        # The ROM is read one word ahead: the cycle that chooses word n presents address n + 1.  The address of a matrix's first
        # word is presented from the command until the vector has arrived, because the embedding may read the ROM meanwhile.
        next_word, begins = Signal.like(self.weights.addr), Signal()
        m.d.comb += [
            begins.eq(self.command.valid & self.command.ready),
            self.weights.en.eq(issue | begins | waits),
            self.weights.addr.eq(Mux(begins & self.command.payload.restart, 0, next_word + issue)),
        ]
        with m.If(self.weights.en):
            m.d.sync += next_word.eq(self.weights.addr)
        starts, again = at(p - 3, issue & group_starts, "group_starts"), at(p - 3, restart, "restart")
        m.d.comb += self.rows.en.eq(at(1, starts, "rows_en"))
        with m.If(starts):
            m.d.sync += self.rows.addr.eq(Mux(again, 0, self.rows.addr + 1))

        block_end = delayed(m, issue & block_ends, p + 5, name="block_end", reset_less=False)

        def of_block(stage: int, value: Value, name: str, since: int) -> Value:
            """``value`` of a block's last word, delayed to ``stage``: a register holds it for a block, so that fewer are enough."""
            while since < stage:
                value = registered(m, value, name=f"{name}_{since + 1}", en=block_end[since])
                since = min(since + parts, stage)
            return value

        # The values that all lanes share, delayed to the stage that uses them.
        prepared = self.multiplier.prepare(m, buffer.mant, buffer.total)
        part_starts = at(1, part == 0, "part_starts")
        total, total_stage = buffer.total, 1
        if parts > 1:  # S of a block is the sum of the totals of its words
            grown = Signal(total_shape(BLOCK), reset_less=True)
            m.d.sync += grown.eq(Mux(part_starts, 0, grown) + total)
            total, total_stage = grown, 2
        total = of_block(p, total, "total", since=total_stage)
        high_plane = at(1, command.two_planes & ~low_plane, "high_plane")
        scale = Signal(SCALE_SHAPE)
        m.d.comb += scale.eq(buffer.exp + Mux(high_plane, TERM_FRACTION + HIGH_PLANE, TERM_FRACTION))
        scale = of_block(p, scale, "scale", since=1)
        start, first = at(p - 1, part_starts, "part_starts", since=1), at(p + 5, first_term, "first_term")

        make_lane = partial(RowLane, multiplier=self.multiplier, wide_bits=self.wide_bits, max_terms=self.max_terms)
        for index, (word, row, result) in enumerate(zip(self.weights.data, self.rows.data, output.results, strict=True)):
            lane = add_part(m, f"lane_{index:02}", make_lane, "row_lane", platform)
            connect(m, prepared, lane.prepared)
            m.d.comb += [
                lane.word.eq(word),
                lane.row.eq(row),
                lane.start.eq(start),
                lane.total.eq(total),
                lane.scale.eq(scale),
                lane.add.eq(block_end[p + 5]),
                lane.first.eq(first),
                result.eq(lane.result),
            ]
        m.d.comb += output.push.eq(at(self._result, issue & group_ends, "push"))
        return m
