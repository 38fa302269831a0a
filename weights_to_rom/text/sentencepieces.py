"""Sentencepiece's tokenizers, BPE and unigram: the sentencepiece library itself turns texts into tokens.

BPE merges the two neighbours whose token has the best score, and of equal ones the leftmost.  The merge list of the package
``tokenizers`` cannot say that two merges are equal.
"""

import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import sentencepiece
import tokenizers
from tokenizers import AddedToken, decoders, models

from weights_to_rom.text.errors import TokenizerError
from weights_to_rom.text.tokenizer import Tokenizer

# Kinds of tokens, by sentencepiece's numbers, which GGUF uses too.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

UNIGRAM, BPE = 1, 2

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"

# The library's warnings are about vocabularies that it can use, and would stand between the lines of a command.
sentencepiece.set_min_log_level(2)

# The unknown token of a vocabulary that has none: sentencepiece wants one.
_NO_UNKNOWN = "\uffffunknown"


class Pieces:
    """Texts to token numbers, by the sentencepiece library.

    Parameters
    ----------
    proto : bytes     the contents of a tokenizer.model
    prefix : bool     put a space before a text; by default as the model says
    legacy : bool     put it also before a text that begins with a space, or that follows an added token

    Members
    -------
    tokens : list[str]   the vocabulary
    proto, prefix, legacy

    Raises TokenizerError if ``proto`` is no sentencepiece model.
    """

    def __init__(self, proto: bytes, *, prefix: bool | None = None, legacy: bool = True) -> None:
        source = _processor(proto)
        try:
            normal = source.normalize("a")
            self.tokens = [source.id_to_piece(i) for i in range(source.get_piece_size())]
        except UnicodeDecodeError:
            raise TokenizerError("a sentencepiece model with pieces or rules that are not UTF-8") from None
        if normal.endswith(SPACE):
            raise TokenizerError("a sentencepiece model with spaces after the words: use a tokenizer.json")
        self.proto, self.legacy = proto, legacy
        self.prefix = normal.startswith(SPACE) if prefix is None else prefix
        self._with, self._without = (_processor(proto + _field(3, _field(3, int(first)))) for first in (True, False))
        if not all(math.isfinite(source.get_score(i)) for i in range(len(self.tokens))):
            raise TokenizerError("a sentencepiece model with a score that is not finite")
        self.source = source

    def encode(self, parts: Sequence[int | str]) -> list[int]:
        """Return the token numbers of a text that is cut at its added tokens (``added_tokens.Splitter``).

        Raises TokenizerError for a character that a vocabulary without an unknown token lacks.
        """
        ids: list[int] = []
        for i, part in enumerate(parts):
            if isinstance(part, int):
                ids.append(part)
            else:
                # transformers' new behaviour: only the text's begin gets a space, if it has none.
                new = i == 0 and not part.startswith((" ", SPACE))
                source = self._with if self.prefix and (self.legacy or new) else self._without
                ids += source.encode(part)
        if self.tokens[-1] == _NO_UNKNOWN and len(self.tokens) - 1 in ids:
            raise TokenizerError("the text has characters that the vocabulary lacks")
        return ids

    def vocabulary(self, special: Sequence[int], plain: Sequence[int] = ()) -> tokenizers.Tokenizer:
        """Make the vocabulary and the decoder.  The tokens ``special`` and ``plain`` are the added ones, by their numbers."""
        tokens = self.tokens[:-1] if self.tokens[-1] == _NO_UNKNOWN else self.tokens
        model = tokenizers.Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, [], byte_fallback=True))
        strip = [decoders.Strip(" ", 1, 0)] if self.prefix else []
        model.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
        model.add_special_tokens([AddedToken(tokens[i], special=True, normalized=False) for i in special])
        model.add_tokens([AddedToken(tokens[i], special=False, normalized=False) for i in plain])
        return model


def _processor(proto: bytes) -> sentencepiece.SentencePieceProcessor:
    try:
        source = sentencepiece.SentencePieceProcessor()
        source.LoadFromSerializedProto(proto)
    except (RuntimeError, UnicodeDecodeError):  # the second if the message quotes a piece that is not UTF-8
        raise TokenizerError("not a sentencepiece model") from None
    return source


def read_sentencepiece(
    path: Path, *, prefix: bool | None = None, legacy: bool = True, names: Mapping[int, str] | None = None
) -> Tokenizer:
    """Read a tokenizer.model.

    ``prefix`` and ``legacy`` are those of ``Pieces``.  ``names`` are texts by number: some models have placeholders, such as
    [UNUSED_TOKEN_146], to which a configuration gives their texts.  Raises TokenizerError if the file is none.
    """
    try:
        pieces = Pieces(path.read_bytes(), prefix=prefix, legacy=legacy)
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from None
    known = set(pieces.tokens)
    for i, name in (names or {}).items():
        if i < len(pieces.tokens) and name not in known:
            pieces.tokens[i] = name
    source = pieces.source
    special = [i for i in range(len(pieces.tokens)) if source.is_control(i) or source.is_unknown(i)]
    bos, eos = source.bos_id(), source.eos_id()
    return Tokenizer(
        pieces.vocabulary(special),
        pieces=pieces,
        bos=bos if bos >= 0 else None,
        eos_ids=[eos] if eos >= 0 else [],
        special={key: pieces.tokens[i] for key, i in (("bos_token", bos), ("eos_token", eos)) if i >= 0},
    )


