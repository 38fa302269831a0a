"""The whole integer model: golden units in the order in which the data flows."""

from collections.abc import Callable, Mapping

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
from weights_to_rom.adapters.lora import IntegerAdapter
from weights_to_rom.integer_model import IntegerModel
from weights_to_rom.model_format import BLOCK

Values = np.ndarray | tuple[np.ndarray, np.ndarray | int]
Observer = Callable[[str, int | None, Mapping[str, Values]], None]
"""Told of each unit's result as it is computed: unit, layer, and the result's parts in the order in which the chip has them.

A part is an array [T, ...], of LSB 2**-12, or one with its exponents, which belong to equal runs of elements, one for all
or one for each block: (array [T, ...], exponents int or [T, ...]).  Layer is None before the first and after the last.
"""


class GoldenLlama:
    """Logits of the chip, to the bit, for one sequence whose KV cache grows with each call.

    ``extend`` evaluates any number of positions at once: the units know nothing of each other's positions but for
    attention, which sees the cache up to its own.  With ``n_sinks`` the cache has ``max_context`` places, and positions
    beyond it, one at a time, take the place of older ones.

    ``observe`` may be set to an Observer, of units by the chip's names; a value must not be kept without a copy.  For
    kv_cache it is what the layer's cache holds now: [kv head, place, block, element] and exponents.
    """

    observe: Observer | None = None

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
        self._tell("embedding", None, h=h)
        self._tell("residual", None, h=h)
        for i in range(f.n_layers):
            h = self._add(i, "after_attention", h, self._attention(i, *self._norm(i, "attn_norm", h), positions, adapter))
            h = self._add(i, "after_ffn", h, self._ffn(i, *self._norm(i, "ffn_norm", h), adapter))
        if last_only:
            h = h[-1:]
        (logits,) = self._matvec(None, ("embed" if f.tied else "head",), *self._norm(None, "norm", h))
        self.position += len(tokens)
        return logits

    def _tell(self, unit: str, layer: int | None, **parts: Values) -> None:
        if self.observe is not None:
            self.observe(unit, layer, parts)

    def _add(self, layer, which, h, y):
        h = residual(h, y, self.format.wide_bits)
        self._tell("residual", layer, **{which: h})
        return h

    def _matvec(self, layer, kinds, mant, exp, adapter=None):
        """The matrices of a layer that share their input, or the LM head."""
        names = [kind if layer is None else f"layers.{layer}.{kind}" for kind in kinds]
        for name in names:
            if name not in self._prepared:
                self._prepared[name] = prepare(self.model.matrices[name])
        wide_bits = self.format.wide_bits
        results = [matvec(self._prepared[name], mant, exp, wide_bits) for name in names]
        self._tell("matvec", layer, **dict(zip(kinds, results, strict=True)))
        if adapter is not None:
            results = [
                lora(y, mant, exp, adapter.matrices[name], wide_bits) if name in adapter.matrices else y
                for name, y in zip(names, results, strict=True)
            ]
        self._tell("lora", layer, **dict(zip(kinds, results, strict=True)))
        return results

    def _mx(self, unit, layer, kind, v, base):
        blocks = mx(v, base, BLOCK)
        self._tell(unit, layer, **{kind: blocks})
        return blocks

    def _norm(self, layer, kind, h):
        norm = self.model.norms[kind if layer is None else f"layers.{layer}.{kind}"]
        z, base = rmsnorm(h, norm.gain_q, norm.gain_exp, norm.eps_q)
        self._tell("rmsnorm", layer, **{kind: (z, base)})
        return self._mx("mx_norm", layer, kind, z, base)

    def _attention(self, layer, mant, exp, positions, adapter):
        f, n_time = self.format, len(positions)
        k, v, q = (y.reshape(n_time, -1, f.head_dim) for y in self._matvec(layer, "kvq", mant, exp, adapter))

        def rotated(x, positions=positions):
            return rope(x, positions, self.model.freq_q, f.wide_bits, f.sine_bits)

        k, turned = rotated(k), [rotated(q)]
        if self.n_sinks:  # once more, for the sinks: none is further away than in a context that is just full
            turned.append(rotated(q, np.minimum(positions, self.max_context - 1)))
        q = np.stack(turned, axis=2)
        self._tell("rope", layer, k=(k, -12), v=(v, -12), q=(q, -12))
        k, v, q = (mx(x, -12, f.kv_block) for x in (k, v, q))  # [T, heads, ..., blocks, kv_block], [T, heads, ..., blocks]
        self._tell("mx_qkv", layer, k=k, v=v, q=q)
        whole = self.n_sinks and self.position >= self.max_context
        if whole:
            place = self.n_sinks + (self.position - self.n_sinks) % (self.max_context - self.n_sinks)
            for cached, fresh in zip(self._cache[layer], (k, v), strict=True):
                for old, new in zip(cached, fresh, strict=True):
                    old[:, place] = new[0]
        else:
            self._cache[layer] = tuple(
                tuple(
                    np.concatenate([old, np.moveaxis(new, 0, 1).astype(old.dtype)], axis=1)
                    for old, new in zip(cached, fresh, strict=True)
                )
                for cached, fresh in zip(self._cache[layer], (k, v), strict=True)
            )
        k, v = self._cache[layer]
        self._tell("kv_cache", layer, k=k, v=v)

        def grouped(turn):
            return tuple(part[:, :, turn].reshape(n_time, f.n_kv_heads, f.n_rep, *part.shape[3:]) for part in q)

        # [kv head, 1, place, ...]: every query of a group meets the same keys and values.
        k, v = (tuple(part[:, None] for part in cached) for cached in (k, v))
        out = attention(
            *grouped(0),
            *k,
            *v,
            f.wide_bits,
            np.minimum(positions + 1, k[0].shape[2]),
            (self.n_sinks, *grouped(1)) if whole else None,
        ).reshape(n_time, -1)
        self._tell("attention", layer, o=(out, -16))
        return self._matvec(layer, "o", *self._mx("mx_attention", layer, "o", out, -16), adapter)[0]

    def _ffn(self, layer, mant, exp, adapter):
        z = swiglu(*self._matvec(layer, ("gate", "up"), mant, exp, adapter))
        self._tell("swiglu", layer, down=(z, -24))
        return self._matvec(layer, ("down",), *self._mx("mx_swiglu", layer, "down", z, -24), adapter)[0]
