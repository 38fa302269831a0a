"""Admission: where each sequence stands, and whether a token may enter the model."""

from amaranth.hdl import Array, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from hdl.interface import COMMAND, Status
from hdl.lib.streams import struct


class Admission(wiring.Component):
    """A command in; the command, its place in its sequence and its status out.

    A sequence's next token has position 0 after reset, a release or with ``restart``, else one more than the last token that was
    admitted.  Its place in the KV cache is the position, until ``max_context`` places are in use.  From then on, with attention
    sinks, the tokens take the places after the first ``n_sinks`` again and again, oldest first; without, they are refused.

    A command gets the first status of these that applies:

    ============  ==========================================================================
    NO_SEQUENCE   ``sequence`` is not below n_sequences
    OK, not go    ``release``: the sequence is forgotten
    NO_TOKEN      ``token`` is not below vocab_size
    FULL          the position is max_context, or 2**position_bits - 1 with sinks
    NO_ADAPTER    ``adapter`` is not 0 and not ``ready``
    NO_NOISE      a sample with a temperature is asked for, and there is no noise
    OK, go        the token is admitted
    ============  ==========================================================================

    A refused command changes nothing.  The answer is at ``o`` 3 cycles after the command moved and stays until it is taken; the
    next command moves after that.

    Parameters
    ----------
    vocab_size : int
        Tokens from 0 to vocab_size - 1 exist.
    n_sequences, max_context, n_sinks, position_bits : int
        As in ``ChipConfig``.
    n_adapters : int
        Adapters have numbers from 1 to n_adapters; 0 for a chip without LoRA.
    noise : bool
        Whether the sampler takes a temperature.

    Members
    -------
    i : In(stream COMMAND)
    ready : In(n_adapters + 1)    bit a: adapter a may be used; read 2 cycles after the command moved
    o : Out(stream)               ``command`` as it came; ``status``; ``go``: the token is to be computed;
                                  ``position`` and ``place`` of the token; ``whole``: every place of its sequence is in use
    """

    latency = 3

    def __init__(
        self,
        *,
        vocab_size: int,
        n_sequences: int,
        max_context: int,
        n_sinks: int,
        position_bits: int,
        n_adapters: int,
        noise: bool,
    ):
        self.vocab_size, self.n_sequences, self.max_context, self.n_sinks = vocab_size, n_sequences, max_context, n_sinks
        self.position_bits, self.n_adapters, self.noise = position_bits, n_adapters, noise
        command = struct(COMMAND)
        answer = data.StructLayout(
            {
                "command": command,
                "status": Status,
                "go": 1,
                "position": position_bits + 1,
                "place": range(max(2, max_context)),
                "whole": 1,
            }
        )
        super().__init__(
            {
                "i": In(stream.Signature(command)),
                "ready": In(n_adapters + 1, init=1),
                "o": Out(stream.Signature(answer)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        answer, token = self.o.payload, self.o.payload.command
        standing = data.StructLayout({"position": self.position_bits + 1, "place": bits_for(self.max_context), "whole": 1})
        live = Array(Signal(name=f"live_{s}") for s in range(self.n_sequences))
        kept, keeps, keep = Signal(standing), Signal(), Signal(standing)
        self._table(m, kept, keeps, keep)
        # The place after the last one stands for the place after the sinks, or without sinks for a full sequence.
        m.d.comb += [
            keep.position.eq(answer.position + 1),
            keep.place.eq(answer.place + 1),
            keep.whole.eq(answer.whole | (answer.place == self.max_context - 1)),
        ]
        end = (1 << self.position_bits) - 1 if self.n_sinks else self.max_context
        adapter_ready = (token.adapter <= self.n_adapters) & Array(self.ready)[token.adapter]
        with m.FSM(name="state"):
            with m.State("command"):
                m.d.comb += self.i.ready.eq(1)
                with m.If(self.i.valid):
                    m.d.sync += token.eq(self.i.payload)
                    m.next = "place"
            with m.State("place"):
                begins = token.restart | token.release | ~live[token.sequence]
                m.d.sync += [answer.position.eq(0), answer.place.eq(0), answer.whole.eq(0), answer.go.eq(0)]
                with m.If(~begins):
                    m.d.sync += [
                        answer.position.eq(kept.position),
                        answer.whole.eq(kept.whole),
                        answer.place.eq(Mux(kept.place == self.max_context, self.n_sinks, kept.place)),
                    ]
                m.next = "check"
            with m.State("check"):
                m.next = "answer"
                with m.If(token.sequence >= self.n_sequences):
                    m.d.sync += answer.status.eq(Status.NO_SEQUENCE)
                with m.Elif(token.release):
                    m.d.sync += [answer.status.eq(Status.OK), live[token.sequence].eq(0)]
                with m.Elif(token.token >= self.vocab_size):
                    m.d.sync += answer.status.eq(Status.NO_TOKEN)
                with m.Elif(answer.position >= end):
                    m.d.sync += answer.status.eq(Status.FULL)
                with m.Elif((token.adapter != 0) & ~adapter_ready):
                    m.d.sync += answer.status.eq(Status.NO_ADAPTER)
                with m.Elif((token.inv_temperature != 0) & token.sample & (not self.noise)):
                    m.d.sync += answer.status.eq(Status.NO_NOISE)
                with m.Else():
                    m.d.sync += [answer.status.eq(Status.OK), answer.go.eq(1), live[token.sequence].eq(1)]
                    m.d.comb += keeps.eq(1)
            with m.State("answer"):
                m.d.comb += self.o.valid.eq(1)
                with m.If(self.o.ready):
                    m.next = "command"
        return m

    def _table(self, m, kept, keeps, keep) -> None:
        """Where each sequence stands: ``kept`` is that of the command taken in the cycle before; ``keep`` replaces it.

        The table is not reset: what it holds counts for a sequence that is ``live``.
        """
        if self.n_sequences == 1:
            with m.If(keeps):
                m.d.sync += kept.eq(keep)
            return
        m.submodules.sequences = sequences = Memory(shape=keep.shape(), depth=self.n_sequences, init=[])
        read, write = sequences.read_port(), sequences.write_port()
        m.d.comb += [
            read.en.eq(self.i.valid & self.i.ready),
            read.addr.eq(self.i.payload.sequence),
            kept.eq(read.data),
            write.en.eq(keeps),
            write.addr.eq(self.o.payload.command.sequence),
            write.data.eq(keep),
        ]
