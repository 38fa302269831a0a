"""The chip: a token in, a token out."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hdl.admission import Admission
from hdl.config import ChipConfig
from hdl.engine.engine import SharedEngine
from hdl.interface import COMMAND, LOAD_REPLY, LOAD_WORD, REPLY
from hdl.lib.clock_gate import add_gated
from hdl.lib.narrow import Narrow
from hdl.lib.rom import Rom, RowRom, WeightRom
from hdl.lib.streams import struct
from hdl.stage import Stage
from hdl.units import embedding_unit, sampler_unit
from weights_to_rom.model_format import ModelFormat
from weights_to_rom.rom_map import CONSTANT_WORD, rom_map


class Chip(wiring.Component):
    """Admission, the embedding, one stage with every layer and the LM head, and the sampler.

    With ``config.shared`` one engine does the work of embedding and stage, and the sampler is greedy: a token with a temperature
    is refused.

    Each command gives one reply, in order.  A refused token changes nothing: not a position, not the cache.  A reset releases all
    sequences.

    Parameters
    ----------
    model : ModelFormat
        Shapes and number formats.
    config : ChipConfig
        Lanes and memories; checked against the model.

    Members
    -------
    i : In(stream COMMAND)
    o : Out(stream REPLY)
    load : In(stream LOAD_WORD)       with LoRA: load images of adapters, while tokens are served;
    loaded : Out(stream LOAD_REPLY)   an answer to each
    logits_valid : Out(1)       in this cycle ``logits`` go to the sampler, ceil(vocab_size / vector_lanes) beats a token
    logits : Out(vector_lanes)  Wide, LSB 2**-12
    busy, step : Out            the fabric reads a weight word in this cycle, of this matrix (``schedule.Step``)

    Raises
    ------
    ValueError
        If ``config`` does not fit ``model``.
    """

    def __init__(self, *, model: ModelFormat, config: ChipConfig):
        self.model, self.config = model, config.checked(model)
        lora = {"load": In(stream.Signature(struct(LOAD_WORD))), "loaded": Out(stream.Signature(struct(LOAD_REPLY)))}
        super().__init__(
            (lora if config.lora_rank else {})
            | {
                "i": In(stream.Signature(struct(COMMAND))),
                "o": Out(stream.Signature(struct(REPLY))),
                "logits_valid": Out(1),
                "logits": Out(data.ArrayLayout(model.wide_bits, config.vector_lanes)),
                "busy": Out(1),
                "step": Out(3),
            }
        )

    def elaborate(self, platform):
        m = Module()
        model, config = self.model, self.config
        m.submodules.constant = constant = Rom(width=CONSTANT_WORD.width, depth=1, name="constant")
        sampler_lanes = config.sampler_lanes or config.vector_lanes
        sampler = sampler_unit(model, config).component
        add_gated(m, "sampler", sampler)
        if config.shared:
            m.submodules.engine = stage = SharedEngine(model=model, config=config)
            shifted = stage
        else:
            m.submodules.stage = stage = Stage(model=model, config=config)
            shifted = embedding = self._embedding(m, stage)
        logits = stage.logits
        if sampler_lanes < config.vector_lanes:
            m.submodules.narrow = narrow = Narrow(
                lanes=config.vector_lanes, to=sampler_lanes, n=model.vocab_size, width=model.wide_bits
            )
            connect(m, logits, narrow.i)
            logits = narrow.o
        connect(m, logits, sampler.i)
        m.d.comb += [
            constant.en.eq(1),
            shifted.residual_shift.eq(constant.data[CONSTANT_WORD.slice("residual_shift")].as_signed()),
            self.logits_valid.eq(stage.logits.valid & stage.logits.ready),
            self.logits.eq(stage.logits.payload.data),
            self.busy.eq(stage.busy),
            self.step.eq(stage.step),
        ]

        m.submodules.admission = admission = Admission(
            vocab_size=model.vocab_size,
            n_sequences=config.n_sequences,
            max_context=config.max_context,
            n_sinks=config.n_sinks,
            position_bits=config.position_bits,
            n_adapters=config.n_adapters if config.lora_rank else 0,
            noise=not config.shared,
        )
        connect(m, flipped(self.i), admission.i)
        admitted, token = admission.o.payload, admission.o.payload.command
        if config.shared:
            m.d.comb += [
                stage.sequence.eq(token.sequence),
                stage.token.eq(token.token),
                stage.place.eq(admitted.place),
                stage.sample.eq(token.sample),
            ]
        else:
            context = stage.i.payload.context
            m.d.comb += [
                sampler.inv_temperature.eq(token.inv_temperature),
                sampler.seed.eq(token.seed),
                sampler.position.eq(admitted.position),
                embedding.i.payload.token.eq(token.token),
                stage.i.valid.eq(embedding.o.valid),  # the stage is ready: no token is in it
                stage.i.payload.data.eq(embedding.o.payload.data),
                stage.i.payload.last.eq(embedding.o.payload.last),
                context.sequence.eq(token.sequence),
                context.position.eq(admitted.position),
                context.place.eq(admitted.place),
                context.whole.eq(admitted.whole),
                context.adapter.eq(token.adapter),
                context.sample.eq(token.sample),
            ]
        computing = Signal()
        if config.lora_rank:
            connect(m, flipped(self.load), stage.load)
            connect(m, stage.loaded, flipped(self.loaded))
            m.d.comb += [admission.ready.eq(stage.ready), stage.in_use.eq(Mux(computing, token.adapter, 0))]
        reply = self.o.payload
        m.d.comb += [
            reply.sequence.eq(token.sequence),
            reply.position.eq(admitted.position),
            reply.status.eq(admitted.status),
        ]
        with m.FSM(name="state"):
            with m.State("start"):
                with m.If(admission.o.valid & ~admitted.go):
                    m.d.comb += [self.o.valid.eq(1), admission.o.ready.eq(self.o.ready)]
                with m.Elif(admission.o.valid):
                    m.d.comb += computing.eq(1)
                    if config.shared:
                        m.d.comb += stage.start.eq(1)
                        m.next = "run"
                    else:
                        m.d.comb += embedding.i.valid.eq(1)
                        with m.If(embedding.i.ready):
                            m.next = "run"
            with m.State("run"):
                # The stage takes the first beat of the vector some cycles after the token: it is not idle from then on.
                m.d.comb += computing.eq(1)
                with m.If(stage.done):
                    m.next = "sample"
                    with m.If(~token.sample):
                        m.next = "reply"
            with m.State("sample"):
                m.d.comb += sampler.o.ready.eq(1)
                with m.If(sampler.o.valid):
                    m.d.sync += [
                        reply.token.eq(sampler.o.payload.token),
                        reply.end.eq(sampler.o.payload.token == constant.data[CONSTANT_WORD.slice("end_token")]),
                    ]
                    m.next = "reply"
            with m.State("reply"):
                m.d.comb += [self.o.valid.eq(1), admission.o.ready.eq(self.o.ready)]
                with m.If(self.o.ready):
                    m.d.sync += [reply.token.eq(0), reply.end.eq(0)]
                    m.next = "start"
        return m

    def _embedding(self, m, stage):
        """The embedding unit on the LM head's ROM, or on its own where the table is not shared."""
        model, config = self.model, self.config
        embedding = embedding_unit(model, config).component
        add_gated(m, "embedding", embedding)
        if model.tied:
            m.d.comb += stage.peek.eq(embedding.active)
            connect(m, embedding.weights, stage.weights)
            connect(m, embedding.rows, stage.rows)
        else:
            roms = rom_map(model, **config.rom_lanes)
            table, rows = roms["embedding_00"], roms["embedding_rows"]
            m.submodules.embedding_rom = weights = WeightRom(width=table.width, depth=table.depth, lanes=1, name="embedding")
            m.submodules.embedding_rows = rows = RowRom(width=rows.width, depth=rows.depth, lanes=1, name=rows.name)
            connect(m, embedding.weights, weights.port)
            connect(m, embedding.rows, rows.port)
        return embedding
