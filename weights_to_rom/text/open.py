"""Read a tokenizer: recognise the format of its file, and apply the configuration files of the same folder."""

import json
import re
from pathlib import Path
from typing import Annotated, Any

import tokenizers
from pydantic import Field
from tokenizers import AddedToken, models

from weights_to_rom.json_file import read_json_object
from weights_to_rom.other_files import refuse_other_kind
from weights_to_rom.schema import Flag, Schema, Text, TokenId, checked, short
from weights_to_rom.text.added_tokens import numbered_tokens, special_tokens
from weights_to_rom.text.errors import TokenizerError, library_errors
from weights_to_rom.text.regular_expressions import endless_pattern
from weights_to_rom.text.sentencepieces import read_llama2c, read_sentencepiece
from weights_to_rom.text.tokenizer import Tokenizer

LIST = "additional_special_tokens"
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


# The largest tokenizer of a published model has 35 MB.
_MOST_BYTES = 64 << 20


class _Template(Schema):
    name: Text
    template: Text


_Templates = Annotated[str | list[_Template], Field(description="a text, or a list of objects with name and template")]
_Ids = Annotated[list[TokenId], Field(fail_fast=True, description="a list of token numbers")]


class _Settings(Schema):
    """Fields of tokenizer_config.json.  ``added_tokens`` checks those that name tokens."""

    add_bos_token: Flag | None = None
    add_eos_token: Flag | None = None
    add_prefix_space: Flag | None = None
    legacy: Flag | None = None
    chat_template: _Templates | None = None
    # in the files of ``Tokenizer.save``
    eos_token_ids: _Ids | None = None
    turn_end_ids: _Ids | None = None
    closing_id: TokenId | None = None


def tokenizer_in(directory: Path) -> Tokenizer | None:
    """The tokenizer of a directory (tokenizer.json or tokenizer.model), or None if there is none."""
    for name in ("tokenizer.json", "tokenizer.model"):
        if (directory / name).is_file():
            return read_tokenizer(directory / name)
    return None