def sentencepiece_model(
    tokens: Sequence[str],
    scores: Sequence[float],
    kinds: Sequence[int],
    *,
    algorithm: int = BPE,
    charsmap: bytes = b"",
    collapse_spaces: bool = False,
) -> bytes:
    """Make a tokenizer.model of lists, with a space before the text.

    Parameters
    ----------
    tokens, scores, kinds : sequences    of equal lengths
    algorithm : int                      BPE or UNIGRAM
    charsmap : bytes                     sentencepiece's compiled rules of normalisation; none by default
    collapse_spaces : bool               keep one of each run of spaces, and none at the ends

    Raises TokenizerError for lists that contradict each other.
    """
    if not len(tokens) == len(scores) == len(kinds):
        raise TokenizerError(f"{len(tokens)} tokens have {len(scores)} scores and {len(kinds)} types")
    if (wrong := next((i for i, token in enumerate(tokens) if not token or "\0" in token), None)) is not None:
        raise TokenizerError(f"the token {wrong} is empty or has a zero in it")
    if not all(math.isfinite(score) for score in scores):
        raise TokenizerError("a token's score is not finite")
    if len(numbers := {token: i for i, token in enumerate(tokens)}) < len(tokens):
        twice = next(token for i, token in enumerate(tokens) if numbers[token] != i)
        raise TokenizerError(f"the token {twice!r} occurs twice in the vocabulary")
    n_bytes = sum(kind == BYTE for kind in kinds)
    if n_bytes not in (0, 256):
        raise TokenizerError(f"has {n_bytes} of the 256 tokens of bytes")
    entries = list(zip(tokens, scores, kinds, strict=True))
    unknown = [i for i, kind in enumerate(kinds) if kind == UNKNOWN]
    for i in unknown[1:]:
        entries[i] = (*entries[i][:2], CONTROL)
    if not unknown:
        entries.append((_NO_UNKNOWN, 0.0, UNKNOWN))
    message = b"".join(
        _field(1, _field(1, token.encode()) + _field(2, float(score)) + _field(3, kind)) for token, score, kind in entries
    )
    message += _field(2, _field(3, algorithm) + _field(35, int(n_bytes > 0)))
    rules = _field(1, b"identity") + _field(3, 1) + _field(4, int(collapse_spaces)) + _field(5, 1)
    return message + _field(3, rules + (_field(2, charsmap) if charsmap else b""))


def _field(number: int, value: int | float | bytes) -> bytes:
    """A field of a protocol buffer (encoding: protobuf.dev).  Numbers of fields: sentencepiece_model.proto."""
    if isinstance(value, float):
        return _varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(number: int) -> bytes:
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def read_llama2c(path: Path) -> Tokenizer:
    """Read a llama2.c tokenizer.bin: the longest token's length, then score, length and bytes of each token.

    Its writer (``tokenizer.py`` of karpathy/llama2.c) replaces U+2581 by a space and puts line ends around ``<s>`` and
    ``</s>``.  Tokens 0, 1, 2 are unknown, begin and end, 3 to 258 the bytes.
    """
    data = path.read_bytes()
    tokens: list[str] = []
    scores: list[float] = []
    offset = 4
    while offset < len(data):
        if offset + 8 > len(data):
            raise TokenizerError(f"{path}: truncated after {len(tokens)} tokens")
        score, length = struct.unpack_from("<fi", data, offset)
        text = data[offset + 8 : offset + 8 + length] if length >= 0 else b""
        if length < 0 or len(text) != length or not math.isfinite(score):
            raise TokenizerError(f"{path}: truncated, or no llama2.c tokenizer, at token {len(tokens)}")
        try:
            tokens.append(text.decode("utf-8"))
        except UnicodeDecodeError:
            raise TokenizerError(f"{path}: token {len(tokens)} is no UTF-8: no llama2.c tokenizer") from None
        scores.append(score)
        offset += 8 + length
    if len(tokens) < 259 or any(tokens[3 + i] != f"<0x{i:02X}>" for i in range(256)):
        raise TokenizerError(f"{path}: no llama2.c tokenizer: its tokens 3 to 258 are not the bytes")
    tokens = ["<unk>", "<s>", "</s>", *tokens[3:259], *(token.replace(" ", SPACE) for token in tokens[259:])]
    kinds = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * (len(tokens) - 259)
    try:
        pieces = Pieces(sentencepiece_model(tokens, scores, kinds))
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from None
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    return Tokenizer(pieces.vocabulary([0, 1, 2]), pieces=pieces, bos=1, eos_ids=(2,), special=special, complete=True)
