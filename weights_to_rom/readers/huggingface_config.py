"""config.json of a Llama: the fields that are read, and the models that the chip cannot compute."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, TypeVar

from weights_to_rom.config import RopeScaling
from weights_to_rom.readers.base import CheckpointError
from weights_to_rom.schema import Count, Finite, Flag, Positive, Schema, Text, Texts, checked, short

T = TypeVar("T")

# The values of each field for which the chip computes the model.  Other values are refused.
_MUST_BE: dict[str, tuple[Any, ...]] = {
    "sliding_window": (None,),
    "num_local_experts": (None, 0, 1),
    "num_experts": (None, 0, 1),
    "hidden_act": ("silu", "swish", None),
    "partial_rotary_factor": (None, 1.0),
}
# Fields that say that the weights are codes: of transformers, and of MLX.
_QUANTISED = ("quantization_config", "quantization", "compression_config")


class Config(Schema):
    """Shapes and constants.  The defaults are those of ``LlamaConfig`` in transformers."""

    model_type: Text | None = None
    architectures: Texts | None = None
    hidden_size: Count
    num_hidden_layers: Count
    num_attention_heads: Count
    num_key_value_heads: Count | None = None
    head_dim: Count | None = None
    intermediate_size: Count
    vocab_size: Count
    max_position_embeddings: Count = 2048
    rms_norm_eps: Positive = 1e-6
    attention_bias: Flag = False
    mlp_bias: Flag = False
    tie_word_embeddings: Flag | None = None


class Rope(Schema):
    """``rope_parameters`` or ``rope_scaling``."""

    rope_type: Text | None = None
    type: Text | None = None
    rope_theta: Positive | None = None
    factor: Finite | None = None
    low_freq_factor: Positive | None = None
    high_freq_factor: Positive | None = None
    original_max_position_embeddings: Count | None = None
    partial_rotary_factor: Positive | None = None


class _Llama3(Schema):
    factor: Positive
    low_freq_factor: Positive
    high_freq_factor: Positive
    original_max_position_embeddings: Count


class _Theta(Schema):
    rope_theta: Positive | None = None


def read_config(where: str, raw: Mapping[str, Any]) -> Config:
    """Check the fields of config.json.  Raises CheckpointError for another model than a plain Llama."""
    model_type, architectures = raw.get("model_type"), raw.get("architectures")
    if model_type not in ("llama", None) or (model_type is None and not architectures):
        window = f", with sliding_window {short(raw['sliding_window'])}" if raw.get("sliding_window") else ""
        raise CheckpointError(f"{where}: not a Llama: model_type is {short(model_type)}{window}")
    if architectures and architectures not in (["LlamaForCausalLM"], ["LlamaModel"]):
        raise CheckpointError(f"{where}: not a LlamaForCausalLM: architectures is {short(architectures)}")
    for field in _QUANTISED:
        if raw.get(field):
            raise CheckpointError(f"{where}: a checkpoint quantised by {_method(field, raw[field])} ({field}): only floats are "
                                  "read here; give the model before it was quantised, or a GGUF of it")  # fmt: skip
    for field, allowed in _MUST_BE.items():
        if field in raw and raw[field] not in allowed:
            raise CheckpointError(f"{where}: {field} is {short(raw[field])}: the chip has no such feature")
    return checked(Config, raw, where, CheckpointError)


def _method(field: str, value: object) -> str:
    """The name of the method that a quantised checkpoint states."""
    if not isinstance(value, Mapping):
        return short(value)
    if value.get("quant_method"):
        return short(value["quant_method"])
    return "MLX" if field == "quantization" else "an unnamed method"


def read_rope(where: str, raw: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    """Read the base and the scaling of RoPE from ``rope_parameters`` (transformers 5) and ``rope_theta`` and ``rope_scaling``.

    Releases of transformers disagree on which of two spellings counts, so CheckpointError names both if they contradict.
    """
    thetas: dict[str, float | None] = {"rope_theta": checked(_Theta, raw, where, CheckpointError).rope_theta}
    scalings: dict[str, RopeScaling | None] = {}
    for key in ("rope_scaling", "rope_parameters"):
        if raw.get(key) is None or raw[key] == {}:
            continue
        if not isinstance(raw[key], dict):
            raise CheckpointError(f"{where}: {key} must be an object, not {short(raw[key])}")
        thetas[key], scalings[key] = _rope(f"{where}: {key}", raw[key], raw.get("original_max_position_embeddings"))
    theta = _agreed(where, "base", {key: value for key, value in thetas.items() if value is not None})
    return (10000.0 if theta is None else theta), _agreed(where, "scaling", scalings)


def _agreed(where: str, what: str, values: Mapping[str, T]) -> T | None:
    """The one value of all spellings.  Raises CheckpointError, which names two that contradict each other."""
    for (one, first), (other, second) in pairwise(values.items()):
        if first != second:
            raise CheckpointError(f"{where}: {one} and {other} contradict each other in the {what} of RoPE "
                                  f"({first or 'none'} and {second or 'none'}): remove the wrong one")  # fmt: skip
    return next(iter(values.values()), None)


def _rope(where: str, raw: Mapping[str, Any], original: object) -> tuple[float | None, RopeScaling | None]:
    fields = checked(Rope, raw, where, CheckpointError)
    if fields.rope_type and fields.type and fields.rope_type != fields.type:
        both = f"rope_type is {short(fields.rope_type)} and type is {short(fields.type)}"
        raise CheckpointError(f"{where}: {both}: remove the wrong one")
    if fields.partial_rotary_factor not in (None, 1.0):
        raise CheckpointError(f"{where}: partial_rotary_factor is {fields.partial_rotary_factor}: the chip rotates whole heads")
    kind = fields.rope_type or fields.type
    # Positions divided by 1 stay as they are.
    if kind in (None, "default") or (kind == "linear" and fields.factor == 1):
        return fields.rope_theta, None
    if kind != "llama3":
        factor = "" if fields.factor is None else f" (factor {fields.factor})"
        raise CheckpointError(f"{where}: rope scaling {short(kind)}{factor} is not supported, only 'llama3'")
    inner = fields.original_max_position_embeddings
    if original is not None and inner is not None and original != inner:
        raise CheckpointError(f"{where}: original_max_position_embeddings is {inner}, and {short(original)} outside of it: "
                              "remove the wrong one")  # fmt: skip
    scaling = checked(_Llama3, {"original_max_position_embeddings": original, **raw}, where, CheckpointError)
    if scaling.high_freq_factor <= scaling.low_freq_factor:
        raise CheckpointError(f"{where}: high_freq_factor must be above low_freq_factor")
    return fields.rope_theta, RopeScaling(
        scaling.factor, scaling.low_freq_factor, scaling.high_freq_factor, scaling.original_max_position_embeddings
    )
