"""LoRA adapters as Hugging Face's ``peft`` writes them for ``LlamaForCausalLM``: two files in a folder.

    y = W x + scale * B (A x)        scale = alpha / r, or alpha / sqrt(r) for rsLoRA

A setting that changes the numbers in any other way is refused by its name, because the chip computes this formula only.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from weights_to_rom.config import LlamaConfig
from weights_to_rom.errors import HardwireError
from weights_to_rom.json_file import read_json_object
from weights_to_rom.patterns import Answer, Question, matches
from weights_to_rom.projections import MODULES
from weights_to_rom.readers.safetensors_file import SafetensorsError, SafetensorsFile
from weights_to_rom.schema import Count, Finite, Flag, Schema, TextOrTexts, checked, short

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

# Fields that decide which matrices have an adapter, and its rank and scale.
_READ = {"peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "target_modules",
         "exclude_modules", "layers_to_transform", "layers_pattern", "init_lora_weights", "bias"}  # fmt: skip
# Fields that matter in training only, or that name an origin.  A field of neither list must be off.
_WITHOUT_EFFECT = {"auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config",
                   "inference_mode", "loftq_config", "lora_dropout", "lora_ga_config", "megatron_core", "peft_version",
                   "qalora_group_size", "revision", "runtime_config", "task_type"}  # fmt: skip
# Values of init_lora_weights.  The others (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) change the base model's weights, too.
_KEEP_THE_BASE = (None, True, False, "gaussian", "eva", "orthogonal", "mica")
_PLAIN = "the chip computes plain LoRA: train the adapter without it"


class AdapterError(HardwireError):
    """The chip cannot use an adapter.  The message is one line: the folder, the fault and its remedy."""


@dataclass(frozen=True)
class LoraPair:
    """The adapter of one matrix: ``a`` float32[r, inputs], ``b`` float32[rows, r], and the factor ``scale``."""

    a: np.ndarray
    b: np.ndarray
    scale: float

    @property
    def rank(self) -> int:
        """Rows of ``a``."""
        return len(self.a)


@dataclass(frozen=True)
class PeftAdapter:
    """Adapters by the canonical name of their matrix ("layers.0.q"), rows in Hugging Face's order.

    ``source`` names the adapter in messages.
    """

    source: str
    matrices: Mapping[str, LoraPair]

    @property
    def rank(self) -> int:
        """The largest rank of a matrix."""
        return max(pair.rank for pair in self.matrices.values())

    @property
    def targets(self) -> list[str]:
        """Kinds of matrices with an adapter in any layer, as in ``MODULES``."""
        found = {name.rpartition(".")[2] for name in self.matrices}
        return [kind for kind in MODULES if kind in found]


_Layers = Annotated[int | list[int], Field(description="a layer's number or a list of them")]
_Ranks = Annotated[dict[str, Count], Field(description="an object of positive integers by pattern")]
_Alphas = Annotated[dict[str, Finite], Field(description="an object of finite numbers by pattern")]


class _Config(Schema):
    """The fields of adapter_config.json that decide about matrices, ranks and scales.  The defaults are peft's."""

    r: Count = 8
    lora_alpha: Finite = 8
    use_rslora: Flag = False
    rank_pattern: _Ranks = Field(default_factory=dict)
    alpha_pattern: _Alphas = Field(default_factory=dict)
    target_modules: TextOrTexts
    exclude_modules: TextOrTexts = Field(default_factory=list)
    layers_to_transform: _Layers = Field(default_factory=list)
    layers_pattern: TextOrTexts = Field(default_factory=list)


def open_peft(folder: str | Path, config: LlamaConfig) -> PeftAdapter:
    """Read a folder that ``peft``'s ``save_pretrained`` wrote for a base model of the shape ``config``.

    Raises AdapterError if a file is missing or damaged, for anything that is not plain LoRA on the seven projections,
    and for tensors that do not fit the base model.
    """
    folder = Path(folder)
    try:
        return _read(folder, _read_config(folder), config)
    except OSError as error:
        raise AdapterError(f"{error.filename or folder}: {error.strerror or error}") from None


