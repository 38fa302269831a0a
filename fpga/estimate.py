"""What a chip will take of an FPGA and how fast it will be, before anything is synthesised."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from fpga.boards import Board
from fpga.devices import Cells, Device, Family
from fpga.ecp5.script import ALWAYS_CHAINS, NARROW_BITS, NARROW_CACHE, NARROW_ROMS, WHERE_DSPS_ARE_FEW
from hdl.config import SHARED_CONTEXT, ChipConfig
from hdl.cycles.token import token_cycles
from hdl.engine.cycles import shared_token_cycles
from hdl.lib.rom import SMALL_ROM_BITS
from weights_to_rom.model_format import BLOCK, ModelFormat
from weights_to_rom.rom_map import rom_map

CLOCK_MHZ = {"LFE5U-85F": 75.0, "LFE5U-25F": 60.0, "iCE40UP5K": 24.0, "iCE40HX8K": 12.0}
"""What designs have reached after route."""

WIDE_BITS = {"ecp5": 32, "ice40": 24}
"""Of the models that are compiled for a family: the shared engine, which an iCE40 has room for, is made for 24."""

CONTEXT = {"ecp5": 128, "ice40": 64}
"""The context at which tokens a second are counted, where the chip holds as much."""

FULL = {"LFE5U-85F": 0.75, "iCE40UP5K": 0.98}
"""The share of LUTs that place and route gets along with, where it is not FULL_ELSEWHERE; more took an hour on an 85F."""

FULL_ELSEWHERE = 0.92

DSPS_FULL = {"LFE5U-85F": 0.55}
"""The share of DSPs that are taken before multiplications become carry chains, where it is not all of them.

Where DSPs are in few rows of a large device, the ways to the nearest that is free are long.
"""

NARROW = ("LFE5U-85F",)
"""Devices on which weight ROMs, and then the KV cache, are made of narrow block RAMs, if there are enough."""

# LUTs of ECP5 by part, as counted in placed designs of ``stories-260k`` (docs/fpga).
LUTS_ANY = 2_500  # control, the line, what does not grow
LUTS_ROW_LANE = 2_350  # of 32 block lanes
LUTS_ROW_LANE_REST = 750  # of that, what does not grow with the block lanes: scale, alignment, accumulator
LUTS_VECTOR_LANE = 3_600  # residual, norm, RoPE, SwiGLU, four conversions, embedding
LUTS_SAMPLER_LANE = 1_350
LUTS_HEAD = 1_300  # an attention head's exponents, shifts, division
LUTS_HEAD_LANE = 205  # of a head's element, its products without
FLIP_FLOPS_A_LUT = 0.55

DSPS_VECTOR_LANE = 19  # norm 7, RoPE 5, SwiGLU 4, attention's end 2, embedding 1
DSPS_SAMPLER_LANE = 2
DSPS_HEAD_LANE = 2  # q * k, p * v

# The shared engine on an iCE40, in logic cells, with chip, line and link (docs/up5k.md); little of it depends on the model.
SHARED = Cells(luts=5_041, flip_flops=1_778, block_rams=8, dsps=8)
SHARED_ROMS = ("weights_00", "rows", "gain")
"""Those in block RAM; the block RAMs of SHARED are the program's, the tables' and the line's."""


@dataclass(frozen=True)
class Estimate:
    """``cycles`` of a token at ``context`` follow from shapes and are exact; cells and clock are estimates.

    ``chains``: cells whose multiplications are to take no DSPs; ``narrow``: those whose memories take narrow block RAMs.
    """

    config: ChipConfig
    cells: Cells
    chains: tuple[str, ...]
    narrow: tuple[str, ...]
    clock_mhz: float
    context: int
    cycles: int

    @property
    def tokens_per_second(self) -> float:
        return self.clock_mhz * 1e6 / self.cycles


