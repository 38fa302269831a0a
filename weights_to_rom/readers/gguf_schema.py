"""The metadata of a GGUF file of a Llama: the fields that are read, and the files that are no such model."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from weights_to_rom.readers.base import CheckpointError
from weights_to_rom.schema import Count, Finite, Flag, Numbers, Positive, Schema, Text, Texts, TokenId, checked, short

_TypeNumbers = Annotated[
    list[Annotated[int, Field(ge=0, le=6)]], Field(fail_fast=True, description="a list of token types, 0 to 6")
]
_Bytes = Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(fail_fast=True, description="a list of bytes")]
# The largest vocabulary of a published model has 300,000 tokens.
_Tokens = Annotated[list[str], Field(max_length=1 << 19, fail_fast=True, description="a list of texts, at most 524,288")]
# Fields of architectures that share the code of llama in llama.cpp.  The chip computes none of them.
_MUST_BE: dict[str, tuple[Any, ...]] = {
    "llama.expert_count": (0,),
    "llama.attention.sliding_window": (0,),
    "llama.attention.causal": (True,),
    "llama.attention.scale": (0.0,),
    "llama.attention.clamp_kqv": (0.0,),
    "llama.attention.max_alibi_bias": (0.0,),
    "llama.logit_scale": (0.0, 1.0),
    "llama.residual_scale": (0.0, 1.0),
    "llama.embedding_scale": (0.0, 1.0),
    "llama.rope.scaling.attn_factor": (1.0,),
}


class Metadata(Schema):
    """Shapes, constants, token numbers and settings of texts."""

    dim: Count = Field(alias="llama.embedding_length")
    n_layers: Count = Field(alias="llama.block_count")
    n_heads: Count = Field(alias="llama.attention.head_count")
    n_kv_heads: Count | None = Field(None, alias="llama.attention.head_count_kv")
    key_length: Count | None = Field(None, alias="llama.attention.key_length")
    value_length: Count | None = Field(None, alias="llama.attention.value_length")
    ffn_dim: Count = Field(alias="llama.feed_forward_length")
    max_seq_len: Count = Field(alias="llama.context_length")
    norm_eps: Positive = Field(alias="llama.attention.layer_norm_rms_epsilon")
    rope_dimensions: Count | None = Field(None, alias="llama.rope.dimension_count")
    rope_theta: Positive = Field(10000.0, alias="llama.rope.freq_base")
    rope_kind: Text = Field("linear", alias="llama.rope.scaling.type")
    rope_factor: Finite | None = Field(None, alias="llama.rope.scaling.factor")
    rope_linear: Finite = Field(1.0, alias="llama.rope.scale_linear")
    rope_original: Count = Field(8192, alias="llama.rope.scaling.original_context_length")
    bos: TokenId | None = Field(None, alias="tokenizer.ggml.bos_token_id")
    eos: TokenId | None = Field(None, alias="tokenizer.ggml.eos_token_id")
    eot: TokenId | None = Field(None, alias="tokenizer.ggml.eot_token_id")
    eom: TokenId | None = Field(None, alias="tokenizer.ggml.eom_token_id")
    unknown: TokenId | None = Field(None, alias="tokenizer.ggml.unknown_token_id")
    padding: TokenId | None = Field(None, alias="tokenizer.ggml.padding_token_id")
    separator: TokenId | None = Field(None, alias="tokenizer.ggml.seperator_token_id")
    add_bos: Flag | None = Field(None, alias="tokenizer.ggml.add_bos_token")
    add_eos: Flag | None = Field(None, alias="tokenizer.ggml.add_eos_token")
    chat_template: Text | None = Field(None, alias="tokenizer.chat_template")


class Vocabulary(Schema):
    """The tokenizer's lists."""

    family: Text | None = Field(None, alias="tokenizer.ggml.model")
    pre: Text | None = Field(None, alias="tokenizer.ggml.pre")
    tokens: _Tokens | None = Field(None, alias="tokenizer.ggml.tokens")
    scores: Numbers | None = Field(None, alias="tokenizer.ggml.scores")
    kinds: _TypeNumbers | None = Field(None, alias="tokenizer.ggml.token_type")
    merges: Texts | None = Field(None, alias="tokenizer.ggml.merges")
    add_space_prefix: Flag | None = Field(None, alias="tokenizer.ggml.add_space_prefix")
    collapse_spaces: Flag | None = Field(None, alias="tokenizer.ggml.remove_extra_whitespaces")
    charsmap: _Bytes | None = Field(None, alias="tokenizer.ggml.precompiled_charsmap")


