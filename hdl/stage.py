"""The unit of replication: a run of layers behind one fabric, and the LM head in the last stage of a chain."""

from amaranth.hdl import Array, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect

from hdl.attention import Attention
from hdl.clock_gate import add_gated
from hdl.config import ChipConfig
from hdl.matvec import ROW_BITS, Matvec
from hdl.mx import Mx
from hdl.residual import Residual
from hdl.rmsnorm import RMSNorm
from hdl.rom import RomPort, RowRom, WeightRom
from hdl.rope import RoPE
from hdl.row_lane import word_bits
from hdl.streams import context_layout, stage_beat, vector_beat
from hdl.swiglu import SwiGLU
from weights_to_rom.model_format import BLOCK, ModelFormat
from weights_to_rom.schedule import Step, head_matrix, layer_matrices


class Stage(wiring.Component):
    """A run of ``n_layers`` layers, one token at a time.

    ::

        i -> residual -> rmsnorm -> mx ----------------------------------+
                ^ ^                                                      |
                | |            +-> rope -> mx -> attention -> mx --------+
                | |  qkv rows  |   (k, v to the cache; q meets it)       v
                | +-- o, down -+-------------------------- matvec <- input buffer
                +-- (next add) |                                         ^
                               +-- gate, up -> swiglu -> mx -------------+
                               +-- head rows -> logits

    The fabric (``matvec``) reads its ROM once from end to end for a token, in the order of
    ``weights_to_rom.schedule``; everything else waits for data.  Queries meet the cache while later rows of q are
    computed, SwiGLU and the residual addition work on rows as they come, and each vector unit writes the half of
    the input buffer that the fabric does not read.  A LoRA adder would stand between matvec's results and their
    users: the context that its adapter number comes from is there.

    The residual vector after the last layer leaves by ``o``; in a stage with the ``head`` it goes through the final
    norm and the LM head instead, if its token's context asks for a sample, and is dropped if not.

    Members
    -------
    i : In(stream stage_beat)            residual vectors, Wide
    o : Out(stream stage_beat)           without head: after the last layer
    logits : Out(stream vector_beat)     with head: Wide, in token order
    weights, rows : In(RomPort)          with head: reads for the embedding, which shares the ROM of a tied head;
    peek : In(1)                         it holds the ROM ports while this is high, with no token in the stage
    done : Out(1)                        the last beat of a token's vector or logits leaves in this cycle
    busy : Out(1)                        the fabric reads a weight word in this cycle
    step : Out(3)                        the matrix it belongs to (``schedule.Step``)
    """

    def __init__(self, *, model: ModelFormat, config: ChipConfig, n_layers: int, head: bool):
        self.model, self.config, self.n_layers, self.head = model, config, n_layers, head
        self.matrices = layer_matrices(model) if n_layers else ()
        self.all_matrices = self.matrices * n_layers + ((head_matrix(model),) if head else ())
        r, b, vl = config.row_lanes, config.block_lanes, config.vector_lanes
        self.n_words = sum(m.words(r, b) for m in self.all_matrices)
        self.n_groups = sum(m.groups(r) for m in self.all_matrices)
        self.weights_port = RomPort(width=word_bits(b), depth=self.n_words, lanes=r)
        self.rows_port = RomPort(width=ROW_BITS, depth=self.n_groups, lanes=r)
        context = context_layout(config.n_sequences, config.max_context, config.position_bits)
        beat = stage_beat(vl, model.wide_bits, context)
        members = {"i": In(stream.Signature(beat)), "done": Out(1), "busy": Out(1), "step": Out(3)}
        if head:
            members |= {
                "logits": Out(stream.Signature(vector_beat(vl, model.wide_bits))),
                "weights": In(self.weights_port), "rows": In(self.rows_port), "peek": In(1),
            }
        else:
            members |= {"o": Out(stream.Signature(beat))}
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        model, config, n_layers = self.model, self.config, self.n_layers
        vl, wide = config.vector_lanes, model.wide_bits

        residual = Residual(dim_padded=model.dim_padded, lanes=vl, wide_bits=wide)
        rmsnorm = RMSNorm(dim=model.dim, lanes=vl, wide_bits=wide, n_norms=2 * n_layers + self.head)
        mx_norm = Mx(lanes=vl, block=BLOCK, width=len(rmsnorm.o.payload.data[0]))
        rope = RoPE(n_heads=model.n_heads, n_kv_heads=model.n_kv_heads, head_dim=model.head_dim, lanes=vl,
                    wide_bits=wide, sine_bits=model.sine_bits, position_bits=config.position_bits, sinks=config.n_sinks > 0)
        mx_qkv = Mx(lanes=vl, block=model.kv_block, width=wide)
        attention = Attention(model=model, config=config)
        mx_attention = Mx(lanes=vl, block=BLOCK, width=wide + 4)
        swiglu = SwiGLU(lanes=vl, wide_bits=wide)
        mx_swiglu = Mx(lanes=vl, block=BLOCK, width=2 * wide)
        for name, unit in {"residual": residual, "mx_norm": mx_norm, "rope": rope, "mx_qkv": mx_qkv, "attention": attention,
                           "mx_attention": mx_attention, "swiglu": swiglu, "mx_swiglu": mx_swiglu}.items():
            add_gated(m, name, unit)
        add_gated(m, "rmsnorm", rmsnorm, wake=rmsnorm.restart)
        m.submodules.matvec = matvec = Matvec(
            row_lanes=config.row_lanes, block_lanes=config.block_lanes, vector_lanes=vl,
            matrices=self.all_matrices, wide_bits=wide, multiplier=config.multiplier)
        for producer, consumer in ((rmsnorm, mx_norm), (rope, mx_qkv), (mx_qkv, attention), (attention, mx_attention),
                                   (swiglu, mx_swiglu)):
            connect(m, producer.o, consumer.i)
        self._roms(m, matvec)

        # The token that is here.
        context = Signal(self.i.payload.context.shape())
        loading, running = Signal(), Signal()
        with m.If(~loading & ~running & self.i.valid):
            m.d.sync += [context.eq(self.i.payload.context), loading.eq(1)]
            m.d.comb += rmsnorm.restart.eq(1)

        # Residual: the vector that arrives replaces it, results of o and down are added.
        to_residual = Signal()
        m.d.comb += to_residual.eq(self._is(matvec, Step.O) | self._is(matvec, Step.DOWN))
        with m.If(loading):
            m.d.comb += [
                residual.i.valid.eq(self.i.valid), self.i.ready.eq(residual.i.ready),
                residual.i.payload.data.eq(self.i.payload.data), residual.i.payload.last.eq(self.i.payload.last),
                residual.i.payload.load.eq(1),
            ]
            with m.If(self.i.valid & self.i.ready & self.i.payload.last):
                m.d.sync += [loading.eq(0), running.eq(1)]
        with m.Else():
            m.d.comb += [
                residual.i.valid.eq(matvec.o.valid & to_residual),
                residual.i.payload.data.eq(matvec.o.payload.data), residual.i.payload.last.eq(matvec.o.payload.last),
            ]

        # Where the updated residual goes: through a norm to the next matrix, and after the last layer to the head.
        vector = Signal(range(2 * n_layers + 1))
        final = Signal()
        m.d.comb += final.eq(vector == 2 * n_layers)
        done = Signal()
        vector_ends = Signal()
        m.d.comb += vector_ends.eq(residual.o.valid & residual.o.ready & residual.o.payload.last)
        with m.If(vector_ends):
            m.d.sync += vector.eq(vector + 1)
        m.d.comb += [rmsnorm.i.payload.data.eq(residual.o.payload.data),
                     rmsnorm.i.payload.last.eq(residual.o.payload.last)]
        with m.If(~final | (context.sample & self.head)):
            m.d.comb += [rmsnorm.i.valid.eq(residual.o.valid), residual.o.ready.eq(rmsnorm.i.ready)]
        with m.Elif(Const(self.head)):
            m.d.comb += [residual.o.ready.eq(1), done.eq(vector_ends)]
        if not self.head:
            m.d.comb += [self.o.payload.data.eq(residual.o.payload.data), self.o.payload.context.eq(context),
                         self.o.payload.last.eq(residual.o.payload.last)]
            with m.If(final):
                m.d.comb += [self.o.valid.eq(residual.o.valid), residual.o.ready.eq(self.o.ready), done.eq(vector_ends)]
        m.d.comb += self.done.eq(done)
        with m.If(done):
            m.d.sync += [running.eq(0), vector.eq(0)]

        # Results of the fabric, by matrix.
        layer = Signal(range(max(2, n_layers)))
        m.d.comb += [
            rope.i.valid.eq(matvec.o.valid & self._is(matvec, Step.QKV)),
            rope.i.payload.data.eq(matvec.o.payload.data), rope.i.payload.last.eq(matvec.o.payload.last),
            rope.position.eq(context.position),
            # No sink is further away than in a context that is just full.
            rope.sink_position.eq(Mux(context.whole, config.max_context - 1, context.place)),
            attention.sequence.eq(context.sequence), attention.layer.eq(layer),
            attention.place.eq(context.place), attention.whole.eq(context.whole),
            swiglu.i.valid.eq(matvec.o.valid & self._is(matvec, Step.GATE_UP)),
            swiglu.i.payload.data.eq(matvec.o.payload.data), swiglu.i.payload.last.eq(matvec.o.payload.last),
        ]
        with m.Switch(matvec.o.payload.tag):
            with m.Case(Step.QKV):
                m.d.comb += matvec.o.ready.eq(rope.i.ready)
            with m.Case(Step.GATE_UP):
                m.d.comb += matvec.o.ready.eq(swiglu.i.ready)
            if self.head:
                with m.Case(Step.HEAD):
                    m.d.comb += matvec.o.ready.eq(self.logits.ready)
            with m.Default():
                m.d.comb += matvec.o.ready.eq(residual.i.ready & ~loading)
        result_ends = Signal()
        m.d.comb += result_ends.eq(matvec.o.valid & matvec.o.ready & matvec.o.payload.last)
        with m.If(result_ends & self._is(matvec, Step.DOWN)):
            # Attention of this layer ended before its o began, so nothing looks at the number any more.
            m.d.sync += layer.eq(layer + 1)
        with m.If(done):
            m.d.sync += layer.eq(0)
        if self.head:
            m.d.comb += [
                self.logits.valid.eq(matvec.o.valid & self._is(matvec, Step.HEAD)),
                self.logits.payload.data.eq(matvec.o.payload.data), self.logits.payload.last.eq(matvec.o.payload.last),
            ]
            with m.If(result_ends & self._is(matvec, Step.HEAD)):
                m.d.comb += done.eq(1)

        # One vector at a time is on its way to the input buffer: the order of the matrices sees to that.
        producers = (mx_norm, mx_attention, mx_swiglu)
        for producer in producers:
            with m.If(producer.o.valid):
                m.d.comb += [matvec.x.valid.eq(1), matvec.x.payload.eq(producer.o.payload),
                             producer.o.ready.eq(matvec.x.ready)]

        self._commands(m, matvec, start=rmsnorm.restart, sample=context.sample)
        with m.If(matvec.command.valid & matvec.command.ready):
            m.d.sync += self.step.eq(matvec.command.payload.tag)
        m.d.comb += self.busy.eq(matvec.busy)
        return m

    @staticmethod
    def _is(matvec, step: Step):
        return matvec.o.payload.tag == step

    def _roms(self, m, matvec):
        """The ROMs, and who reads them: the fabric, or the embedding while no token is here."""
        b, r = self.config.block_lanes, self.config.row_lanes
        m.submodules.weight_rom = weight_rom = WeightRom(width=word_bits(b), depth=self.n_words, lanes=r)
        m.submodules.row_rom = row_rom = RowRom(width=ROW_BITS, depth=self.n_groups, lanes=r)
        for rom, reader, guest in ((weight_rom, matvec.weights, "weights"), (row_rom, matvec.rows, "rows")):
            m.d.comb += [rom.port.en.eq(reader.en), rom.port.addr.eq(reader.addr)]
            m.d.comb += [to.eq(data) for to, data in zip(reader.data, rom.port.data, strict=True)]
            if self.head:
                port = getattr(self, guest)
                m.d.comb += [to.eq(data) for to, data in zip(port.data, rom.port.data, strict=True)]
                with m.If(self.peek):
                    m.d.comb += [rom.port.en.eq(port.en), rom.port.addr.eq(port.addr)]

    def _commands(self, m, matvec, *, start, sample):
        """Tell the fabric its matrices, one token's worth from each start; it waits for their inputs by itself."""
        active = Signal()
        matrix = Signal(range(len(self.all_matrices)))
        command = matvec.command.payload
        kinds = self.matrices + ((head_matrix(self.model),) if self.head else ())
        kind = Signal(range(max(2, len(kinds))))
        for name, values in (
            ("tag", [k.step for k in kinds]),
            ("rows", [k.rows for k in kinds]),
            ("blocks", [k.blocks for k in kinds]),
            ("two_planes", [k.planes == 2 for k in kinds]),
        ):
            m.d.comb += command[name].eq(Array(Const(int(v), len(command[name])) for v in values)[kind])
        last_layer_matrix = len(self.matrices) * self.n_layers - 1
        m.d.comb += [command.restart.eq(matrix == 0), matvec.command.valid.eq(active)]
        with m.If(active & matvec.command.ready):
            m.d.sync += [matrix.eq(matrix + 1), kind.eq(kind + 1)]
            with m.If((kind == len(self.matrices) - 1) & (matrix != last_layer_matrix)):
                m.d.sync += kind.eq(0)
            ends = matrix == len(self.all_matrices) - 1
            if self.head:
                ends = ends | ((matrix == last_layer_matrix) & ~sample)
            with m.If(ends):
                m.d.sync += active.eq(0)
        with m.If(start):
            m.d.sync += [active.eq(1), matrix.eq(0), kind.eq(0)]
