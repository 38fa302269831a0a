"""The one table of a chip's units: how each is made, where its results go, and at which ports they are seen.

``hdl.stage`` builds a stage from the table; waves and the comparison with golden take the ports from it, the prediction of cycles
the latencies, and synthesis the components.  A unit has the name under which golden reports the result it must equal
(``sim.golden.llama``).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from amaranth.hdl import Elaboratable
from amaranth.lib import data, wiring

from hdl.attention.attention import Attention
from hdl.attention.kv_cache import kv_beat
from hdl.config import ChipConfig
from hdl.embedding import Embedding
from hdl.fabric.matvec import Matvec
from hdl.lora.adder import Lora
from hdl.mx import Mx
from hdl.residual import Residual
from hdl.rmsnorm import RMSNorm
from hdl.rope import RoPE
from hdl.sampler import Sampler
from hdl.swiglu import SwiGLU
from weights_to_rom.model_format import BLOCK, ModelFormat
from weights_to_rom.schedule import embedding_matrix, head_matrix, layer_matrices, lora_matrices

FABRIC = "matvec"
"""The unit that multiplies; the vectors of all units that feed it enter its input buffer."""


@dataclass(frozen=True)
class Port:
    """The stream ``name`` of the module ``scope``, which is told from the unit's parent, and its payload."""

    scope: str
    name: str
    payload: data.StructLayout
    always_ready: bool = False


@dataclass(frozen=True)
class Unit:
    """A row of the table.

    component    an instance of its own for each call of the functions below
    feeds        the unit that takes all its results; None where the parent shares them out
    gated        the parent clocks it by ``add_gated``, by nothing but its streams; it clocks the others in its own way
    inside       ports in the unit that golden reports as well, by the name of the result
    """

    component: wiring.Component
    feeds: str | None = None
    gated: bool = True
    inside: Mapping[str, Port] = field(default_factory=dict)

    def ports(self, name: str) -> dict[str, Port]:
        """The ports that golden knows, in the order of data flow, of the unit called ``name``."""
        o = self.component.o
        return {**self.inside, name: Port(name, "o", o.payload.shape(), o.signature.always_ready)}


