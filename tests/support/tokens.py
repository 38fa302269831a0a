"""Tokenizers of every kind, and 5,000 texts that are hard on them.

``tests/data/tokens`` holds three trained vocabularies; all files of the cases are made of them.
"""

import hashlib
import json
import random
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import sentencepiece

from tests.support.checkpoints import SHAPE, write_gguf
from weights_to_rom.readers.open import open_checkpoint
from weights_to_rom.text.open import read_tokenizer
from weights_to_rom.text.sentencepieces import (
    BPE,
    BYTE,
    CONTROL,
    NORMAL,
    SPACE,
    UNIGRAM,
    UNKNOWN,
    USER_DEFINED,
    sentencepiece_model,
)
from weights_to_rom.text.tokenizer import Tokenizer

ROOT = Path(__file__).parents[2]
BASE = ROOT / "tests" / "data" / "tokens"
N_TEXTS = 5000

START, END = "<|im_start|>", "<|im_end|>"
CONTROLS = [START, END, "<s>", "</s>", "<|begin|>", "<|end|>"]
ADDED = [*CONTROLS, "<left>", "<right>", "<both>", "<plain>", "<tool>", "quux"]
_TEXT = (
    "the of and to in a is that for it as was with be by on not he his this are or from but which they one you were all her "
    "parser argument option self return def class import print value Once upon time little girl dog don't I'm we've they'll "
    "HTTP JSON café naïve über straße año garçon Привет мир это ещё Ελλάδα κόσμε 你好 世界 上海 都 中文 日本語 こんにちは カタカナ "
    "한국어 안녕 مرحبا שלום हिन्दी ไทย 🐉 👨‍👩‍👧 1️⃣ 🇩🇪 é ﬁn ½ ² Ⅷ ß İ 12 345 6789 3.14 1,000 0x1F x+=y; "
    "{}() [] <b> &amp; https://example.org/a?b=c#d '' \"\" `` --- === ... !!! ?! @# $% ^& *_ ~| \\n / \\ "
    "abcd bcd abc hello helloworld"
)
WORDS = _TEXT.split()
_SPACES = (" ", " ", " ", " ", "  ", "   ", "\n", "\n\n", "\t", " \n ", "\r\n", "\N{NO-BREAK SPACE}", "\N{IDEOGRAPHIC SPACE}", "")


def texts() -> list[str]:
    """Return the texts: words of many scripts and runs of spaces, added tokens among them, and random characters."""
    chance = random.Random(20260128)
    found = ["", " ", "  ", "\n", "a", " a", "a ", SPACE, f"a{SPACE}b", *ADDED, *(f" {token} " for token in ADDED)]
    while len(found) < N_TEXTS:
        parts = []
        for _ in range(chance.randrange(1, 14)):
            kind = chance.random()
            if kind < 0.72:
                word = chance.choice(WORDS)
            elif kind < 0.82 and len(found) % 2:
                word = chance.choice(ADDED)
            elif kind < 0.9:
                word = "".join(chance.choice("abcdehilnorstu") for _ in range(chance.randrange(1, 9)))
            else:
                word = "".join(_character(chance) for _ in range(chance.randrange(1, 4)))
            parts += [word, chance.choice(_SPACES)]
        found.append("".join(parts if chance.random() < 0.3 else parts[:-1]))
    return found


def _character(chance: random.Random) -> str:
    while True:
        code = chance.randrange(1, chance.choice((0x80, 0x250, 0x3000, 0x11000, 0x20000)))
        if not 0xD800 <= code < 0xE000:
            return chr(code)


def _flags(text: str, special: bool = True, **flags: bool) -> dict:
    none = dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), False)
    return {"content": text, "special": special} | none | flags


FLAGGED = [
    _flags("<left>", lstrip=True),
    _flags("<right>", rstrip=True),
    _flags("<both>", lstrip=True, rstrip=True, special=False),
    _flags("<plain>", special=False),
]


def _write(folder: Path, **files: object) -> None:
    for name, value in files.items():
        (folder / name.replace("__", ".")).write_text(json.dumps(value, ensure_ascii=False))