def _read_config(folder: Path) -> _Config:
    path = folder / CONFIG
    if not path.is_file():
        raise AdapterError(f"{folder}: {_other_folder(folder)}")
    raw = read_json_object(path, AdapterError)
    if raw.get("peft_type") != "LORA":
        raise AdapterError(f"{path}: peft_type is {short(raw.get('peft_type'))}, not 'LORA': only LoRA adapters can be loaded")
    if raw.get("bias", "none") != "none":
        raise AdapterError(f"{path}: bias is {short(raw['bias'])}: {_PLAIN}")
    for key in sorted(set(raw) - _READ - _WITHOUT_EFFECT):
        if raw[key] not in (None, False, [], {}, ""):
            raise AdapterError(f"{path}: {key} is {short(raw[key])}: {_PLAIN}")
    if raw.get("init_lora_weights") not in _KEEP_THE_BASE:
        raise AdapterError(f"{path}: init_lora_weights is {short(raw['init_lora_weights'])}, which changes the base model "
                           "as well: convert the adapter to one of the unchanged base (see peft's save_pretrained)")  # fmt: skip
    return checked(_Config, raw, str(path), AdapterError)


def _other_folder(folder: Path) -> str:
    """Say which other thing a path without adapter_config.json is."""
    if folder.is_file():
        hint = ": give the folder that peft wrote"
        return "a GGUF file" + hint if folder.suffix == ".gguf" else f"a file{hint}, with {CONFIG}"
    if (folder / "config.json").is_file():
        return f"a model, not an adapter ({CONFIG} is missing): give it as MODEL"
    return f"{CONFIG} is missing: no folder that peft wrote"


def _read(folder: Path, raw: _Config, config: LlamaConfig) -> PeftAdapter:
    path = folder / WEIGHTS
    if not path.is_file():
        hint = " (of adapter_model.bin only the safetensors version is read)" if (folder / "adapter_model.bin").is_file() else ""
        raise AdapterError(f"{folder}: {WEIGHTS} is missing{hint}")
    try:
        file = SafetensorsFile(path)
        stored = _stored_names(path, file)
        shapes = {name: shape for name, shape in config.tensor_shapes().items() if name.rpartition(".")[2] in MODULES}
        matched = matches(_questions(raw), [_module(name) for name in shapes], f"{folder}/{CONFIG}", AdapterError)
        wanted = {name: module for name in shapes if _is_target(raw, module := _module(name), matched)}
        _check_names(path, wanted, {name: _module(name) for name in shapes}, stored)
        matrices = {}
        for name, module in wanted.items():
            rank, scale = _rank_and_scale(raw, module, matched)
            rows, inputs = shapes[name]
            a = _tensor(file, stored[_tensor_name(module, "A")], (rank, inputs), name)
            b = _tensor(file, stored[_tensor_name(module, "B")], (rows, rank), name)
            matrices[name] = LoraPair(a, b, scale)
    except SafetensorsError as error:
        raise AdapterError(str(error)) from None
    return PeftAdapter(str(folder), matrices)


def _stored_names(path: Path, file: SafetensorsFile) -> dict[str, str]:
    """Map the names that peft expects to those of the file.

    Programs that save a state dict themselves leave the adapter's name "default" in, and peft loads that.
    """
    stored: dict[str, str] = {}
    for name in file.entries:
        plain = re.sub(r"(\.lora_[AB])\.default\.weight$", r"\1.weight", name)
        if plain in stored:
            raise AdapterError(f"{path}: holds {plain} twice: as {stored[plain]} and as {name}")
        stored[plain] = name
    return stored


def _module(name: str) -> str:
    """The module of a canonical name, in the spelling that peft matches with patterns."""
    prefix, _, kind = name.rpartition(".")
    return f"model.{prefix}.{MODULES[kind]}"


def _tensor_name(module: str, part: str) -> str:
    return f"base_model.model.{module}.lora_{part}.weight"