def family_name(board: Board) -> str:
    """Raises ValueError for a family of which nothing is known."""
    name = board.device.family.name
    if name not in WIDE_BITS:
        raise ValueError(f"{board.name}: there are no estimates for {name} yet")
    return name


def estimate(model: ModelFormat, config: ChipConfig, board: Board) -> Estimate:
    """Raises ValueError for a family of which nothing is known."""
    family = family_name(board)
    context = min(CONTEXT[family], config.max_context)
    cycles = shared_token_cycles(model, config, context) if config.shared else token_cycles(model, config, context).total
    return Estimate(config, *cells_of(model, config, board.device), CLOCK_MHZ[board.device.name], context, cycles)


def cells_of(model: ModelFormat, config: ChipConfig, device: Device) -> tuple[Cells, tuple[str, ...], tuple[str, ...]]:
    """LUTs within a tenth, block RAMs but for constant bits, which Yosys leaves out; what does without DSPs, and which memories
    take narrow block RAMs.
    """
    if config.shared:
        return replace(SHARED, block_rams=block_rams(model, config, device.family)), (), ()
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
    blocks, narrow = block_rams(model, config, device.family), ()
    for cells in (NARROW_ROMS, NARROW_ROMS + NARROW_CACHE) if device.name in NARROW else ():
        if (more := block_rams(model, config, device.family, cells)) <= device.cells.block_rams:
            blocks, narrow = more, cells
    return Cells(luts=round(luts), flip_flops=round(luts * FLIP_FLOPS_A_LUT), dsps=dsps, block_rams=blocks), chains, narrow


def block_rams(model: ModelFormat, config: ChipConfig, family: Family, narrow: tuple[str, ...] = ()) -> int:
    """ROMs, KV cache, and the tables that each lane has; the shared engine's cache is not in block RAM.

    ``narrow``: which memories are of narrow ones.
    """

    def widest(cells: tuple[str, ...]) -> int | None:
        return NARROW_BITS if set(cells) <= set(narrow) else None

    if config.shared:
        return SHARED.block_rams + sum(
            family.block_rams(rom.depth, rom.width)
            for rom in rom_map(model, **config.rom_lanes).values()
            if rom.name in SHARED_ROMS
        )
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


def candidates(model: ModelFormat, board: Board, max_context: int) -> Iterator[ChipConfig]:
    """Configurations worth a look: the sampler as fast as the head, plain multipliers, which carry chains are made of.

    On an iCE40 it is the shared engine; raises ValueError if that does not fit the model.
    """
    if family_name(board) == "ice40":
        yield ChipConfig.for_model(model, shared=True, max_context=min(max_context, SHARED_CONTEXT))
        return
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


def fastest(model: ModelFormat, board: Board, max_context: int) -> Estimate:
    """The configuration of the fewest cycles a token that fits the board; if none does, that of the fewest LUTs."""
    estimates = [estimate(model, config, board) for config in candidates(model, board, max_context)]
    fitting = [e for e in estimates if not overflows(e.cells, board)]
    if fitting:
        return min(fitting, key=lambda e: (e.cycles, e.cells.luts))
    return min(estimates, key=lambda e: e.cells.luts)


def overflows(cells: Cells, board: Board, *, tight: bool = False) -> list[str]:
    """The resources that are not there, each as "12 block RAMs of 10"; ``tight``: all LUTs may be taken, routed or not."""
    full, have = 1.0 if tight else FULL.get(board.device.name, FULL_ELSEWHERE), board.device.cells
    over = []
    if cells.luts > (most := int(have.luts * full)):
        over.append(f"{cells.luts:,} LUTs of {have.luts:,}, of which {most:,} can be placed and routed")
    return over + [
        f"{getattr(cells, name):,} {text} of {getattr(have, name):,}"
        for name, text in (("flip_flops", "flip-flops"), ("block_rams", "block RAMs"), ("dsps", "DSPs"))
        if getattr(cells, name) > getattr(have, name)
    ]
