"""The tokenizer that the metadata of a GGUF file describes."""

from pathlib import Path
from typing import Any

from weights_to_rom.readers.base import CheckpointError
from weights_to_rom.text.errors import TokenizerError
from weights_to_rom.text.tokenizer import Tokenizer
from weights_to_rom.text.tokenizer_models import NORMAL, STARTS_WITH_BOS, byte_level_bpe, sentencepiece_bpe


def gguf_tokenizer(path: Path, fields: dict[str, Any]) -> Tokenizer | None:
    """The tokenizer of the metadata, or None if there is none."""

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
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    numbers = {name: get(f"{key}_token_id") for name, key in names.items()}
    special = {f"{name}_token": tokens[i] for name, i in numbers.items() if i is not None and i < len(tokens)}
    starts = get("add_bos_token", family == "llama" or pre in STARTS_WITH_BOS)
    template = fields.get("tokenizer.chat_template")
    return Tokenizer(model, bos=numbers["bos"] if starts else None, chat_template=template, special=special)
