"""What an engineer varies: how much hardware stands behind a model."""

from dataclasses import asdict, dataclass

from weights_to_rom.model_format import BLOCK, ModelFormat

MULTIPLIERS = ("booth", "magic", "plain")

MAX_ADAPTERS = 15
"""Adapters have numbers of four bits, and 0 is none."""

SHARED_LANES = {
    "row_lanes": 1,
    "block_lanes": 8,
    "vector_lanes": 1,
    "attention_heads": 1,
    "attention_lanes": 8,
    "multiplier": "plain",
}
"""The lanes of the shared engine: eight products of the fabric, all else one at a time."""

SHARED_CONTEXT = 256
"""Positions for which the sums of the shared engine's attention are wide enough."""


@dataclass(frozen=True)
class ChipConfig:
    """Lanes and memories of a chip.

    row_lanes        matrix rows computed at once
    block_lanes      elements of a block a cycle in each row lane: 4, 8, 16 or 32
    vector_lanes     elements a cycle in the vector units (and in every beat between units)
    attention_heads  query heads worked on at once: a divisor of n_rep, or a multiple of n_rep that divides n_heads
    attention_lanes  elements of a head a cycle, for q*k and again for p*v; divides gcd(head_dim, 32)
    multiplier       how a row lane multiplies a code with an activation: booth, magic or plain
    max_context      positions a sequence's KV cache slot holds
    n_sequences      slots of the KV cache
    n_sinks          0: a full slot refuses tokens; else a token in a full slot replaces the oldest position but for
                     the first ``n_sinks``, the attention sinks
    lora_rank        largest rank of an adapter: a power of two from 2 to 64, or 0 for a chip without LoRA
    lora_lanes       rows of A computed at once, with 32 multipliers each: a power of two that divides lora_rank
    n_adapters       adapters in memory at once
    sampler_lanes    logits a cycle in the sampler: divides vector_lanes; 0 stands for as many
    shared           one engine, ``hdl.engine.engine``, for everything, with the lanes of SHARED_LANES: for devices that have
                     few multipliers, and only greedy
    """

    row_lanes: int
    block_lanes: int
    vector_lanes: int
    attention_heads: int
    attention_lanes: int
    multiplier: str
    max_context: int
    n_sequences: int = 1
    n_sinks: int = 0
    lora_rank: int = 0
    lora_lanes: int = 1
    n_adapters: int = 2
    sampler_lanes: int = 0
    shared: bool = False

    @classmethod
    def for_model(
        cls,
        model: ModelFormat,
        *,
        row_lanes: int = 1,
        block_lanes: int = 32,
        vector_lanes: int | None = None,
        attention_heads: int | None = None,
        attention_lanes: int | None = None,
        multiplier: str = "plain",
        max_context: int | None = None,
        n_sequences: int = 1,
        n_sinks: int = 0,
        lora_rank: int = 0,
        lora_lanes: int = 1,
        n_adapters: int = 2,
        sampler_lanes: int = 0,
        shared: bool = False,
    ) -> "ChipConfig":
        """Fill in what is left open, so that neither vector units nor attention hold the fabric up."""
        if shared:
            given = (row_lanes, block_lanes, vector_lanes, attention_heads, attention_lanes, multiplier)
            lanes = (
                only if value == default else value
                for value, default, only in zip(given, (1, 32, None, None, None, "plain"), SHARED_LANES.values(), strict=True)
            )
            return cls(
                *lanes, max_context or min(model.max_seq_len, SHARED_CONTEXT), n_sequences, n_sinks, lora_rank, shared=True
            ).checked(model)
        if vector_lanes is None:
            # A group of rows takes at least dim_padded / block_lanes cycles and brings row_lanes values.
            wanted = max(4, -(-row_lanes * block_lanes // model.dim_padded))
            vector_lanes = 2
            while vector_lanes < min(wanted, block_lanes) and model.kv_block % (2 * vector_lanes) == 0:
                vector_lanes *= 2
        if attention_heads is None:
            attention_heads = model.n_rep
            if row_lanes * block_lanes >= 8 * model.dim_padded:
                attention_heads = model.n_heads
        return cls(
            row_lanes,
            block_lanes,
            vector_lanes,
            attention_heads,
            attention_lanes or model.kv_block,
            multiplier,
            max_context or model.max_seq_len,
            n_sequences,
            n_sinks,
            lora_rank,
            lora_lanes,
            n_adapters,
            sampler_lanes,
        ).checked(model)

    def checked(self, model: ModelFormat) -> "ChipConfig":
        """self, or a ValueError that names what does not fit the model."""
        for name in (
            "row_lanes",
            "vector_lanes",
            "attention_heads",
            "attention_lanes",
            "max_context",
            "n_sequences",
            "lora_lanes",
            "n_adapters",
        ):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(f"{name} must be a positive integer, not {getattr(self, name)!r}")
        if self.block_lanes not in (4, 8, 16, BLOCK):
            raise ValueError(f"block_lanes must be 4, 8, 16 or 32, not {self.block_lanes!r}")
        if self.multiplier not in MULTIPLIERS:
            raise ValueError(f"multiplier must be one of {', '.join(MULTIPLIERS)}, not {self.multiplier!r}")
        if self.shared:
            self._check_shared(model)
        elif self.vector_lanes not in (2, 4, 8, 16, 32) or self.vector_lanes > self.block_lanes:
            raise ValueError(
                f"vector_lanes must be a power of two from 2 to block_lanes ({self.block_lanes}), not {self.vector_lanes}"
            )
        if model.kv_block % self.vector_lanes:
            raise ValueError(f"vector_lanes ({self.vector_lanes}) must divide gcd(head_dim, 32) = {model.kv_block}")
        if self.row_lanes % self.vector_lanes and self.vector_lanes % self.row_lanes:
            raise ValueError(f"one of row_lanes ({self.row_lanes}) and vector_lanes ({self.vector_lanes}) must divide the other")
        heads, rep = self.attention_heads, model.n_rep
        if not (rep % heads == 0 or (heads % rep == 0 and model.n_heads % heads == 0)):
            raise ValueError(
                f"attention_heads must divide {rep} (query heads a key-value head), or be a multiple of it "
                f"that divides n_heads ({model.n_heads}), not {heads}"
            )
        if model.kv_block % self.attention_lanes:
            raise ValueError(f"attention_lanes ({self.attention_lanes}) must divide gcd(head_dim, 32) = {model.kv_block}")
        if (
            not isinstance(self.sampler_lanes, int)
            or self.sampler_lanes < 0
            or (self.sampler_lanes and self.vector_lanes % self.sampler_lanes)
        ):
            raise ValueError(
                f"sampler_lanes must divide vector_lanes ({self.vector_lanes}), or be 0 for as many, not {self.sampler_lanes!r}"
            )
        if self.max_context > model.max_seq_len:
            raise ValueError(
                f"max_context ({self.max_context}) is beyond the {model.max_seq_len} positions the model was trained for"
            )
        if not 0 <= self.n_sinks < self.max_context:
            raise ValueError(f"n_sinks must be 0 to max_context - 1 ({self.max_context - 1}), not {self.n_sinks!r}")
        if self.lora_rank not in (0, 2, 4, 8, 16, 32, 64):
            raise ValueError(f"lora_rank must be a power of two from 2 to 64, or 0 for none, not {self.lora_rank!r}")
        if self.lora_lanes not in (1, 2, 4, 8, 16, 32) or self.lora_rank % self.lora_lanes:
            raise ValueError(
                f"lora_lanes must be a power of two that divides lora_rank ({self.lora_rank}), not {self.lora_lanes!r}"
            )
        if self.n_adapters > MAX_ADAPTERS:
            raise ValueError(f"n_adapters must be at most {MAX_ADAPTERS}, not {self.n_adapters}")
        return self

    def _check_shared(self, model: ModelFormat) -> None:
        """What the shared engine has no hardware for."""
        for name, lanes in SHARED_LANES.items():
            if getattr(self, name) != lanes:
                raise ValueError(f"the shared engine has {name} {lanes}, not {getattr(self, name)!r}")
        for name in ("n_sinks", "lora_rank"):
            if getattr(self, name):
                raise ValueError(f"the shared engine has no {name}: it must be 0, not {getattr(self, name)}")
        blocks, rep = model.dim_padded // BLOCK, model.n_rep
        for what, fits, value in (
            ("wide_bits must be 24", model.wide_bits == 24, model.wide_bits),
            ("head_dim must be 8", model.head_dim == 8, model.head_dim),
            (
                "the head must be tied to an embedding of 8 bits",
                model.tied and model.embed_bits == 8,
                f"{'tied' if model.tied else 'untied'}, {model.embed_bits} bits",
            ),
            ("query heads a key-value head must be a power of two", rep & (rep - 1) == 0, rep),
            ("n_heads * head_dim must be a multiple of 32", model.attn_dim % BLOCK == 0, model.attn_dim),
            ("dim must fill blocks of 32 that are a power of two in number", blocks & (blocks - 1) == 0, model.dim),
            ("dim must be at most 512", model.dim <= 512, model.dim),
            ("n_kv_heads * head_dim must be below 256", model.n_kv_heads * model.head_dim < 256, model.n_kv_heads * model.head_dim),
        ):
            if not fits:
                raise ValueError(f"the shared engine does not fit the model: {what}, not {value}")
        if self.max_context > SHARED_CONTEXT:
            raise ValueError(f"max_context must be at most {SHARED_CONTEXT} with the shared engine, not {self.max_context}")

    @property
    def rom_lanes(self) -> dict[str, int]:
        """The lanes that the ROM layout depends on, as ``weights_to_rom.rom_map`` and the packers take them."""
        return {"row_lanes": self.row_lanes, "block_lanes": self.block_lanes, "vector_lanes": self.vector_lanes}

    @property
    def x_lanes(self) -> int:
        """Elements a cycle of the vectors that enter the fabric, which wait for their last block: twice those of others."""
        return min(2 * self.vector_lanes, self.block_lanes)

    @property
    def position_bits(self) -> int:
        """Bits of a position: with a sliding window a sequence ends after 2**32 of them."""
        return 32 if self.n_sinks else max(1, (self.max_context - 1).bit_length())

    def kv_bits(self, model: ModelFormat) -> int:
        """Bits of SRAM of the KV cache: words of ``attention_lanes`` mantissas and an exponent, for k and for v."""
        words = model.n_layers * model.n_kv_heads * self.max_context * model.head_dim // self.attention_lanes
        return 2 * self.n_sequences * words * 8 * (self.attention_lanes + 1)

    def as_dict(self) -> dict:
        return asdict(self)
