# amaranth: UnusedElaboratable=no
"""The LoRA adder: it adds an adapter's B (A x) to the fabric's results (docs/arithmetic.md, lora).

A step is one of the four matrices of a layer: QKV, O, GATE_UP, DOWN.  A and B of a step are those of all its projections.  An
addend is v = B (A x) of one row.
"""

from collections.abc import Sequence
from functools import cache
from math import gcd

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import ceil_log2

from hdl.fabric.interface import TAG_BITS, result_beat
from hdl.fabric.row_lane import RESULT_SHIFT, ROUND_RESULT, TERM_FRACTION
from hdl.fabric.row_output import RowOutput
from hdl.fabric.x_buffer import XBuffer
from hdl.lib.bits import saturate
from hdl.lib.pipeline import add_pairs, delayed, registered
from hdl.lib.rom import address_bits
from hdl.lib.shared_module import add_part
from hdl.lib.streams import EXP_BITS, mx_beat
from hdl.lora.lane import LoraLane, lora_word_bits, rank_block
from hdl.mx import Mx
from weights_to_rom.model_format import BLOCK
from weights_to_rom.schedule import LoraMatrix, Step

MARKS = data.StructLayout({"valid": 1, "a": 1, "first": 1, "ends": 1, "last": 1})
"""Flags that travel through the pipeline with an address.

``valid``: an address is read.  ``a``: it is one of A, not of B.  ``first``, ``ends``: a sum begins, ends with it.  ``last``: it
is the step's last address of A.
"""


class AdapterWrite(wiring.Signature):
    """A writer's view of the adapter memory: ``data`` goes to ``lane``'s memory at ``addr`` in a cycle with ``en``.

    ``addr`` is (number of the adapter - 1) * ``words`` + the address within the adapter.

    Parameters
    ----------
    n_adapters : adapters that the memory holds
    words : addresses of an adapter
    lora_lanes : memories side by side
    word_bits : bits of a memory's word
    """

    def __init__(self, *, n_adapters: int, words: int, lora_lanes: int, word_bits: int) -> None:
        super().__init__(
            {
                "en": Out(1),
                "addr": Out(address_bits(n_adapters * words)),
                "lane": Out(address_bits(lora_lanes)),
                "data": Out(word_bits),
            }
        )


