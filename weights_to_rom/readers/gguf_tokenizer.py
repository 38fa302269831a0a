"""The tokenizer that the metadata of a GGUF file describes."""

import re
from collections.abc import Collection, Mapping, Sequence
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
    r"<\|[^\s<>|]([^<>|]*[^\s<>|])?\|>|<｜[^<>｜]+｜>|<(start|end)_of_(turn|text|utterance)>|_?<EOT>|\[(EO[ST]|PAD)\]"
    r"|<fim[_-](prefix|middle|suffix|pad|repo)>|\u2581?<(PRE|SUF|MID|PAD|REPO|EOT)>|<repo_?name>|<file_sep>"
)
_BRACKETED = re.compile(r"<.+>|\[.+\]")
_STATED = re.compile(r"tokenizer\.ggml\.(\w+)_token_id")
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
# The numbers of special tokens that a sentencepiece model need not state: those of Llama and of T5.
_DEFAULTS = {"llama": {"unk": 0, "bos": 1, "eos": 2}, "t5": {"pad": 0, "eos": 1, "unk": 2}}

_SPECIAL = {"bos": "bos", "eos": "eos", "eot": "eot", "eom": "eom", "unk": "unknown", "pad": "padding"}
"""The keys of special tokens in the metadata, by the names that chat templates use."""


def special_ids(fields: dict[str, Any]) -> dict[str, int]:
    """The numbers of the special tokens, by name.

    A sentencepiece model that does not state them has llama.cpp's (``_DEFAULTS``).
    """
    ids = dict(_DEFAULTS.get(fields.get("tokenizer.ggml.model", ""), {}))
    for name, key in _SPECIAL.items():
        if (number := fields.get(f"tokenizer.ggml.{key}_token_id")) is not None:
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
    warnings: list[str] = []
    pieces, pre, ids = None, get("pre"), special_ids(fields)
    stated = {value for key, value in fields.items() if _STATED.fullmatch(key)}
    try:
        kinds = _kinds(tokens, get("token_type"), stated)
        if family == "gpt2":
            if pre in (None, "default"):
                warnings.append(f"tokenizer: {path.name} does not say how words are split (tokenizer.ggml.pre), which is guessed")
            model = byte_level_bpe(tokens, get("merges"), kinds, pre or "default")
        elif family in _DEFAULTS:
            tokens = [token or f"[EMPTY_{i}]" for i, token in enumerate(tokens)]
            kinds = _piece_kinds(tokens, kinds, ids)
            # The tokens that are whole are cut out of a text before sentencepiece gets it.  As in llama.cpp, merges may lead to
            # tokens that are called unused, and T5's tokens of bytes are never used.
            stands_for = {USER_DEFINED: NORMAL} | ({UNUSED: NORMAL} if family == "llama" else {BYTE: CONTROL})
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
    tokenizer = _with_settings(Tokenizer(model, pieces=pieces), path, fields)
    tokenizer.warnings += warnings
    return tokenizer


def _with_settings(tokenizer: Tokenizer, path: Path, fields: dict[str, Any]) -> Tokenizer:
    """Apply what the metadata states beside the tokens: special tokens, whether a text begins with one, the chat template."""
    ids, tokens = special_ids(fields), fields.get("tokenizer.ggml.tokens")
    tokens = tokens if isinstance(tokens, list) else []
    tokenizer.special |= {f"{name}_token": tokens[i] for name, i in ids.items() if 0 <= i < len(tokens)}
    usual = fields.get("tokenizer.ggml.model") == "llama" or fields.get("tokenizer.ggml.pre") in STARTS_WITH_BOS
    starts = fields.get("tokenizer.ggml.add_bos_token", usual or tokenizer.bos is not None)
    tokenizer.bos = ids.get("bos", tokenizer.bos) if starts else None
    tokenizer.chat_bos = tokenizer.bos is not None
    tokenizer.chat_template = fields.get("tokenizer.chat_template", tokenizer.chat_template)
    family, eos = fields.get("tokenizer.ggml.model"), ids.get("eos")
    if eos is not None and 0 <= eos < len(tokens) and fields.get("tokenizer.ggml.add_eos_token", family == "t5"):
        tokenizer.closing = eos
        tokenizer.warnings.append(f"tokenizer: puts {tokens[eos]!r} after every prompt, as {path.name} says")
    return tokenizer


def _kinds(tokens: Sequence[str], given: Sequence[int] | None, stated: Collection[object]) -> list[int]:
    """Return the kind of each token: the file's, but normal and unused ones are special if they look so.

    ``stated`` are the numbers of tokens with a role.  Some files give a role to an ordinary token: padding to "!", number 0.
    """
    kinds = list(given or [NORMAL] * len(tokens))
    if len(kinds) != len(tokens):
        raise TokenizerError(f"{len(tokens)} tokens have {len(kinds)} types")
    for i, token in enumerate(tokens):
        if kinds[i] in (NORMAL, UNUSED) and (_LOOKS_SPECIAL.fullmatch(token) or (i in stated and _BRACKETED.fullmatch(token))):
            kinds[i] = CONTROL
    return kinds


def _piece_kinds(tokens: Sequence[str], kinds: Sequence[int], ids: Mapping[str, int]) -> list[int]:
    """Return the kind of each piece.  Files without types, converted long ago, have Llama's bytes and special tokens."""
    kinds = [kind if NORMAL <= kind <= BYTE else NORMAL for kind in kinds]
    bytes_found = [i for i, token in enumerate(tokens) if _BYTE.fullmatch(token)]
    for i in bytes_found if len(bytes_found) == 256 else ():
        kinds[i] = BYTE
    for role, i in ids.items():
        if 0 <= i < len(tokens) and tokens[i] in ("<unk>", "<s>", "</s>", "<pad>"):
            kinds[i] = UNKNOWN if role == "unk" and UNKNOWN not in kinds else CONTROL if kinds[i] == NORMAL else kinds[i]
    for i, token in enumerate(tokens):
        if token == f"[EMPTY_{i}]":
            kinds[i] = UNUSED
    return kinds
