"""Fingerprints of the generator's output: SHA-256 of chip.v, of chip_axis.v, of the ROM images and of every command's help.

    python tools/fingerprint.py [NAME ...]   compare with tests/data/fingerprint.json: all entries, or those that begin with
                                             NAME; exit 1 and name the entries that differ
    python tools/fingerprint.py --write      replace that file, for a change that changes the output on purpose

A change that only moves code leaves every hash as it is.  A change that renames a port or a ROM, or rewords a help text,
replaces the file in the same commit, and the message of the commit gives the reason.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.update(COLUMNS="100", TERM="dumb", NO_COLOR="1", TERMINAL_WIDTH="100")

import typer  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from hardwire.cli.main import app  # noqa: E402
from hdl.axi_stream import axi_stream_verilog  # noqa: E402
from hdl.config import ChipConfig  # noqa: E402
from hdl.verilog import chip_verilog  # noqa: E402
from tests.support.models import RandomBlocks, random_config  # noqa: E402
from weights_to_rom.compile import quantise_checkpoint  # noqa: E402
from weights_to_rom.pack.rom_image import rom_images  # noqa: E402

RECORD = ROOT / "tests/data/fingerprint.json"

UNTIED = {"dim": 48, "n_heads": 3, "n_kv_heads": 1, "head_dim": 16, "ffn_dim": 100, "vocab_size": 77, "tied": False}
ENGINE = {"dim": 32, "n_heads": 4, "n_kv_heads": 2, "head_dim": 8, "ffn_dim": 48, "vocab_size": 60}
LARGE_HEADS = {"dim": 64, "n_heads": 4, "n_kv_heads": 2, "head_dim": 64, "ffn_dim": 96, "n_layers": 1}

CHIPS: dict[str, tuple[dict, dict[str, int], int, dict]] = {
    # name: shape, bits of matrices whose file holds codes, wide_bits, arguments of ChipConfig.for_model
    "defaults": ({}, {}, 32, {}),
    "narrow_lanes": ({"n_layers": 1}, {}, 24, {"block_lanes": 4, "vector_lanes": 2, "multiplier": "magic"}),
    "many_rows": ({"vocab_size": 120}, {"q": 8, "k": 8, "v": 8}, 32, {"row_lanes": 16, "vector_lanes": 8, "multiplier": "booth"}),
    "all_heads_large": (
        LARGE_HEADS,
        {},
        32,
        {"row_lanes": 4, "block_lanes": 16, "vector_lanes": 8, "attention_heads": 4, "attention_lanes": 16, "sampler_lanes": 2},
    ),
    "untied": (UNTIED, {"down": 8}, 32, {"row_lanes": 12, "block_lanes": 16, "vector_lanes": 4, "attention_heads": 3}),
    "sequences": ({}, {}, 32, {"row_lanes": 2, "block_lanes": 8, "n_sequences": 3, "max_context": 24}),
    "sinks": ({}, {}, 32, {"row_lanes": 2, "n_sinks": 4, "max_context": 16, "n_sequences": 2}),
    "lora": ({}, {}, 32, {"row_lanes": 4, "lora_rank": 8, "lora_lanes": 2, "n_adapters": 3}),
    "lora_sinks_sequences": (UNTIED, {}, 32, {"row_lanes": 4, "lora_rank": 4, "n_sinks": 2, "n_sequences": 8, "max_context": 12}),
    "shared_engine": (ENGINE, {}, 24, {"shared": True, "max_context": 32}),
    "shared_engine_sequences": (ENGINE | {"n_layers": 3}, {}, 24, {"shared": True, "max_context": 16, "n_sequences": 2}),
}


def digest(text: str | bytes) -> str:
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()


def chip(name: str) -> dict[str, str]:
    """Hash chip.v and chip_axis.v of one chip, and the manifest of its ROM images: their names, sizes and hashes."""
    shape, bits, wide_bits, given = CHIPS[name]
    model = quantise_checkpoint(RandomBlocks(random_config(**shape), 1, bits), wide_bits=wide_bits)
    config = ChipConfig.for_model(model.format, **given)
    images = rom_images(model, row_lanes=config.row_lanes, block_lanes=config.block_lanes, vector_lanes=config.vector_lanes)
    manifest = {rom.name: [rom.width, rom.depth, digest(rom.hex_text())] for rom in images}
    texts = {"chip.v": chip_verilog(model.format, config), "chip_axis.v": axi_stream_verilog(model.format, config)}
    texts["manifest"] = json.dumps(manifest)
    return {f"{name}/{file}": digest(text) for file, text in texts.items()}


def helps() -> Iterator[tuple[str, str]]:
    """Hash the output of ``--help`` of the program and of every command."""

    def walk(command, *names: str) -> Iterator[tuple[str, str]]:
        yield f"help/{' '.join(('hardwire', *names))}", digest(CliRunner().invoke(app, [*names, "--help"]).stdout)
        for child, sub in getattr(command, "commands", {}).items():
            yield from walk(sub, *names, child)

    yield from walk(typer.main.get_command(app))


def main(arguments: list[str]) -> int:
    write = arguments == ["--write"]
    chosen = tuple(arguments) if arguments and not write else ("",)
    with ProcessPoolExecutor() as pool:
        chips = pool.map(chip, [name for name in CHIPS if name.startswith(chosen)])
        found = {name: value for name, value in helps() if name.startswith(chosen)}
        for hashes in chips:
            found |= hashes
    if write:
        RECORD.write_text(json.dumps(dict(sorted(found.items())), indent=1) + "\n")
        return 0
    expected = {name: value for name, value in json.loads(RECORD.read_text()).items() if name.startswith(chosen)}
    differing = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    for name in differing:
        print(f"differs: {name}")
    print(f"{len(found.keys() | expected.keys()) - len(differing)} equal, {len(differing)} different")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
