"""Figures of the iCE40 for estimates, and the resources of a chip with the shared engine."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from fpga.devices import Cells, Family
from hdl.config import SHARED_CONTEXT, ChipConfig
from weights_to_rom.model_format import ModelFormat
from weights_to_rom.rom_map import rom_map

WIDE_BITS: int = 24
CONTEXT: int = 64

CLOCK_MHZ: Mapping[str, float] = {"iCE40UP5K": 24.0, "iCE40HX8K": 12.0}

FULL: Mapping[str, float] = {"iCE40UP5K": 0.98, "iCE40HX8K": 0.92}

SHARED = Cells(luts=5_041, flip_flops=1_778, block_rams=8, dsps=8)
"""The shared engine, with the rest of the chip, the link and the serial line (docs/explanation/shared-engine.md).

The figures are those of one model.  Other models change them little.  The block RAMs hold the microprogram, the tables, and the
bytes of the line.
"""

SHARED_ROMS = ("weights_00", "rows", "gain")
"""ROMs of the model that take block RAMs.  The KV cache takes none, because it is in SPRAM."""


def shared_cells(model: ModelFormat, config: ChipConfig, family: Family) -> Cells:
    """Return the resources of a chip.  Block RAMs are an upper bound, because Yosys leaves out constant bits of ROMs."""
    roms = sum(
        family.block_rams(rom.depth, rom.width) for rom in rom_map(model, **config.rom_lanes).values() if rom.name in SHARED_ROMS
    )
    return replace(SHARED, block_rams=SHARED.block_rams + roms)


def candidates(model: ModelFormat, max_context: int) -> Iterator[ChipConfig]:
    """Yield the only candidate: the chip with the shared engine.  Raises ValueError if the engine cannot run the model."""
    yield ChipConfig.for_model(model, shared=True, max_context=min(max_context, SHARED_CONTEXT))
