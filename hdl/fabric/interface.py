"""The contract of a fabric, as its neighbours in a stage see it.

A fabric multiplies one matrix after another by one vector after another: ``command`` number k belongs to vector number k of ``x``.

command    In(stream command_layout(...)): one matrix of the weight ROM; the fabric waits for its vector by itself
x          In(stream mx_beat(x_lanes)): vectors of whole MX blocks; one may arrive while another is read
o          Out(stream result_beat(...)): the results, Wide, in the order of rows; a beat never mixes two matrices
busy       Out(1): a weight word is used in this cycle
latency    cycles from the cycle that uses the last weight of a group of rows to the first beat of their results on ``o``, while
           ``o.ready`` is high; the results of earlier groups may keep ``o`` busy for longer
"""

from amaranth.hdl import signed
from amaranth.lib import data

TAG_BITS = 3
"""Bits of a matrix's tag, a ``schedule.Step``: the command brings it, and the matrix's results carry it."""


def command_layout(*, max_blocks: int, max_rows: int) -> data.StructLayout:
    """One matrix: ``rows`` results, each of ``blocks`` blocks of the vector; its codes have eight bits if ``two_planes``.

    With ``restart`` the matrix is the first one in the ROMs, so the first command after a reset needs it; without, it is the one
    that follows the previous command's matrix in the ROMs.
    """
    return data.StructLayout(
        {"tag": TAG_BITS, "restart": 1, "two_planes": 1, "blocks": range(max_blocks + 1), "rows": range(max_rows + 1)}
    )


def result_beat(lanes: int, width: int, tag_bits: int) -> data.StructLayout:
    """``lanes`` consecutive results of the matrix that ``tag`` names; ``last`` marks the matrix's last beat."""
    return data.StructLayout({"data": data.ArrayLayout(signed(width), lanes), "tag": tag_bits, "last": 1})
