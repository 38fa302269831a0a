"""The shapes and number formats of a model.  The hardware depends on these alone; the weights are contents of its ROMs."""

from dataclasses import asdict, dataclass
from math import gcd
from typing import Any

from weights_to_rom.config import LlamaConfig
from weights_to_rom.errors import HardwireError

BLOCK = 32
"""Elements of an MX block of activations (except those of q, k, v and of LoRA's rank) and of a block of weights."""


def ceil_to(n: int, multiple: int) -> int:
    """Round n up to a multiple of ``multiple``."""
    return -(-n // multiple) * multiple


def rank_block(rank: int) -> int:
    """nb = min(32, rank), the elements of an MX block of B along the rank of an adapter (docs/arithmetic.md, lora)."""
    return min(BLOCK, rank)


def lora_word_bits(rank: int) -> int:
    """Bits of a word of adapter memory.

    The word holds 32 mantissas of 8 bits, that of element j at bit 8 j, then 32 / nb exponents of 8 bits.
    """
    return 8 * (BLOCK + BLOCK // rank_block(rank))


def _shape(source: "LlamaConfig | ModelFormat") -> dict[str, Any]:
    """The fields that a LlamaConfig and a ModelFormat have in common."""
    names = ("dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "ffn_dim", "vocab_size", "max_seq_len", "tied")
    return {name: getattr(source, name) for name in names}


@dataclass(frozen=True)
class ModelFormat:
    """Shapes and formats of an integer model; two models of one format share their Verilog.

    ``wide_bits`` is the width of Wide, the fixed-point format of activations (LSB 2**-12).  The other ``..._bits`` are the
    bits of a weight in the matrices of one class: 4, or 8 as two planes of 4.  ``sine_bits`` are the address bits of the sine
    table, which holds a quadrant.  docs/arithmetic.md defines all of them.
    """

    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    ffn_dim: int
    vocab_size: int
    max_seq_len: int
    tied: bool
    wide_bits: int = 32
    embed_bits: int = 8
    qkv_bits: int = 4
    o_bits: int = 4
    gate_up_bits: int = 4
    down_bits: int = 4
    head_bits: int = 8
    sine_bits: int = 10

    def __post_init__(self) -> None:
        if self.wide_bits not in (24, 32):
            raise HardwireError(f"wide_bits must be 24 or 32, not {self.wide_bits!r}")
        for name in ("embed_bits", "qkv_bits", "o_bits", "gate_up_bits", "down_bits", "head_bits"):
            if getattr(self, name) not in (4, 8):
                raise HardwireError(f"{name} must be 4 or 8, not {getattr(self, name)!r}")
        if self.tied and self.embed_bits != self.head_bits:
            raise HardwireError(
                f"a tied head has the embedding's bits: embed_bits is {self.embed_bits}, head_bits is {self.head_bits}"
            )
        if self.embed_bits == 4 and self.dim % BLOCK:
            # Padding is read as residual and must be zero.  Eight bits have a code for zero, 128; four bits have none.
            raise HardwireError(f"a four-bit embedding needs a dim that is a multiple of {BLOCK}, not {self.dim}")
        if not 4 <= self.sine_bits <= 14:
            raise HardwireError(f"sine_bits must be 4 to 14, not {self.sine_bits!r}")

    @classmethod
    def of(cls, config: LlamaConfig, **formats: Any) -> "ModelFormat":
        """The format of a checkpoint; ``formats`` overrides the number formats.

        With ``wide_bits=24`` the default of ``sine_bits`` is 8: that table fits one block RAM of a small device.
        """
        if formats.get("wide_bits") == 24:
            formats.setdefault("sine_bits", 8)
        return cls(**_shape(config), **formats)

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, as JSON holds them."""
        return asdict(self)

    @property
    def n_rep(self) -> int:
        """Query heads that share one key-value head."""
        return self.n_heads // self.n_kv_heads

    @property
    def kv_block(self) -> int:
        """Elements of an MX block of q, k and v."""
        return gcd(self.head_dim, BLOCK)

    @property
    def dim_padded(self) -> int:
        """``dim`` rounded up to whole blocks."""
        return ceil_to(self.dim, BLOCK)

    @property
    def attn_dim(self) -> int:
        """Elements of all query heads together."""
        return self.n_heads * self.head_dim

    @property
    def attn_padded(self) -> int:
        """``attn_dim`` rounded up to whole blocks."""
        return ceil_to(self.attn_dim, BLOCK)

    @property
    def ffn_padded(self) -> int:
        """``ffn_dim`` rounded up to whole blocks."""
        return ceil_to(self.ffn_dim, BLOCK)

    @property
    def qkv_rows(self) -> int:
        """Rows of the stacked k, v, q matrix, in that order."""
        return (self.n_heads + 2 * self.n_kv_heads) * self.head_dim


def shape_of(fmt: ModelFormat) -> LlamaConfig:
    """Make a LlamaConfig with the shapes of a format.  The constants that decide no tensor's size have their defaults."""
    return LlamaConfig(**_shape(fmt))
