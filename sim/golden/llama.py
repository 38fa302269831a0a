"""The whole integer model: golden units in the order in which the data flows."""

import numpy as np

from sim.golden.attention import attention
from sim.golden.embedding import embedding
from sim.golden.lora import lora
from sim.golden.matvec import PreparedMatrix, matvec, prepare
from sim.golden.mx import mx
from sim.golden.residual import residual
from sim.golden.rmsnorm import rmsnorm
from sim.golden.rope import rope
from sim.golden.swiglu import swiglu
from weights_to_rom.integer_model import IntegerModel
from weights_to_rom.lora import IntegerAdapter
from weights_to_rom.model_format import BLOCK


class GoldenLlama:
    """Logits of the chip, to the bit, for one sequence whose KV cache grows with each call.

    ``extend`` evaluates any number of positions at once: the units know nothing of each other's positions but for
    attention, which sees the cache up to its own.  With ``n_sinks`` the cache has ``max_context`` places, and positions
    beyond it, one at a time, take the place of older ones.
    """

    def __init__(self, model: IntegerModel, max_context: int | None = None, n_sinks: int = 0):
        self.model = model
        self.format = model.format
        self.max_context, self.n_sinks = max_context or model.format.max_seq_len, n_sinks
        self._prepared: dict[str, PreparedMatrix] = {}
        self.reset()

    def reset(self) -> None:
        """Forget the sequence."""
        f = self.format
        blocks = f.head_dim // f.kv_block
        empty = (np.zeros((f.n_kv_heads, 0, blocks, f.kv_block), np.int16), np.zeros((f.n_kv_heads, 0, blocks), np.int64))
        self._cache = [(empty, empty) for _ in range(f.n_layers)]
        self.position = 0

    def extend(self, tokens, last_only: bool = False, adapter: IntegerAdapter | None = None) -> np.ndarray:
        """tokens int[T] at the next T positions -> logits Wide[T, vocab_size] (or [1, vocab_size] of the last)."""
        tokens = np.asarray(tokens)
        if self.n_sinks and self.position + len(tokens) > self.max_context:
            room = max(0, self.max_context - self.position)
            parts = ([tokens[:room]] if room else []) + list(tokens[room:, None])
            logits = [self._extend(part, last_only, adapter) for part in parts]
            return logits[-1] if last_only else np.concatenate(logits)
        return self._extend(tokens, last_only, adapter)

    def _extend(self, tokens, last_only, adapter) -> np.ndarray:
        positions = self.position + np.arange(len(tokens))
        f = self.format
        h = embedding(self.model.matrices["embed"], tokens, self.model.residual_shift if f.tied else 0, f.wide_bits)
        for i in range(f.n_layers):
            name = f"layers.{i}"
            h = residual(h, self._attention(i, *self._norm(h, f"{name}.attn_norm"), positions, adapter), f.wide_bits)
            h = residual(h, self._ffn(name, *self._norm(h, f"{name}.ffn_norm"), adapter), f.wide_bits)
        self.position += len(tokens)
        if last_only:
            h = h[-1:]
        return self._matvec("embed" if f.tied else "head", *self._norm(h, "norm"))

    def _matvec(self, name, mant, exp, adapter=None):
        if name not in self._prepared:
            self._prepared[name] = prepare(self.model.matrices[name])
        y = matvec(self._prepared[name], mant, exp, self.format.wide_bits)
        if adapter is not None and name in adapter.matrices:
            y = lora(y, mant, exp, adapter.matrices[name], self.format.wide_bits)
        return y

    def _norm(self, h, name):
        norm = self.model.norms[name]
        return mx(*rmsnorm(h, norm.gain_q, norm.gain_exp, norm.eps_q), BLOCK)

    def _attention(self, layer, mant, exp, positions, adapter):
        f, n_time, name = self.format, len(positions), f"layers.{layer}"

        def heads(kind, n):
            return self._matvec(f"{name}.{kind}", mant, exp, adapter).reshape(n_time, n, f.head_dim)

        def rotated(x, positions=positions):
            return rope(x, positions, self.model.freq_q, f.wide_bits, f.sine_bits)

        def blocks(x):
            return mx(x, -12, f.kv_block)  # [T, heads, blocks, kv_block], [T, heads, blocks]

        def grouped(q):
            return tuple(part.reshape(n_time, f.n_kv_heads, f.n_rep, *part.shape[2:]) for part in blocks(q))

        k, v, q = blocks(rotated(heads("k", f.n_kv_heads))), blocks(heads("v", f.n_kv_heads)), heads("q", f.n_heads)
        whole = self.n_sinks and self.position >= self.max_context
        if whole:
            place = self.n_sinks + (self.position - self.n_sinks) % (self.max_context - self.n_sinks)
            for cached, fresh in zip(self._cache[layer], (k, v), strict=True):
                for old, new in zip(cached, fresh, strict=True):
                    old[:, place] = new[0]
        else:
            self._cache[layer] = tuple(
                tuple(np.concatenate([old, np.moveaxis(new, 0, 1).astype(old.dtype)], axis=1)
                      for old, new in zip(cached, fresh, strict=True))
                for cached, fresh in zip(self._cache[layer], (k, v), strict=True))
        sinks = (self.n_sinks, *grouped(rotated(q, positions * 0 + self.max_context - 1))) if whole else None
        # [kv head, 1, place, ...]: every query of a group meets the same keys and values.
        (k_mant, k_exp), (v_mant, v_exp) = (tuple(part[:, None] for part in cached) for cached in self._cache[layer])
        out = attention(*grouped(rotated(q)), k_mant, k_exp, v_mant, v_exp, f.wide_bits,
                        np.minimum(positions + 1, k_mant.shape[2]), sinks)
        return self._matvec(f"{name}.o", *mx(out.reshape(n_time, -1), -16, BLOCK), adapter)

    def _ffn(self, name, mant, exp, adapter):
        gate, up = (self._matvec(f"{name}.{kind}", mant, exp, adapter) for kind in ("gate", "up"))
        return self._matvec(f"{name}.down", *mx(swiglu(gate, up), -24, BLOCK), adapter)
