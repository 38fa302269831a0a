"""The tokenizer that the metadata of a GGUF file describes."""

from pathlib import Path
from typing import Any

from weights_to_rom.readers.base import CheckpointError
from weights_to_rom.text.errors import TokenizerError
from weights_to_rom.text.tokenizer import Tokenizer
from weights_to_rom.text.tokenizer_models import NORMAL, STARTS_WITH_BOS, byte_level_bpe, sentencepiece_bpe

_SPECIAL = {"bos": "bos", "eos": "eos", "eot": "eot", "eom": "eom", "unk": "unknown", "pad": "padding"}
"""The keys of special tokens in the metadata, by the names that chat templates use."""


def special_ids(path: Path, fields: dict[str, Any]) -> dict[str, int]:
    """The numbers of the special tokens, by name; they may be beyond the vocabulary.

    A sentencepiece model that does not state them has llama.cpp's: unknown 0, begin 1, end 2.  Raises CheckpointError.
    """
    ids = {"unk": 0, "bos": 1, "eos": 2} if fields.get("tokenizer.ggml.model") == "llama" else {}
    for name, key in _SPECIAL.items():
        number = fields.get(f"tokenizer.ggml.{key}_token_id")
        if isinstance(number, bool) or not isinstance(number, int | None):
            raise CheckpointError(f"{path}: tokenizer.ggml.{key}_token_id must be a token number, not {number!r}")
        if number is not None:
            ids[name] = number
    return ids


def gguf_tokenizer(path: Path, fields: dict[str, Any], given: Tokenizer | None = None) -> Tokenizer | None:
    """The tokenizer of the metadata, or None if there is none.

    ``given`` takes the place of the file's tokens.  It gets the file's special tokens and chat template, because those belong to
    the model.
    """
    if given is not None:
        return _with_settings(given, path, fields)

    def get(key: str, default: Any = None) -> Any:
        return fields.get(f"tokenizer.ggml.{key}", default)

    family, tokens = get("model"), get("tokens")
    if family in (None, "none", "no_vocab") or tokens is None:
        return None
    kinds = get("token_type") or [NORMAL] * len(tokens)
    pre = get("pre", "default")
    try:
        if family == "gpt2":
            model = byte_level_bpe(tokens, get("merges", []), kinds, pre)
        elif family == "llama":
            scores = get("scores") or [0.0] * len(tokens)
            model = sentencepiece_bpe(tokens, scores, kinds, add_space_prefix=get("add_space_prefix", True))
        else:
            raise TokenizerError(f"the tokenizer {family!r} is not supported: name another with --tokenizer")
    except (TokenizerError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from None
    return _with_settings(Tokenizer(model), path, fields)


def _with_settings(tokenizer: Tokenizer, path: Path, fields: dict[str, Any]) -> Tokenizer:
    """Apply what the metadata states beside the tokens: special tokens, whether a text begins with one, the chat template."""
    ids, tokens = special_ids(path, fields), fields.get("tokenizer.ggml.tokens") or []
    tokenizer.special |= {f"{name}_token": tokens[i] for name, i in ids.items() if 0 <= i < len(tokens)}
    usual = fields.get("tokenizer.ggml.model") == "llama" or fields.get("tokenizer.ggml.pre") in STARTS_WITH_BOS
    starts = fields.get("tokenizer.ggml.add_bos_token", usual or tokenizer.bos is not None)
    tokenizer.bos = ids.get("bos", tokenizer.bos) if starts else None
    tokenizer.chat_bos = tokenizer.bos is not None
    tokenizer.chat_template = fields.get("tokenizer.chat_template", tokenizer.chat_template)
    return tokenizer