class Lora(wiring.Component):
    """y' = sat(y + sat(rshr(v, 4), wide_bits), wide_bits), v = B z, z = MX blocks of A x.

    ::

        x -> input buffer --> multiply, shift, add up (lora_lanes) --> mx -> z
                          z -^             ^                       '-> queue --.
                                     adapter memory                       i -> + -> o

    The steps of a layer come in the order of the fabric's matrices.  A token reads its adapter's memory once, from the first
    address to the last, and skips the addresses of steps that are not to be computed: first A, ``lora_lanes`` rows at a time,
    a block a cycle, then B, ``lora_lanes`` words a cycle.  The addends wait in a queue for the fabric's results of the same
    rows, or the results wait for them.  A group of rows (the rows of one address) reserves its place in the queue before its
    first word is read, so that the pipeline never stops, as in Matvec.

    Results of steps that are not to be computed pass unchanged, and so do all results before a ``start`` and after the last
    layer's DOWN.

    Latency: ``latency`` = 1 cycle from ``i`` to ``o``.  Rate: a beat a cycle, where the addends are there.  They take, with nb =
    min(32, rank), s = addresses of a row of B (2 if rank is 64 and lora_lanes 1, else 1) and j = lanes that share a row (2 if
    rank is 64 and lora_lanes more, else 1):

    - A step reads a_words + b_words addresses, one a cycle, and waits nb / lora_lanes + 14 cycles between A and B.  Its A
      begins 2 cycles after x's last beat; the next step follows B without a gap, if its x is there.
    - ``lead`` is the number of cycles from x's last beat to the first addend at the queue's output, where a beat takes one
      group: a_words + nb / lora_lanes + s + j + 27.  The result that waits for it is on ``o`` one cycle later.  A beat takes
      several groups if vector_lanes is more than the rows of a group.

    Parameters
    ----------
    matrices : shapes of QKV, O, GATE_UP and DOWN, in this order (``weights_to_rom.schedule.lora_matrices``)
    n_layers : layers of an adapter
    k_rows : rows of k, which are as many as those of v; the rest of QKV's rows are q's
    rank : rank of every adapter, a power of two from 2 to 64
    lora_lanes : words of adapter memory that are read a cycle, a power of two from 1 to min(32, rank)
    n_adapters : adapters that the memory holds
    vector_lanes : rows of a beat of ``i`` and ``o``, a power of two from 1 to 32
    x_lanes : elements of a beat of ``x``; divides 32
    wide_bits : width of a result, 24 or 32

    Members
    -------
    start : In(1)            a token that uses an adapter begins: takes ``adapter`` and ``steps``.  Not before the last results
                             of the token before have left, nor within 3 cycles of its last x
    adapter : In             1 .. n_adapters
    steps : In(4)            bit s: ``schedule.Step`` s is to be computed
    x : In(stream mx_beat(x_lanes))   after each start the n_layers * 4 vectors that enter the fabric, whole blocks
    write : In(AdapterWrite) of other adapters at any time, not of the one in use
    i : In(stream result_beat)        the fabric's results, Wide, in row order
    o : Out(stream result_beat)       the same with their addends

    Raises
    ------
    ValueError : an argument is not one of the values above; the message names it
    """

    def __init__(
        self,
        *,
        matrices: Sequence[LoraMatrix],
        n_layers: int,
        k_rows: int,
        rank: int,
        lora_lanes: int,
        n_adapters: int,
        vector_lanes: int,
        x_lanes: int,
        wide_bits: int,
    ) -> None:
        for name, value in (("n_layers", n_layers), ("k_rows", k_rows), ("n_adapters", n_adapters)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, not {value!r}")
        if [matrix.step for matrix in matrices] != [Step.QKV, Step.O, Step.GATE_UP, Step.DOWN]:
            raise ValueError(f"matrices must be those of QKV, O, GATE_UP and DOWN, not {[m.step for m in matrices]}")
        if 2 * k_rows >= matrices[Step.QKV].rows:
            raise ValueError(f"k_rows must leave some of the {matrices[Step.QKV].rows} rows of QKV to q, not {k_rows}")
        if rank not in (2, 4, 8, 16, 32, 64):
            raise ValueError(f"rank must be a power of two from 2 to 64, not {rank!r}")
        self.nb = rank_block(rank)
        if lora_lanes not in (1, 2, 4, 8, 16, 32) or lora_lanes > self.nb:
            raise ValueError(f"lora_lanes must be a power of two from 1 to min(32, rank) = {self.nb}, not {lora_lanes!r}")
        if vector_lanes not in (1, 2, 4, 8, 16, 32):
            raise ValueError(f"vector_lanes must be a power of two from 1 to 32, not {vector_lanes!r}")
        if wide_bits not in (24, 32):
            raise ValueError(f"wide_bits must be 24 or 32, not {wide_bits!r}")
        self.matrices, self.n_layers, self.k_rows = tuple(matrices), n_layers, k_rows
        self.rank, self.lora_lanes, self.n_adapters = rank, lora_lanes, n_adapters
        self.vector_lanes, self.x_lanes, self.wide_bits = vector_lanes, x_lanes, wide_bits
        self.word_bits = lora_word_bits(rank)
        self.words = n_layers * sum(matrix.words(rank, lora_lanes) for matrix in matrices)

        self.groups = BLOCK // self.nb  # groups of nb in a word
        self.row_blocks = rank // self.nb
        self.row_addresses = max(1, self.row_blocks // lora_lanes)
        self.row_lanes = self.row_blocks // self.row_addresses
        self.rows_at_once = lora_lanes * self.groups // self.row_lanes
        # |term| <= 2**(wide_bits + 4).  u has a term for each block of x.  A lane's sum for v has row_addresses terms, 1 or 2, and
        # at most 8 for rounding: row_addresses * 2**(wide_bits + 4) + 8 < 2**(wide_bits + 4 + row_addresses).
        term_bits = wide_bits + 5
        self.u_bits = term_bits + ceil_log2(max(matrix.blocks for matrix in matrices))
        self.sum_bits = max(self.u_bits, term_bits + self.row_addresses)
        self._sum = self._WORD + self._lane().latency
        self._result = self._sum + self.row_lanes - 1  # two lanes that share a row are added in one stage more
        # A group keeps its place in the queue from its first word until two cycles after the last of its addends has left.
        beats = max(1, self.rows_at_once // vector_lanes)
        group_cycles = max(self.row_addresses, beats)
        self.latency = 1
        self.queue_depth = 1 << ceil_log2(max(2, 1 + -(-(self._result + 1 + beats) // group_cycles)))
        beat = result_beat(vector_lanes, wide_bits, TAG_BITS)
        super().__init__(
            {
                "start": In(1),
                "adapter": In(range(n_adapters + 1)),
                "steps": In(len(matrices)),
                "x": In(stream.Signature(mx_beat(x_lanes))),
                "write": In(AdapterWrite(n_adapters=n_adapters, words=self.words, lora_lanes=lora_lanes, word_bits=self.word_bits)),
                "i": In(stream.Signature(beat)),
                "o": Out(stream.Signature(beat)),
            }
        )

    # Stages are counted from the cycle that chooses an address.  In 0 the input buffer is read; in 1 the adapter memory is read
    # and the operand is selected; in 2 the lanes get word and operand.
    _WORD = 2

    def _lane(self) -> LoraLane:
        return LoraLane(rank=self.rank, wide_bits=self.wide_bits, sum_bits=self.sum_bits, constant=ROUND_RESULT // self.row_lanes)

    def lead(self, matrix: LoraMatrix) -> int:
        """Cycles from x's last beat to a step's first addend at the queue's output, where a beat takes one group of rows."""
        return matrix.a_words(self.rank, self.lora_lanes) + self.nb // self.lora_lanes + self.row_addresses + self.row_lanes + 27

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.x_buffer = buffer = XBuffer(
            block_lanes=BLOCK, x_lanes=self.x_lanes, max_blocks=max(matrix.blocks for matrix in self.matrices)
        )
        m.submodules.mx = mx = Mx(lanes=self.lora_lanes, block=self.nb, width=self.u_bits)
        m.submodules.output = output = RowOutput(
            row_lanes=self.rows_at_once,
            vector_lanes=self.vector_lanes,
            wide_bits=self.wide_bits,
            tag_bits=TAG_BITS,
            depth=self.queue_depth,
        )
        connect(m, flipped(self.x), buffer.i)

        steps = Signal.like(self.steps)
        with m.If(self.start):
            m.d.sync += steps.eq(self.steps)
        self._add(m, steps, output.o)

        # Stage 0: the address and what it holds.
        address = Signal(len(self.write.addr))
        step = Signal(range(len(self.matrices)))
        row = Signal(range(max(matrix.rows for matrix in self.matrices)))  # first row of B of the address
        part = Signal()  # which of a row's two addresses, where it has two
        mark = Signal(MARKS)
        z_here = Signal()  # z of the step is complete
        with m.If(mx.o.valid & mx.o.payload.last):
            m.d.sync += z_here.eq(1)
        self._sequence(m, steps, address, step, row, part, mark, z_here, buffer, output)

        marks = delayed(m, mark, self._result, name="mark", reset_less=False)
        read_address = registered(m, address, name="read_address", reset_less=False)

        operands = self._operands(m, step, row, part, marks[1].a, buffer, self._z(m, mx.o))
        lanes = []
        for index, (mant, exp) in enumerate(operands):
            m.submodules[f"memory_{index:02}"] = memory = Memory(shape=self.word_bits, depth=self.n_adapters * self.words, init=[])
            lane = add_part(m, f"lane_{index:02}", self._lane, "lora_lane", platform)
            write, read = memory.write_port(), memory.read_port()
            whole, add = marks[self._WORD + LoraLane.WHOLE], marks[self._WORD + LoraLane.ADD]
            m.d.comb += [
                write.en.eq(self.write.en & (self.write.lane == index)),
                write.addr.eq(self.write.addr),
                write.data.eq(self.write.data),
                read.en.eq(marks[1].valid),
                read.addr.eq(read_address),
                lane.word.eq(read.data),
                Cat(lane.operand).eq(mant),
                Cat(lane.exp).eq(exp),
                lane.whole.eq(whole.a),
                lane.add.eq(add.valid),
                lane.first.eq(add.first),
                lane.rounds.eq(~add.a),
            ]
            lanes.append(lane)

        done = marks[self._sum]
        m.d.comb += [
            mx.i.valid.eq(done.valid & done.a & done.ends),
            mx.i.payload.base.eq(-TERM_FRACTION),
            mx.i.payload.last.eq(done.last),
            mx.o.ready.eq(1),
            *(to.eq(lane.sum[0]) for to, lane in zip(mx.i.payload.data, lanes, strict=True)),
        ]
        rows = [total for lane in lanes for total in lane.sum]
        if self.row_lanes > 1:
            rows = [registered(m, total, name=f"row_{k:02}") for k, total in enumerate(add_pairs(rows))]
        done = marks[self._result]
        m.d.comb += [
            output.push.eq(done.valid & ~done.a & done.ends),
            *(to.eq(saturate(v[RESULT_SHIFT:].as_signed(), self.wide_bits)) for to, v in zip(output.results, rows, strict=True)),
        ]
        return m

    def _add(self, m, steps, addend) -> None:
        """``i`` to ``o``, each result with its addend if its step is to be computed."""
        # ``active`` is high from ``start`` until the results of the last layer's DOWN have moved.
        active, layer = Signal(), Signal(range(max(2, self.n_layers)))
        adds, advance, moves = Signal(), Signal(), Signal()
        i, o = self.i.payload, self.o.payload
        m.d.comb += [
            adds.eq(active & Array([*steps, Const(0, 1)])[i.tag]),  # tags above the steps' are those of the LM head
            advance.eq(~self.o.valid | self.o.ready),
            self.i.ready.eq(advance & (~adds | addend.valid)),
            moves.eq(self.i.valid & self.i.ready),
            addend.ready.eq(moves & adds),
        ]
        with m.If(advance):
            m.d.sync += [self.o.valid.eq(moves), o.tag.eq(i.tag), o.last.eq(i.last)]
            m.d.sync += [
                to.eq(saturate(y + Mux(adds, dy, 0), self.wide_bits))
                for to, y, dy in zip(o.data, i.data, addend.payload.data, strict=True)
            ]
        with m.If(moves & i.last & (i.tag == Step.DOWN)):
            m.d.sync += layer.eq(layer + 1)
            with m.If(layer == self.n_layers - 1):
                m.d.sync += active.eq(0)
        with m.If(self.start):
            m.d.sync += [active.eq(1), layer.eq(0)]

    def _sequence(self, m, steps, address, step, row, part, mark, z_here, buffer, output) -> None:
        """Go through the addresses, one after the other: drives ``mark`` and counts ``address``, ``step``, ``row`` and ``part``."""

        def of_step(value):
            """``value`` of the step's matrix."""
            return Array(Const(value(matrix)) for matrix in self.matrices)[step]

        def last_row(matrix: LoraMatrix) -> int:
            """First row of the last address of B."""
            return (matrix.rows - 1) // self.rows_at_once * self.rows_at_once

        layer = Signal(range(max(2, self.n_layers)))
        block = Signal(buffer.address_bits)
        group = Signal(range(max(matrix.targets for matrix in self.matrices) * self.rank // self.lora_lanes))
        block_ends, group_ends, begins, ends, last = (
            Signal(name=n) for n in ("block_ends", "group_ends", "begins", "ends", "last")
        )
        m.d.comb += [
            buffer.word.eq(block),
            block_ends.eq(block == of_step(lambda matrix: matrix.blocks - 1)),
            group_ends.eq(group == of_step(lambda matrix: matrix.targets * self.rank // self.lora_lanes - 1)),
            begins.eq(part == 0),
            ends.eq(part == self.row_addresses - 1),
            last.eq(row == of_step(last_row)),
            output.last.eq(last),
            output.beats.eq(
                Mux(last, of_step(lambda matrix: (matrix.rows - 1 - last_row(matrix)) // self.vector_lanes), output.max_beats - 1)
            ),
        ]

        def next_step():
            m.d.sync += step.eq(step + 1)
            m.next = "A"
            with m.If(step == Step.DOWN):
                m.d.sync += layer.eq(layer + 1)
                with m.If(layer == self.n_layers - 1):
                    m.next = "IDLE"

        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.start):
                    first = Array(Const(max(0, n - 1) * self.words, len(address)) for n in range(self.n_adapters + 1))
                    m.d.sync += [address.eq(first[self.adapter]), layer.eq(0)]
                    m.next = "A"
            with m.State("A"):
                with m.If(buffer.complete & Array(steps)[step]):
                    m.d.comb += [
                        mark.valid.eq(1),
                        mark.a.eq(1),
                        mark.first.eq(block == 0),
                        mark.ends.eq(block_ends),
                        mark.last.eq(block_ends & group_ends),
                        buffer.release.eq(mark.last),
                    ]
                    m.d.sync += [address.eq(address + 1), block.eq(block + 1)]
                    with m.If(block_ends):
                        m.d.sync += [block.eq(0), group.eq(group + 1)]
                    with m.If(mark.last):
                        m.d.sync += group.eq(0)
                        m.next = "B"
                with m.Elif(buffer.complete):
                    m.d.comb += buffer.release.eq(1)
                    m.d.sync += address.eq(address + of_step(lambda matrix: matrix.words(self.rank, self.lora_lanes)))
                    next_step()
            with m.State("B"):
                with m.If(z_here & (output.free | ~begins)):
                    m.d.comb += [mark.valid.eq(1), mark.first.eq(begins), mark.ends.eq(ends), output.allocate.eq(begins)]
                    m.d.sync += [address.eq(address + 1), part.eq(part + 1)]
                    with m.If(ends):
                        m.d.sync += [part.eq(0), row.eq(row + self.rows_at_once)]
                        with m.If(last):
                            m.d.sync += [row.eq(0), z_here.eq(0)]
                            next_step()

    def _z(self, m, o) -> list:
        """Registers that take in z of a step: (mantissas, exponent) of each block, projection after projection."""
        beats = self.nb // self.lora_lanes
        n_blocks = max(matrix.targets for matrix in self.matrices) * self.row_blocks
        mant = [Signal(8 * self.lora_lanes, name=f"z_{k:03}", reset_less=True) for k in range(n_blocks * beats)]
        exp = [Signal(signed(EXP_BITS), name=f"z_exp_{c}", reset_less=True) for c in range(n_blocks)]
        index = Signal(range(len(mant)))
        with m.If(o.valid):
            m.d.sync += index.eq(Mux(o.payload.last, 0, index + 1))
            with m.Switch(index):
                for k, to in enumerate(mant):
                    with m.Case(k):
                        m.d.sync += [to.eq(o.payload.mant), exp[k // beats].eq(o.payload.exp)]
        return [(Cat(mant[c * beats : (c + 1) * beats]), e) for c, e in enumerate(exp)]

    def _operands(self, m, step, row, part, of_a, buffer, z) -> list:
        """The operands of each lane's word in stage 2: 32 mantissas, and the exponents of their groups.

        They are x in A, and in B the z of the projection to which the row belongs.  Lanes and groups whose operands are always
        equal share the registers.
        """
        # An aligned run of this many rows never straddles k, v and q; its rows are therefore all of one projection.
        run_rows = gcd(self.k_rows, self.rows_at_once)

        @cache
        def projection(run: int, turn: int) -> Signal:
            """The projection of a run's rows, in stage 1.

            Rows of gate and up take turns, ``vector_lanes`` rows each: ``turn`` is 1 for the odd ones of an address.
            """
            first = run * run_rows
            which = Signal(2, name=f"projection_{run}_{turn}", reset_less=True)
            with m.Switch(step):
                with m.Case(Step.QKV):
                    m.d.sync += which.eq((row >= max(0, self.k_rows - first)) + (row >= max(0, 2 * self.k_rows - first)))
                with m.Case(Step.GATE_UP):
                    m.d.sync += which.eq(row[ceil_log2(self.vector_lanes)] | turn)
                with m.Default():
                    m.d.sync += which.eq(0)
            return which

        @cache
        def choose(g: int, run: int, turn: int, c: int):
            """(mantissas, exponent) for group ``g`` of a word whose rows are in ``run``, and for block ``c`` of the rank."""
            which = projection(run, turn)
            if self.row_addresses > 1:
                which, blocks = Cat(registered(m, part, name="part_1"), which), z
            else:
                blocks = z[c :: self.row_blocks]
            x = Cat(buffer.mant)[8 * self.nb * g : 8 * self.nb * (g + 1)]
            name = f"{g}_{run}_{turn}_{c}"
            return (
                registered(m, Mux(of_a, x, Array(mant for mant, _ in blocks)[which]), name=f"operand_{name}"),
                registered(m, Mux(of_a, buffer.exp, Array(exp for _, exp in blocks)[which]), name=f"exp_{name}"),
            )

        lanes = []
        for lane in range(self.lora_lanes):
            groups = []
            for g in range(self.groups):
                r, c = divmod(lane * self.groups + g, self.row_lanes)
                groups.append(choose(g, r // run_rows, r // self.vector_lanes & 1, c))
            lanes.append(tuple(Cat(*values) for values in zip(*groups, strict=True)))
        return lanes
