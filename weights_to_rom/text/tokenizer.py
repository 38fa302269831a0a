"""Text to token numbers and back, and the chat template.

Byte-level BPE is encoded by Hugging Face's ``tokenizers``, sentencepiece's models by sentencepiece.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tokenizers
from tokenizers import AddedToken

from weights_to_rom.text.added_tokens import Splitter, as_config, declare
from weights_to_rom.text.chat_template import ChatTemplate
from weights_to_rom.text.errors import TokenizerError, library_errors
from weights_to_rom.text.unicode import unicode_of

if TYPE_CHECKING:
    from weights_to_rom.text.sentencepieces import Pieces

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

TURN_ENDS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|eot|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<end_of_turn>",
    "<|end_of_turn|>",
    "<|END_OF_TURN_TOKEN|>",
    "<end_of_utterance>",
    "<\N{FULLWIDTH VERTICAL LINE}end\N{LOWER ONE EIGHTH BLOCK}of\N{LOWER ONE EIGHTH BLOCK}sentence\N{FULLWIDTH VERTICAL LINE}>",
    "<EOT>",
    "_<EOT>",
    "\N{LOWER ONE EIGHTH BLOCK}<EOT>",
    "[EOT]",
    "[EOS]",
    "</s>",
)
"""Tokens that end a turn in the models that have them.  Many files of such models give only the token that ends a text."""

_WORDS = "Certainly"
"""What an assistant says to find the token that a template writes after its words."""


class Tokenizer:
    """The tokenizer of one model: from texts to token numbers and back.

    ``model`` is an object of the package ``tokenizers``: the vocabulary, the added tokens, the decoder, and the encoder too
    unless ``pieces`` encodes.  The other parameters are the members of the same names.

    Members
    -------
    bos : int | None            the token that begins a text, or None if this model's texts begin without one
    eos_ids : tuple[int, ...]   tokens that end a text
    chat_bos : bool             whether ``bos`` also begins a chat whose template does not write it
    turn_end_ids : tuple[...]   tokens of the model's files at which a chat stops, beside those of ``chat_stop_ids``
    closing : int | None        the token that ``encode`` puts after a text (``add_eos_token``), for most models None
    vocab_size : int            token numbers are below this
    base_size : int             vocab_size without the tokens that were added after training
    chat_template : str | None  the chat template, in the language of jinja2
    special : dict[str, str]    the texts of bos_token, eos_token, ..., by the names that the template uses
    pieces : Pieces | None      sentencepiece's encoder
    complete : bool             the file states every token of its model, so that the model has no more
    warnings : list[str]        one line for each thing that a reader had to guess
    """

    def __init__(
        self,
        model: tokenizers.Tokenizer,
        *,
        bos: int | None = None,
        eos_ids: Iterable[int] = (),
        chat_template: str | None = None,
        special: Mapping[str, str] | None = None,
        pieces: "Pieces | None" = None,
        closing: int | None = None,
        complete: bool = False,
    ) -> None:
        model.no_truncation()
        model.no_padding()
        self.model = model
        self.bos = bos
        self.eos_ids = tuple(eos_ids)
        self.chat_template = chat_template
        self.special = dict(special or {})
        self.chat_bos = False
        self.turn_end_ids: tuple[int, ...] = ()
        self.warnings: list[str] = []
        self.pieces = pieces
        self.closing = closing
        self.complete = complete
        self.vocab_size = max(model.get_vocab(True).values(), default=-1) + 1
        self.base_size = max(model.get_vocab(False).values(), default=-1) + 1

    def declare(self, numbered: Mapping[int, AddedToken], special: Iterable[AddedToken | str]) -> None:
        """Take tokens out of the text before it is encoded (``added_tokens.declare``)."""
        declare(self.model, numbered, special)
        self.vocab_size = max(self.model.get_vocab(True).values(), default=-1) + 1
        self.__dict__.pop("_splitter", None)

    @cached_property
    def _splitter(self) -> Splitter:
        return Splitter(self.model.get_added_tokens_decoder())

    def encode(self, text: str, bos: bool = True) -> list[int]:
        """Return the token numbers of a text.

        With ``bos``, ``self.bos`` comes first if the model's texts start with it, and ``self.closing`` last; a chat needs False,
        because its template writes these tokens.  The name of an added token in the text becomes that token.

        Raises TokenizerError for a text that is not Unicode or that the tokenizer fails at, and for a token that the model lacks.
        """
        text = unicode_of(text)
        with library_errors("the tokenizer cannot encode the text"):
            if self.pieces is None:
                ids = self.model.encode(text, add_special_tokens=False).ids
            else:
                ids = self.pieces.encode(self._splitter.split(text))
        if bos and self.bos is not None:
            ids = [self.bos, *ids]
        if bos and self.closing is not None:
            ids = [*ids, self.closing]
        if ids and max(ids) >= self.vocab_size:
            token = self.model.id_to_token(max(ids))
            raise TokenizerError(f"the token {token!r} ({max(ids)}) is beyond the model's {self.vocab_size}")
        return ids

    def encode_prompt(self, text: str) -> list[int]:
        """Return the token numbers of a text that a person writes, as ``encode`` does.

        A text that spells ``self.bos`` at its beginning does not get that token twice.
        """
        spelt = self.bos is not None and self.encode(text, bos=False)[:1] == [self.bos]
        return self.encode(text)[1:] if spelt else self.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token numbers, without special tokens.  Bytes that are no UTF-8 become U+FFFD."""
        with library_errors("the tokenizer cannot decode its tokens"):
            return self.model.decode(list(ids), skip_special_tokens=True)

    def chat(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True) -> str:
        """Apply the chat template to ``messages``, each ``{"role": ..., "content": ...}``, and return the text.

        Raises TokenizerError if there is no template, or if it refuses the messages.
        """
        if self.chat_template is None:
            raise TokenizerError("this model has no chat template: prompt it without --chat")
        return self._template.render(messages, add_generation_prompt, self.special)

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Return the token numbers of ``messages`` in the chat template, up to the point where the model answers.

        Raises the errors of ``chat`` and ``encode``.
        """
        ids = self.encode(self.chat(messages), bos=False)
        return [self.bos, *ids] if self.chat_bos and self.bos is not None and ids[:1] != [self.bos] else ids

    @cached_property
    def chat_stop_ids(self) -> tuple[int, ...]:
        """The tokens that end an answer in a chat.

        They are the tokens that end a text, ``turn_end_ids``, the tokens of TURN_ENDS, and the special token that the template
        writes after the words of an assistant.
        """
        names = [self.special.get(name, "") for name in ("eos_token", "eot_token", "eom_token")]
        ids = [*self.eos_ids, *self.turn_end_ids, *map(self.model.token_to_id, [*names, *TURN_ENDS]), *self._after_answers()]
        return tuple(i for i in dict.fromkeys(ids) if i is not None and i < self.vocab_size)

    def _after_answers(self) -> Iterator[int]:
        """Yield the special tokens that follow an assistant's words: before the next turn, and at the end of a conversation."""
        special = self.model.get_added_tokens_decoder()
        said = [{"role": "user", "content": "Well?"}, {"role": "assistant", "content": _WORDS}, {"role": "user", "content": "Why?"}]
        for messages in (said, said[:2]):
            try:
                _, found, after = self.chat(messages, add_generation_prompt=False).rpartition(_WORDS)
                ids = self.encode(after.lstrip(), bos=False) if found else []
            except TokenizerError:  # many templates refuse some conversations
                continue
            if ids and ids[0] in special:
                yield ids[0]

    @cached_property
    def _template(self) -> ChatTemplate:
        assert self.chat_template is not None
        return ChatTemplate(self.chat_template)

    def save(self, directory: Path) -> None:
        """Write tokenizer.json or tokenizer.model, and tokenizer_config.json.

        ``text.open.read_tokenizer`` and transformers read them.
        """
        special = dict(self.special)
        if self.bos is not None and (text := self.model.id_to_token(self.bos)):
            special["bos_token"] = text
        added = {token.content for token in self.model.get_added_tokens_decoder().values()}
        config: dict[str, Any] = {
            **{name: text for name, text in special.items() if text in added},
            # Some GGUF files give such a name to an ordinary token: padding to "!".  Under its name it would become an added one.
            "ordinary_tokens": {name: text for name, text in special.items() if text not in added},
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_bos_token": self.bos is not None,
            "add_eos_token": self.closing is not None,
            "clean_up_tokenization_spaces": False,
            # Only ``read_tokenizer`` reads these fields: transformers has one eos_token and takes its number from the vocabulary.
            "eos_token_ids": list(self.eos_ids),
            "chat_bos": self.chat_bos,
            "turn_end_ids": list(self.turn_end_ids),
            "closing_id": self.closing,
        }
        if self.pieces is not None:
            config |= {
                "tokenizer_class": "LlamaTokenizer",
                "legacy": self.pieces.legacy,
                "add_prefix_space": self.pieces.prefix,
                "added_tokens_decoder": as_config(self.model.get_added_tokens_decoder()),
            }
        if self.chat_template is not None:
            config["chat_template"] = self.chat_template
        directory.mkdir(parents=True, exist_ok=True)
        model = ("tokenizer.json", self.model.to_str().encode()) if self.pieces is None else ("tokenizer.model", self.pieces.proto)
        for name, data in (
            model,
            ("tokenizer_config.json", (json.dumps(config, ensure_ascii=False, indent=2) + "\n").encode()),
        ):
            temporary = directory / f"{name}.tmp"
            temporary.write_bytes(data)
            temporary.replace(directory / name)
        # ``read_tokenizer`` would prefer a tokenizer.json of before.
        (directory / ("tokenizer.model" if self.pieces is None else "tokenizer.json")).unlink(missing_ok=True)


class StreamDecoder:
    """Decode a stream of tokens.  A character of several tokens is returned when its last token has come.

    ``prompt`` are the token numbers that precede the stream.  They matter because the first token of a text loses its
    leading space.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        # The text of ``_ids`` up to ``_context`` has been returned.  Its last piece stays in ``_ids``, because the next
        # token would lose its leading space without it.
        self._ids = list(prompt)
        self._context = len(self._ids)

    def push(self, token: int) -> str:
        """Return the text that this token completes, which may be empty."""
        self._ids.append(token)
        return self._take(final=False)

    def finish(self) -> str:
        """Return the rest of the text.  An incomplete character becomes U+FFFD."""
        return self._take(final=True)

    def _take(self, final: bool) -> str:
        done = self._tokenizer.decode(self._ids[: self._context])
        text = self._tokenizer.decode(self._ids)
        if (text.endswith(REPLACEMENT) and not final) or len(text) <= len(done):
            return ""
        self._ids = self._ids[self._context :]
        self._context = len(self._ids)
        return text[len(done) :]
