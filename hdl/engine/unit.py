"""The signals between the units of the shared engine, by name, and the base of these units."""

from collections.abc import Mapping, Sequence

from amaranth.hdl import Module, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from hdl.config import ChipConfig
from hdl.engine.isa import LAYOUT, LIMITS, limits
from hdl.fabric.row_lane import slice_bits
from hdl.lib.pipeline import delayed
from hdl.lib.streams import EXP_BITS
from weights_to_rom.model_format import ModelFormat
from weights_to_rom.schedule import head_matrix, layer_matrices

ACC_BITS = 56
"""Bits of ACC.  A term of the fabric before its shift takes 26 + 30 bits; v * r * g of a norm takes 24 + 31; a norm's sum of
squares is below 2**(30 + 9) with a dim of 512, and is multiplied by 2**15: 54."""

LEFT = 30
"""Operands that may shift left have at most 26 bits and are placed 30 bits up, so that the shifter only shifts right.  A larger
left shift of a value other than 0 saturates anyway."""

SHIFT_BITS = 6
RESULT_STAGE = 6
RESULT_BITS = 32
SCORE_BITS = 16


def later(m: Module, value, cycles: int, name: str):
    """Return ``value`` of ``cycles`` cycles ago; the registers are NAME_1, NAME_2 ..., and start with 0 after a reset."""
    return delayed(m, value, cycles, name=name, reset_less=False)[-1]


TERM = data.StructLayout({"valid": 1, "first": 1, "last": 1, "scale": signed(EXP_BITS + 1), "total": signed(13)})
"""The term of a row that has ended: its place in the row, the exponent of its scale, and minus the sum of its mantissas."""


def wires(model: ModelFormat, config: ChipConfig) -> dict:
    """Return the shape of each signal between two units of an engine."""
    shapes = (*layer_matrices(model), head_matrix(model))
    i = range(max(*(limits(model)[name] for name in LIMITS), model.qkv_rows) + 1)
    exp, bit, byte = signed(EXP_BITS), 1, 8
    place = range(max(2, config.max_context))
    return {
        # of the token
        "start": bit,
        "sample": bit,
        "sequence": range(max(2, config.n_sequences)),
        "place": place,
        "token": bits_for(model.vocab_size - 1),
        "residual_shift": signed(6),
        # of the sequencer
        "word": LAYOUT,
        "event": LAYOUT["event"].shape,
        "b1": bit,
        "i": i,
        "i_1": i,
        "i_write": i,
        "h": range(max(2, model.n_heads)),
        "layer": range(max(2, model.n_layers)),
        "p": range(config.max_context + 3),
        "norm": range(2 * model.n_layers + 1),
        "term_next": bit,
        "done": bit,
        # of the fabric
        "step": 3,
        "busy": bit,
        "block": range(max(2, *(s.blocks for s in shapes))),
        "term": TERM,
        "row_next": bit,
        "matrix_ends": bit,
        "product": signed(18),
        "d": byte,
        "offset": byte,
        "row_leaves": bit,
        "at_row": range(max(s.rows for s in shapes)),
        "y": signed(model.wide_bits),
        "logit": signed(model.wide_bits),
        "logit_valid": bit,
        "logit_last": bit,
        "ready": bit,
        # of the operands
        "code": 4 * config.block_lanes,
        "part": 2,
        "scale_slice": slice_bits(config.block_lanes),
        "row": 10,
        "gain": 16,
        "eps": 32,
        "gain_exp": signed(8),
        "freq": 16,
        "a": signed(32),
        "b": signed(16),
        "table": 16,
        # of the accumulator
        "result": signed(RESULT_BITS),
        "collected": SHIFT_BITS,
        "exp": exp,
        "total": signed(13),
        # of attention
        "divided": bit,
        "exp2_at": 9,
        "looks_up": bit,
        "query_exp": exp,
        "key_exp": exp,
        "top": signed(10),
        "value_top": signed(11),
        "den": 16 + bits_for(config.max_context),
        "record": 21,
        "reciprocal": 17,
        "num_0": signed(32),
        "num_1": signed(32),
        # of the memory
        "mem": 64,
    }


class Unit(wiring.Component):
    """A unit of the engine: its ports are the ``wires`` that INPUTS and OUTPUTS name.

    Parameters
    ----------
    model : ModelFormat
        the shapes of the model
    config : ChipConfig
        the chip's lanes, sequences and context
    contents : mapping of ROM names to words
        what the ROMs hold in a simulation of this engine alone
    """

    INPUTS: tuple[str, ...] = ()
    OUTPUTS: tuple[str, ...] = ()

    def __init__(self, *, model: ModelFormat, config: ChipConfig, contents: Mapping[str, Sequence[int]] | None = None):
        self.model, self.config, self.contents = model, config, contents or {}
        shapes = wires(model, config)
        super().__init__({name: In(shapes[name]) for name in self.INPUTS} | {name: Out(shapes[name]) for name in self.OUTPUTS})
