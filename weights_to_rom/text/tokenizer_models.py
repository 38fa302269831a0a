"""The two families of tokenizers that Llamas use, built from plain lists of tokens.

Byte-level BPE (GPT-2's) merges in the order of a list.  Sentencepiece's BPE merges the two
neighbours whose token has the best score, falls back to byte tokens, and writes a space as U+2581.
"""

import math
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from weights_to_rom.text.errors import TokenizerError
from weights_to_rom.text.tokenizer import Tokenizer

# Kinds of tokens, by sentencepiece's numbers, which GGUF uses too.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DEFAULT = (
    r"[\p{P}\$\+<=>\^~\|]+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
    r"\p{N}+",
    r"[0-9][0-9][0-9]",
)

# The patterns that split a text into words, by the name in GGUF's ``tokenizer.ggml.pre``.  They apply in this order, and
# merges stay within a word.  Source: ``llama-vocab.cpp`` of llama.cpp, as far as Llamas use it.
PRE_TOKENIZERS: dict[str, tuple[str, ...]] = {
    "default": _DEFAULT,
    **dict.fromkeys(("gpt-2", "phi-2", "olmo", "mpt"), (_GPT2,)),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"), (r"\p{N}", _GPT2)),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "dbrx", "smaug-bpe"), (_LLAMA3,)),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2"), (_QWEN2,)),
    "tekken": (_TEKKEN,),
}
# With these, a word that is a token becomes that token, even if no merges lead to it.
_WHOLE_WORDS = ("llama-bpe", "llama3", "llama-v3", "falcon3", "tekken")
# With these, a text starts with the begin token unless the file denies it.
STARTS_WITH_BOS = ("llama-bpe", "llama3", "llama-v3", "falcon3", "tekken")


def byte_level_bpe(tokens: Sequence[str], merges: Iterable[str], kinds: Sequence[int], pre: str) -> tokenizers.Tokenizer:
    """A GPT-2 style tokenizer from GGUF's lists.

    Raises TokenizerError for a pre-tokenizer that is not in ``PRE_TOKENIZERS`` and for lists that contradict each other.
    """
    if pre not in PRE_TOKENIZERS:
        raise TokenizerError(f"the pre-tokenizer {pre!r} is not known: name another with --tokenizer")
    pairs = [tuple(merge.split(" ", 1)) for merge in merges]
    model = tokenizers.Tokenizer(_bpe(tokens, pairs, ignore_merges=pre in _WHOLE_WORDS))
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in PRE_TOKENIZERS[pre]]
    model.pre_tokenizer = pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(False, use_regex=False)])
    model.decoder = decoders.ByteLevel()
    _mark_special(model, tokens, kinds)
    return model


def sentencepiece_bpe(
    tokens: Sequence[str],
    scores: Sequence[float],
    kinds: Sequence[int],
    *,
    add_space_prefix: bool = True,
    collapse_spaces: bool = False,
) -> tokenizers.Tokenizer:
    """A sentencepiece BPE tokenizer.  Each split of a token into two tokens is a merge, and its rank is the token's score.

    ``add_space_prefix`` puts a space before a text (``add_dummy_prefix``), and decoding drops it again;
    ``collapse_spaces`` keeps one of each run of spaces, and none at the ends (``remove_extra_whitespaces``).
    """
    vocabulary = {token for token, kind in zip(tokens, kinds, strict=True) if kind in (NORMAL, USER_DEFINED)}
    order = sorted((i for i in range(len(tokens)) if tokens[i] in vocabulary), key=lambda i: -scores[i])
    pairs = [
        (token[:cut], token[cut:])
        for token in (tokens[i] for i in order)
        for cut in range(1, len(token))
        if token[:cut] in vocabulary and token[cut:] in vocabulary
    ]
    unknown = next((token for token, kind in zip(tokens, kinds, strict=True) if kind == UNKNOWN), None)
    model = tokenizers.Tokenizer(_bpe(tokens, pairs, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    steps: list[normalizers.Normalizer] = []
    if collapse_spaces:
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" +"), " ")]
    if add_space_prefix:
        steps.append(normalizers.Prepend(SPACE))
    model.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    strip = [decoders.Strip(" ", 1, 0)] if add_space_prefix else []
    model.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    _mark_special(model, tokens, kinds)
    return model


def _bpe(tokens: Sequence[str], pairs: list, **options: object) -> models.BPE:
    vocabulary = {token: i for i, token in enumerate(tokens)}
    if len(vocabulary) < len(tokens):
        twice = next(token for i, token in enumerate(tokens) if vocabulary[token] != i)
        raise TokenizerError(f"the token {twice!r} occurs twice in the vocabulary")
    try:
        return models.BPE(vocabulary, pairs, **options)
    except Exception as error:  # the library raises plain Exception
        raise TokenizerError(f"the merges do not fit the vocabulary: {error}") from None


def _mark_special(model: tokenizers.Tokenizer, tokens: Sequence[str], kinds: Sequence[int]) -> None:
    """Control tokens are matched in a text and left out when decoding; user-defined ones are only matched."""
    special, plain = [], []
    for token, kind in zip(tokens, kinds, strict=True):
        if kind in (CONTROL, UNKNOWN):
            special.append(AddedToken(token, special=True, normalized=False))
        elif kind == USER_DEFINED:
            plain.append(AddedToken(token, special=False, normalized=False))
    model.add_special_tokens(special)
    model.add_tokens(plain)


def read_sentencepiece(path: Path) -> Tokenizer:
    """Read a tokenizer.model.  It must be a BPE without normalisation, as all of Llama's are.

    Raises TokenizerError for any other: the result must encode a probe text as sentencepiece itself does.
    """
    try:
        # from_file would also write to stderr if the file is damaged.
        source = sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes())
    except (RuntimeError, OSError):
        raise TokenizerError(f"{path}: not a sentencepiece model") from None
    size = source.get_piece_size()
    tokens = [source.id_to_piece(i) for i in range(size)]
    scores = [source.get_score(i) for i in range(size)]
    kinds = [_kind(source, i) for i in range(size)]
    model = sentencepiece_bpe(
        tokens,
        scores,
        kinds,
        add_space_prefix=source.normalize("a").startswith(SPACE),
        collapse_spaces=source.normalize("a  b").count(SPACE) < source.normalize("a b c").count(SPACE),
    )
    for probe in ("Once upon a time", " two  spaces ", "don't 1234 x+=y;\n\tend", "ﬁne café ½ 你好 🐉"):
        if model.encode(probe, add_special_tokens=False).ids != source.encode(probe):
            raise TokenizerError(f"{path}: not a plain sentencepiece BPE (see how it encodes {probe!r}): use a tokenizer.json")
    bos, eos = source.bos_id(), source.eos_id()
    special = {key: tokens[i] for key, i in (("bos_token", bos), ("eos_token", eos)) if i >= 0}
    return Tokenizer(model, bos=bos if bos >= 0 else None, eos_ids=[eos] if eos >= 0 else [], special=special)


def _kind(source: sentencepiece.SentencePieceProcessor, i: int) -> int:
    if source.is_unknown(i):
        return UNKNOWN
    if source.is_control(i):
        return CONTROL
    if source.is_byte(i):
        return BYTE
    return UNUSED if source.is_unused(i) else NORMAL


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
    model = sentencepiece_bpe(tokens, scores, kinds)
    return Tokenizer(model, bos=1, eos_ids=(2,), special={"bos_token": "<s>", "eos_token": "</s>"})
