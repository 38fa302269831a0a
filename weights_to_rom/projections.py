"""The seven projections of a layer: their kinds, their groups and the modules that hold them."""

LINEARS = ("q", "k", "v", "o", "gate", "up", "down")
"""Kinds of matrices in a layer, in the order in which the data flows."""

GROUPS = {"qkv": ("k", "v", "q"), "o": ("o",), "gate_up": ("gate", "up"), "down": ("down",)}
"""The kinds that share an input and a number format, in the order of the chip's results.

A group is one matrix to the chip: its name is that of a ``schedule.Step`` in small letters.
"""

MODULES = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
"""The module of ``LlamaForCausalLM`` that holds each kind of matrix, within a layer."""
