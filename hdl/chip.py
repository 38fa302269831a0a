"""The chip: a token in, a token out."""

from amaranth.hdl import Array, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import bits_for

from hdl.config import ChipConfig
from hdl.engine.engine import SharedEngine
from hdl.interface import COMMAND, LOAD_REPLY, LOAD_WORD, REPLY, Status
from hdl.lib.clock_gate import add_gated
from hdl.lib.narrow import Narrow
from hdl.lib.rom import Rom, RowRom, WeightRom
from hdl.lib.streams import struct
from hdl.stage import Stage
from hdl.units import embedding_unit, sampler_unit
from weights_to_rom.model_format import ModelFormat
from weights_to_rom.rom_map import CONSTANT_WORD, rom_map


class Chip(wiring.Component):
    """One stage with every layer and the LM head, the embedding before it and the sampler behind.

    With ``config.shared`` one engine is stage and embedding, and the sampler greedy: a token with a temperature is refused.

    Each token in gives one reply, in order.  A refused token changes nothing: not a position, not the cache.  A reset
    releases all sequences.

    Members
    -------
    i : In(stream COMMAND)
    o : Out(stream REPLY)
    load : In(stream LOAD_WORD)            with LoRA: frames of adapters, while tokens are served;
    loaded : Out(stream LOAD_REPLY)   an answer to each
    logits_valid : Out(1)       in this cycle ``logits`` go to the sampler, ceil(vocab_size / vector_lanes) beats a token
    logits : Out(lanes)         Wide, LSB 2**-12
    busy, step : Out            the fabric reads a weight word in this cycle, of this matrix (``schedule.Step``)
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

        # Where each sequence stands: the position of its next token, the place after that of its last one, and whether
        # all places are taken.  What is in the memory counts for a sequence that is ``live``.
        standing = data.StructLayout({"position": config.position_bits + 1, "place": bits_for(config.max_context), "whole": 1})
        live = Array(Signal(name=f"live_{s}") for s in range(config.n_sequences))
        token = Signal(self.i.payload.shape())
        position = Signal(config.position_bits + 1)
        place = Signal(range(max(2, config.max_context)))
        whole = Signal()
        kept, keeps, keep = Signal(standing), Signal(), Signal(standing)
        if config.n_sequences == 1:
            with m.If(keeps):
                m.d.sync += kept.eq(keep)
        else:
            m.submodules.sequences = sequences = Memory(shape=standing, depth=config.n_sequences, init=[])
            read, write = sequences.read_port(), sequences.write_port()
            m.d.comb += [
                read.en.eq(self.i.valid & self.i.ready),
                read.addr.eq(self.i.payload.sequence),
                kept.eq(read.data),
                write.en.eq(keeps),
                write.addr.eq(token.sequence),
                write.data.eq(keep),
            ]
        m.d.comb += [
            keep.position.eq(position + 1),
            keep.place.eq(place + 1),
            keep.whole.eq(whole | (place == config.max_context - 1)),
        ]
        if config.shared:
            m.d.comb += [
                stage.sequence.eq(token.sequence),
                stage.token.eq(token.token),
                stage.place.eq(place),
                stage.sample.eq(token.sample),
            ]
        else:
            context = stage.i.payload.context
            m.d.comb += [
                sampler.inv_temperature.eq(token.inv_temperature),
                sampler.seed.eq(token.seed),
                sampler.position.eq(position),
                embedding.i.payload.token.eq(token.token),
                stage.i.valid.eq(embedding.o.valid),  # which is ready: no token is in it
                stage.i.payload.data.eq(embedding.o.payload.data),
                stage.i.payload.last.eq(embedding.o.payload.last),
                context.sequence.eq(token.sequence),
                context.position.eq(position),
                context.place.eq(place),
                context.whole.eq(whole),
                context.adapter.eq(token.adapter),
                context.sample.eq(token.sample),
            ]
        adapter_ready = token.adapter == 0
        if config.lora_rank:
            connect(m, flipped(self.load), stage.load)
            connect(m, stage.loaded, flipped(self.loaded))
            adapter_ready = (token.adapter <= config.n_adapters) & Array(stage.ready)[token.adapter]
        end = (1 << config.position_bits) - 1 if config.n_sinks else config.max_context
        reply = self.o.payload
        m.d.comb += [reply.sequence.eq(token.sequence), reply.position.eq(position)]
        with m.FSM(name="state"):
            with m.State("token"):
                m.d.comb += self.i.ready.eq(1)
                with m.If(self.i.valid):
                    m.d.sync += token.eq(self.i.payload)
                    m.next = "place"
            with m.State("place"):
                begins = token.restart | token.release | ~live[token.sequence]
                m.d.sync += [position.eq(0), place.eq(0), whole.eq(0)]
                with m.If(~begins):
                    # A place beyond the last is that after the sinks, or, without them, a full sequence.
                    m.d.sync += [
                        position.eq(kept.position),
                        whole.eq(kept.whole),
                        place.eq(Mux(kept.place == config.max_context, config.n_sinks, kept.place)),
                    ]
                m.next = "check"
            with m.State("check"):
                m.next = "reply"
                with m.If(token.sequence >= config.n_sequences):
                    m.d.sync += reply.status.eq(Status.NO_SEQUENCE)
                with m.Elif(token.release):
                    m.d.sync += [reply.status.eq(Status.OK), live[token.sequence].eq(0)]
                with m.Elif(token.token >= model.vocab_size):
                    m.d.sync += reply.status.eq(Status.NO_TOKEN)
                with m.Elif(position >= end):
                    m.d.sync += reply.status.eq(Status.FULL)
                with m.Elif(~adapter_ready):
                    m.d.sync += reply.status.eq(Status.NO_ADAPTER)
                with m.Elif((token.inv_temperature != 0) & token.sample & config.shared):
                    m.d.sync += reply.status.eq(Status.NO_NOISE)
                with m.Else():
                    m.d.sync += [reply.status.eq(Status.OK), live[token.sequence].eq(1)]
                    m.d.comb += keeps.eq(1)
                    if config.lora_rank:
                        m.d.sync += stage.in_use.eq(token.adapter)
                    m.next = "embed"
            with m.State("embed"):
                if config.shared:
                    m.d.comb += stage.start.eq(1)
                    m.next = "run"
                else:
                    m.d.comb += embedding.i.valid.eq(1)
                    with m.If(embedding.i.ready):
                        m.next = "run"
            with m.State("run"):
                # The stage takes the first beat of the vector some cycles after the token: it is not idle from then on.
                with m.If(stage.done):
                    if config.lora_rank:
                        m.d.sync += stage.in_use.eq(0)
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
                m.d.comb += self.o.valid.eq(1)
                with m.If(self.o.ready):
                    m.d.sync += [reply.token.eq(0), reply.end.eq(0)]
                    m.next = "token"
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
