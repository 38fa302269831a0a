"""Everything between a token and its logits on one multiplier: for devices where the pipelined units do not fit."""

from collections.abc import Mapping, Sequence

from amaranth.hdl import Module, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from hdl.config import ChipConfig
from hdl.engine.accumulator import Accumulator
from hdl.engine.attention import Softmax, Sums
from hdl.engine.fabric import Dot, Rows, Terms
from hdl.engine.memory import MemoryPort
from hdl.engine.operands import Operands, Roms
from hdl.engine.sequencer import Sequencer
from hdl.lib.streams import vector_beat
from weights_to_rom.model_format import ModelFormat

UNITS = {
    "sequencer": Sequencer,
    "terms": Terms,
    "roms": Roms,
    "dot": Dot,
    "softmax": Softmax,
    "sums": Sums,
    "operands": Operands,
    "accumulator": Accumulator,
    "rows": Rows,
    "memory": MemoryPort,
}


class SharedEngine(wiring.Component):
    """One pipeline in place of all units of a chip, and a microprogram (``hdl.engine.program``) that controls it.

    ::

        0  MEM and the ROMs are read                          <- counters
        1  A, B chosen; eight products of bytes
        2  A * B;  P = sum of the products, over a block
        3  ACC = base + A * B
        4  ACC >> n, by eights; bits of ACC collected
        5  by ones
        6  rounded, saturated: R
        7  R into MEM

    A term of a matrix row takes five cycles: eight products of codes and mantissas in each of four cycles add up to P, and
    d * P - ((m * S) << k) is shifted and added to the row's sum.  A score takes four cycles a place: the same products, with
    a query for one operand.  The sums of attention take a cycle a place: two elements have a multiplier, a shifter and an
    adder each.

    MEM (``Spram``) holds the KV cache, the residual vector, the results of matrices and their input.

    ``hdl.engine.cycles.engine_cycles`` counts the cycles from ``start`` to ``done``: they depend on the token's place and on
    ``sample`` alone.

    Parameters
    ----------
    model : ModelFormat
        Shape and number formats; ``ChipConfig.checked`` says which ones the engine has hardware for.
    config : ChipConfig
        Sequences and places of the KV cache; the lanes are fixed (``SHARED_LANES``).
    roms : mapping, optional
        Contents of the ROMs by name, for tests; without it the chip reads them from ``.hex`` files.

    Members
    -------
    start : In(1), sequence, token, place, sample : In
        a token at that place of the sequence, which is its position; the inputs stay until ``done``
    residual_shift : In(signed(6))               of the embedding
    logits : Out(stream vector_beat(1))          Wide, LSB 2**-12; each must be taken before the next, five or more cycles later
    done : Out(1)
    busy : Out(1), step : Out(3)                 the fabric reads a weight word in this cycle, of this matrix
    """

    def __init__(self, *, model: ModelFormat, config: ChipConfig, roms: Mapping[str, Sequence[int]] | None = None):
        self.model, self.config, self._contents = model, config, roms or {}
        super().__init__(
            {
                "start": In(1),
                "sequence": In(range(max(2, config.n_sequences))),
                "token": In(bits_for(model.vocab_size - 1)),
                "place": In(range(max(2, config.max_context))),
                "sample": In(1),
                "residual_shift": In(signed(6)),
                "logits": Out(stream.Signature(vector_beat(1, model.wide_bits))),
                "done": Out(1),
                "busy": Out(1),
                "step": Out(3),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        units = {name: unit(model=self.model, config=self.config, contents=self._contents) for name, unit in UNITS.items()}
        of_token = ("start", "sequence", "token", "place", "sample", "residual_shift")
        wires = {name: getattr(self, name) for name in of_token} | {"ready": self.logits.ready}
        for name, unit in units.items():
            m.submodules[name] = unit
            wires |= {wire: getattr(unit, wire) for wire in unit.OUTPUTS}
        # A wire connects the one output and all inputs that have its name.
        for unit in units.values():
            m.d.comb += [getattr(unit, wire).eq(wires[wire]) for wire in unit.INPUTS]
        m.d.comb += [
            self.logits.valid.eq(wires["logit_valid"]),
            self.logits.payload.data[0].eq(wires["logit"]),
            self.logits.payload.last.eq(wires["logit_last"]),
            *(getattr(self, name).eq(wires[name]) for name in ("done", "busy", "step")),
        ]
        return m
