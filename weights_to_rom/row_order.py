"""The orders in which files and the chip keep the rows of q and k, which RoPE rotates in pairs."""

import numpy as np


def pair_order(n_heads: int, head_dim: int) -> np.ndarray:
    """Rows in the chip's order, as numbers of rows in Hugging Face order: int64[n_heads * head_dim].

    RoPE rotates elements j and j + head_dim / 2 of a head together.  The chip keeps such a pair in neighbouring rows.
    """
    half = np.arange(head_dim // 2)
    pairs = np.stack([half, half + head_dim // 2], axis=1).reshape(-1)
    return (np.arange(n_heads)[:, None] * head_dim + pairs).reshape(-1)


def half_rotation_rows(n_heads: int, head_dim: int) -> np.ndarray:
    """Rows in Hugging Face order, as numbers of rows of an interleaved q or k matrix: int64[n_heads * head_dim].

    RoPE rotates element ``2 j`` with ``2 j + 1`` in llama2.c and in GGUF files of llamas, and ``j`` with
    ``j + head_dim / 2`` in Hugging Face's; ``hugging_face = interleaved[half_rotation_rows(...)]``.
    """
    rows = np.arange(n_heads * head_dim).reshape(n_heads, head_dim // 2, 2)
    return rows.swapaxes(1, 2).reshape(-1)
