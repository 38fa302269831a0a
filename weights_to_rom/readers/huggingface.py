"""Hugging Face directories: config.json, and safetensors in one file or in shards."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from weights_to_rom.config import LlamaConfig
from weights_to_rom.json_file import read_json_object
from weights_to_rom.projections import MODULES
from weights_to_rom.readers.base import Checkpoint, CheckpointError, check_tensors, head_size, make_config
from weights_to_rom.readers.huggingface_config import Config, read_config, read_rope
from weights_to_rom.readers.safetensors_file import ITEM_BYTES, SafetensorsFile, equal_tensors
from weights_to_rom.schema import short
from weights_to_rom.text.open import tokenizer_in
from weights_to_rom.text.tokenizer import Tokenizer

_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    **MODULES,
}
_HEAD, _EMBED = "lm_head.weight", "model.embed_tokens.weight"

# Names that DataParallel, torch.compile, FSDP and activation checkpointing put before that of the module that they wrap, which
# may be any, and that of peft around a model without adapters.
_WRAPPER = r"(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
_WRAPPERS = re.compile(
    rf"(?<![^.])(?:{_WRAPPER}|base_model\.model\.(?=(?:{_WRAPPER})*(?:model|lm_head|layers|embed_tokens|norm)\.))"
)
# Tables of cosines and sines, which follow from the configuration.
_BUFFERS = re.compile(r"(^|\.)rotary_emb\.(inv_freq|original_inv_freq|cos_cached|sin_cached)$")
_UNMERGED = re.compile(r"\.(base_layer|lora_[A-Za-z_]+)\.|\.lora_[A-Za-z_]+$")
# Tensors that only quantised checkpoints have, and the methods that write them.
_QUANTISED = (
    (re.compile(r"\.(qweight|qzeros|g_idx)$"), "GPTQ or AWQ"),
    (re.compile(r"\.(weight_packed|weight_shape)$"), "compressed-tensors"),
    (re.compile(r"\.(weight_scale|weight_scale_inv|input_scale|weight_scale_2)$"), "a method with scales, such as FP8"),
    (re.compile(r"\.(SCB|absmax|quant_map|nested_absmax|weight_format)$|\.quant_state\."), "bitsandbytes"),
    (re.compile(r"\.(scales|biases)$"), "MLX"),
)


class HuggingFaceCheckpoint(Checkpoint):
    """A directory that ``LlamaForCausalLM.save_pretrained`` wrote."""

    def __init__(self, directory: Path, tokenizer: Tokenizer | None = None) -> None:
        if not (directory / "config.json").is_file():
            raise CheckpointError(f"{directory}: config.json is missing: {_other_folder(directory)}")
        raw = read_json_object(directory / "config.json", CheckpointError)
        where = f"{directory}/config.json"
        fields = read_config(where, raw)
        self._files, dropped = _plain_names(directory, _open_shards(directory))
        found = {name: file.entries[inner].shape for name, (file, inner) in self._files.items()}
        tied = self._is_tied(directory, fields)
        generation = directory / "generation_config.json"
        generation = read_json_object(generation, CheckpointError) if generation.is_file() else {}
        # As transformers has it, generation_config.json decides where a text ends.  A chat stops at the tokens of both files.
        ends = _ends(where, raw), _ends(f"{directory}/generation_config.json", generation)
        config = _config(where, raw, fields, ends[0] if generation.get("eos_token_id") is None else ends[1], tied)
        self._names = {name: _file_name(name) for name in config.tensor_shapes()}
        ignored = {name for name in found if _BUFFERS.search(name)} | ({_HEAD} if tied else set())
        _check_biases(where, fields, found)
        check_tensors(str(directory), config, self._names, found, ignored, self._is_zero)
        for name in self._names.values():
            if (dtype := self._dtype(name)) not in ITEM_BYTES:
                raise CheckpointError(f"{directory}: {name} is {short(dtype)[1:-1]}, not {' or '.join(ITEM_BYTES)}")
        super().__init__(config, str(directory), tokenizer or tokenizer_in(directory), [*ends[0], *ends[1]])
        if dropped:
            self.notes.append(f"names of tensors: without {dropped}")

    def _read(self, name: str) -> np.ndarray:
        file, inner = self._files[self._names[name]]
        return file.read(inner)

    def _dtype(self, name: str) -> str:
        file, inner = self._files[name]
        return file.entries[inner].dtype

    def _is_zero(self, name: str) -> bool:
        file, inner = self._files[name]
        return self._dtype(name) in ITEM_BYTES and not any(part.any() for part in file.parts(inner))

    def _is_tied(self, directory: Path, fields: Config) -> bool:
        """Whether the head is the embedding.  If config.json does not say so, the model is tied if it has no head tensor."""
        has_head = _HEAD in self._files
        if fields.tie_word_embeddings and has_head and _EMBED in self._files:
            # Both are there, and releases of transformers disagree on which of them the head is.
            floats = self._dtype(_HEAD) in ITEM_BYTES and self._dtype(_EMBED) in ITEM_BYTES
            if not floats or not equal_tensors(*self._files[_HEAD], *self._files[_EMBED]):
                raise CheckpointError(
                    f"{directory}: config.json has tie_word_embeddings, but {_HEAD} differs from {_EMBED}: remove one or the other"
                )
        return not has_head if fields.tie_word_embeddings is None else fields.tie_word_embeddings


def _file_name(name: str) -> str:
    if name in ("embed", "norm", "head"):
        return {"embed": _EMBED, "norm": "model.norm.weight", "head": _HEAD}[name]
    _, layer, part = name.split(".")
    return f"model.layers.{layer}.{_LAYER_NAMES[part]}.weight"


def _other_folder(directory: Path) -> str:
    """Say which other kind of folder one without a config.json is."""
    if (directory / "adapter_config.json").is_file():
        return "a LoRA adapter, not a model: give its base model as MODEL, and this folder with --adapter"
    if models := sorted(path.name for path in directory.glob("*.gguf")):
        return f"the folder holds several models: give one of them, such as {directory / models[0]}"
    if (directory / "params.json").is_file():
        return "a model in Meta's own format: convert it with convert_llama_weights_to_hf.py of transformers"
    inner = [path.parent for pattern in ("*/config.json", "snapshots/*/config.json") for path in directory.glob(pattern)]
    return f"give the folder inside: {min(inner)}" if inner else "no Hugging Face model"


def _open_shards(directory: Path) -> list[SafetensorsFile]:
    index, single = directory / "model.safetensors.index.json", directory / "model.safetensors"
    if single.is_file():
        return [SafetensorsFile(single)]
    for path in (single, index):
        if path.is_symlink() and not path.exists():
            raise CheckpointError(f"{path}: a link to a file that is gone: download the model again")
    if not index.is_file():
        others = sorted(path.name for pattern in ("*.bin", "*.pth", "*.pt", "*.npz", "*.gguf") for path in directory.glob(pattern))
        hint = f" (of {others[0]} only the safetensors version is read)" if others else ""
        if parts := sorted(path.name for path in directory.glob("*.safetensors")):
            hint = " (several files need their index)" if len(parts) > 1 else f" (rename {parts[0]} to model.safetensors)"
        raise CheckpointError(f"{directory}: holds no model.safetensors and no {index.name}{hint}")
    weight_map = read_json_object(index, CheckpointError).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{index}: has no weight_map")
    files: dict[str, SafetensorsFile] = {}
    for shard in sorted(set(weight_map.values())):
        if shard in ("", ".", "..") or "/" in shard or "\0" in shard:
            raise CheckpointError(f"{index}: {short(shard)} must be the name of a file in the same folder")
        if not (directory / shard).is_file():
            raise CheckpointError(f"{directory}: the shard {shard} is missing")
        files[shard] = SafetensorsFile(directory / shard)
    for name, shard in weight_map.items():
        if name not in files[shard].entries:
            raise CheckpointError(f"{directory}: {shard} lacks {name}, which {index.name} promises")
    # All tensors of the shards count, so that check_tensors also sees one that the index lacks.
    return list(files.values())


def _ends(where: str, raw: dict[str, Any]) -> tuple[int, ...]:
    return _tokens(where, "eos_token_id", raw.get("eos_token_id"))


def _plain_names(directory: Path, files: Iterable[SafetensorsFile]) -> tuple[dict[str, tuple[SafetensorsFile, str]], str]:
    """Map the names that ``LlamaForCausalLM`` gives to tensors to their files and names there, and list the prefixes left out.

    Raises CheckpointError for the tensors of unmerged adapters and of quantised checkpoints, and for two of one name.
    """
    found = [(name, file) for file in files for name in file.entries]
    _refuse_other_tensors(directory, [name for name, _ in found])
    names = {name: _WRAPPERS.sub("", name) for name, _ in found}
    dropped = {prefix for name in names for prefix in _WRAPPERS.findall(name)}
    # LlamaModel saves its tensors without "model."
    bare = "embed_tokens.weight" in names.values() and not any(name.startswith("model.") for name in names.values())
    plain: dict[str, tuple[SafetensorsFile, str]] = {}
    for name, file in found:
        full = f"model.{names[name]}" if bare and not names[name].startswith("lm_head.") else names[name]
        if full in plain:
            other, other_name = plain[full]
            places = f"{other_name} in {other.path.name}, and {name} in {file.path.name}"
            raise CheckpointError(f"{directory}: holds {full} twice: {places}")
        plain[full] = file, name
    return plain, " and ".join(sorted(dropped))


def _refuse_other_tensors(directory: Path, names: list[str]) -> None:
    for name in names:
        if _UNMERGED.search(name):
            raise CheckpointError(f"{directory}: holds {name}: a model with an adapter of peft that was not merged: save it after "
                                  "merge_and_unload(), or give the base model, and the adapter with --adapter")  # fmt: skip
        for pattern, method in _QUANTISED:
            if pattern.search(name):
                raise CheckpointError(f"{directory}: holds {name}: a checkpoint quantised by {method}: only floats are read here; "
                                      "give the model before it was quantised, or a GGUF of it")  # fmt: skip


def _check_biases(where: str, fields: Config, found: Mapping[str, Any]) -> None:
    """Refuse a configuration that promises biases which the file lacks.  Those that it has are checked with all tensors."""
    for key, part in (("attention_bias", ".self_attn."), ("mlp_bias", ".mlp.")):
        if getattr(fields, key) and not any(part in name and name.endswith(".bias") for name in found):
            raise CheckpointError(f"{where}: {key} is True, and the weights hold no such biases: the chip has none")


def _config(where: str, raw: dict[str, Any], fields: Config, eos: tuple[int, ...], tied: bool) -> LlamaConfig:
    theta, scaling = read_rope(where, raw)
    dim, n_heads = fields.hidden_size, fields.num_attention_heads
    return make_config(
        where,
        dim=dim,
        n_layers=fields.num_hidden_layers,
        n_heads=n_heads,
        n_kv_heads=fields.num_key_value_heads or n_heads,
        head_dim=fields.head_dim or head_size(where, dim, n_heads),
        ffn_dim=fields.intermediate_size,
        vocab_size=fields.vocab_size,
        max_seq_len=fields.max_position_embeddings,
        norm_eps=fields.rms_norm_eps,
        rope_theta=theta,
        rope_scaling=scaling,
        tied=tied,
        bos_token_id=next(iter(_tokens(where, "bos_token_id", raw.get("bos_token_id"))), None),
        eos_token_ids=eos,
    )


def _tokens(where: str, name: str, value: object) -> tuple[int, ...]:
    """Read a field that holds a token number, a list of them, or nothing."""
    numbers = []
    for number in value if isinstance(value, list) else [value]:
        if number is None:
            continue
        if isinstance(number, bool) or not isinstance(number, int):
            raise CheckpointError(f"{where}: {name} must be a token number, not {short(number)}")
        # Some configurations say -1 for "none".
        if number != -1:
            numbers.append(number)
    return tuple(numbers)
