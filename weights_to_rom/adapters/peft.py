"""LoRA adapters as Hugging Face's ``peft`` writes them for ``LlamaForCausalLM``: two files in a folder.

    y = W x + scale * B (A x)        scale = alpha / r, or alpha / sqrt(r) for rsLoRA

A setting that changes the numbers in any other way is refused by its name, because the chip computes this formula only.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weights_to_rom.config import LlamaConfig
from weights_to_rom.errors import HardwireError
from weights_to_rom.json_file import read_json_object
from weights_to_rom.projections import MODULES
from weights_to_rom.readers.safetensors_file import SafetensorsError, SafetensorsFile

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


def open_peft(folder: str | Path, config: LlamaConfig) -> PeftAdapter:
    """Read a folder that ``peft``'s ``save_pretrained`` wrote for a base model of the shape ``config``.

    Raises AdapterError if a file is missing or damaged, for anything that is not plain LoRA on the seven projections,
    and for tensors that do not fit the base model.
    """
    folder = Path(folder)
    raw = _read_config(folder)
    try:
        return _read(folder, raw, config)
    except re.error as error:
        raise AdapterError(f"{folder}/{CONFIG}: {error.pattern!r} is no regular expression: {error.msg}") from None


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        raise AdapterError(f"{folder}: {CONFIG} is missing: no folder that peft wrote")
    raw = read_json_object(path, AdapterError)
    if raw.get("peft_type") != "LORA":
        raise AdapterError(f"{path}: peft_type is {raw.get('peft_type')!r}, not 'LORA': only LoRA adapters can be loaded")
    if raw.get("bias", "none") != "none":
        raise AdapterError(f"{path}: bias is {raw['bias']!r}: {_PLAIN}")
    for key in sorted(set(raw) - _READ - _WITHOUT_EFFECT):
        if raw[key] not in (None, False, [], {}, ""):
            raise AdapterError(f"{path}: {key} is {_short(raw[key])}: {_PLAIN}")
    if raw.get("init_lora_weights") not in _KEEP_THE_BASE:
        raise AdapterError(f"{path}: init_lora_weights is {_short(raw['init_lora_weights'])}, which changes the base model "
                           "as well: convert the adapter to one of the unchanged base (see peft's save_pretrained)")  # fmt: skip
    for key, kinds in (("rank_pattern", dict), ("alpha_pattern", dict), ("exclude_modules", str | list),
                       ("layers_to_transform", int | list), ("layers_pattern", str | list)):  # fmt: skip
        if raw.get(key) is not None and not isinstance(raw[key], kinds):
            raise AdapterError(f"{path}: {key} cannot be {_short(raw[key])}")
    if not isinstance(raw.get("target_modules"), str | list):
        raise AdapterError(f"{path}: target_modules must be a name or a list of names, not {_short(raw.get('target_modules'))}")
    return raw


def _read(folder: Path, raw: dict[str, Any], config: LlamaConfig) -> PeftAdapter:
    path = folder / WEIGHTS
    if not path.is_file():
        hint = " (of adapter_model.bin only the safetensors version is read)" if (folder / "adapter_model.bin").is_file() else ""
        raise AdapterError(f"{folder}: {WEIGHTS} is missing{hint}")
    try:
        file = SafetensorsFile(path)
        shapes = {name: shape for name, shape in config.tensor_shapes().items() if name.rpartition(".")[2] in MODULES}
        wanted = {name: module for name in shapes if _is_target(raw, module := _module(name))}
        _check_names(path, wanted, {name: _module(name) for name in shapes}, file)
        matrices = {}
        for name, module in wanted.items():
            rank, scale = _rank_and_scale(f"{folder}/{CONFIG}", raw, module)
            rows, inputs = shapes[name]
            a = _tensor(file, _tensor_name(module, "A"), (rank, inputs), name)
            b = _tensor(file, _tensor_name(module, "B"), (rows, rank), name)
            matrices[name] = LoraPair(a, b, scale)
    except SafetensorsError as error:
        raise AdapterError(str(error)) from None
    return PeftAdapter(str(folder), matrices)


def _module(name: str) -> str:
    """The module of a canonical name, in the spelling that peft matches with patterns."""
    prefix, _, kind = name.rpartition(".")
    return f"model.{prefix}.{MODULES[kind]}"


def _tensor_name(module: str, part: str) -> str:
    return f"base_model.model.{module}.lora_{part}.weight"


def _check_names(path: Path, wanted: Mapping[str, str], all_modules: Mapping[str, str], file: SafetensorsFile) -> None:
    """Raise AdapterError unless the file holds A and B of the targets, and nothing else."""
    if not wanted:
        raise AdapterError(f"{path.parent}/{CONFIG}: target_modules names none of {', '.join(MODULES.values())}")
    known = {_tensor_name(module, part) for module in all_modules.values() for part in "AB"}
    expected = [_tensor_name(module, part) for module in wanted.values() for part in "AB"]
    for name in file.entries:
        if name not in known:
            raise AdapterError(f"{path}: holds {name}: the chip adds LoRA to the layers' {', '.join(MODULES)} "
                               f"of a base with {len(all_modules) // len(MODULES)} layers, and to nothing else")  # fmt: skip
        if name not in expected:
            raise AdapterError(f"{path}: holds {name}, which {CONFIG} does not name as a target: peft would ignore it")
    for name in expected:
        if name not in file.entries:
            raise AdapterError(f"{path}: lacks {name}, which {CONFIG} promises")


def _tensor(file: SafetensorsFile, name: str, shape: tuple[int, int], base: str) -> np.ndarray:
    if file.entries[name].shape != shape:
        raise AdapterError(f"{file.path}: {name} has shape {file.entries[name].shape}, not {shape}: it is not for {base} of "
                           "this base model, or not of the rank that the configuration names")  # fmt: skip
    array = file.read(name)
    if not np.isfinite(array).all():
        raise AdapterError(f"{file.path}: {name} holds a NaN or an infinity: the adapter is damaged")
    return array


def _rank_and_scale(where: str, raw: dict[str, Any], module: str) -> tuple[int, float]:
    """A module's rank and factor; the first pattern that matches the end of its name counts, as in peft."""

    def of(field: str, patterns: str) -> Any:
        for pattern, value in (raw.get(patterns) or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", module):
                return value
        return raw.get(field, 8)

    rank, alpha = of("r", "rank_pattern"), of("lora_alpha", "alpha_pattern")
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise AdapterError(f"{where}: the rank of {module} must be a positive integer, not {_short(rank)}")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise AdapterError(f"{where}: lora_alpha of {module} must be a number, not {_short(alpha)}")
    return rank, alpha / (math.sqrt(rank) if raw.get("use_rslora") else rank)


def _is_target(raw: dict[str, Any], module: str) -> bool:
    """Whether peft puts an adapter on a module: lists name the end of it, a string is a pattern for all of it."""

    def named(names: str | list[str]) -> bool:
        if isinstance(names, str):
            return names == "all-linear" or re.fullmatch(names, module) is not None
        return any(f".{module}".endswith(f".{name}") for name in names)

    if raw.get("exclude_modules") and named(raw["exclude_modules"]):
        return False
    if not named(raw["target_modules"]):
        return False
    layers = raw.get("layers_to_transform")
    if layers in (None, []) or isinstance(raw["target_modules"], str) or module in raw["target_modules"]:
        return True
    patterns = raw.get("layers_pattern") or r"[^.]*"
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        if found := re.match(rf"(?:^|.*?\.){pattern}\.(\d+)\.", module):
            return int(found[1]) in (layers if isinstance(layers, list) else [layers])
    return False


def _short(value: object) -> str:
    """Shorten a value to 60 characters for a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
