"""Carry out the requests of ``fpga.link.protocol`` in hardware."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from fpga.link.frames import PAYLOAD_BITS
from fpga.link.protocol import ADAPTER_SHIFT, HISTORY, STATUS_SHIFT, Flag, Kind
from hdl.config import ChipConfig
from hdl.interface import COMMAND, LOAD_REPLY, LOAD_WORD, REPLY, LoadStatus, Status
from hdl.lib.rom import Rom
from hdl.lib.streams import struct
from weights_to_rom.model_format import ModelFormat

IDENTITY_BITS = 64
"""Bits of the identity of a model and its chip."""


class Link(wiring.Component):
    """o = the reply to each request i.

    The link carries out one request at a time.  It keeps the position of the next token, which equals that of the chip, the last
    sampled token, and the results of the last HISTORY positions.

    A request that feeds no token takes 2 cycles, or 4 if its answer comes from the history.  A token takes 3 cycles more than the
    chip takes for it.  BEGIN takes 3 cycles, and a LOAD 6.

    Parameters
    ----------
    model : ModelFormat
        The shapes of the model.  The link uses its vocab_size.
    config : ChipConfig
        The options of the chip.  The link uses its position_bits, and has the ports of LoRA if the chip has.
    identity : int, optional
        The answer to HELLO: below 2**64.  By default the link reads it from the ROM image identity.hex in the first cycle after
        reset.

    Members
    -------
    i : In(stream PAYLOAD_BITS)     requests
    o : Out(stream PAYLOAD_BITS)    replies
    command : Out(stream COMMAND)   tokens to the chip
    reply : In(stream REPLY)        results from the chip
    load : Out(stream LOAD_WORD)    with LoRA: load images of adapters to the chip
    loaded : In(stream LOAD_REPLY)  with LoRA: its answers
    """

    i: Any
    o: Any
    command: Any
    reply: Any
    load: Any
    loaded: Any

    def __init__(self, *, model: ModelFormat, config: ChipConfig, identity: int | None = None):
        self._identity = None if identity is None else [identity]
        self._vocab_size, self._position_bits = model.vocab_size, min(32, config.position_bits + 1)
        self._lora = config.lora_rank > 0
        lora = {"load": Out(stream.Signature(struct(LOAD_WORD))), "loaded": In(stream.Signature(struct(LOAD_REPLY)))}
        super().__init__(
            (lora if self._lora else {})
            | {
                "i": In(stream.Signature(PAYLOAD_BITS)),
                "o": Out(stream.Signature(PAYLOAD_BITS)),
                "command": Out(stream.Signature(struct(COMMAND))),
                "reply": In(stream.Signature(struct(REPLY))),
            }
        )

    def elaborate(self, platform) -> Module:
        """Build the state machine of a request, and the history: a memory of HISTORY results by the low bits of their position."""
        m = Module()
        identity: Any = Rom(width=IDENTITY_BITS, depth=1, name="identity", init=self._identity)
        m.submodules.identity = identity
        m.d.comb += identity.en.eq(1)
        token_bits = (self._vocab_size - 1).bit_length() or 1
        m.submodules.history = history = Memory(shape=token_bits + 2, depth=HISTORY, init=[])
        read, write = history.read_port(), history.write_port()

        following = Signal(self._position_bits)  # the position of the next token
        token, sampled, ends = Signal(token_bits), Signal(), Signal()  # the result at position ``following - 1``
        inv_temperature, seed = Signal(16), Signal(32)
        running = Signal()

        request = self.i.payload
        kind, position, given, flags = request[:8], request[8:40], request[40:72], request[72:]
        age = following - position  # 1 for the last position
        known = Signal()
        m.d.comb += [known.eq((position < following) & (age <= HISTORY)), read.addr.eq(position)]

        command = self.command.payload
        m.d.comb += [
            command.inv_temperature.eq(inv_temperature),
            command.seed.eq(seed),
            command.token.eq(Mux(running, token, given)),
            command.sample.eq(running | flags[_bit(Flag.SAMPLE)]),
            command.restart.eq(~running & flags[_bit(Flag.RESTART)]),
        ]

        if self._lora:
            # In a RUN the adapter follows ``until``, where a PUT has its token.
            m.d.comb += command.adapter.eq(Mux(running, given, flags[ADAPTER_SHIFT:]))

        def answer(to: Kind, *fields: Value) -> Value:
            return Cat(Const(to, 8), *fields)

        def result(position, token, sampled, ends, status) -> Value:
            spread = Signal(32, name="spread_position"), Signal(32, name="spread_token")
            m.d.comb += [spread[0].eq(position), spread[1].eq(token)]
            return answer(Kind.RESULT, *spread, sampled, ends, Const(0, STATUS_SHIFT - 2), status)

        number, begins = Signal(8), Signal()  # of the next LOAD, and whether it begins an image
        over, load_status = Signal(), Signal(8)
        if self._lora:
            answered = self.loaded.payload.status
            m.d.comb += self.loaded.ready.eq(1)
            with m.If(self.loaded.valid & (answered != LoadStatus.INCOMPLETE)):  # that image was given up by a BEGIN
                m.d.sync += [over.eq(1), load_status.eq(answered)]

        standing = Signal(32)
        m.d.comb += standing.eq(following)
        reply = self.reply.payload
        out = Signal(PAYLOAD_BITS)
        m.d.comb += self.o.payload.eq(out)
        with m.FSM(name="state"):
            with m.State("request"), m.If(self.i.valid):
                m.d.sync += out.eq(answer(Kind.STANDING, standing))
                m.next = "answer"
                with m.Switch(kind):
                    with m.Case(Kind.HELLO):
                        m.d.sync += out.eq(answer(Kind.IDENTITY, identity.data))
                    with m.Case(Kind.SAMPLING):
                        m.d.sync += [
                            inv_temperature.eq(request[8:24]),
                            seed.eq(request[24:56]),
                            out.eq(answer(Kind.KEPT, request[8:56])),
                        ]
                    with m.Case(Kind.PUT):
                        with m.If((position == following) | (flags[_bit(Flag.RESTART)] & (position == 0))):
                            m.next = "feed"
                        with m.Elif(known):
                            m.next = "remember"
                    with m.Case(Kind.GET), m.If(known):
                        m.next = "remember"
                    with m.Case(Kind.RUN):
                        m.d.sync += running.eq(1)
                        m.next = "run"
                    if self._lora:
                        with m.Case(Kind.BEGIN):
                            m.d.sync += [number.eq(0), begins.eq(1), over.eq(0)]
                            m.next = "loading"
                        with m.Case(Kind.LOAD):
                            m.next = "loading"
                            with m.If(request[8:16] == number):
                                m.next = "word 0"
            if self._lora:
                for i, following_state in enumerate(("word 1", "settle")):
                    with m.State(f"word {i}"):
                        m.d.comb += [
                            self.load.valid.eq(1),
                            self.load.payload.data.eq(request[16:].word_select(i, 32)),
                            self.load.payload.first.eq(begins),
                        ]
                        with m.If(self.load.ready):
                            m.d.sync += begins.eq(0)
                            m.next = following_state
                with m.State("settle"):  # the chip's answer comes one cycle after the last word
                    m.d.sync += number.eq(number + 1)
                    m.next = "loading"
                with m.State("loading"):
                    m.d.sync += out.eq(answer(Kind.LOADING, number, over, Const(0, 7), load_status))
                    m.next = "answer"
            with m.State("run"):
                m.d.sync += out.eq(answer(Kind.STANDING, standing))
                with m.If((following < position) & sampled & ~ends):  # in a RUN the field ``position`` is ``until``
                    m.next = "feed"
                with m.Else():
                    m.d.sync += running.eq(0)
                    m.next = "answer"
            with m.State("feed"):
                m.d.comb += self.command.valid.eq(1)
                with m.If(self.command.ready):
                    m.next = "wait"
            with m.State("wait"):
                m.d.comb += self.reply.ready.eq(1)
                with m.If(self.reply.valid):
                    kept = command.sample
                    m.d.sync += out.eq(result(reply.position, reply.token, kept, reply.end, reply.status))
                    with m.If(reply.status == Status.OK):
                        m.d.sync += [following.eq(reply.position + 1), token.eq(reply.token), sampled.eq(kept), ends.eq(reply.end)]
                        m.d.comb += write.en.eq(1)
                    with m.Else():
                        m.d.sync += sampled.eq(0)  # a refused token ends a RUN
                    m.next = "answer"
            m.d.comb += [write.addr.eq(reply.position), write.data.eq(Cat(reply.token[:token_bits], command.sample, reply.end))]
            with m.State("remember"):
                m.next = "recall"
            with m.State("recall"):
                was = read.data
                m.d.sync += out.eq(result(position, was[:token_bits], was[-2], was[-1], Const(Status.OK.value, 3)))
                m.next = "answer"
            with m.State("answer"):
                m.d.comb += self.o.valid.eq(1)
                with m.If(self.o.ready):
                    with m.If(running):
                        m.next = "run"
                    with m.Else():
                        m.d.comb += self.i.ready.eq(1)
                        m.next = "request"
        return m


def _bit(flag: Flag) -> int:
    """Return the number of the bit of a flag."""
    return flag.bit_length() - 1