def stage_units(model: ModelFormat, config: ChipConfig, *, head: bool = True, prefix: str = "") -> dict[str, Unit]:
    """The units of a stage that has all layers of ``model``, in the order of data flow.

    Parameters
    ----------
    model : ModelFormat
        With as many layers as the stage computes.
    config : ChipConfig
    head : bool
        Whether the stage ends in the final norm and the LM head.
    prefix : str
        Begins the names of the stage's ROMs (``weights_to_rom.rom_map.stage_roms``).
    """
    vl, wide = config.vector_lanes, model.wide_bits
    matrices = layer_matrices(model)
    banks = max(1, config.attention_heads // model.n_rep)
    cached = kv_beat(banks, config.attention_lanes)

    def to_blocks(width: int) -> Mx:
        """A conversion to the MX blocks that enter the fabric."""
        return Mx(lanes=vl, o_lanes=config.x_lanes, block=BLOCK, width=width)

    rmsnorm = RMSNorm(dim=model.dim, lanes=vl, wide_bits=wide, n_norms=2 * model.n_layers + head, prefix=prefix)
    lora = _lora(model, config)
    matvec = Matvec(
        row_lanes=config.row_lanes,
        block_lanes=config.block_lanes,
        vector_lanes=vl,
        x_lanes=config.x_lanes,
        matrices=matrices * model.n_layers + ((head_matrix(model),) if head else ()),
        wide_bits=wide,
        multiplier=config.multiplier,
        queue=_queue(lora, config, matrices),
    )
    rope = RoPE(
        n_heads=model.n_heads,
        n_kv_heads=model.n_kv_heads,
        head_dim=model.head_dim,
        lanes=vl,
        wide_bits=wide,
        sine_bits=model.sine_bits,
        position_bits=config.position_bits,
        sinks=config.n_sinks > 0,
        prefix=prefix,
    )
    return {
        "residual": Unit(Residual(dim_padded=model.dim_padded, lanes=vl, wide_bits=wide)),
        "rmsnorm": Unit(rmsnorm, feeds="mx_norm", gated=False),
        "mx_norm": Unit(to_blocks(wide + 31), feeds=FABRIC),
        FABRIC: Unit(matvec, gated=False),
        **({"lora": Unit(lora, gated=False)} if lora is not None else {}),
        "rope": Unit(rope, feeds="mx_qkv"),
        "mx_qkv": Unit(Mx(lanes=vl, block=model.kv_block, width=wide), feeds="attention"),
        "attention": Unit(
            Attention(model=model, config=config),
            feeds="mx_attention",
            inside={f"kv_cache.{name}": Port("attention.cache", name, cached) for name in "kv"},
        ),
        "mx_attention": Unit(to_blocks(wide + 4), feeds=FABRIC),
        "swiglu": Unit(SwiGLU(lanes=vl, wide_bits=wide), feeds="mx_swiglu"),
        "mx_swiglu": Unit(to_blocks(2 * wide), feeds=FABRIC),
    }


def _lora(model: ModelFormat, config: ChipConfig) -> Lora | None:
    if not config.lora_rank:
        return None
    return Lora(
        matrices=lora_matrices(model),
        n_layers=model.n_layers,
        k_rows=model.n_kv_heads * model.head_dim,
        rank=config.lora_rank,
        lora_lanes=config.lora_lanes,
        n_adapters=config.n_adapters,
        vector_lanes=config.vector_lanes,
        x_lanes=config.x_lanes,
        wide_bits=model.wide_bits,
    )


def _queue(lora: Lora | None, config: ChipConfig, matrices) -> int:
    """Groups of results that the fabric may have to hold until the adder has the first addend of their matrix."""
    if lora is None:
        return 0
    r, b = config.row_lanes, config.block_lanes
    return max(-(-lora.lead(of) // (m.words(r, b) // m.groups(r))) for m, of in zip(matrices, lora.matrices, strict=True))


def embedding_unit(model: ModelFormat, config: ChipConfig) -> Unit:
    """The embedding on the LM head's ROM, or on ROMs of its own where the table is not shared."""
    r, b, table = config.row_lanes, config.block_lanes, embedding_matrix(model)
    layers = layer_matrices(model) * model.n_layers if model.tied else ()
    if not model.tied:
        r = 1
    base, row_base = sum(s.words(r, b) for s in layers), sum(s.groups(r) for s in layers)
    return Unit(
        Embedding(
            row_lanes=r,
            block_lanes=b,
            vector_lanes=config.vector_lanes,
            n_blocks=table.blocks,
            bits=model.embed_bits,
            wide_bits=model.wide_bits,
            n_words=base + table.words(r, b),
            n_groups=row_base + table.groups(r),
            base=base,
            row_base=row_base,
            vocab_size=model.vocab_size,
        ),
        feeds="residual",
    )


def sampler_unit(model: ModelFormat, config: ChipConfig) -> Unit:
    """The sampler; greedy with the shared engine."""
    return Unit(
        Sampler(
            vocab_size=model.vocab_size,
            lanes=config.sampler_lanes or config.vector_lanes,
            wide_bits=model.wide_bits,
            noise=not config.shared,
        )
    )


def chip_units(model: ModelFormat, config: ChipConfig) -> dict[str, Unit]:
    """The units of a chip of pipelined units, in the order of data flow."""
    return {
        "embedding": embedding_unit(model, config),
        **stage_units(model, config),
        "sampler": sampler_unit(model, config),
    }


def asked(units: dict[str, Unit]) -> dict[str, Unit]:
    """The same table for readers that ask the components for shapes and latencies and do not elaborate them.

    Amaranth warns of a component that is deleted without having been elaborated, to find submodules that were forgotten; the
    components of this table, and those that they hold, are exempt.
    """
    for unit in units.values():
        _mark_used(unit.component)
    return units


def _mark_used(thing) -> None:
    if isinstance(thing, Elaboratable):
        if thing._MustUse__used:
            return
        thing._MustUse__used = True
        thing = vars(thing)
    parts = thing.values() if isinstance(thing, dict) else thing if isinstance(thing, (list, tuple)) else ()
    for part in parts:
        _mark_used(part)
