"""Figures of the ECP5 for estimates, and the resources of a chip of pipelined units."""

from collections.abc import Iterator, Mapping
from itertools import product

from fpga.devices import Cells, Device, Family
from fpga.ecp5.script import ALWAYS_CHAINS, NARROW_BITS, NARROW_CACHE, NARROW_ROMS, WHERE_DSPS_ARE_FEW
from hdl.config import ChipConfig
from hdl.lib.rom import SMALL_ROM_BITS
from weights_to_rom.model_format import BLOCK, ModelFormat
from weights_to_rom.rom_map import rom_map

WIDE_BITS: int = 32
CONTEXT: int = 128

CLOCK_MHZ: Mapping[str, float] = {"LFE5U-85F": 75.0, "LFE5U-25F": 60.0}

FULL: Mapping[str, float] = {"LFE5U-85F": 0.75, "LFE5U-25F": 0.92}
"""The highest share of LUTs that routes in reasonable time.  An 85F with more of them in use took an hour to route."""

DSPS_FULL = {"LFE5U-85F": 0.55}
"""The highest share of DSPs in use, by device.  Further multiplications become carry chains.  It is 1.0 for devices not listed.

A large device has its DSPs in few rows.  If a design uses most of them, its wires to them become long.
"""

NARROW = ("LFE5U-85F",)
"""Devices on which weight ROMs are made of narrow block RAMs if there are enough.  If more are left, the KV cache is, too."""

# LUTs of each part, as counted in placed designs of ``stories-260k`` (docs/explanation/ecp5-timing.md).
LUTS_ANY = 2_500  # control and serial line, which are the same in every chip
LUTS_ROW_LANE = 2_350  # a row lane of 32 block lanes
LUTS_ROW_LANE_REST = 750  # the part of a row lane that does not grow with block lanes: scale, alignment, accumulator
LUTS_VECTOR_LANE = 3_600  # residual, norm, RoPE, SwiGLU, four conversions, embedding
LUTS_SAMPLER_LANE = 1_350
LUTS_HEAD = 1_300  # exponents, shifts and division of an attention head
LUTS_HEAD_LANE = 205  # one lane of an attention head, without its multiplications
FLIP_FLOPS_A_LUT = 0.55  # flip-flops for each LUT

DSPS_VECTOR_LANE = 19  # RMSNorm 7, RoPE 5, SwiGLU 4, end of attention 2, embedding 1
DSPS_SAMPLER_LANE = 2
DSPS_HEAD_LANE = 2  # q * k, p * v


def pipelined_cells(model: ModelFormat, config: ChipConfig, device: Device) -> tuple[Cells, tuple[str, ...], tuple[str, ...]]:
    """Return the resources of a chip, the patterns of its carry chains, and the patterns of its narrow block RAMs.

    LUTs are right within 10 %.  Block RAMs are an upper bound, because Yosys leaves out the constant bits of ROMs.
    """
    lane = LUTS_ROW_LANE_REST + (LUTS_ROW_LANE - LUTS_ROW_LANE_REST) * config.block_lanes / BLOCK
    wide = model.wide_bits / 32
    sampler = config.sampler_lanes or config.vector_lanes
    luts = (
        LUTS_ANY
        + config.row_lanes * lane
        + config.vector_lanes * LUTS_VECTOR_LANE * wide
        + sampler * LUTS_SAMPLER_LANE * wide
        + config.attention_heads * (LUTS_HEAD + config.attention_lanes * LUTS_HEAD_LANE)
    )
    lanes = {"vector": config.vector_lanes, "sampler": sampler, "head": config.attention_heads * config.attention_lanes}
    dsps = lanes["vector"] * DSPS_VECTOR_LANE + lanes["sampler"] * DSPS_SAMPLER_LANE + lanes["head"] * DSPS_HEAD_LANE
    chains = ALWAYS_CHAINS
    for few in WHERE_DSPS_ARE_FEW:
        if dsps <= device.cells.dsps * DSPS_FULL.get(device.name, 1.0):
            break
        chains += (few.cells,)
        dsps -= few.dsps * lanes[few.lanes]
        luts += few.luts * lanes[few.lanes]
    blocks, narrow = _block_rams(model, config, device.family, ()), ()
    for cells in (NARROW_ROMS, NARROW_ROMS + NARROW_CACHE) if device.name in NARROW else ():
        if (more := _block_rams(model, config, device.family, cells)) <= device.cells.block_rams:
            blocks, narrow = more, cells
    return Cells(luts=round(luts), flip_flops=round(luts * FLIP_FLOPS_A_LUT), dsps=dsps, block_rams=blocks), chains, narrow


def _block_rams(model: ModelFormat, config: ChipConfig, family: Family, narrow: tuple[str, ...]) -> int:
    """Return the block RAMs of the ROMs, the KV cache, and the tables of each lane.

    ``narrow`` has the patterns of the memories that are made of narrow block RAMs.
    """

    def widest(cells: tuple[str, ...]) -> int | None:
        return NARROW_BITS if set(cells) <= set(narrow) else None

    roms = sum(
        family.block_rams(rom.depth, rom.width, widest(NARROW_ROMS) if rom.name.startswith("weights_") else None)
        for rom in rom_map(model, **config.rom_lanes).values()
        if rom.width * rom.depth >= SMALL_ROM_BITS
    )
    banks = max(1, config.attention_heads // model.n_rep)
    width = 8 * (config.attention_lanes + 1)
    words = config.kv_bits(model) // (2 * banks * width)
    tables = config.vector_lanes + config.vector_lanes // 2 + (config.sampler_lanes or config.vector_lanes)  # SiLU, sine, log
    return roms + 2 * banks * family.block_rams(words, width, widest(NARROW_CACHE)) + tables


def candidates(model: ModelFormat, max_context: int) -> Iterator[ChipConfig]:
    """Yield pipelined chips of all sizes.

    The sampler takes logits at least as fast as the LM head makes them, if the vector lanes allow it.  Multipliers are "plain",
    because only a plain ``a * b`` can become a carry chain.
    """
    powers = (1, 2, 4, 8, 16, 32)
    for rows, block, vector, heads in product(powers, (8, 16, BLOCK), powers, range(1, model.n_heads + 1)):
        rate = rows * block / (model.dim_padded * (2 if model.head_bits == 8 else 1))
        sampler = min((n for n in powers if n >= rate), default=vector)
        try:
            yield ChipConfig.for_model(
                model,
                row_lanes=rows,
                block_lanes=block,
                vector_lanes=vector,
                attention_heads=heads,
                multiplier="plain",
                max_context=max_context,
                sampler_lanes=min(sampler, vector),
            )
        except ValueError:
            continue
