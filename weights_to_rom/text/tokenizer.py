"""Text to token numbers and back, and the chat template; whatever file the tokenizer came in.

Every tokenizer becomes an object of Hugging Face's ``tokenizers``: a compiled model needs one file format.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import tokenizers
from jinja2.sandbox import ImmutableSandboxedEnvironment

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class TokenizerError(ValueError):
    """A tokenizer that cannot be read or used: one line with the file and what is wrong."""


class Tokenizer:
    """``encode`` and ``decode`` of one model.

    Members
    -------
    bos : int | None            the token put before a text, or None if this model's texts start without one
    eos_ids : tuple[int, ...]   tokens that end a text
    vocab_size : int            token numbers are below this
    base_size : int             the same without tokens that were added after training
    chat_template : str | None  jinja2
    special : dict[str, str]    what the template calls bos_token, eos_token, ...
    """

    def __init__(
        self,
        model: tokenizers.Tokenizer,
        *,
        bos: int | None = None,
        eos_ids: Iterable[int] = (),
        chat_template: str | None = None,
        special: Mapping[str, str] | None = None,
    ) -> None:
        model.no_truncation()
        model.no_padding()
        self.model = model
        self.bos = bos
        self.eos_ids = tuple(eos_ids)
        self.chat_template = chat_template
        self.special = dict(special or {})
        self.vocab_size = max(model.get_vocab(True).values(), default=-1) + 1
        self.base_size = max(model.get_vocab(False).values(), default=-1) + 1

    def encode(self, text: str, bos: bool = True) -> list[int]:
        """Token numbers of a text.

        ``bos`` puts ``self.bos`` before them, for models whose texts start with it; a chat, whose template
        writes it, wants False.  Special tokens that are spelt out in the text become those tokens.
        """
        ids = self.model.encode(text, add_special_tokens=False).ids
        if bos and self.bos is not None:
            ids = [self.bos, *ids]
        if ids and max(ids) >= self.vocab_size:
            token = self.model.id_to_token(max(ids))
            raise TokenizerError(f"the token {token!r} ({max(ids)}) is beyond the model's {self.vocab_size}")
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token numbers, without special tokens; bytes that are no UTF-8 become U+FFFD."""
        return self.model.decode(list(ids), skip_special_tokens=True)

    def chat(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True) -> str:
        """The text of a conversation (``{"role": ..., "content": ...}`` each), as the model was taught.

        Encode it with ``bos=False``.  Raises TokenizerError without a template or if it refuses the messages.
        """
        if self.chat_template is None:
            raise TokenizerError("this model has no chat template: prompt it without --chat")
        try:
            return self._template.render(
                messages=messages,
                add_generation_prompt=add_generation_prompt,
                tools=None,
                documents=None,
                **self.special,
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise TokenizerError(f"chat template: {error}") from None

    @cached_property
    def _template(self) -> jinja2.Template:
        # The environment that templates are written for: transformers' ``render_jinja_template``.
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        assert self.chat_template is not None
        return environment.from_string(self.chat_template)

    def save(self, directory: Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, which ``load`` and transformers read."""
        config: dict[str, Any] = {
            **self.special,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_bos_token": self.bos is not None,
            "clean_up_tokenization_spaces": False,
            # Not known to transformers, which has a single eos_token and takes numbers from its vocabulary.
            "eos_token_ids": list(self.eos_ids),
        }
        if self.bos is not None:
            config["bos_token"] = self.model.id_to_token(self.bos)
        if self.chat_template is not None:
            config["chat_template"] = self.chat_template
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in (
            ("tokenizer.json", self.model.to_str()),
            ("tokenizer_config.json", json.dumps(config, ensure_ascii=False, indent=2) + "\n"),
        ):
            temporary = directory / f"{name}.tmp"
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(directory / name)

    @classmethod
    def load(cls, directory: Path) -> "Tokenizer | None":
        """The tokenizer of a directory (tokenizer.json or tokenizer.model), or None if there is none."""
        for name in ("tokenizer.json", "tokenizer.model"):
            if (directory / name).is_file():
                return read_tokenizer(directory / name)
        return None


class StreamDecoder:
    """Text as its tokens come; a character that spans several tokens is held back until it is complete.

    ``prompt`` are the token numbers before the stream, which decide whether its first token starts a text.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        # Text is complete up to ``_context``; decoding from the piece before it keeps spaces between words.
        self._ids = list(prompt)
        self._context = len(self._ids)

    def push(self, token: int) -> str:
        """The text that this token completes, perhaps none."""
        self._ids.append(token)
        return self._take(final=False)

    def finish(self) -> str:
        """What is left: an incomplete character, as U+FFFD."""
        return self._take(final=True)

    def _take(self, final: bool) -> str:
        done = self._tokenizer.decode(self._ids[: self._context])
        text = self._tokenizer.decode(self._ids)
        if (text.endswith(REPLACEMENT) and not final) or len(text) <= len(done):
            return ""
        self._ids = self._ids[self._context :]
        self._context = len(self._ids)
        return text[len(done) :]


def read_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer.json, sentencepiece's tokenizer.model, llama2.c's tokenizer.bin, or a directory.

    Beside the first two, tokenizer_config.json, special_tokens_map.json and chat_template.jinja are heeded.
    Raises TokenizerError.
    """
    # Deferred: the builders make Tokenizers.
    from weights_to_rom.text import tokenizer_models

    if path.is_dir():
        found = Tokenizer.load(path)
        if found is None:
            raise TokenizerError(f"{path}: holds neither tokenizer.json nor tokenizer.model")
        return found
    if not path.is_file():
        raise TokenizerError(f"{path}: no such tokenizer file")
    if path.suffix == ".bin":
        return tokenizer_models.read_llama2c(path)
    if path.suffix == ".model":
        return _configured(tokenizer_models.read_sentencepiece(path), path.parent)
    if path.suffix == ".json":
        return _configured(_read_json_model(path), path.parent)
    raise TokenizerError(f"{path}: not a tokenizer.json, a tokenizer.model or a llama2.c tokenizer.bin")


def _read_json_model(path: Path) -> Tokenizer:
    try:
        model = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises plain Exception
        raise TokenizerError(f"{path}: not a tokenizer.json: {' '.join(str(error).split())}") from None
    # Whether texts start with a token, and with which, is in the post-processor.
    plain = model.encode("a", add_special_tokens=False).ids
    full = model.encode("a", add_special_tokens=True).ids
    added = full[: len(full) - len(plain)] if full[len(full) - len(plain) :] == plain else full[:1]
    return Tokenizer(model, bos=added[0] if added and added != plain[:1] else None)


def _configured(tokenizer: Tokenizer, directory: Path) -> Tokenizer:
    """Apply what the files beside a tokenizer say of special tokens and of chat."""
    config = _read_object(directory / "special_tokens_map.json")
    config |= _read_object(directory / "tokenizer_config.json")
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
    template = config.get("chat_template")
    if isinstance(template, list):  # several, by name
        template = {entry.get("name"): entry.get("template") for entry in template}.get("default")
    if (file := directory / "chat_template.jinja").is_file():
        template = file.read_text(encoding="utf-8")
    tokenizer.chat_template = template if isinstance(template, str) else None
    return tokenizer


def _add_tokens(tokenizer: Tokenizer, added: object, directory: Path) -> None:
    """Tokens that only tokenizer_config.json knows; their numbers must follow the vocabulary's."""
    flags = ("lstrip", "rstrip", "single_word", "normalized", "special")
    for number, entry in (
        sorted(added.items(), key=lambda item: int(item[0])) if isinstance(added, dict) else ()
    ):
        text = entry["content"]
        if tokenizer.model.token_to_id(text) is None:
            token = tokenizers.AddedToken(text, **{flag: bool(entry.get(flag)) for flag in flags})
            tokenizer.model.add_tokens([token])
        if (found := tokenizer.model.token_to_id(text)) != int(number):
            raise TokenizerError(f"{directory}: tokenizer_config.json has {text!r} as {number}, not {found}")
    tokenizer.vocab_size = max(tokenizer.model.get_vocab(True).values(), default=-1) + 1


def _read_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TokenizerError(f"{path}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise TokenizerError(f"{path}: not a JSON object")
    return value


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    # Jinja's own escapes HTML characters, which a prompt must not.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
