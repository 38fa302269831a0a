"""The unit of replication: a run of layers that share one fabric, and the LM head in the last stage of a chain."""

from collections.abc import Sequence
from dataclasses import replace

from amaranth.hdl import Array, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hdl.config import ChipConfig
from hdl.interface import LOAD_REPLY, LOAD_WORD
from hdl.lib.clock_gate import add_gated
from hdl.lib.rom import RomPort, RowRom, WeightRom
from hdl.lib.skid import Skid
from hdl.lib.streams import context_layout, stage_beat, struct, vector_beat
from hdl.lora.adder import Lora
from hdl.lora.loader import LoraLoader
from hdl.units import FABRIC, Unit, stage_units
from weights_to_rom.adapters.lora import layout_word
from weights_to_rom.model_format import ModelFormat
from weights_to_rom.rom_map import ROW_WORD, weight_word
from weights_to_rom.schedule import Step, head_matrix, layer_matrices


class Stage(wiring.Component):
    """A run of layers, one token at a time.

    ::

        i -> residual -> rmsnorm -> mx ----------------------------------+
                ^ ^                                                      |
                | |            +-> rope -> mx -> attention -> mx --------+
                | |  qkv rows  |   (k, v to the cache; q meets it)       v
                | +-- o, down -+-------------------------- matvec <- input buffer
                +-- (next add) |                                         ^
                               +-- gate, up -> swiglu -> mx -------------+
                               +-- head rows -> logits

    The units stand in the table of ``hdl.units``; this component joins them.  The fabric (``matvec``) reads its ROM once from end
    to end for a token, in the order of ``weights_to_rom.schedule``; all other units wait for data.  Queries meet the cache while
    later rows of q are computed, SwiGLU and the residual addition work on rows as they come, and each conversion writes the half
    of the input buffer that the fabric does not read.

    With ``lora_rank`` the LoRA adder takes the fabric's results and hands them on a cycle later.  It multiplies at the same time
    as the fabric, whose results wait for the adder in a queue that is long enough for the fabric to go on.

    The residual vector after the last layer leaves by ``o``.  In a stage with the ``head`` it goes through the final norm and the
    LM head instead if its token's context asks for a sample, and is dropped if not.

    Parameters
    ----------
    model : ModelFormat
        The whole model.
    config : ChipConfig
        Lanes and memories.
    layers : sequence of int, optional
        The model's layers that the stage computes, in order; by default all.  KV cache and adapter memory hold just those.
    head : bool
        Whether the stage ends in the final norm and the LM head.
    prefix : str
        Begins the names of the stage's ROMs; the stages of one design need different ones.

    Members
    -------
    i : In(stream stage_beat)            residual vectors, Wide; ready for all beats of a vector
    o : Out(stream stage_beat)           without head: after the last layer
    logits : Out(stream vector_beat)     with head: Wide, in token order
    load : In(stream LOAD_WORD)          with LoRA: load images of adapters (docs/arithmetic.md, section 6),
    loaded : Out(stream LOAD_REPLY)      an answer to each;
    ready : Out(n_adapters + 1)          bit a: adapter a is loaded completely; bit 0, for no adapter, is always set;
    in_use : In                          the adapter of the token under way, valid from the cycle that reads ``ready``
    weights, rows : In(RomPort)          with head: reads for the embedding, which shares the ROM of a tied head;
    peek : In(1)                         the embedding holds the ROM ports; only while no token is in the stage
    done : Out(1)                        the last beat of a token's vector leaves in this cycle, or the last beat of its logits
                                         left in the cycle before
    busy : Out(1)                        the fabric reads a weight word in this cycle
    step : Out(3)                        the matrix it belongs to (``schedule.Step``)

    Raises
    ------
    ValueError
        If ``layers`` is empty or names a layer that the model does not have.
    """

    def __init__(
        self, *, model: ModelFormat, config: ChipConfig, layers: Sequence[int] | None = None, head: bool = True, prefix: str = ""
    ):
        layers = range(model.n_layers) if layers is None else layers
        if not layers or not all(0 <= layer < model.n_layers for layer in layers):
            raise ValueError(f"layers must be some of 0 to {model.n_layers - 1}, not {list(layers)}")
        self.config, self.head, self.prefix = config, head, prefix
        self.model = model = replace(model, n_layers=len(layers))
        self.matrices = layer_matrices(model)
        self.all_matrices = self.matrices * model.n_layers + ((head_matrix(model),) if head else ())
        r, b, vl = config.row_lanes, config.block_lanes, config.vector_lanes
        self.n_words = sum(m.words(r, b) for m in self.all_matrices)
        self.n_groups = sum(m.groups(r) for m in self.all_matrices)
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
                "weights": In(RomPort(width=weight_word(b).width, depth=self.n_words, lanes=r)),
                "rows": In(RomPort(width=ROW_WORD.width, depth=self.n_groups, lanes=r)),
                "peek": In(1),
            }
        else:
            members |= {"o": Out(stream.Signature(beat))}
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        table = stage_units(self.model, self.config, head=self.head, prefix=self.prefix)
        units = {name: unit.component for name, unit in table.items()}
        token = _Token(self.i.payload.context.shape())
        self._add_units(m, table)
        self._roms(m, units[FABRIC])
        self._arrive(m, token)
        m.d.comb += units["rmsnorm"].restart.eq(token.begins)
        result = self._results(m, units, token)
        self._to_residual(m, units["residual"], result, token)
        self._from_residual(m, units["residual"], units["rmsnorm"], token)
        self._share_out(m, units, result, token)
        self._to_fabric(m, table, token)
        self._commands(m, units[FABRIC], token)
        return m

    def _add_units(self, m, table: dict[str, Unit]) -> None:
        """The units as submodules, and the streams between those that have one partner."""
        units = {name: unit.component for name, unit in table.items()}
        for name, unit in table.items():
            if unit.gated:
                add_gated(m, name, unit.component)
        add_gated(m, "rmsnorm", units["rmsnorm"], wake=units["rmsnorm"].restart)
        m.submodules[FABRIC] = units[FABRIC]
        # attention.i.ready depends on which of cache and queries the beat is for; the skid keeps that out of the path of ready
        # through mx_qkv and rope.
        m.submodules.qkv_skid = qkv_skid = Skid(units["mx_qkv"].o.payload.shape())
        connect(m, qkv_skid.o, units["attention"].i)
        for name, unit in table.items():
            if unit.feeds not in (None, FABRIC):
                taker = qkv_skid if unit.feeds == "attention" else units[unit.feeds]
                connect(m, units[name].o, taker.i)

    def _arrive(self, m, token: "_Token") -> None:
        """A token is in the stage from its first beat in until ``done``."""
        # ``begins`` is registered because it reaches every part of the stage: it is high a cycle after the first beat moved.
        m.d.sync += [
            token.begins.eq(self.i.valid & ~token.loading & ~token.running),
            token.arrived.eq(self.i.payload.context),
        ]
        with m.If(token.begins):
            m.d.sync += token.context.eq(token.arrived)

    def _results(self, m, units, token: "_Token"):
        """The stream of the fabric's results, with the adapter's additions."""
        # The skid cuts the path of ready from the units that take results to the fabric.
        m.submodules.results = results = Skid(units[FABRIC].o.payload.shape())
        connect(m, units[FABRIC].o, results.i)
        if "lora" not in units:
            return results.o
        self._add_lora(m, units["lora"], results.o, token)
        return units["lora"].o

    def _to_residual(self, m, residual, result, token: "_Token") -> None:
        """The vector that arrives replaces the residual; results of o and down are added to it."""
        to_residual = Signal()
        m.d.comb += to_residual.eq(_is(result, Step.O) | _is(result, Step.DOWN))
        with m.If(~token.running):
            m.d.comb += [
                # No beat of an earlier token is left in residual and rmsnorm: they take a beat each cycle.
                residual.i.valid.eq(self.i.valid),
                self.i.ready.eq(1),
                residual.i.payload.data.eq(self.i.payload.data),
                residual.i.payload.last.eq(self.i.payload.last),
                residual.i.payload.load.eq(1),
            ]
            with m.If(self.i.valid):
                m.d.sync += [token.loading.eq(~self.i.payload.last), token.running.eq(self.i.payload.last)]
        with m.Else():
            m.d.comb += [
                residual.i.valid.eq(result.valid & to_residual),
                residual.i.payload.data.eq(result.payload.data),
                residual.i.payload.last.eq(result.payload.last),
            ]

    def _from_residual(self, m, residual, rmsnorm, token: "_Token") -> None:
        """The updated residual goes through a norm to the next matrix, and after the last layer to the head or to ``o``."""
        n_layers = self.model.n_layers
        vector = Signal(range(2 * n_layers + 1))
        final = Signal()  # vector == 2 * n_layers, registered because all readiness here depends on it
        done, vector_ends = token.done, Signal()
        m.d.comb += vector_ends.eq(residual.o.valid & residual.o.ready & residual.o.payload.last)
        with m.If(vector_ends):
            m.d.sync += [vector.eq(vector + 1), final.eq(vector == 2 * n_layers - 1)]
        m.d.comb += [rmsnorm.i.payload.data.eq(residual.o.payload.data), rmsnorm.i.payload.last.eq(residual.o.payload.last)]
        with m.If(~final | (token.context.sample & self.head)):
            m.d.comb += [rmsnorm.i.valid.eq(residual.o.valid), residual.o.ready.eq(rmsnorm.i.ready)]
        with m.Elif(Const(self.head)):
            m.d.comb += [residual.o.ready.eq(1), done.eq(residual.o.valid & residual.o.payload.last)]
        if not self.head:
            m.d.comb += [
                self.o.payload.data.eq(residual.o.payload.data),
                self.o.payload.context.eq(token.context),
                self.o.payload.last.eq(residual.o.payload.last),
            ]
            with m.If(final):
                m.d.comb += [self.o.valid.eq(residual.o.valid), residual.o.ready.eq(self.o.ready), done.eq(vector_ends)]
        m.d.comb += self.done.eq(done)
        with m.If(done):
            m.d.sync += [token.running.eq(0), vector.eq(0), final.eq(0)]

    def _share_out(self, m, units, result, token: "_Token") -> None:
        """Each result goes to the unit that its matrix is for."""
        rope, attention, swiglu = units["rope"], units["attention"], units["swiglu"]
        context = token.context
        layer = Signal(range(max(2, self.model.n_layers)))
        m.d.comb += [
            rope.i.valid.eq(result.valid & _is(result, Step.QKV)),
            rope.i.payload.data.eq(result.payload.data),
            rope.i.payload.last.eq(result.payload.last),
            rope.position.eq(context.position),
            # No sink is further away than in a context that is just full.
            rope.sink_position.eq(Mux(context.whole, self.config.max_context - 1, context.place)),
            attention.sequence.eq(context.sequence),
            attention.layer.eq(layer),
            attention.place.eq(context.place),
            attention.whole.eq(context.whole),
            swiglu.i.valid.eq(result.valid & _is(result, Step.GATE_UP)),
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
                m.d.comb += result.ready.eq(units["residual"].i.ready & token.running)
        result_ends = Signal()
        m.d.comb += result_ends.eq(result.valid & result.ready & result.payload.last)
        # Attention of this layer ended before its o began, so that nothing reads ``layer`` when it changes.
        layer_ended = Signal()
        m.d.sync += layer_ended.eq(result_ends & _is(result, Step.DOWN))
        with m.If(layer_ended):
            m.d.sync += layer.eq(layer + 1)
        with m.If(token.done):
            m.d.sync += layer.eq(0)
        if self.head:
            m.d.comb += [
                self.logits.valid.eq(result.valid & _is(result, Step.HEAD)),
                self.logits.payload.data.eq(result.payload.data),
                self.logits.payload.last.eq(result.payload.last),
            ]
            # ``head_ended`` is registered because result_ends depends on the sampler's ready.  The cycle does no harm: the chip
            # reads ``done`` long before the sampler answers.
            head_ended = Signal()
            m.d.sync += head_ended.eq(result_ends & _is(result, Step.HEAD))
            with m.If(head_ended):
                m.d.comb += token.done.eq(1)

    def _to_fabric(self, m, table: dict[str, Unit], token: "_Token") -> None:
        """Vectors for the input buffer of the fabric, and of the LoRA adder."""
        matvec = table[FABRIC].component
        x = stream.Signature(matvec.x.payload.shape()).create(path=("x",))
        # The order of the matrices lets only one producer have a vector at a time.
        for producer in (unit.component for unit in table.values() if unit.feeds == FABRIC):
            with m.If(producer.o.valid):
                m.d.comb += [x.valid.eq(1), x.payload.eq(producer.o.payload), producer.o.ready.eq(x.ready)]
        m.d.comb += [matvec.x.payload.eq(x.payload), matvec.x.valid.eq(x.valid), x.ready.eq(matvec.x.ready)]
        if "lora" not in table:
            return
        # The adder gets the layers' vectors too, but not the head's.  A beat moves when both buffers have room, which does not
        # depend on whether there is a beat.
        lora, n_vectors = table["lora"].component, len(self.matrices) * self.model.n_layers
        vectors = Signal(range(n_vectors + 1))
        with m.If(token.done):
            m.d.sync += vectors.eq(0)
        with m.Elif(x.valid & x.ready & x.payload.last):
            m.d.sync += vectors.eq(vectors + 1)
        m.d.comb += lora.x.payload.eq(x.payload)
        with m.If((token.context.adapter != 0) & (vectors != n_vectors)):
            m.d.comb += [
                matvec.x.valid.eq(x.valid & lora.x.ready),
                lora.x.valid.eq(x.valid & matvec.x.ready),
                x.ready.eq(matvec.x.ready & lora.x.ready),
            ]

    def _add_lora(self, m, lora: Lora, result, token: "_Token") -> None:
        """The adder, which takes the fabric's results, and the loader of its memory."""
        config, start, adapter = self.config, token.begins, token.arrived.adapter
        m.submodules.lora_loader = loader = LoraLoader(
            n_adapters=config.n_adapters,
            words=lora.words,
            lora_lanes=config.lora_lanes,
            word_bits=lora.word_bits,
            layout=layout_word(self.model, config.lora_rank, config.lora_lanes, config.vector_lanes),
        )
        uses = Signal()
        m.d.comb += uses.eq(token.context.adapter != 0)
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

    def _roms(self, m, matvec) -> None:
        """The ROMs and their readers: the fabric, and the embedding while no token is in the stage."""
        b, r = self.config.block_lanes, self.config.row_lanes
        m.submodules.weight_rom = weight_rom = WeightRom(
            width=weight_word(b).width, depth=self.n_words, lanes=r, name=self.prefix + "weights"
        )
        m.submodules.row_rom = row_rom = RowRom(width=ROW_WORD.width, depth=self.n_groups, lanes=r, name=self.prefix + "rows")
        for rom, reader, guest in ((weight_rom, matvec.weights, "weights"), (row_rom, matvec.rows, "rows")):
            m.d.comb += [to.eq(data) for to, data in zip(reader.data, rom.port.data, strict=True)]
            if not self.head:
                m.d.comb += [rom.port.en.eq(reader.en), rom.port.addr.eq(reader.addr)]
            else:
                port = getattr(self, guest)
                m.d.comb += [to.eq(data) for to, data in zip(port.data, rom.port.data, strict=True)]
                # Each reads only while the other does not.
                m.d.comb += [rom.port.en.eq(reader.en | port.en), rom.port.addr.eq(Mux(self.peek, port.addr, reader.addr))]

    def _commands(self, m, matvec, token: "_Token") -> None:
        """The fabric's matrices in order, once for each token that begins; the fabric waits for their inputs by itself."""
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
        last_layer_matrix = len(self.matrices) * self.model.n_layers - 1
        m.d.comb += [command.restart.eq(matrix == 0), matvec.command.valid.eq(active)]
        with m.If(active & matvec.command.ready):
            m.d.sync += [matrix.eq(matrix + 1), kind.eq(kind + 1)]
            with m.If((kind == len(self.matrices) - 1) & (matrix != last_layer_matrix)):
                m.d.sync += kind.eq(0)
            ends = matrix == len(self.all_matrices) - 1
            if self.head:
                ends = ends | ((matrix == last_layer_matrix) & ~token.context.sample)
            with m.If(ends):
                m.d.sync += active.eq(0)
        with m.If(token.begins):
            m.d.sync += [active.eq(1), matrix.eq(0), kind.eq(0)]
        with m.If(matvec.command.valid & matvec.command.ready):
            m.d.sync += self.step.eq(matvec.command.payload.tag)
        m.d.comb += self.busy.eq(matvec.busy)


class _Token:
    """The token in the stage.

    ``loading``: some beats of its vector have arrived; ``running``: all of them.  ``arrived`` is the context in the cycle in which
    ``begins`` is high, ``context`` from the next cycle on.
    """

    def __init__(self, context_shape):
        self.context = Signal(context_shape)
        self.arrived = Signal(context_shape)
        self.loading = Signal()
        self.running = Signal()
        self.begins = Signal()
        self.done = Signal()


def _is(result, step: Step):
    return result.payload.tag == step
