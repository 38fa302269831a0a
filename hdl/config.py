"""How much hardware a chip has: the choices of an engineer, their defaults and their limits."""

import re
from collections.abc import Iterable
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any

from weights_to_rom.errors import HardwireError
from weights_to_rom.model_format import BLOCK, ModelFormat
from weights_to_rom.schedule import head_matrix, layer_matrices

BLOCK_LANES = (4, 8, 16, BLOCK)
"""The numbers of block lanes that there are."""

MULTIPLIERS = ("booth", "magic", "plain")
"""The circuits that multiply a weight code with an activation (``hdl.fabric.code_dot``); all give the same products."""

MAX_ADAPTERS = 15
"""An adapter's number has four bits, and 0 stands for no adapter."""

SHARED_LANES = {
    "row_lanes": 1,
    "block_lanes": 8,
    "vector_lanes": 1,
    "attention_heads": 1,
    "attention_lanes": 8,
    "multiplier": "plain",
}
"""The lanes of the shared engine: eight multipliers for products, and one lane for everything else."""

NOT_SHARED = ("lora_lanes", "n_adapters", "sampler_lanes")
"""Options that a chip with the shared engine ignores, because it has no LoRA adder and no sampler lanes."""

SHARED_CONTEXT = 256
"""The largest context of the shared engine: the 32-bit sums of its attention could overflow beyond 256 positions."""

MAX_ROW_LANES = 1024
"""The most row lanes of a chip, each of which has a ROM image of its own.  32,768 multipliers make a matrix of any model short."""

MAX_SEQUENCES = 256
"""The most sequences of a chip: it keeps a flip-flop for each, and asks all of them for the sequence of a token at once."""

MAX_KV_BITS = 1 << 33
"""The largest KV cache, in bits: one GiB.  No chip has so much SRAM, and a simulation of it needs as much memory."""

TYPICAL_CONTEXT = 128
"""The context for which default lanes are chosen, and at which ``hardwire explain`` looks; a smaller chip is filled to its end."""

POSITIVE = (
    "row_lanes",
    "vector_lanes",
    "attention_heads",
    "attention_lanes",
    "max_context",
    "n_sequences",
    "lora_lanes",
    "n_adapters",
)


class ConfigError(HardwireError):
    """Chip options that do not fit each other or the model: one line that names the option and its limit."""


def option(text: str, default: object = MISSING, *, shown: str | None = None, choices: tuple[str, ...] = ()) -> Any:
    """A field of ChipConfig that describes itself, so that every command offers it in the same words.

    Parameters
    ----------
    text : str              help for a person
    default : object        value of an option that is not given; without one, ``for_model`` derives it from the model
    shown : str             a word for a default that is derived
    choices : tuple[str]    the values that there are, of an option that is a name
    """
    return field(default=default, metadata={"help": text, "shown": shown, "choices": choices})  # type: ignore[call-overload]


