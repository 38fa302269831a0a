"""A seeded bug in the packer: ROM images that differ from the integer model although the recorded hashes agree."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from hardwire.compiled import CompiledModel, sha256, write_json
from weights_to_rom.integer_model import IntegerModel
from weights_to_rom.pack.rom_image import rom_images, write_rom_images


def packed_wrong(out: Path, to: Path, spoil: Callable[[IntegerModel], IntegerModel]) -> Path:
    """Copy a compiled model, and pack the copy's ROMs from the wrong integer model that ``spoil`` returns."""
    shutil.copytree(out, to)
    output = CompiledModel(to)
    config = output.config
    lanes = {name: getattr(config, name) for name in ("row_lanes", "block_lanes", "vector_lanes")}
    write_rom_images(rom_images(spoil(output.model), **lanes), to / "rom")
    about = json.loads((to / "chip.json").read_text())
    about["files"]["rom/manifest.json"] = sha256(to / "rom" / "manifest.json")
    write_json(to / "chip.json", about)
    return to