def _json(folder: Path, older: bool) -> None:
    model = json.loads((BASE / "tokenizer.json").read_text())
    vocabulary = model["model"]["vocab"]
    for token in (START, END):  # ordinary entries of the vocabulary, as in a tune that reuses tokens of its base
        vocabulary[token] = len(vocabulary)
    begin = {"bos_token": "<|begin|>", "eos_token": END, "additional_special_tokens": [START]}
    config: dict = {"tokenizer_class": "PreTrainedTokenizerFast"}
    size = len(vocabulary)
    if older:
        added = {"<left>": size, "<plain>": size + 1, "<tool>": size + 2, "quux": size + 3}
        _write(folder, special_tokens_map__json=begin | {"pad_token": FLAGGED[0]}, added_tokens__json=added)
    else:
        more = [*FLAGGED, _flags("<tool>", special=False, normalized=True), _flags("quux", special=False, single_word=True)]
        numbered = {vocabulary[token]: _flags(token) for token in ("<|begin|>", "<|end|>", START, END)}
        numbered |= {size + i: token for i, token in enumerate(more)}
        config |= begin | {"added_tokens_decoder": {str(i): token for i, token in numbered.items()}}
    _write(folder, tokenizer__json=model, tokenizer_config__json=config)


Vocabulary = tuple[list[str], list[float], list[int]]


def _pieces(name: str, *, equal: bool = False, whole: int = USER_DEFINED) -> Vocabulary:
    """The tokens, scores and kinds of a trained model; with ``equal``, those that a merge of vocabularies adds, of score 0."""
    source = sentencepiece.SentencePieceProcessor(model_file=str(BASE / name))
    n = range(source.get_piece_size())
    tokens, scores = [source.id_to_piece(i) for i in n], [source.get_score(i) for i in n]
    kinds = [UNKNOWN if source.is_unknown(i) else CONTROL if source.is_control(i) else NORMAL for i in n]
    kinds = [BYTE if source.is_byte(i) else kind for i, kind in zip(n, kinds, strict=True)]
    if equal:
        extra = [
            "bc",
            "ab",
            "cd",
            "上海",
            "都上",
            "海是",
            "你好",
            "好世",
            "世界",
            "lo",
            "hel",
            "ow",
            "wor",
            "ld",
            "こん",
            "んに",
            f"{SPACE}ab",
        ]
        extra = [token for token in extra if token not in tokens]
        letters = sorted({c for token in extra for c in token if c not in tokens})
        tokens += letters + extra
        scores += [0.0] * (len(tokens) - len(scores))
        kinds += [NORMAL] * (len(tokens) - len(kinds))
    for token in (START, END, "<tool>"):
        tokens.append(token)
        scores.append(0.0)
        kinds.append(whole)
    return tokens, scores, kinds


def _sentencepiece(folder: Path, name: str, legacy: bool, equal: bool = False, declared: bool = True, **config: object) -> None:
    tokens, scores, kinds = _pieces(name, equal=equal)
    algorithm = UNIGRAM if name == "unigram.model" else BPE
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(tokens, scores, kinds, algorithm=algorithm))
    numbered = {0: _flags("<unk>"), 1: _flags("<s>"), 2: _flags("</s>")}
    if declared:
        numbered |= {tokens.index(token): _flags(token, special=token != "<tool>") for token in (START, END, "<tool>")}
        numbered |= {len(tokens) + i: token for i, token in enumerate(FLAGGED)}
    _write(
        folder,
        tokenizer_config__json={
            "tokenizer_class": "LlamaTokenizer",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "add_bos_token": True,
            "add_eos_token": False,
            "legacy": legacy,
            "added_tokens_decoder": {str(i): token for i, token in numbered.items()},
        }
        | config,
    )


def _gguf(folder: Path, family: str, vocabulary: Vocabulary, **more: object) -> None:
    tokens, scores, kinds = vocabulary

    def fields(writer: object) -> None:
        writer.add_tokenizer_model(family)
        writer.add_token_list(tokens)
        writer.add_token_types(kinds)
        if family != "gpt2":
            writer.add_token_scores(scores)
        for add, value in more.items():
            getattr(writer, add)(value)

    write_gguf(folder / "model.gguf", replace(SHAPE, vocab_size=len(tokens), tied=True), fields=fields)


