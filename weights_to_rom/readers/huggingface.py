"""Hugging Face directories: config.json, and safetensors in one file or in shards."""

from pathlib import Path
from typing import Any

import numpy as np

from weights_to_rom.config import LlamaConfig, RopeScaling
from weights_to_rom.json_file import read_json_object
from weights_to_rom.projections import MODULES
from weights_to_rom.readers.base import Checkpoint, CheckpointError, check_tensors, head_size, make_config
from weights_to_rom.readers.safetensors_file import ITEM_BYTES, SafetensorsError, SafetensorsFile
from weights_to_rom.text.open import tokenizer_in
from weights_to_rom.text.tokenizer import Tokenizer

_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    **MODULES,
}
_HEAD, _EMBED = "lm_head.weight", "model.embed_tokens.weight"

# The values of each field for which the chip computes the model.  Other values are refused.
_MUST_BE: dict[str, tuple[Any, ...]] = {
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "sliding_window": (None,),
    "num_local_experts": (None, 0, 1),
    "num_experts": (None, 0, 1),
    "hidden_act": ("silu", "swish"),
    "quantization_config": (None,),
    "partial_rotary_factor": (None, 1.0),
}


class HuggingFaceCheckpoint(Checkpoint):
    """A directory that ``LlamaForCausalLM.save_pretrained`` wrote."""

    def __init__(self, directory: Path, tokenizer: Tokenizer | None = None) -> None:
        if not (directory / "config.json").is_file():
            raise CheckpointError(f"{directory}: config.json is missing: no Hugging Face model")
        raw = read_json_object(directory / "config.json", CheckpointError)
        where = f"{directory}/config.json"
        _check_is_llama(where, raw)
        self._files = _open_shards(directory)
        found = {name: file.entries[name].shape for name, file in self._files.items()}
        tied = self._is_tied(directory, raw)
        generation = directory / "generation_config.json"
        generation = read_json_object(generation, CheckpointError) if generation.is_file() else {}
        # As transformers has it, generation_config.json decides where a text ends.  A chat stops at the tokens of both files.
        ends = _ends(where, raw), _ends(f"{directory}/generation_config.json", generation)
        config = _config(where, raw, ends[0] if generation.get("eos_token_id") is None else ends[1], tied)
        self._names = {name: _file_name(name) for name in config.tensor_shapes()}
        ignored = {name for name in found if name.endswith("rotary_emb.inv_freq")}
        check_tensors(str(directory), config, self._names, found, ignored | ({_HEAD} if tied else set()))
        for name in self._names.values():
            dtype = self._files[name].entries[name].dtype
            if dtype not in ITEM_BYTES:
                raise CheckpointError(f"{directory}: {name} is {dtype}, not {' or '.join(ITEM_BYTES)}")
        super().__init__(config, str(directory), tokenizer or tokenizer_in(directory), [*ends[0], *ends[1]])

    def _read(self, name: str) -> np.ndarray:
        file_name = self._names[name]
        return self._files[file_name].read(file_name)

    def _is_tied(self, directory: Path, raw: dict[str, Any]) -> bool:
        """Whether the head is the embedding.  If config.json does not say so, the model is tied if it has no head tensor."""
        stated, has_head = raw.get("tie_word_embeddings"), _HEAD in self._files
        if stated and has_head and _EMBED in self._files:
            # Both are there, and releases of transformers disagree on which of them the head is.
            head, embed = self._files[_HEAD], self._files[_EMBED]
            if not np.array_equal(head.raw(_HEAD), embed.raw(_EMBED)):
                raise CheckpointError(
                    f"{directory}: config.json has tie_word_embeddings, but {_HEAD} differs from {_EMBED}: remove one or the other"
                )
        return not has_head if stated is None else bool(stated)


def _file_name(name: str) -> str:
    if name in ("embed", "norm", "head"):
        return {"embed": _EMBED, "norm": "model.norm.weight", "head": _HEAD}[name]
    _, layer, part = name.split(".")
    return f"model.layers.{layer}.{_LAYER_NAMES[part]}.weight"


def _check_is_llama(where: str, raw: dict[str, Any]) -> None:
    model_type, architectures = raw.get("model_type"), raw.get("architectures")
    if model_type not in ("llama", None) or (model_type is None and not architectures):
        window = f", with sliding_window {raw['sliding_window']}" if raw.get("sliding_window") else ""
        raise CheckpointError(f"{where}: not a Llama: model_type is {model_type!r}{window}")
    if architectures and architectures != ["LlamaForCausalLM"]:
        raise CheckpointError(f"{where}: not a LlamaForCausalLM: architectures is {architectures!r}")
    for field, allowed in _MUST_BE.items():
        if field in raw and raw[field] not in allowed:
            shown = raw[field].get("quant_method", "set") if isinstance(raw[field], dict) else raw[field]
            raise CheckpointError(f"{where}: {field} is {shown!r}: the chip has no such feature")


