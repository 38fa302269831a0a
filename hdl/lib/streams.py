"""Payloads of the streams between units.

Every stream is an ``amaranth.lib.stream``: a beat moves when valid and ready are both high, and valid never waits for
ready.  ``last`` marks the last beat of a vector and travels with the data.
"""

from enum import IntEnum
from functools import cache
from types import new_class

from amaranth.hdl import signed
from amaranth.lib import data, enum

from hdl.interface import Layout

EXP_BITS = 8
"""Bits of an MX exponent, signed."""


@cache
def struct(layout: Layout) -> data.StructLayout:
    """A layout of the chip's ports as a payload; fields of codes are enumerations, so that waves show the names."""
    widths = layout.widths
    return data.StructLayout(
        {name: widths[name] if isinstance(of, int) else _codes(of, widths[name]) for name, of in layout.fields}
    )


def _codes(codes: type[IntEnum], width: int) -> enum.EnumType:
    """A Python enumeration as one of Amaranth's."""
    return new_class(codes.__name__, (enum.IntEnum,), {"shape": width}, lambda body: body.update({c.name: c.value for c in codes}))


def vector_beat(lanes: int, width: int) -> data.StructLayout:
    """``lanes`` consecutive elements of a vector of signed integers."""
    return data.StructLayout({"data": data.ArrayLayout(signed(width), lanes), "last": 1})


def scaled_beat(lanes: int, width: int) -> data.StructLayout:
    """A vector beat whose LSB is 2**base; ``base`` is the same in every beat of a vector."""
    return data.StructLayout({"data": data.ArrayLayout(signed(width), lanes), "base": signed(EXP_BITS), "last": 1})


def mx_beat(lanes: int) -> data.StructLayout:
    """``lanes`` consecutive mantissas of an MX block; ``exp`` is valid, and the same, in each of the block's beats."""
    return data.StructLayout({"mant": data.ArrayLayout(signed(8), lanes), "exp": signed(EXP_BITS), "last": 1})


def context_layout(n_sequences: int, max_context: int, position_bits: int) -> data.StructLayout:
    """The context of a token, which goes from stage to stage together with the token's residual vector.

    sequence, place    where the KV cache keeps k and v of the token
    position           the position for RoPE
    whole              every place of the sequence is in use
    adapter            number of the LoRA adapter; 0 is none
    sample             the LM head is computed; prompt tokens except the last do not need it

    Parameters
    ----------
    n_sequences : sequences that the KV cache holds
    max_context : places of a sequence
    position_bits : bits of ``position``
    """
    return data.StructLayout(
        {
            "sequence": range(max(2, n_sequences)),
            "position": position_bits,
            "place": range(max(2, max_context)),
            "whole": 1,
            "adapter": 4,
            "sample": 1,
        }
    )


def stage_beat(lanes: int, width: int, context: data.StructLayout) -> data.StructLayout:
    """A beat of the residual vector between stages; each beat carries the context of its token."""
    return data.StructLayout({"data": data.ArrayLayout(signed(width), lanes), "context": context, "last": 1})