def _check_names(path: Path, wanted: Mapping[str, str], all_modules: Mapping[str, str], stored: Mapping[str, str]) -> None:
    """Raise AdapterError unless the file holds A and B of the targets, and nothing else."""
    if not wanted:
        raise AdapterError(f"{path.parent}/{CONFIG}: target_modules names none of {', '.join(MODULES.values())}")
    known = {_tensor_name(module, part) for module in all_modules.values() for part in "AB"}
    expected = [_tensor_name(module, part) for module in wanted.values() for part in "AB"]
    for name in stored:
        if name not in known:
            if (plain := _plain_name(name)) in known:
                raise AdapterError(f"{path}: holds {name}, which peft would ignore, because the model was wrapped or the adapter "
                                   f"named otherwise when it was saved: rename its tensors, this one to {plain}")  # fmt: skip
            raise AdapterError(f"{path}: holds {name}: the chip adds LoRA to the layers' {', '.join(MODULES)} "
                               f"of a base with {len(all_modules) // len(MODULES)} layers, and to nothing else")  # fmt: skip
        if name not in expected:
            raise AdapterError(f"{path}: holds {name}, which {CONFIG} does not name as a target: peft would ignore it")
    for name in expected:
        if name not in stored:
            raise AdapterError(f"{path}: lacks {name}, which {CONFIG} promises")


def _plain_name(name: str) -> str:
    """The name that a tensor has if its adapter is called "default", and its model was wrapped by peft alone.

    Other wrappers are those of torch.compile and of DataParallel, and LlamaModel lacks one.
    """
    name = re.sub(r"(\.lora_[AB])\.[^.]+\.weight$", r"\1.weight", name)
    inner = re.sub(r"(^|\.)(_orig_mod|module|base_model)(?=\.)", "", name).lstrip(".")
    return "base_model.model.model." + re.sub(r"^(model\.)+", "", inner)


def _tensor(file: SafetensorsFile, name: str, shape: tuple[int, int], base: str) -> np.ndarray:
    if file.entries[name].shape != shape:
        raise AdapterError(f"{file.path}: {name} has shape {file.entries[name].shape}, not {shape}: it is not for {base} of "
                           "this base model, or not of the rank that the configuration names")  # fmt: skip
    array = file.read(name)
    if not np.isfinite(array).all():
        raise AdapterError(f"{file.path}: {name} holds a NaN or an infinity: the adapter is damaged")
    return array


def _list(value: Any) -> list:
    return value if isinstance(value, list) else [value]


def _at_the_end(pattern: str) -> Question:
    return "match", rf"(.*\.)?({pattern})$"


def _of_layers(pattern: str) -> Question:
    return "match", rf"(?:^|.*?\.){pattern}\.(\d+)\."


def _questions(raw: _Config) -> list[Question]:
    """The patterns of a configuration, as peft matches them with the names of modules."""
    whole = [names for names in (raw.target_modules, raw.exclude_modules) if isinstance(names, str) and names != "all-linear"]
    return [
        *(("fullmatch", names) for names in whole),
        *(_at_the_end(pattern) for pattern in (*raw.rank_pattern, *raw.alpha_pattern)),
        *(_of_layers(pattern) for pattern in _list(raw.layers_pattern or r"[^.]*") if raw.layers_to_transform != []),
    ]


def _rank_and_scale(raw: _Config, module: str, matched: Mapping[Question, Answer]) -> tuple[int, float]:
    """A module's rank and factor; the first pattern that matches the end of its name counts, as in peft."""

    def of(values: Mapping[str, Any], default: Any) -> Any:
        return next((value for pattern, value in values.items() if module in matched[_at_the_end(pattern)]), default)

    rank, alpha = of(raw.rank_pattern, raw.r), of(raw.alpha_pattern, raw.lora_alpha)
    return rank, alpha / (math.sqrt(rank) if raw.use_rslora else rank)


def _is_target(raw: _Config, module: str, matched: Mapping[Question, Answer]) -> bool:
    """Whether peft puts an adapter on a module: lists name the end of it, a string is a pattern for all of it."""

    def named(names: str | list[str]) -> bool:
        if isinstance(names, str):
            return names == "all-linear" or module in matched["fullmatch", names]
        return any(f".{module}".endswith(f".{name}") for name in names)

    if raw.exclude_modules and named(raw.exclude_modules):
        return False
    if not named(raw.target_modules):
        return False
    if raw.layers_to_transform == [] or isinstance(raw.target_modules, str) or module in raw.target_modules:
        return True
    for pattern in _list(raw.layers_pattern or r"[^.]*"):
        groups = matched[_of_layers(pattern)].get(module)
        # The last group is the number; a pattern with "|" may match without it.
        if groups and groups[-1]:
            return int(groups[-1]) in _list(raw.layers_to_transform)
    return False
