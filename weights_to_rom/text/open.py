"""Read a tokenizer: recognise the format of its file, and apply the configuration files of the same folder."""

import json
from pathlib import Path
from typing import Any

import tokenizers

from weights_to_rom.json_file import read_json_object
from weights_to_rom.text.errors import TokenizerError
from weights_to_rom.text.tokenizer import Tokenizer
from weights_to_rom.text.tokenizer_models import read_llama2c, read_sentencepiece


def tokenizer_in(directory: Path) -> Tokenizer | None:
    """The tokenizer of a directory (tokenizer.json or tokenizer.model), or None if there is none."""
    for name in ("tokenizer.json", "tokenizer.model"):
        if (directory / name).is_file():
            return read_tokenizer(directory / name)
    return None


def read_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer.json, sentencepiece's tokenizer.model, llama2.c's tokenizer.bin, or a directory.

    For the first two, tokenizer_config.json, special_tokens_map.json and chat_template.jinja of the same folder are read, too.

    Raises TokenizerError.
    """
    if path.is_dir():
        found = tokenizer_in(path)
        if found is None:
            raise TokenizerError(f"{path}: holds neither tokenizer.json nor tokenizer.model")
        return found
    if not path.is_file():
        raise TokenizerError(f"{path}: no such tokenizer file")
    if path.suffix == ".bin":
        return read_llama2c(path)
    if path.suffix == ".model":
        return _configured(read_sentencepiece(path), path.parent)
    if path.suffix == ".json":
        return _configured(_read_json_model(path), path.parent)
    raise TokenizerError(f"{path}: not a tokenizer.json, a tokenizer.model or a llama2.c tokenizer.bin")


def _read_json_model(path: Path) -> Tokenizer:
    try:
        model = _numbered(path.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises plain Exception
        raise TokenizerError(f"{path}: not a tokenizer.json: {' '.join(str(error).split())}") from None
    # The post-processor decides whether a text starts with a token, and which: encode a text with it and without it.
    plain = model.encode("a", add_special_tokens=False).ids
    full = model.encode("a", add_special_tokens=True).ids
    added = full[: len(full) - len(plain)] if full[len(full) - len(plain) :] == plain else full[:1]
    return Tokenizer(model, bos=added[0] if added and added != plain[:1] else None)


def _numbered(text: str) -> tokenizers.Tokenizer:
    """Load a tokenizer.json, whose added tokens have the numbers that it states, also within those of the vocabulary."""
    model, file = tokenizers.Tokenizer.from_str(text), json.loads(text)
    stated = {token["content"]: token["id"] for token in file["added_tokens"]}
    # The library numbers such tokens anew, from the size of the vocabulary on, unless the vocabulary itself has them.
    if all(model.token_to_id(token) == number for token, number in stated.items()):
        return model
    file["model"]["vocab"] |= stated
    return tokenizers.Tokenizer.from_str(json.dumps(file))


def _configured(tokenizer: Tokenizer, directory: Path) -> Tokenizer:
    """Apply the configuration files of a directory to a tokenizer: special tokens and the chat template."""
    files = [directory / name for name in ("special_tokens_map.json", "tokenizer_config.json")]
    config: dict[str, Any] = {}
    for file in files:
        config |= read_json_object(file, TokenizerError) if file.is_file() else {}
    _add_tokens(tokenizer, config.get("added_tokens_decoder"), directory)
    for key, value in config.items():
        text = value.get("content") if isinstance(value, dict) else value
        if key.endswith("_token") and isinstance(text, str):
            tokenizer.special[key] = text
    token_id = tokenizer.model.token_to_id
    adds_bos = config.get("add_bos_token")
    if adds_bos is False:
        tokenizer.bos = None
    elif adds_bos and "bos_token" in tokenizer.special:
        tokenizer.bos = token_id(tokenizer.special["bos_token"])
    eos_ids = config.get("eos_token_ids")
    if isinstance(eos_ids, list):
        tokenizer.eos_ids = tuple(int(i) for i in eos_ids)
    elif (eos := token_id(tokenizer.special.get("eos_token", ""))) is not None:
        tokenizer.eos_ids = (eos,)
    # transformers puts no such token before a chat.  A file that asks for it in so many words gets it, as in llama.cpp.
    tokenizer.chat_bos = config.get("chat_bos", adds_bos) is True
    if isinstance(turn_end_ids := config.get("turn_end_ids"), list):
        tokenizer.turn_end_ids = tuple(int(i) for i in turn_end_ids)
    template = config.get("chat_template")
    if isinstance(template, list):  # several templates by name
        template = {entry.get("name"): entry.get("template") for entry in template}.get("default")
    if (file := directory / "chat_template.jinja").is_file():
        template = file.read_text(encoding="utf-8")
    tokenizer.chat_template = template if isinstance(template, str) else None
    return tokenizer


def _add_tokens(tokenizer: Tokenizer, added: object, directory: Path) -> None:
    """Add the tokens that only tokenizer_config.json holds.  Their numbers must follow those of the vocabulary."""
    flags = ("lstrip", "rstrip", "single_word", "normalized", "special")
    for number, entry in sorted(added.items(), key=lambda item: int(item[0])) if isinstance(added, dict) else ():
        text = entry["content"]
        if tokenizer.model.token_to_id(text) is None:
            token = tokenizers.AddedToken(text, **{flag: bool(entry.get(flag)) for flag in flags})
            tokenizer.model.add_tokens([token])
        if (found := tokenizer.model.token_to_id(text)) != int(number):
            raise TokenizerError(f"{directory}: tokenizer_config.json has {text!r} as {number}, not {found}")
    tokenizer.vocab_size = max(tokenizer.model.get_vocab(True).values(), default=-1) + 1
