"""The unit of replication: a run of layers behind one fabric, and the LM head in the last stage of a chain."""

from amaranth.hdl import Array, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hdl.attention.attention import Attention
from hdl.config import ChipConfig
from hdl.fabric.matvec import Matvec
from hdl.interface import LOAD_REPLY, LOAD_WORD
from hdl.lib.clock_gate import add_gated
from hdl.lib.rom import RomPort, RowRom, WeightRom
from hdl.lib.skid import Skid
from hdl.lib.streams import context_layout, stage_beat, struct, vector_beat
from hdl.lora.adder import Lora
from hdl.lora.loader import LoraLoader
from hdl.mx import Mx
from hdl.residual import Residual
from hdl.rmsnorm import RMSNorm
from hdl.rope import RoPE
from hdl.swiglu import SwiGLU
from weights_to_rom.adapters.lora import layout_word
from weights_to_rom.model_format import BLOCK, ModelFormat
from weights_to_rom.rom_map import ROW_WORD, weight_word
from weights_to_rom.schedule import Step, head_matrix, layer_matrices, lora_matrices


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
    the input buffer that the fabric does not read.

    With ``lora_rank`` the LoRA adder stands between matvec's results and their users, a cycle for each beat; it
    multiplies beside the fabric, whose results wait for it in a queue that is long enough for the fabric to go on.

    The residual vector after the last layer leaves by ``o``; in a stage with the ``head`` it goes through the final
    norm and the LM head instead, if its token's context asks for a sample, and is dropped if not.

    Members
    -------
    i : In(stream stage_beat)            residual vectors, Wide; ready for all of a vector
    o : Out(stream stage_beat)           without head: after the last layer
    logits : Out(stream vector_beat)     with head: Wide, in token order
    load : In(stream LOAD_WORD)         with LoRA: frames of adapters (docs/arithmetic.md, section 6),
    loaded : Out(stream LOAD_REPLY)      an answer to each;
    ready : Out(n_adapters + 1)          bit a: adapter a is there, and whole; bit 0, for none, is always set;
    in_use : In                          the adapter of the token under way, from when ``ready`` was looked at
    weights, rows : In(RomPort)          with head: reads for the embedding, which shares the ROM of a tied head;
    peek : In(1)                         it holds the ROM ports while this is high, with no token in the stage
    done : Out(1)                        the last beat of a token's vector leaves in this cycle, or of its logits left in the one
                                         before
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
        self.weights_port = RomPort(width=weight_word(b).width, depth=self.n_words, lanes=r)
        self.rows_port = RomPort(width=ROW_WORD.width, depth=self.n_groups, lanes=r)
        context = context_layout(config.n_sequences, config.max_context, config.position_bits)
        beat = stage_beat(vl, model.wide_bits, context)
        members = {"i": In(stream.Signature(beat)), "done": Out(1), "busy": Out(1), "step": Out(3)}
        if config.lora_rank:
            members |= {
                "load": In(stream.Signature(struct(LOAD_WORD))),
                "loaded": Out(stream.Signature(struct(LOAD_REPLY))),
                "ready": Out(config.n_adapters + 1),
                "in_use": In(range(config.n_adapters + 1)),
            }
        if head:
            members |= {
                "logits": Out(stream.Signature(vector_beat(vl, model.wide_bits))),
                "weights": In(self.weights_port),
                "rows": In(self.rows_port),
                "peek": In(1),
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
        mx_norm = Mx(lanes=vl, o_lanes=config.x_lanes, block=BLOCK, width=len(rmsnorm.o.payload.data[0]))
        rope = RoPE(
            n_heads=model.n_heads,
            n_kv_heads=model.n_kv_heads,
            head_dim=model.head_dim,
            lanes=vl,
            wide_bits=wide,
            sine_bits=model.sine_bits,
            position_bits=config.position_bits,
            sinks=config.n_sinks > 0,
        )
        mx_qkv = Mx(lanes=vl, block=model.kv_block, width=wide)
        attention = Attention(model=model, config=config)
        mx_attention = Mx(lanes=vl, o_lanes=config.x_lanes, block=BLOCK, width=wide + 4)
        swiglu = SwiGLU(lanes=vl, wide_bits=wide)
        mx_swiglu = Mx(lanes=vl, o_lanes=config.x_lanes, block=BLOCK, width=2 * wide)
        for name, unit in {
            "residual": residual,
            "mx_norm": mx_norm,
            "rope": rope,
            "mx_qkv": mx_qkv,
            "attention": attention,
            "mx_attention": mx_attention,
            "swiglu": swiglu,
            "mx_swiglu": mx_swiglu,
        }.items():
            add_gated(m, name, unit)
        add_gated(m, "rmsnorm", rmsnorm, wake=rmsnorm.restart)
        lora = self._lora_unit()
        m.submodules.matvec = matvec = Matvec(
            row_lanes=config.row_lanes,
            block_lanes=config.block_lanes,
            vector_lanes=vl,
            x_lanes=config.x_lanes,
            matrices=self.all_matrices,
            wide_bits=wide,
            multiplier=config.multiplier,
            queue=self._queue(lora),
        )
        # The cache is ready for some beats, the queries for others: that is not to hold up what is before them within the cycle.
        m.submodules.qkv_skid = qkv_skid = Skid(mx_qkv.o.payload.shape())
        connect(m, qkv_skid.o, attention.i)
        for producer, consumer in (
            (rmsnorm, mx_norm),
            (rope, mx_qkv),
            (mx_qkv, qkv_skid),
            (attention, mx_attention),
            (swiglu, mx_swiglu),
        ):
            connect(m, producer.o, consumer.i)
        self._roms(m, matvec)

        # The token that is here.
        context, arrived = Signal(self.i.payload.context.shape()), Signal(self.i.payload.context.shape())
        loading, running, begins = Signal(), Signal(), Signal()
        # The cycle after that in which the first beat moved.  A register: it has to reach all of the stage.
        m.d.sync += [begins.eq(self.i.valid & ~loading & ~running), arrived.eq(self.i.payload.context)]
        with m.If(begins):
            m.d.sync += context.eq(arrived)
        m.d.comb += rmsnorm.restart.eq(begins)

        # What takes the results, and what that gives them to, is not to hold up the fabric within the cycle.
        m.submodules.results = results = Skid(matvec.o.payload.shape())
        connect(m, matvec.o, results.i)
        result = results.o
        if lora is not None:
            self._connect_lora(m, lora, result, rmsnorm.restart, context, arrived.adapter)
            result = lora.o

        # Residual: the vector that arrives replaces it, results of o and down are added.
        to_residual = Signal()
        m.d.comb += to_residual.eq(self._is(result, Step.O) | self._is(result, Step.DOWN))
        with m.If(~running):
            m.d.comb += [
                # Nothing of a token before is left in residual and norm: they take a beat a cycle.
                residual.i.valid.eq(self.i.valid),
                self.i.ready.eq(1),
                residual.i.payload.data.eq(self.i.payload.data),
                residual.i.payload.last.eq(self.i.payload.last),
                residual.i.payload.load.eq(1),
            ]
            with m.If(self.i.valid):
                m.d.sync += [loading.eq(~self.i.payload.last), running.eq(self.i.payload.last)]
        with m.Else():
            m.d.comb += [
                residual.i.valid.eq(result.valid & to_residual),
                residual.i.payload.data.eq(result.payload.data),
                residual.i.payload.last.eq(result.payload.last),
            ]

        # Where the updated residual goes: through a norm to the next matrix, and after the last layer to the head.
        vector = Signal(range(2 * n_layers + 1))
        final = Signal(init=n_layers == 0)  # vector == 2 * n_layers: a register, as all that is ready depends on it
        done = Signal()
        vector_ends = Signal()
        m.d.comb += vector_ends.eq(residual.o.valid & residual.o.ready & residual.o.payload.last)
        with m.If(vector_ends):
            m.d.sync += [vector.eq(vector + 1), final.eq(vector == 2 * n_layers - 1)]
        m.d.comb += [rmsnorm.i.payload.data.eq(residual.o.payload.data), rmsnorm.i.payload.last.eq(residual.o.payload.last)]
        with m.If(~final | (context.sample & self.head)):
            m.d.comb += [rmsnorm.i.valid.eq(residual.o.valid), residual.o.ready.eq(rmsnorm.i.ready)]
        with m.Elif(Const(self.head)):
            m.d.comb += [residual.o.ready.eq(1), done.eq(residual.o.valid & residual.o.payload.last)]
        if not self.head:
            m.d.comb += [
                self.o.payload.data.eq(residual.o.payload.data),
                self.o.payload.context.eq(context),
                self.o.payload.last.eq(residual.o.payload.last),
            ]
            with m.If(final):
                m.d.comb += [self.o.valid.eq(residual.o.valid), residual.o.ready.eq(self.o.ready), done.eq(vector_ends)]
        m.d.comb += self.done.eq(done)
        with m.If(done):
            m.d.sync += [running.eq(0), vector.eq(0), final.eq(n_layers == 0)]

        # Results of the fabric, by matrix.
        layer = Signal(range(max(2, n_layers)))
        m.d.comb += [
            rope.i.valid.eq(result.valid & self._is(result, Step.QKV)),
            rope.i.payload.data.eq(result.payload.data),
            rope.i.payload.last.eq(result.payload.last),
            rope.position.eq(context.position),
            # No sink is further away than in a context that is just full.
            rope.sink_position.eq(Mux(context.whole, config.max_context - 1, context.place)),
            attention.sequence.eq(context.sequence),
            attention.layer.eq(layer),
            attention.place.eq(context.place),
            attention.whole.eq(context.whole),
            swiglu.i.valid.eq(result.valid & self._is(result, Step.GATE_UP)),
            swiglu.i.payload.data.eq(result.payload.data),
            swiglu.i.payload.last.eq(result.payload.last),
        ]
        with m.Switch(result.payload.tag):
            with m.Case(Step.QKV):
                m.d.comb += result.ready.eq(rope.i.ready)
            with m.Case(Step.GATE_UP):
                m.d.comb += result.ready.eq(swiglu.i.ready)
            if self.head:
                with m.Case(Step.HEAD):
                    m.d.comb += result.ready.eq(self.logits.ready)
            with m.Default():
                m.d.comb += result.ready.eq(residual.i.ready & running)
        result_ends = Signal()
        m.d.comb += result_ends.eq(result.valid & result.ready & result.payload.last)
        # Attention of this layer ended before its o began, so nothing looks at the number any more.
        layer_ended = Signal()
        m.d.sync += layer_ended.eq(result_ends & self._is(result, Step.DOWN))
        with m.If(layer_ended):
            m.d.sync += layer.eq(layer + 1)
        with m.If(done):
            m.d.sync += layer.eq(0)
        if self.head:
            m.d.comb += [
                self.logits.valid.eq(result.valid & self._is(result, Step.HEAD)),
                self.logits.payload.data.eq(result.payload.data),
                self.logits.payload.last.eq(result.payload.last),
            ]
            # A register: it is long before the sampler's answer that the chip looks at it, and the sampler's ready is behind it.
            head_ended = Signal()
            m.d.sync += head_ended.eq(result_ends & self._is(result, Step.HEAD))
            with m.If(head_ended):
                m.d.comb += done.eq(1)

        # One vector at a time is on its way to the input buffer: the order of the matrices sees to that.
        producers = (mx_norm, mx_attention, mx_swiglu)
        x = stream.Signature(matvec.x.payload.shape()).create(path=("x",))
        for producer in producers:
            with m.If(producer.o.valid):
                m.d.comb += [x.valid.eq(1), x.payload.eq(producer.o.payload), producer.o.ready.eq(x.ready)]
        m.d.comb += [matvec.x.payload.eq(x.payload), matvec.x.valid.eq(x.valid), x.ready.eq(matvec.x.ready)]
        if lora is not None:
            # The adder gets the layers' vectors, too, but not the head's: a beat moves when both buffers have room,
            # which does not depend on its being there.
            vectors = Signal(range(len(self.matrices) * n_layers + 1))
            with m.If(done):
                m.d.sync += vectors.eq(0)
            with m.Elif(x.valid & x.ready & x.payload.last):
                m.d.sync += vectors.eq(vectors + 1)
            m.d.comb += lora.x.payload.eq(x.payload)
            with m.If((context.adapter != 0) & (vectors != len(self.matrices) * n_layers)):
                m.d.comb += [
                    matvec.x.valid.eq(x.valid & lora.x.ready),
                    lora.x.valid.eq(x.valid & matvec.x.ready),
                    x.ready.eq(matvec.x.ready & lora.x.ready),
                ]

        self._commands(m, matvec, start=rmsnorm.restart, sample=context.sample)
        with m.If(matvec.command.valid & matvec.command.ready):
            m.d.sync += self.step.eq(matvec.command.payload.tag)
        m.d.comb += self.busy.eq(matvec.busy)
        return m

    @staticmethod
    def _is(result, step: Step):
        return result.payload.tag == step

    def _lora_unit(self) -> Lora | None:
        config, model = self.config, self.model
        if not config.lora_rank:
            return None
        return Lora(
            matrices=lora_matrices(model),
            n_layers=self.n_layers,
            k_rows=model.n_kv_heads * model.head_dim,
            rank=config.lora_rank,
            lora_lanes=config.lora_lanes,
            n_adapters=config.n_adapters,
            vector_lanes=config.vector_lanes,
            x_lanes=config.x_lanes,
            wide_bits=model.wide_bits,
        )

    def _queue(self, lora: Lora | None) -> int:
        """Groups of results that the fabric may have to hold until the adder has the first addend of their matrix."""
        if lora is None:
            return 0
        r, b = self.config.row_lanes, self.config.block_lanes
        return max(-(-lora.lead(of) // (m.words(r, b) // m.groups(r))) for m, of in zip(self.matrices, lora.matrices, strict=True))

    def _connect_lora(self, m, lora, result, start, context, adapter):
        """The adder behind the fabric, and the loader of its memory."""
        config, model = self.config, self.model
        m.submodules.lora_loader = loader = LoraLoader(
            n_adapters=config.n_adapters,
            words=lora.words,
            lora_lanes=config.lora_lanes,
            word_bits=lora.word_bits,
            layout=layout_word(model, config.lora_rank, config.lora_lanes, config.vector_lanes),
        )
        uses = Signal()
        m.d.comb += uses.eq(context.adapter != 0)
        add_gated(m, "lora", lora, wake=uses | lora.start | lora.write.en)
        connect(m, flipped(self.load), loader.i)
        connect(m, loader.o, flipped(self.loaded))
        connect(m, loader.write, lora.write)
        connect(m, result, lora.i)
        m.d.comb += [
            self.ready.eq(loader.ready),
            loader.in_use.eq(self.in_use),
            lora.start.eq(start & (adapter != 0)),
            lora.adapter.eq(adapter),
            lora.steps.eq(Array(loader.steps)[adapter]),
        ]

    def _roms(self, m, matvec):
        """The ROMs, and who reads them: the fabric, or the embedding while no token is here."""
        b, r = self.config.block_lanes, self.config.row_lanes
        m.submodules.weight_rom = weight_rom = WeightRom(width=weight_word(b).width, depth=self.n_words, lanes=r)
        m.submodules.row_rom = row_rom = RowRom(width=ROW_WORD.width, depth=self.n_groups, lanes=r)
        for rom, reader, guest in ((weight_rom, matvec.weights, "weights"), (row_rom, matvec.rows, "rows")):
            m.d.comb += [to.eq(data) for to, data in zip(reader.data, rom.port.data, strict=True)]
            if not self.head:
                m.d.comb += [rom.port.en.eq(reader.en), rom.port.addr.eq(reader.addr)]
            else:
                port = getattr(self, guest)
                m.d.comb += [to.eq(data) for to, data in zip(port.data, rom.port.data, strict=True)]
                # Each reads only while the other does not.
                m.d.comb += [rom.port.en.eq(reader.en | port.en), rom.port.addr.eq(Mux(self.peek, port.addr, reader.addr))]

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
