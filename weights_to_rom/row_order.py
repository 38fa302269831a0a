"""The orders in which files and the chip keep the rows of q and k, which RoPE rotates in pairs."""

import numpy as np


def pair_order(n_heads: int, head_dim: int) -> np.ndarray:
    """Permutation from Hugging Face order to pair order, int64[n_heads * head_dim]: ``pairs = hugging_face[pair_order(...)]``.

    RoPE rotates elements j and j + head_dim / 2 of a head together.  In pair order, which the chip uses, they are the
    neighbouring rows 2 j and 2 j + 1.
    """
    half = np.arange(head_dim // 2)
    pairs = np.stack([half, half + head_dim // 2], axis=1).reshape(-1)
    return (np.arange(n_heads)[:, None] * head_dim + pairs).reshape(-1)


def half_rotation_rows(n_heads: int, head_dim: int) -> np.ndarray:
    """Permutation from interleaved to Hugging Face order, int64[n_heads * head_dim].

    ``hugging_face = interleaved[half_rotation_rows(...)]``.  llama2.c and GGUF files of llamas interleave: RoPE rotates
    element ``2 j`` with ``2 j + 1`` there, and ``j`` with ``j + head_dim / 2`` in Hugging Face's order.
    """
    rows = np.arange(n_heads * head_dim).reshape(n_heads, head_dim // 2, 2)
    return rows.swapaxes(1, 2).reshape(-1)
