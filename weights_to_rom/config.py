"""The shape of a Llama checkpoint."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from weights_to_rom.errors import HardwireError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3's RoPE scaling: high frequencies are kept, low ones are divided by ``factor``, and those between are blended.

    ``original_max_seq_len / high_freq_factor`` is the longest wavelength, in positions, that is kept;
    ``original_max_seq_len / low_freq_factor`` is the shortest that is divided.

    Source: ``_compute_llama3_parameters`` in transformers' ``modeling_rope_utils``.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_seq_len: int


@dataclass(frozen=True)
class LlamaConfig:
    """Shapes and constants of one Llama checkpoint.

    ``ffn_dim`` is the inner width of SwiGLU.  ``max_seq_len`` is the context that the model was trained with.  ``tied`` says
    that the LM head is the embedding.
    """

    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    ffn_dim: int
    vocab_size: int
    max_seq_len: int
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    tied: bool = True
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "ffn_dim", "vocab_size", "max_seq_len"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise HardwireError(f"{name} must be a positive integer, not {value!r}")
        if self.n_heads % self.n_kv_heads:
            raise HardwireError(f"n_heads ({self.n_heads}) must be a multiple of n_kv_heads ({self.n_kv_heads})")
        if self.head_dim % 8:
            raise HardwireError(f"head_dim must be a multiple of 8, not {self.head_dim}")

    @property
    def n_rep(self) -> int:
        """Query heads that share one key-value head."""
        return self.n_heads // self.n_kv_heads

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Canonical tensor names and shapes, in the order in which the data flows.

        Matrices are ``(outputs, inputs)``.  Rows of ``q`` and ``k`` are in Hugging Face order: within a head,
        element ``j`` is rotated with element ``j + head_dim // 2``.
        """
        dim, ffn = self.dim, self.ffn_dim
        q_dim, kv_dim = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        shapes: dict[str, tuple[int, ...]] = {"embed": (self.vocab_size, dim)}
        for i in range(self.n_layers):
            shapes |= {
                f"layers.{i}.attn_norm": (dim,),
                f"layers.{i}.q": (q_dim, dim),
                f"layers.{i}.k": (kv_dim, dim),
                f"layers.{i}.v": (kv_dim, dim),
                f"layers.{i}.o": (dim, q_dim),
                f"layers.{i}.ffn_norm": (dim,),
                f"layers.{i}.gate": (ffn, dim),
                f"layers.{i}.up": (ffn, dim),
                f"layers.{i}.down": (dim, ffn),
            }
        shapes["norm"] = (dim,)
        if not self.tied:
            shapes["head"] = (self.vocab_size, dim)
        return shapes

    def rope_frequencies(self) -> "np.ndarray":
        """Radians per position for each rotated pair, float64[head_dim // 2]."""
        import numpy as np  # imported here, because the help of the command line starts faster without numpy

        freq = self.rope_theta ** (-np.arange(0, self.head_dim, 2, dtype=np.float64) / self.head_dim)
        s = self.rope_scaling
        if s is None:
            return freq
        wavelength = 2 * np.pi / freq
        smooth = (s.original_max_seq_len / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor)
        blended = (1 - smooth) * freq / s.factor + smooth * freq
        return np.where(
            wavelength < s.original_max_seq_len / s.high_freq_factor,
            freq,
            np.where(wavelength > s.original_max_seq_len / s.low_freq_factor, freq / s.factor, blended),
        )
