"""Byte-level BPE, GPT-2's: a text becomes bytes, and merges apply in the order of a list, within words."""

from collections.abc import Iterable, Sequence

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers

from weights_to_rom.text.errors import TokenizerError
from weights_to_rom.text.sentencepieces import CONTROL, NORMAL, UNKNOWN, USER_DEFINED

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


def byte_level_bpe(tokens: Sequence[str], merges: Iterable[str] | None, kinds: Sequence[int], pre: str) -> tokenizers.Tokenizer:
    """A GPT-2 style tokenizer from GGUF's lists.

    Raises TokenizerError for a pre-tokenizer that is not in ``PRE_TOKENIZERS``, for a vocabulary of words without merges, and
    for lists that contradict each other.
    """
    if pre not in PRE_TOKENIZERS:
        raise TokenizerError(f"the pre-tokenizer {pre!r} is not known: name another with --tokenizer")
    merges = list(merges or ())
    if not merges and any(len(token) > 1 and kind == NORMAL for token, kind in zip(tokens, kinds, strict=True)):
        raise TokenizerError(
            "its BPE has no merges, without which every text is single bytes: convert the model again, or name a tokenizer "
            "with --tokenizer"
        )
    pairs = [tuple(merge.split(" ", 1)) for merge in merges]
    model = tokenizers.Tokenizer(_bpe(tokens, pairs, ignore_merges=pre in _WHOLE_WORDS))
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in PRE_TOKENIZERS[pre]]
    model.pre_tokenizer = pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(False, use_regex=False)])
    model.decoder = decoders.ByteLevel()
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
