"""The tokenizer that the metadata of a GGUF file describes."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from weights_to_rom.readers.base import CheckpointError
from weights_to_rom.text.byte_level import STARTS_WITH_BOS, byte_level_bpe
from weights_to_rom.text.errors import TokenizerError
from weights_to_rom.text.sentencepieces import (
    BPE,
    BYTE,
    CONTROL,
    NORMAL,
    UNIGRAM,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Pieces,
    sentencepiece_model,
)
from weights_to_rom.text.tokenizer import Tokenizer

# Some converters left such tokens as normal ones, and no merges lead to them: <|im_start|>, <｜User｜>, <end_of_turn>, ...
_LOOKS_SPECIAL = re.compile(
    r"<\|[^\s<>|]([^<>|]*[^\s<>|])?\|>|<｜[^<>｜]+｜>|<(start|end)_of_(turn|text|utterance)>|_?<EOT>|\[EO[ST]\]"
    r"|<fim[_-](prefix|middle|suffix|pad)>|<repo_?name>|<file_sep>"
)
_STATED = re.compile(r"tokenizer\.ggml\.(\w+)_token_id")
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
# The numbers of special tokens that a sentencepiece model need not state: those of Llama and of T5.
_DEFAULTS = {"llama": {"bos": 1, "eos": 2, "unknown": 0}, "t5": {"eos": 1, "unknown": 2, "padding": 0}}


def gguf_tokenizer(path: Path, fields: dict[str, Any]) -> Tokenizer | None:
    """The tokenizer of the metadata, or None if there is none."""

    def get(key: str, default: Any = None) -> Any:
        return fields.get(f"tokenizer.ggml.{key}", default)

    family, tokens = get("model"), get("tokens")
    if family in (None, "none", "no_vocab") or tokens is None:
        return None
    notes: list[str] = []
    pieces = None
    pre = get("pre")
    stated = {match[1]: value for key, value in fields.items() if (match := _STATED.fullmatch(key)) and isinstance(value, int)}
    try:
        if family == "gpt2":
            if pre in (None, "default"):
                notes.append(f"tokenizer: {path.name} does not say how words are split (tokenizer.ggml.pre), which is guessed")
            kinds = _kinds(tokens, get("token_type"), stated)
            model = byte_level_bpe(tokens, get("merges"), kinds, pre or "default")
        elif family in _DEFAULTS:
            tokens = [token or f"[EMPTY_{i}]" for i, token in enumerate(tokens)]
            kinds = _piece_kinds(tokens, _kinds(tokens, get("token_type"), stated), _DEFAULTS[family] | stated)
            # The tokens that are whole are cut out of a text before sentencepiece gets it.  T5's tokens of bytes are never used.
            stands_for = {USER_DEFINED: NORMAL} | ({BYTE: CONTROL} if family == "t5" else {})
            proto = sentencepiece_model(
                tokens,
                get("scores") or [0.0] * len(tokens),
                [stands_for.get(kind, kind) for kind in kinds],
                algorithm=BPE if family == "llama" else UNIGRAM,
                charsmap=bytes(get("precompiled_charsmap") or b""),
                collapse_spaces=family == "t5" and get("remove_extra_whitespaces", False),
            )
            pieces = Pieces(proto, prefix=get("add_space_prefix", family == "llama"))
            special = [i for i, kind in enumerate(kinds) if kind in (UNKNOWN, CONTROL)]
            model = pieces.vocabulary(special, [i for i, kind in enumerate(kinds) if kind == USER_DEFINED])
        else:
            raise TokenizerError(f"the tokenizer {family!r} is not supported: name another with --tokenizer")
    except (TokenizerError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from None
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    numbers = {name: get(f"{key}_token_id") for name, key in names.items()}
    special = {f"{name}_token": tokens[i] for name, i in numbers.items() if i is not None and i < len(tokens)}
    starts = get("add_bos_token", family == "llama" or pre in STARTS_WITH_BOS)
    closing = numbers["eos"] if get("add_eos_token", family == "t5") else None
    if closing is not None:
        notes.append(f"tokenizer: puts {tokens[closing]!r} after every prompt, as {path.name} says")
    return Tokenizer(
        model,
        pieces=pieces,
        bos=numbers["bos"] if starts else None,
        chat_template=fields.get("tokenizer.chat_template"),
        special=special,
        closing=closing,
        notes=notes,
    )


def _kinds(tokens: Sequence[str], given: Sequence[int] | None, stated: Mapping[str, int]) -> list[int]:
    """Return the kind of each token: the file's, but tokens that look special, or have a role (``stated``), are special."""
    kinds = list(given or [NORMAL] * len(tokens))
    if len(kinds) != len(tokens):
        raise TokenizerError(f"{len(tokens)} tokens have {len(kinds)} types")
    roles = set(stated.values())
    for i, token in enumerate(tokens):
        if kinds[i] == NORMAL and (i in roles or _LOOKS_SPECIAL.fullmatch(token)):
            kinds[i] = CONTROL
    return kinds


def _piece_kinds(tokens: Sequence[str], kinds: Sequence[int], roles: Mapping[str, int]) -> list[int]:
    """Return the kind of each piece.  Files without types, converted long ago, have Llama's bytes and special tokens."""
    kinds = [kind if NORMAL <= kind <= BYTE else NORMAL for kind in kinds]
    bytes_found = [i for i, token in enumerate(tokens) if _BYTE.fullmatch(token)]
    for i in bytes_found if len(bytes_found) == 256 else ():
        kinds[i] = BYTE
    for role, i in roles.items():
        if 0 <= i < len(tokens) and tokens[i] in ("<unk>", "<s>", "</s>", "<pad>"):
            kinds[i] = UNKNOWN if role == "unknown" and UNKNOWN not in kinds else CONTROL if kinds[i] == NORMAL else kinds[i]
    for i, token in enumerate(tokens):
        if token == f"[EMPTY_{i}]":
            kinds[i] = UNUSED
    return kinds
