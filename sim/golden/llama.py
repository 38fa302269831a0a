"""The whole golden model: its units in the order in which the data flows."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

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

Blocks = tuple[np.ndarray, np.ndarray]
"""MX blocks: mantissas [..., blocks, block] and exponents [..., blocks]."""
Values = np.ndarray | tuple[np.ndarray, np.ndarray | int]
Observer = Callable[[str, int | None, Mapping[str, Values]], None]
"""A function that gets the result of each unit: the unit's name, the layer, and the parts of the result in the chip's order.

A part is an array [T, ...] of LSB 2**-12, or a pair (array [T, ...], exponents).  The exponents are one integer for all
elements, or an array [T, ...] with one for each run of equally many elements.  The layer is None for the embedding, for the
first residual and for everything after the last layer.
"""


class GoldenLlama:
    """The chip's logits, equal in every bit, for one sequence whose KV cache grows with each call.

    ``extend`` evaluates any number of positions at once.  This is possible because only attention reads other positions,
    and it reads those up to its own.

    ``observe`` may be set to an Observer.  It gets the units by the chip's names, and must copy a value to keep it.  The
    result of kv_cache is the whole cache of the layer: mantissas [kv head, place, block, element], and exponents.

    Parameters
    ----------
    model
        The integers.
    max_context
        Positions that the KV cache holds; by default the model's ``max_seq_len``.
    n_sinks
        Sinks: positions at the start of the text that the cache never drops.  If there are any, each position from
        ``max_context`` on replaces the oldest position that is no sink.  With 0, the sequence ends at ``max_context``.
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
        self._cache: list[tuple[Blocks, Blocks]] = [(empty, empty) for _ in range(f.n_layers)]
        self.position = 0

    def extend(self, tokens: ArrayLike, last_only: bool = False, adapter: IntegerAdapter | None = None) -> np.ndarray:
        """Feed tokens int[T] at the next T positions; return logits Wide[T, vocab_size], or [1, vocab_size] with ``last_only``."""
        tokens = np.asarray(tokens)
        if self.n_sinks and self.position + len(tokens) > self.max_context:
            room = max(0, self.max_context - self.position)
            parts = ([tokens[:room]] if room else []) + list(tokens[room:, None])
            logits = [self._extend(part, last_only, adapter) for part in parts]
            return logits[-1] if last_only else np.concatenate(logits)
        return self._extend(tokens, last_only, adapter)

    def _extend(self, tokens: np.ndarray, last_only: bool, adapter: IntegerAdapter | None) -> np.ndarray:
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

    def _add(self, layer: int, which: str, h: np.ndarray, y: np.ndarray) -> np.ndarray:
        h = residual(h, y, self.format.wide_bits)
        self._tell("residual", layer, **{which: h})
        return h

    def _matvec(
        self, layer: int | None, kinds: Sequence[str], mant: np.ndarray, exp: np.ndarray, adapter: IntegerAdapter | None = None
    ) -> list[np.ndarray]:
        """Multiply an input by the matrices of a layer that share it, or by the LM head."""
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

    def _mx(self, unit: str, layer: int | None, kind: str, v: np.ndarray, base: ArrayLike) -> Blocks:
        blocks = mx(v, base, BLOCK)
        self._tell(unit, layer, **{kind: blocks})
        return blocks

    def _norm(self, layer: int | None, kind: str, h: np.ndarray) -> Blocks:
        norm = self.model.norms[kind if layer is None else f"layers.{layer}.{kind}"]
        z, base = rmsnorm(h, norm.gain_q, norm.gain_exp, norm.eps_q)
        self._tell("rmsnorm", layer, **{kind: (z, base)})
        return self._mx("mx_norm", layer, kind, z, base)

    def _attention(
        self, layer: int, mant: np.ndarray, exp: np.ndarray, positions: np.ndarray, adapter: IntegerAdapter | None
    ) -> np.ndarray:
        f, n_time = self.format, len(positions)
        k, v, q = (y.reshape(n_time, -1, f.head_dim) for y in self._matvec(layer, "kvq", mant, exp, adapter))

        def rotated(x: np.ndarray, positions: np.ndarray = positions) -> np.ndarray:
            return rope(x, positions, self.model.freq_q, f.wide_bits, f.sine_bits)

        k, turned = rotated(k), [rotated(q)]
        if self.n_sinks:
            # q is rotated a second time for the scores of the sinks: their distance stops growing when the window is full.
            turned.append(rotated(q, np.minimum(positions, self.max_context - 1)))
        q = np.stack(turned, axis=2)
        self._tell("rope", layer, k=(k, -12), v=(v, -12), q=(q, -12))
        new_k, new_v, q_blocks = (
            mx(x, -12, f.kv_block) for x in (k, v, q)
        )  # [T, heads, ..., blocks, kv_block], [T, heads, ..., blocks]
        self._tell("mx_qkv", layer, k=new_k, v=new_v, q=q_blocks)
        slides = self.n_sinks > 0 and self.position >= self.max_context
        k_cached, v_cached = self._store(layer, new_k, new_v, slides)
        self._tell("kv_cache", layer, k=k_cached, v=v_cached)

        def grouped(turn: int) -> Blocks:
            mant, exp = (part[:, :, turn].reshape(n_time, f.n_kv_heads, f.n_rep, *part.shape[3:]) for part in q_blocks)
            return mant, exp

        # [kv head, 1, place, ...]: all queries of a group read the same keys and values.
        k_mant, k_exp, v_mant, v_exp = (part[:, None] for part in (*k_cached, *v_cached))
        n_positions = np.minimum(positions + 1, k_mant.shape[2])
        sinks = (self.n_sinks, *grouped(1)) if slides else None
        out = attention(*grouped(0), k_mant, k_exp, v_mant, v_exp, f.wide_bits, n_positions, sinks).reshape(n_time, -1)
        self._tell("attention", layer, o=(out, -16))
        return self._matvec(layer, "o", *self._mx("mx_attention", layer, "o", out, -16), adapter)[0]

    def _store(self, layer: int, k: Blocks, v: Blocks, slides: bool) -> tuple[Blocks, Blocks]:
        """Put keys and values into the layer's cache, and return the whole cache.

        If the window ``slides``, the cache keeps its size: the new position replaces the oldest that is no sink.
        """
        place = self.n_sinks + (self.position - self.n_sinks) % max(1, self.max_context - self.n_sinks)

        def stored(old: np.ndarray, new: np.ndarray) -> np.ndarray:
            if not slides:
                return np.concatenate([old, np.moveaxis(new, 0, 1).astype(old.dtype)], axis=1)
            old[:, place] = new[0]
            return old

        (k_mant, k_exp), (v_mant, v_exp) = self._cache[layer]
        self._cache[layer] = (stored(k_mant, k[0]), stored(k_exp, k[1])), (stored(v_mant, v[0]), stored(v_exp, v[1]))
        return self._cache[layer]

    def _ffn(self, layer: int, mant: np.ndarray, exp: np.ndarray, adapter: IntegerAdapter | None) -> np.ndarray:
        z = swiglu(*self._matvec(layer, ("gate", "up"), mant, exp, adapter))
        self._tell("swiglu", layer, down=(z, -24))
        return self._matvec(layer, ("down",), *self._mx("mx_swiglu", layer, "down", z, -24), adapter)[0]