@dataclass(frozen=True, kw_only=True)
class ChipConfig:
    """Lanes and memories of a chip.  A lane is hardware for one element (or row, or head) in each cycle.

    Every field carries its help text and its default as metadata: the command line is made from them.
    ``for_model`` fills in the options that are not given; ``checked`` refuses what does not fit.
    """

    row_lanes: int = option("Matrix rows computed at once; multipliers are row lanes times block lanes.", 1)
    block_lanes: int = option("Elements of a 32-element block that a row lane takes in a cycle: 4, 8, 16 or 32.", BLOCK)
    vector_lanes: int = option("Elements a cycle in the vector units: a power of two that divides head_dim.", shown="enough")
    attention_heads: int = option(
        "Query heads that attention computes at once: a divisor of the query heads a key-value head, or a multiple of them.",
        shown="enough",
    )
    attention_lanes: int = option(
        "Elements of a head that attention multiplies in a cycle; divides gcd(head_dim, 32).", shown="most"
    )
    multiplier: str = option(
        "Circuit that multiplies codes with activations; the results are the same.", "plain", choices=MULTIPLIERS
    )
    max_context: int = option("Positions that the KV cache holds for a sequence.", shown="as trained")
    n_sequences: int = option("Sequences that the KV cache holds.", 1)
    n_sinks: int = option(
        "Let the window slide: a full sequence forgets its oldest positions, except for this many at its beginning "
        "(4 is usual).  With 0 a full sequence refuses tokens.",
        0,
    )
    lora_rank: int = option("Largest rank of a LoRA adapter, a power of two from 2 to 64; 0 leaves the adder out.", 0)
    lora_lanes: int = option("Rows of an adapter's A computed at once, with 32 multipliers each; divides the rank.", 1)
    n_adapters: int = option("LoRA adapters in the chip's memory at once.", 2)
    sampler_lanes: int = option("Logits a cycle in the sampler; divides the vector lanes.", 0, shown="vector lanes")
    shared: bool = option(
        "One engine for everything, with eight multipliers, for an iCE40 UP5K.  It takes --wide-bits 24, heads of 8 elements "
        "and at most 256 positions, and its sampling is greedy.",
        False,
    )
    prefix: str = option("Begins the names of all Verilog modules, so that several chips fit into one design.", "", shown="none")

    @classmethod
    def for_model(cls, model: ModelFormat, **given: Any) -> "ChipConfig":
        """The chip for a model: the given options, and defaults with which the fabric waits neither for vector units nor attention.

        Defaults fit the options that are given, where any do.

        Parameters
        ----------
        model : ModelFormat   shapes that the options must fit
        given : int, str, bool   fields by name; one that is None counts as not given

        Raises
        ------
        ConfigError   for an option that does not exist, or that does not fit the model
        """
        defaults = {of.name: of.default for of in fields(cls)}
        if unknown := sorted(given.keys() - defaults.keys()):
            raise ConfigError(f"a chip has no option {unknown[0]}: it has {', '.join(defaults)}")
        given = {name: value for name, value in given.items() if value is not None}
        lanes = {name: value for name, value in defaults.items() if value is not MISSING} | given
        if lanes["shared"]:
            # Lanes that were not chosen are the engine's; a choice of other lanes is refused by ``checked``.
            lanes |= {name: only for name, only in SHARED_LANES.items() if given.get(name, defaults[name]) == defaults[name]}
            lanes |= {name: defaults[name] for name in NOT_SHARED}
        lanes.setdefault("max_context", min(model.max_seq_len, SHARED_CONTEXT) if lanes["shared"] else model.max_seq_len)
        for name, value in lanes.items():
            if name in POSITIVE:
                _check_integer(name, value, least=1)
        if not lanes["shared"]:
            _check_block_lanes(lanes["block_lanes"])
            _check_integer("sampler_lanes", lanes["sampler_lanes"], least=0)
            if "vector_lanes" not in lanes:
                lanes["vector_lanes"] = _enough_vector_lanes(model, lanes)
            lanes.setdefault("attention_lanes", model.kv_block)
            if "attention_heads" not in lanes:
                lanes["attention_heads"] = _enough_attention_heads(model, lanes)
        return cls(**lanes).checked(model)

    def checked(self, model: ModelFormat) -> "ChipConfig":
        """This configuration, if it fits ``model``.

        Raises
        ------
        ConfigError   names the option that does not fit, and its limit
        """
        for name in POSITIVE:
            _check_integer(name, getattr(self, name), least=1)
        if self.row_lanes > (most := max(m.rows for m in (*layer_matrices(model), head_matrix(model)))):
            raise ConfigError(f"row_lanes must be at most {most}, the rows of the largest matrix, not {self.row_lanes}")
        if self.row_lanes > MAX_ROW_LANES:
            raise ConfigError(f"row_lanes must be at most {MAX_ROW_LANES}, not {self.row_lanes}")
        _check_block_lanes(self.block_lanes)
        if self.multiplier not in MULTIPLIERS:
            raise ConfigError(f"multiplier must be one of {', '.join(MULTIPLIERS)}, not {self.multiplier!r}")
        if self.shared:
            self._check_shared(model)
        elif self.vector_lanes not in (2, 4, 8, 16, 32) or self.vector_lanes > self.block_lanes:
            raise ConfigError(
                f"vector_lanes must be a power of two from 2 to block_lanes ({self.block_lanes}), not {self.vector_lanes}"
            )
        if model.kv_block % self.vector_lanes:
            raise ConfigError(f"vector_lanes ({self.vector_lanes}) must divide gcd(head_dim, 32) = {model.kv_block}")
        if self.row_lanes % self.vector_lanes and self.vector_lanes % self.row_lanes:
            raise ConfigError(
                f"one of row_lanes ({self.row_lanes}) and vector_lanes ({self.vector_lanes}) must divide the other: "
                f"row_lanes {_near(self.row_lanes, _row_lanes_for(self.vector_lanes, self.row_lanes))} would do"
            )
        heads, rep = self.attention_heads, model.n_rep
        if not (rep % heads == 0 or (heads % rep == 0 and model.n_heads % heads == 0)):
            raise ConfigError(
                f"attention_heads must divide {rep} (query heads a key-value head), or be a multiple of it "
                f"that divides n_heads ({model.n_heads}), not {heads}: {_near(heads, _attention_heads(model))} would do"
            )
        if model.kv_block % self.attention_lanes:
            raise ConfigError(f"attention_lanes ({self.attention_lanes}) must divide gcd(head_dim, 32) = {model.kv_block}")
        lanes = self.sampler_lanes
        if not isinstance(lanes, int) or lanes < 0 or (lanes and self.vector_lanes % lanes):
            raise ConfigError(f"sampler_lanes must divide vector_lanes ({self.vector_lanes}), or be 0 for as many, not {lanes!r}")
        if self.max_context > model.max_seq_len:
            raise ConfigError(
                f"max_context ({self.max_context}) is beyond the {model.max_seq_len} positions the model was trained for"
            )
        if self.n_sequences > MAX_SEQUENCES:
            raise ConfigError(f"n_sequences must be at most {MAX_SEQUENCES}, not {self.n_sequences}")
        self._check_cache(model)
        if not isinstance(self.n_sinks, int) or not 0 <= self.n_sinks < self.max_context:
            raise ConfigError(f"n_sinks must be 0 to max_context - 1 ({self.max_context - 1}), not {self.n_sinks!r}")
        if self.lora_rank not in (0, 2, 4, 8, 16, 32, 64):
            raise ConfigError(f"lora_rank must be a power of two from 2 to 64, or 0 for none, not {self.lora_rank!r}")
        if self.lora_lanes not in (1, 2, 4, 8, 16, 32) or self.lora_rank % self.lora_lanes:
            raise ConfigError(
                f"lora_lanes must be a power of two that divides lora_rank ({self.lora_rank}), not {self.lora_lanes!r}"
            )
        if self.n_adapters > MAX_ADAPTERS:
            raise ConfigError(f"n_adapters must be at most {MAX_ADAPTERS}, not {self.n_adapters}")
        if not isinstance(self.prefix, str) or not re.fullmatch(r"([A-Za-z_][A-Za-z0-9_]{0,63})?", self.prefix):
            raise ConfigError(f"prefix must be a Verilog name of at most 64 letters, digits and underscores, not {self.prefix!r}")
        return self

    def _check_cache(self, model: ModelFormat) -> None:
        """Refuse a KV cache that no chip holds, and name the context or the sequences that would do."""
        if (bits := self.kv_bits(model)) <= MAX_KV_BITS:
            return
        positions = MAX_KV_BITS * self.max_context * self.n_sequences // bits
        fewer = {"max_context": positions // self.n_sequences, "n_sequences": positions // self.max_context}
        would_do = " or ".join(f"{name} {n}" for name, n in fewer.items() if n)
        raise ConfigError(
            f"a KV cache for {self.n_sequences} n_sequences of max_context {self.max_context} takes {bits / 2**33:.1f} GiB, "
            f"and at most {MAX_KV_BITS / 2**33:g} can be built: {would_do or 'a smaller model'} would do"
        )

    def _check_shared(self, model: ModelFormat) -> None:
        """Refuse the options and shapes for which the shared engine has no hardware."""
        for name, lanes in SHARED_LANES.items():
            if getattr(self, name) != lanes:
                raise ConfigError(f"the shared engine has {name} {lanes}, not {getattr(self, name)!r}")
        for name in ("n_sinks", "lora_rank"):
            if getattr(self, name):
                raise ConfigError(f"the shared engine has no {name}: it must be 0, not {getattr(self, name)}")
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
                raise ConfigError(f"the shared engine does not fit the model: {what}, not {value}")
        if self.max_context > SHARED_CONTEXT:
            raise ConfigError(f"max_context must be at most {SHARED_CONTEXT} with the shared engine, not {self.max_context}")

    @property
    def rom_lanes(self) -> dict[str, int]:
        """The lanes that the ROM layout depends on, as ``weights_to_rom.rom_map`` and the packers take them."""
        return {"row_lanes": self.row_lanes, "block_lanes": self.block_lanes, "vector_lanes": self.vector_lanes}

    def module(self, name: str) -> str:
        """The name of a module in this chip's Verilog: ``name``, or PREFIX_name."""
        return f"{self.prefix}_{name}" if self.prefix else name

    @property
    def x_lanes(self) -> int:
        """Elements a cycle of the vectors that enter the fabric: ``min(2 * vector_lanes, block_lanes)``.

        The fabric starts a matrix after the whole vector has arrived, so the vector comes at twice the rate of others.
        """
        return min(2 * self.vector_lanes, self.block_lanes)

    @property
    def position_bits(self) -> int:
        """Bits of a position.  A window that slides counts positions up to 2**32, where the sequence ends."""
        return 32 if self.n_sinks else max(1, (self.max_context - 1).bit_length())

    def kv_bits(self, model: ModelFormat) -> int:
        """Bits of SRAM of the KV cache.  A word of k or v has ``attention_lanes`` mantissas and an exponent, of 8 bits each."""
        words = model.n_layers * model.n_kv_heads * self.max_context * model.head_dim // self.attention_lanes
        return 2 * self.n_sequences * words * 8 * (self.attention_lanes + 1)

    def as_dict(self) -> dict:
        """Every field by name, as chip.json and the reports keep them."""
        return asdict(self)


def _check_integer(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{name} must be {'an integer, 0 or more' if least == 0 else 'a positive integer'}, not {value!r}")


def _check_block_lanes(value: object) -> None:
    if isinstance(value, bool) or value not in BLOCK_LANES:
        raise ConfigError(f"block_lanes must be 4, 8, 16 or 32, not {value!r}")


def _near(value: int, allowed: Iterable[int]) -> str:
    """The allowed values next to ``value``, the smaller one first."""
    values = sorted(allowed)
    below, above = [n for n in values if n < value][-1:], [n for n in values if n > value][:1]
    return " or ".join(map(str, below + above))


def _row_lanes_for(vector_lanes: int, row_lanes: int) -> set[int]:
    """Numbers of row lanes around ``row_lanes`` that fit ``vector_lanes``."""
    multiple = row_lanes // vector_lanes * vector_lanes
    return {1 << n for n in range(vector_lanes.bit_length())} | {multiple, multiple + vector_lanes} - {0}


def _fit(row_lanes: int, vector_lanes: int) -> bool:
    return row_lanes % vector_lanes == 0 or vector_lanes % row_lanes == 0


def _matrix_cycles(model: ModelFormat, lanes: dict[str, Any]) -> int:
    """The cycles of a layer's matrices."""
    return sum(matrix.words(lanes["row_lanes"], lanes["block_lanes"]) for matrix in layer_matrices(model))


def _enough_vector_lanes(model: ModelFormat, lanes: dict[str, Any]) -> int:
    """The smallest power of two, 4 or more where the shapes allow, with which vector units hold up the fabric little.

    They take results as fast as they come: a group of rows takes at least ``dim_padded / block_lanes`` cycles and brings
    ``row_lanes`` results.  A layer's vector passes them seven times (two norms of two passes, two sums, the input of o), which
    takes at most half the time of the layer's matrices.  If the row lanes or the sampler's lanes do not fit this number, the
    nearest number that fits them takes its place.
    """
    row_lanes, block_lanes, sampler_lanes = lanes["row_lanes"], lanes["block_lanes"], lanes["sampler_lanes"]
    rate = -(-row_lanes * block_lanes // model.dim_padded)
    wanted = max(4, rate, -(-2 * 7 * model.dim_padded // _matrix_cycles(model, lanes)))
    possible = [n for n in (2, 4, 8, 16, BLOCK) if n <= block_lanes and model.kv_block % n == 0] or [2]
    enough = next((n for n in possible if n >= wanted), possible[-1])
    fitting = [n for n in possible if _fit(row_lanes, n) and (not sampler_lanes or n % sampler_lanes == 0)]
    return min(fitting, key=lambda n: (abs(n.bit_length() - enough.bit_length()), -n), default=min(enough, 4))


def _attention_heads(model: ModelFormat) -> list[int]:
    """Numbers of query heads that attention can compute at once: divisors of ``n_rep``, and its multiples that divide n_heads."""
    return [n for n in range(1, model.n_heads + 1) if model.n_rep % n == 0 or (n % model.n_rep == 0 and model.n_heads % n == 0)]


def _enough_attention_heads(model: ModelFormat, lanes: dict[str, Any]) -> int:
    """The fewest query heads at once, n_rep or more, with which attention takes no longer than the matrices.

    Attention reads each word of a head at each position of TYPICAL_CONTEXT, once for ``heads`` heads.
    """
    head = head_matrix(model).words(lanes["row_lanes"], lanes["block_lanes"])
    places = min(TYPICAL_CONTEXT, lanes["max_context"])
    words = -(-model.head_dim // lanes["attention_lanes"])
    possible = [n for n in _attention_heads(model) if n >= model.n_rep]
    matrices = _matrix_cycles(model, lanes) + head // model.n_layers
    return next((n for n in possible if model.n_heads // n * places * words <= matrices), possible[-1])
