"""Added tokens: those that a text may spell and that are then one token, whatever the model would make of the letters."""

from collections.abc import Iterable, Mapping
from typing import Any

import tokenizers
from tokenizers import AddedToken, models

from weights_to_rom.text.errors import TokenizerError

# The names under which tokenizer_config.json and special_tokens_map.json declare one special token each.
NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# The names under which they declare several, as a list or as an object of names and tokens.
LISTS = ("additional_special_tokens", "extra_special_tokens", "model_specific_special_tokens")
_FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")


class Splitter:
    """Cuts a text at its added tokens, by the rules of the package ``tokenizers`` (lstrip, rstrip, single_word).

    Parameters
    ----------
    tokens : mapping of int to AddedToken   the added tokens by their numbers
    """

    def __init__(self, tokens: Mapping[int, AddedToken]) -> None:
        # A model of one word, the unknown one, makes one token of all that lies between two added tokens.  The added tokens
        # get the numbers 1, 2, ... there.
        self._model = tokenizers.Tokenizer(models.WordLevel({"": 0}, unk_token=""))
        self._numbers = [-1]
        for number, token in tokens.items():
            if self._model.add_tokens([token]):
                self._numbers.append(number)

    def split(self, text: str) -> list[int | str]:
        """Return the numbers of the added tokens in a text, and the texts between them."""
        found = self._model.encode(text, add_special_tokens=False)
        return [self._numbers[i] if i else text[begin:end] for i, (begin, end) in zip(found.ids, found.offsets, strict=True)]


def declared_token(value: object, where: str) -> AddedToken | str:
    """Return the token that a configuration declares: a text, or an object with the text and its flags.

    Raises TokenizerError, which begins with ``where``, for any other value.
    """
    if isinstance(value, str):
        return value
    if not isinstance(value, dict) or not isinstance(value.get("content"), str):
        raise TokenizerError(f"{where}: a token must be a text or an object with content, not {value!r}")
    given = {flag: value[flag] for flag in _FLAGS if flag in value}
    if wrong := next((flag for flag, is_set in given.items() if not isinstance(is_set, bool)), None):
        raise TokenizerError(f"{where}: {wrong} of {value['content']!r} must be true or false, not {given[wrong]!r}")
    return AddedToken(value["content"], **given)


def special_tokens(config: Mapping[str, Any], where: str) -> tuple[dict[str, AddedToken | str], list[AddedToken | str]]:
    """Return the special tokens of a configuration that have a name of their own (bos_token, ...), and the others.

    Raises TokenizerError, which begins with ``where``, for an entry that is no token.
    """
    keys = [*NAMES, *(key for key in config if key.endswith("_token") and key not in NAMES and isinstance(config[key], str))]
    named = {key: declared_token(config[key], f"{where}: {key}") for key in keys if config.get(key) is not None}
    others = []
    for key in LISTS:
        entries = config.get(key) or []
        if not isinstance(entries, list | dict):
            raise TokenizerError(f"{where}: {key} must be a list, not {entries!r}")
        entries = entries.values() if isinstance(entries, dict) else entries
        others += [declared_token(entry, f"{where}: {key}") for entry in entries]
    return named, others


def numbered_tokens(config: Mapping[str, Any], key: str, where: str) -> dict[int, AddedToken]:
    """Return the tokens of an object that maps numbers to tokens, the entry ``key`` of a configuration, by number.

    Raises TokenizerError, which begins with ``where``, for an entry that is no token or has no number.
    """
    entries = config.get(key) or {}
    if not isinstance(entries, dict) or not all(number.isascii() and number.isdecimal() for number in entries):
        raise TokenizerError(f"{where}: {key} must map token numbers to tokens")
    tokens = {int(number): declared_token(entry, f"{where}: {key}") for number, entry in sorted(entries.items(), key=_number)}
    return {number: AddedToken(token) if isinstance(token, str) else token for number, token in tokens.items()}


def _number(entry: tuple[str, object]) -> int:
    return int(entry[0])


def as_config(tokens: Mapping[int, AddedToken]) -> dict[str, dict[str, Any]]:
    """Return tokens as ``added_tokens_decoder`` has them."""
    return {str(i): {"content": t.content} | {flag: getattr(t, flag) for flag in _FLAGS} for i, t in tokens.items()}


def declare(model: tokenizers.Tokenizer, numbered: Mapping[int, AddedToken], special: Iterable[AddedToken | str]) -> None:
    """Add tokens to a model as transformers does: those with a number, then those that are special.

    A token of the vocabulary keeps its number.  A special token that is only a text keeps the flags that it has.
    """
    special = list(special)
    texts = {str(token) for token in special}
    for token in [*numbered.values(), *special]:
        if isinstance(token, AddedToken) and str(token) in texts:
            token.special = True
    found = {repr(token) for token in model.get_added_tokens_decoder().values()}
    model.add_tokens([token for token in numbered.values() if repr(token) not in found])
    for token in special:
        if isinstance(token, AddedToken):
            model.add_tokens([token])
        elif token not in {added.content for added in model.get_added_tokens_decoder().values()}:
            model.add_tokens([AddedToken(token, special=True, normalized=False)])