def read_metadata(path: Path, fields: dict[str, Any], *, vocabulary: bool) -> Metadata:
    """Check the metadata of a model, and with ``vocabulary`` its tokenizer's lists; a list of equal numbers becomes the number.

    Raises CheckpointError for files that hold no Llama, and for fields of a wrong type, length or range.
    """
    _check_is_llama(path, fields)
    for field in Metadata.model_fields.values():
        key = field.alias or ""
        if key.startswith("llama.") and isinstance(fields.get(key), list):
            fields[key] = _same_for_all(path, fields, key)
    metadata = checked(Metadata, fields, str(path), CheckpointError)
    if vocabulary:
        lists = checked(Vocabulary, fields, str(path), CheckpointError)
        for key, entries in (("scores", lists.scores), ("token_type", lists.kinds)):
            if entries and len(entries) != len(lists.tokens or ()):
                raise CheckpointError(f"{path}: tokenizer.ggml.{key} has {len(entries)} entries, tokenizer.ggml.tokens "
                                      f"{len(lists.tokens or ())}: the file is damaged")  # fmt: skip
    return metadata


def drop_unknown_ids(path: Path, fields: dict[str, Any], size: int) -> list[str]:
    """Remove the numbers of special tokens that a vocabulary of ``size`` lacks from ``fields``, and return a warning for each.

    Converters write such numbers, often -1 as an unsigned one, for "none".
    """
    keys = [key for key, value in fields.items() if re.fullmatch(r"tokenizer\.ggml\.\w+_token_id", key) and type(value) is int]
    bad = [key for key in keys if not 0 <= fields[key] < size]
    return [f"{path}: {key} is {fields.pop(key)}, but the model has {size} tokens: it is left out" for key in bad]


def _same_for_all(path: Path, fields: Mapping[str, Any], key: str) -> Any:
    """The one value of a list with an entry for each layer."""
    values, n_layers = fields[key], fields.get("llama.block_count")
    if len(values) != n_layers or not values:
        raise CheckpointError(f"{path}: {key} has {len(values)} entries, llama.block_count is {short(n_layers)}")
    if any(value != values[0] for value in values):
        raise CheckpointError(f"{path}: {key} differs between layers: the chip has one shape for all")
    return values[0]


def _check_is_llama(path: Path, fields: Mapping[str, Any]) -> None:
    parts, number = fields.get("split.count"), fields.get("split.no")
    for key, value in (("split.count", parts), ("split.no", number)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise CheckpointError(f"{path}: {key} must be an integer, not {short(value)}")
    if (parts or 1) > 1 or (number or 0) > 0:
        which = "one part" if number is None else f"part {number + 1}"
        raise CheckpointError(f"{path}: {which} of a model in {parts or 'several'} files: merge them with llama-gguf-split --merge")
    kind = fields.get("general.type", "model")
    if kind == "adapter" or "adapter.type" in fields:
        raise CheckpointError(f"{path}: a LoRA adapter, not a model: give its base model, and the adapter as peft writes it "
                              "with --adapter DIR")  # fmt: skip
    if kind != "model":
        raise CheckpointError(f"{path}: not a model: general.type is {short(kind)}")
    architecture = fields.get("general.architecture")
    if architecture != "llama":
        raise CheckpointError(f"{path}: not a Llama: general.architecture is {short(architecture)}")
    for key, allowed in _MUST_BE.items():
        if key in fields and fields[key] not in allowed:
            raise CheckpointError(f"{path}: {key} is {short(fields[key])}: the chip has no such feature")
