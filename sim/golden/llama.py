"""The whole integer model: golden units in the order in which the data flows."""

import numpy as np

from sim.golden.attention import attention
from sim.golden.embedding import embedding
from sim.golden.matvec import matvec
from sim.golden.mx import mx
from sim.golden.residual import residual
from sim.golden.rmsnorm import rmsnorm
from sim.golden.rope import rope
from sim.golden.swiglu import swiglu
from weights_to_rom.integer_model import IntegerModel
from weights_to_rom.model_format import BLOCK


class GoldenLlama:
    """Logits of the chip, to the bit, for one sequence whose KV cache grows with each call.

    ``extend`` evaluates any number of positions at once: the units know nothing of each other's positions but for
    attention, which sees the cache up to its own.
    """

    def __init__(self, model: IntegerModel):
        self.model = model
        self.format = model.format
        self.reset()

    def reset(self) -> None:
        """Forget the sequence."""
        f = self.format
        blocks = f.head_dim // f.kv_block
        empty = (np.zeros((f.n_kv_heads, 0, blocks, f.kv_block), np.int16), np.zeros((f.n_kv_heads, 0, blocks), np.int64))
        self._cache = [(empty, empty) for _ in range(f.n_layers)]
        self.position = 0

    def extend(self, tokens, last_only: bool = False) -> np.ndarray:
        """tokens int[T] at the next T positions -> logits Wide[T, vocab_size] (or [1, vocab_size] of the last)."""
        tokens = np.asarray(tokens)
        positions = self.position + np.arange(len(tokens))
        f, matrices = self.format, self.model.matrices
        h = embedding(matrices["embed"], tokens, self.model.residual_shift if f.tied else 0, f.wide_bits)
        for i in range(f.n_layers):
            name = f"layers.{i}"
            h = residual(h, self._attention(i, *self._norm(h, f"{name}.attn_norm"), positions), f.wide_bits)
            h = residual(h, self._ffn(name, *self._norm(h, f"{name}.ffn_norm")), f.wide_bits)
        self.position += len(tokens)
        if last_only:
            h = h[-1:]
        return matvec(self.model.head, *self._norm(h, "norm"), f.wide_bits)

    def _norm(self, h, name):
        norm = self.model.norms[name]
        return mx(*rmsnorm(h, norm.gain_q, norm.gain_exp, norm.eps_q), BLOCK)

    def _attention(self, layer, mant, exp, positions):
        f, n_time = self.format, len(positions)
        name = f"layers.{layer}"

        def heads(kind, n):
            rows = matvec(self.model.matrices[f"{name}.{kind}"], mant, exp, f.wide_bits)
            return rows.reshape(n_time, n, f.head_dim)

        def blocks(x):
            return mx(x, -12, f.kv_block)  # [T, heads, blocks, kv_block], [T, heads, blocks]

        k = blocks(rope(heads("k", f.n_kv_heads), positions, self.model.freq_q, f.wide_bits, f.sine_bits))
        v = blocks(heads("v", f.n_kv_heads))
        q_mant, q_exp = blocks(rope(heads("q", f.n_heads), positions, self.model.freq_q, f.wide_bits, f.sine_bits))
        self._cache[layer] = tuple(
            tuple(np.concatenate([old, np.moveaxis(new, 0, 1).astype(old.dtype)], axis=1)
                  for old, new in zip(cached, fresh, strict=True))
            for cached, fresh in zip(self._cache[layer], (k, v), strict=True))
        out = np.empty((n_time, f.n_heads, f.head_dim), np.int64)
        for j in range(f.n_kv_heads):
            group = slice(j * f.n_rep, (j + 1) * f.n_rep)
            (k_mant, k_exp), (v_mant, v_exp) = self._cache[layer]
            out[:, group] = attention(q_mant[:, group], q_exp[:, group], k_mant[j], k_exp[j], v_mant[j], v_exp[j],
                                      f.wide_bits, (positions + 1)[:, None])
        return matvec(self.model.matrices[f"{name}.o"], *mx(out.reshape(n_time, -1), -16, BLOCK), f.wide_bits)

    def _ffn(self, name, mant, exp):
        f, matrices = self.format, self.model.matrices
        gate = matvec(matrices[f"{name}.gate"], mant, exp, f.wide_bits)
        up = matvec(matrices[f"{name}.up"], mant, exp, f.wide_bits)
        return matvec(matrices[f"{name}.down"], *mx(swiglu(gate, up), -24, BLOCK), f.wide_bits)