def _open_shards(directory: Path) -> dict[str, SafetensorsFile]:
    """Open the shards, and map each tensor to its file."""
    index, single = directory / "model.safetensors.index.json", directory / "model.safetensors"
    try:
        if single.is_file():
            file = SafetensorsFile(single)
            return dict.fromkeys(file.entries, file)
        if not index.is_file():
            others = sorted(path.name for path in directory.glob("*.bin"))
            hint = f" (of {others[0]} only the safetensors version is read)" if others else ""
            raise CheckpointError(f"{directory}: holds no model.safetensors and no {index.name}{hint}")
        weight_map = read_json_object(index, CheckpointError).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise CheckpointError(f"{index}: has no weight_map")
        files: dict[str, SafetensorsFile] = {}
        for shard in sorted(set(weight_map.values())):
            if not (directory / shard).is_file():
                raise CheckpointError(f"{directory}: the shard {shard} is missing")
            files[shard] = SafetensorsFile(directory / shard)
        for name, shard in weight_map.items():
            if name not in files[shard].entries:
                raise CheckpointError(f"{directory}: {shard} lacks {name}, which {index.name} promises")
        # The names are those in the shards, so that check_tensors also sees a tensor that the index lacks.
        return {name: file for file in files.values() for name in file.entries}
    except SafetensorsError as error:
        raise CheckpointError(str(error)) from None


def _ends(where: str, raw: dict[str, Any]) -> tuple[int, ...]:
    return _tokens(where, "eos_token_id", raw.get("eos_token_id"))


def _config(where: str, raw: dict[str, Any], eos: tuple[int, ...], tied: bool) -> LlamaConfig:
    def integer(key: str, default: int | None = None) -> int:
        value = raw.get(key)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool):
            raise CheckpointError(f"{where}: {key} must be an integer, not {value!r}")
        return value

    dim, n_heads = integer("hidden_size"), integer("num_attention_heads")
    theta, scaling = _rope(where, raw)
    return make_config(
        where,
        dim=dim,
        n_layers=integer("num_hidden_layers"),
        n_heads=n_heads,
        n_kv_heads=integer("num_key_value_heads", n_heads),
        head_dim=integer("head_dim") if raw.get("head_dim") is not None else head_size(where, dim, n_heads),
        ffn_dim=integer("intermediate_size"),
        vocab_size=integer("vocab_size"),
        max_seq_len=integer("max_position_embeddings", 2048),
        norm_eps=_positive(where, "rms_norm_eps", raw.get("rms_norm_eps", 1e-6)),
        rope_theta=theta,
        rope_scaling=scaling,
        tied=tied,
        bos_token_id=next(iter(_tokens(where, "bos_token_id", raw.get("bos_token_id"))), None),
        eos_token_ids=eos,
    )


def _rope(where: str, raw: dict[str, Any]) -> tuple[float, RopeScaling | None]:
    """Read the base and the scaling of RoPE from ``rope_parameters`` (transformers 5) or ``rope_theta`` and ``rope_scaling``."""
    parameters = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if not isinstance(parameters, dict):
        raise CheckpointError(f"{where}: the rope parameters must be an object, not {parameters!r}")
    theta = _positive(where, "rope_theta", parameters.get("rope_theta", raw.get("rope_theta", 10000.0)))
    kind = parameters.get("rope_type", parameters.get("type"))
    if parameters.get("partial_rotary_factor", 1.0) not in _MUST_BE["partial_rotary_factor"]:
        raise CheckpointError(f"{where}: partial_rotary_factor is {parameters['partial_rotary_factor']!r}: "
                              "the chip rotates whole heads")  # fmt: skip
    if kind in (None, "default"):
        return theta, None
    if kind != "llama3":
        raise CheckpointError(f"{where}: rope scaling {kind!r} is not supported, only 'llama3'")
    keys = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    values = [_positive(where, f"rope scaling's {key}", parameters.get(key)) for key in keys]
    if values[2] <= values[1]:
        raise CheckpointError(f"{where}: rope scaling's high_freq_factor must be above its low_freq_factor")
    return theta, RopeScaling(values[0], values[1], values[2], int(values[3]))


def _positive(where: str, name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise CheckpointError(f"{where}: {name} must be a positive number, not {value!r}")
    return float(value)


def _tokens(where: str, name: str, value: object) -> tuple[int, ...]:
    """Read a field that holds a token number, a list of them, or nothing."""
    numbers = []
    for number in value if isinstance(value, list) else [value]:
        if number is None:
            continue
        if isinstance(number, bool) or not isinstance(number, int):
            raise CheckpointError(f"{where}: {name} must be a token number, not {number!r}")
        # Some configurations say -1 for "none".
        if number != -1:
            numbers.append(number)
    return tuple(numbers)