def _gguf_bpe(folder: Path, pre: str) -> None:
    model = json.loads((BASE / "tokenizer.json").read_text())["model"]
    tokens = [*sorted(model["vocab"], key=model["vocab"].__getitem__), START, END, "<plain>"]
    kinds = [
        CONTROL if token in ("<|begin|>", "<|end|>", START) else NORMAL for token in tokens
    ]  # END, as some converters leave it
    kinds[-1] = USER_DEFINED
    merges = [" ".join(pair) for pair in model["merges"]]
    roles = {"add_bos_token_id": 0, "add_eos_token_id": tokens.index(END), "add_add_bos_token": True}
    _gguf(folder, "gpt2", (tokens, [], kinds), add_tokenizer_pre=pre, add_token_merges=merges, **roles)


def _gguf_unigram(folder: Path) -> None:
    rows = [row for row in zip(*_pieces("unigram.model"), strict=True) if row[2] != BYTE]  # T5's have no tokens of bytes
    tokens, scores, kinds = (list(column) for column in zip(*rows, strict=True))
    switches = dict.fromkeys(
        ("add_add_space_prefix", "add_remove_extra_whitespaces", "add_add_bos_token", "add_add_eos_token"), True
    )
    _gguf(folder, "t5", (tokens, scores, kinds), add_unk_token_id=0, **switches)


def write_tokenizer_bin(path: Path, tokens: list[str], scores: list[float]) -> None:
    """Write llama2.c's tokenizer.bin, as its ``tokenizer.py`` does."""
    texts = ["<unk>", "\n<s>\n", "\n</s>\n", *(token.replace(SPACE, " ") for token in tokens[3:])]
    with path.open("wb") as file:
        file.write(struct.pack("<I", max(len(text.encode()) for text in texts)))
        for text, score in zip(texts, scores, strict=True):
            file.write(struct.pack("<fI", score, len(text.encode())) + text.encode())


def _llama2c(folder: Path) -> None:
    tokens, scores, kinds = _pieces("bpe.model", equal=True, whole=NORMAL)
    write_tokenizer_bin(folder / "tokenizer.bin", tokens, scores)
    (folder / "same.model").write_bytes(sentencepiece_model(tokens, scores, kinds))


CASES: dict[str, Callable[[Path], None]] = {
    "json": lambda folder: _json(folder, older=False),
    "json of older releases": lambda folder: _json(folder, older=True),
    "BPE, legacy": lambda folder: _sentencepiece(folder, "bpe.model", legacy=True),
    "BPE": lambda folder: _sentencepiece(folder, "bpe.model", legacy=False),
    "BPE without prefix": lambda folder: _sentencepiece(folder, "bpe.model", legacy=False, add_prefix_space=False),
    "BPE, equal scores, user-defined": lambda folder: _sentencepiece(folder, "bpe.model", True, equal=True, declared=False),
    "BPE, equal scores, legacy": lambda folder: _sentencepiece(folder, "bpe.model", legacy=True, equal=True),
    "unigram, legacy": lambda folder: _sentencepiece(folder, "unigram.model", legacy=True),
    "unigram": lambda folder: _sentencepiece(folder, "unigram.model", legacy=False),
    "GGUF llama-bpe": lambda folder: _gguf_bpe(folder, "llama-bpe"),
    "GGUF gpt-2": lambda folder: _gguf_bpe(folder, "gpt-2"),
    "GGUF BPE": lambda folder: _gguf(folder, "llama", _pieces("bpe.model")),
    "GGUF BPE, equal scores": lambda folder: _gguf(folder, "llama", _pieces("bpe.model", equal=True, whole=CONTROL)),
    "GGUF unigram": _gguf_unigram,
    "llama2.c": _llama2c,
}
"""Writes the files of each kind into a folder."""


def digest(value: object) -> str:
    """Sixteen bytes of the SHA-256 of a value of JSON, in hexadecimal."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32]


def digests(ids: list[list[int]]) -> list[str]:
    """The digest of each ten texts' tokens."""
    return [digest(ids[i : i + 10]) for i in range(0, len(ids), 10)]


def tokenizer_of(folder: Path) -> Tokenizer:
    """The tokenizer that Hardwire reads in the folder of a case."""
    if (folder / "model.gguf").is_file():
        tokenizer = open_checkpoint(folder / "model.gguf").tokenizer
        assert tokenizer is not None
        return tokenizer
    return read_tokenizer(folder / "tokenizer.bin" if (folder / "tokenizer.bin").is_file() else folder)
