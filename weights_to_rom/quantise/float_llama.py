"""Llama in floating point, in the order in which the data flows.  The integer model approximates it.

It equals ``LlamaForCausalLM`` of Hugging Face transformers, and with an adapter ``peft``.  test_float_llama.py and test_peft.py
compare it with stored logits; ``tests/data/generators/make_..._reference.py --check`` compares those with the libraries.
"""

from collections.abc import Callable, Sequence

import numpy as np

from weights_to_rom.adapters.peft import LoraPair, PeftAdapter
from weights_to_rom.config import LlamaConfig
from weights_to_rom.projections import LINEARS

Capture = Callable[[str, np.ndarray], None]
KeysAndValues = tuple[np.ndarray, np.ndarray]


def rms_norm(x: np.ndarray, gain: np.ndarray, eps: float) -> np.ndarray:
    """x / sqrt(mean(x**2) + eps) * gain, over the last axis."""
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + x.dtype.type(eps)) * gain


def silu(x: np.ndarray) -> np.ndarray:
    """x * sigmoid(x).  The sigmoid is computed by a tanh, because that overflows for no x."""
    return x * (0.5 * (1 + np.tanh(0.5 * x)))


def rotate(x: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """RoPE: rotate the pairs (j, j + head_dim/2) of ``x[T, heads, head_dim]`` by ``angle[T, head_dim/2]``, in radians."""
    cos, sin = (f(angle).astype(x.dtype)[:, None] for f in (np.cos, np.sin))
    a, b = np.split(x, 2, axis=-1)
    return np.concatenate((a * cos - b * sin, b * cos + a * sin), axis=-1)


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, sink_q: np.ndarray | None = None, n_sinks: int = 0) -> np.ndarray:
    """softmax(q k^T / sqrt(head_dim)) v, causal, for grouped query heads.

    ``q[T, n_heads, head_dim]`` are the last T of the S positions in ``k, v[S, n_kv_heads, head_dim]``;
    query head h reads key-value head h // n_rep.  Returns ``[T, n_heads * head_dim]``.  The first ``n_sinks`` keys
    are multiplied by ``sink_q`` instead of q.
    """
    length, n_heads, head_dim = q.shape
    n_rep = n_heads // k.shape[1]
    future = np.arange(len(k)) > np.arange(len(k) - length, len(k))[:, None]
    out = np.empty_like(q)
    for head in range(n_heads):  # One head at a time, because the scores of 4,096 positions take 64 MB a head.
        scores = q[:, head] @ k[:, head // n_rep].T / q.dtype.type(np.sqrt(head_dim))
        if sink_q is not None:
            scores[:, :n_sinks] = sink_q[:, head] @ k[:n_sinks, head // n_rep].T / q.dtype.type(np.sqrt(head_dim))
        scores[future] = -np.inf
        weight = np.exp(scores - scores.max(axis=-1, keepdims=True))
        out[:, head] = weight / weight.sum(axis=-1, keepdims=True) @ v[:, head // n_rep]
    return out.reshape(length, -1)


class Layer:
    """One decoder layer.

    ``weights`` maps "q", "attn_norm" ... to the layer's tensors; GPTQ replaces them.  A matrix with an adapter computes
    W x + scale * B (A x).  ``index`` is the layer's number from 0; the other parameters are those of ``FloatLlama``.
    """

    def __init__(
        self,
        config: LlamaConfig,
        index: int,
        tensor: Callable[[str], np.ndarray],
        dtype: type = np.float32,
        adapter: PeftAdapter | None = None,
        max_context: int | None = None,
        n_sinks: int = 0,
    ) -> None:
        self.config = config
        self.max_context, self.n_sinks = max_context or config.max_seq_len, n_sinks
        self.prefix = f"layers.{index}."
        self.frequencies = config.rope_frequencies()
        self.weights = {name: np.asarray(tensor(self.prefix + name), dtype) for name in ("attn_norm", "ffn_norm", *LINEARS)}
        pairs = adapter.matrices if adapter else {}
        self.lora = {
            name: LoraPair(pair.a.astype(dtype), pair.b.astype(dtype), pair.scale)
            for name in LINEARS
            if (pair := pairs.get(self.prefix + name))
        }

    def forward(
        self, x: np.ndarray, past: KeysAndValues | None = None, capture: Capture | None = None, start: int = 0
    ) -> tuple[np.ndarray, KeysAndValues]:
        """Compute the layer for the residual stream ``x[T, dim]`` of T positions from ``start`` on.

        Returns the new residual stream, and the keys and values with those of the T positions.  With sinks, a position
        beyond ``max_context`` must come alone (T = 1), and replaces the oldest position that is no sink.
        """
        c, w = self.config, self.weights

        def linear(name: str, i: np.ndarray) -> np.ndarray:
            if capture:
                capture(self.prefix + name, i)
            y = i @ w[name].T
            if pair := self.lora.get(name):
                y += i @ pair.a.T @ pair.b.T * y.dtype.type(pair.scale)
            return y

        i = rms_norm(x, w["attn_norm"], c.norm_eps)
        q, k, v = (linear(name, i).reshape(len(x), -1, c.head_dim) for name in "qkv")
        angle = np.arange(start, start + len(x))[:, None] * self.frequencies
        k = rotate(k, angle)
        if past is not None:
            k, v = np.concatenate((past[0], k)), np.concatenate((past[1], v))
        sink_q = None
        if self.n_sinks and len(k) > self.max_context:
            k, v = (np.delete(kept, self.n_sinks, axis=0) for kept in (k, v))
            sink_q = rotate(q, np.array([[self.max_context - 1]]) * self.frequencies)
        x = x + linear("o", attend(rotate(q, angle), k, v, sink_q, self.n_sinks))

        i = rms_norm(x, w["ffn_norm"], c.norm_eps)
        x = x + linear("down", silu(linear("gate", i)) * linear("up", i))
        return x, (k, v)


class FloatLlama:
    """A Llama in numpy.

    Parameters
    ----------
    config
        The shape.
    tensor
        Gives a tensor by its canonical name (``LlamaConfig.tensor_shapes``).  Every tensor is asked for once
        and held in ``dtype``: 4 bytes a parameter in float32.
    dtype
        ``np.float32``, or ``np.float64`` where a comparison calls for it.  RoPE angles are always float64.
    adapter
        A LoRA adapter that every token uses.
    max_context, n_sinks
        Positions that ``extend`` keeps.  If ``n_sinks`` is not 0, each further position replaces the oldest one but the
        first ``n_sinks`` (docs/arithmetic.md, attention).
    """

    def __init__(
        self,
        config: LlamaConfig,
        tensor: Callable[[str], np.ndarray],
        dtype: type = np.float32,
        adapter: PeftAdapter | None = None,
        max_context: int | None = None,
        n_sinks: int = 0,
    ) -> None:
        self.config = config
        self.max_context, self.n_sinks = max_context or config.max_seq_len, n_sinks
        self.embedding = np.asarray(tensor("embed"), dtype)
        self.layers = [Layer(config, i, tensor, dtype, adapter, max_context, n_sinks) for i in range(config.n_layers)]
        self.norm = np.asarray(tensor("norm"), dtype)
        self.head = self.embedding if config.tied else np.asarray(tensor("head"), dtype)
        self.reset()

    def reset(self) -> None:
        """Start a new sequence."""
        self.past: list[KeysAndValues | None] = [None] * self.config.n_layers
        self.position = 0

    def forward(self, tokens: Sequence[int] | np.ndarray, capture: Capture | None = None) -> np.ndarray:
        """Logits ``[T, vocab_size]`` of a whole sequence.  The cache of ``extend`` stays as it is.

        ``capture(name, x)`` is called with the input ``x[T, inputs]`` of every matrix, under the matrix's
        canonical name; that is ``embed`` for the head of a tied model.
        """
        return self._run(tokens, [None] * self.config.n_layers, capture)

    def extend(self, tokens: Sequence[int] | np.ndarray) -> np.ndarray:
        """Logits ``[T, vocab_size]`` of tokens that follow those fed since ``reset`` (KV cache)."""
        room = max(0, self.max_context - self.position)
        parts = [tokens]
        if self.n_sinks and len(tokens) > room:
            parts = ([tokens[:room]] if room else []) + [[token] for token in tokens[room:]]
        logits = []
        for part in parts:
            logits.append(self._run(part, self.past, start=self.position))
            self.position += len(part)
        return np.concatenate(logits)

    def step(self, token: int) -> np.ndarray:
        """Logits ``[vocab_size]`` after one more token."""
        return self.extend([token])[0]

    def _run(
        self,
        tokens: Sequence[int] | np.ndarray,
        past: list[KeysAndValues | None],
        capture: Capture | None = None,
        start: int = 0,
    ) -> np.ndarray:
        tokens = np.asarray(tokens, np.int64)
        if tokens.ndim != 1 or not len(tokens):
            raise ValueError(f"tokens must be a sequence of at least one token, not of shape {tokens.shape}")
        outside = tokens[(tokens < 0) | (tokens >= self.config.vocab_size)]
        if len(outside):
            raise ValueError(f"token {outside[0]} is not in the vocabulary of {self.config.vocab_size}")
        x = self.embedding[tokens]
        for i, layer in enumerate(self.layers):
            x, past[i] = layer.forward(x, past[i], capture, start)
        x = rms_norm(x, self.norm, self.config.norm_eps)
        if capture:
            capture("embed" if self.config.tied else "head", x)
        return x @ self.head.T