def read_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer.json, sentencepiece's tokenizer.model, llama2.c's tokenizer.bin, or a directory.

    For the first two, tokenizer_config.json, special_tokens_map.json, added_tokens.json and chat_template.jinja of the same
    folder are read, too.

    Raises TokenizerError.
    """
    if path.is_dir():
        found = tokenizer_in(path)
        if found is None:
            raise TokenizerError(f"{path}: holds neither tokenizer.json nor tokenizer.model")
        return found
    if not path.is_file():
        raise TokenizerError(f"{path}: no such tokenizer file")
    refuse_other_kind(path, TokenizerError, text=path.suffix == ".json")
    _check_size(path)
    if path.suffix == ".bin":
        return read_llama2c(path)
    if path.suffix in (".model", ".json"):
        config = _read_config(path.parent)
        if path.suffix == ".json":
            tokenizer = _configured(_read_json_model(path), config, path.parent)
            _check_merges(path, tokenizer)
            return tokenizer
        prefix, legacy = (config.get(name) for name in ("add_prefix_space", "legacy"))
        names = {i: str(token) for i, token in numbered_tokens(config, "added_tokens_decoder", str(path.parent)).items()}
        tokenizer = read_sentencepiece(path, prefix=prefix, legacy=legacy is not False, names=names)
        return _configured(tokenizer, config, path.parent)
    raise TokenizerError(f"{path}: not a tokenizer.json, a tokenizer.model or a llama2.c tokenizer.bin")


def _read_json_model(path: Path) -> Tokenizer:
    text = _read_text(path)
    with library_errors(f"{path}: not a tokenizer.json"):
        model = _numbered(text)
    if (pattern := endless_pattern(model)) is not None:
        raise TokenizerError(f"{path}: its pattern {short(pattern)} may take exponential time: name another with --tokenizer")
    _check_template(path, model)
    # The post-processor decides whether a text starts or ends with a token, and which: encode a text with it and without it.
    with library_errors(f"{path}: cannot encode a text"):
        plain = model.encode("a", add_special_tokens=False).ids
        full = model.encode("a", add_special_tokens=True).ids
    # A vocabulary without that letter tells no begin from an end: the first is a begin.
    before = (
        next((i for i in range(len(full) - len(plain) + 1) if full[i : i + len(plain)] == plain), 0) if plain else len(full[:1])
    )
    after = full[before + len(plain) :]
    return Tokenizer(model, bos=full[0] if before else None, closing=after[0] if after else None)


def _check_template(path: Path, model: tokenizers.Tokenizer) -> None:
    """Raise TokenizerError for a template that writes a token which it does not define: the library would panic."""
    waiting = [json.loads(model.post_processor.__getstate__())] if model.post_processor else []
    while waiting:
        part = waiting.pop()
        waiting += part.get("processors", ())
        if part["type"] == "TemplateProcessing":
            for piece in [*part["single"], *part["pair"]]:
                name = piece.get("SpecialToken", {}).get("id")
                if name is not None and name not in part["special_tokens"]:
                    raise TokenizerError(f"{path}: its post-processor writes {short(name)}, which its special_tokens do not define")


def _numbered(text: str) -> tokenizers.Tokenizer:
    """Load a tokenizer.json, whose added tokens have the numbers that it states, also within those of the vocabulary."""
    model, file = tokenizers.Tokenizer.from_str(text), json.loads(text)
    stated = {token["content"]: token["id"] for token in file.get("added_tokens") or ()}
    # The library numbers such tokens anew, from the size of the vocabulary on, unless the vocabulary itself has them.
    vocabulary = file["model"].get("vocab")
    if not isinstance(vocabulary, dict) or all(model.token_to_id(token) == number for token, number in stated.items()):
        return model
    vocabulary |= stated
    return tokenizers.Tokenizer.from_str(json.dumps(file))


def _check_merges(path: Path, tokenizer: Tokenizer) -> None:
    """Raise TokenizerError for a BPE that has words and no merges that lead to any of them."""
    model = tokenizer.model.model
    if not isinstance(model, models.BPE):
        return
    added = {token.content for token in tokenizer.model.get_added_tokens_decoder().values()}
    words = [word for word in tokenizer.model.get_vocab(False) if len(word) > 1 and word not in added and not _BYTE.fullmatch(word)]
    if words and not any(len(model.tokenize(word)) == 1 for word in words):
        raise TokenizerError(
            f"{path}: its BPE has no merges, without which every text is single letters: save the tokenizer again, or name another "
            "with --tokenizer"
        )


def _check_size(path: Path) -> None:
    if (size := path.stat().st_size) > _MOST_BYTES:
        raise TokenizerError(f"{path}: has {size} bytes, and no tokenizer has more than {_MOST_BYTES}")


def _read_text(path: Path) -> str:
    """Read a text in UTF-8.  Raises TokenizerError for any other, and for one that is too large."""
    _check_size(path)
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path}: not UTF-8: {error.reason} at byte {error.start}") from None


def _read_config(directory: Path) -> dict[str, Any]:
    """Read the configuration files of a directory as one, and check the fields of ``_Settings``.

    As in transformers, added_tokens_decoder makes the files of older releases void: special_tokens_map.json, whose entries
    otherwise prevail, and added_tokens.json.
    """

    def read(name: str) -> dict[str, Any]:
        path = directory / name
        return read_json_object(path, TokenizerError, halves=["chat_template"]) if path.is_file() else {}

    config = read("tokenizer_config.json")
    try:
        json.dumps(config.get("chat_template"), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        # Plain texts need no template, so that only a chat raises the error.
        config["chat_template"] = "{{ raise_exception('its text is not Unicode') }}"
    checked(_Settings, config, f"{directory}: tokenizer_config.json", TokenizerError)
    if "added_tokens_decoder" in config:
        return config
    older = read("special_tokens_map.json")
    both = [entry for part in (config, older) if isinstance(entries := part.get(LIST), list) for entry in entries]
    config |= older | ({LIST: both} if both else {})
    if added := read("added_tokens.json"):
        named, others = special_tokens(config, str(directory))
        special = {str(token) for token in [*named.values(), *others]}
        config["added_tokens"] = {
            str(number): {"content": text, "normalized": text not in special, "special": text in special}
            for text, number in added.items()
        }
    return config


def _configured(tokenizer: Tokenizer, config: dict[str, Any], directory: Path) -> Tokenizer:
    """Apply the configuration files of a directory to a tokenizer: added tokens, begin and end, and the chat template."""
    _declare(tokenizer, config, directory)
    token_id = tokenizer.model.token_to_id
    adds_bos, adds_eos = (config.get(f"add_{end}_token") for end in ("bos", "eos"))
    if adds_bos is False:
        tokenizer.bos = None
    elif (adds_bos or (tokenizer.pieces and tokenizer.bos is not None)) and "bos_token" in tokenizer.special:
        tokenizer.bos = token_id(tokenizer.special["bos_token"])
    eos_ids = config.get("eos_token_ids")
    eos = token_id(tokenizer.special.get("eos_token", ""))
    if eos_ids is not None:
        tokenizer.eos_ids = tuple(eos_ids)
    elif eos is not None:
        tokenizer.eos_ids = (eos,)
    # transformers puts no such token before a chat.  A file that asks for it in so many words gets it, as in llama.cpp.
    tokenizer.chat_bos = config.get("chat_bos", adds_bos) is True
    tokenizer.turn_end_ids = tuple(config.get("turn_end_ids") or tokenizer.turn_end_ids)
    if adds_eos is False:
        tokenizer.closing = None
    elif adds_eos and (tokenizer.pieces or config.get("tokenizer_class") in ("LlamaTokenizer", "LlamaTokenizerFast")):
        # Other classes of transformers leave that to the post-processor of tokenizer.json.
        tokenizer.closing = eos
    if (closing := config.get("closing_id")) is not None:
        tokenizer.closing = closing
    if tokenizer.closing is not None:
        token = tokenizer.model.id_to_token(tokenizer.closing)
        tokenizer.warnings.append(f"tokenizer: puts {token!r} after every prompt, as its files say")
    template = config.get("chat_template")
    if isinstance(template, list):  # several templates by name
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    if (file := directory / "chat_template.jinja").is_file():
        template = _read_text(file)
    tokenizer.chat_template = template
    return tokenizer


def _declare(tokenizer: Tokenizer, config: dict[str, Any], directory: Path) -> None:
    """Let the tokens that the configuration declares be whole.  Numbers that it states must be those of the vocabulary."""
    named, others = special_tokens(config, str(directory))
    numbered = numbered_tokens(config, "added_tokens_decoder", str(directory))
    if "added_tokens_decoder" not in config:
        # What tokenizer.json states prevails over the files of older releases.
        stated = {} if tokenizer.pieces else tokenizer.model.get_added_tokens_decoder()
        older = numbered_tokens(config, "added_tokens", str(directory))
        numbered = {number: token for number, token in older.items() if number not in stated}
        texts = {token.content for token in stated.values()}
        named = {key: str(token) if str(token) in texts else token for key, token in named.items()}
    by_text = {token.content: token for token in numbered.values()}
    special: dict[str, AddedToken | str] = {}
    for token in [*named.values(), *others]:  # of two entries with one text the first counts
        special.setdefault(str(token), by_text.get(str(token), token))
    tokenizer.declare(numbered, special.values())
    for number, token in numbered.items():
        if (found := tokenizer.model.token_to_id(token.content)) != number:
            raise TokenizerError(f"{directory}: its configuration has {token.content!r} as {number}, not {found}")
    tokenizer.special |= {key: str(token) for key, token in named.items()}
    ordinary = config.get("ordinary_tokens")  # in the files of ``Tokenizer.save``
    for key, text in ordinary.items() if isinstance(ordinary, dict) else ():
        tokenizer.special[key] = str(text)
