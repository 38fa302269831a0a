"""Tokenizers from every kind of file, against the libraries that wrote them."""

import argparse
import io
import json
import struct
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors, trainers

from tests.support.checkpoints import SHAPE, random_weights, write_gguf, write_hugging_face, write_llama2c
from weights_to_rom.readers.base import CheckpointError
from weights_to_rom.readers.open import open_checkpoint
from weights_to_rom.text.byte_level import PRE_TOKENIZERS
from weights_to_rom.text.errors import TokenizerError
from weights_to_rom.text.open import read_tokenizer, tokenizer_in
from weights_to_rom.text.sentencepieces import SPACE
from weights_to_rom.text.tokenizer import StreamDecoder, Tokenizer

FIXTURES = Path(__file__).parents[2] / "data"
# Plain text that every Python has.
CORPUS = Path(argparse.__file__).read_text().splitlines(keepends=True)
OTHER = Path(textwrap.__file__).read_text()

# Llama 3's own split, spelt as in its tokenizer.json.
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_sentencepiece(path, **options):
    """A small model with the options of Llama's; returns the library's own processor."""
    stream = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for line in CORPUS if line.strip()),
        model_writer=stream,
        minloglevel=2,
        **{
            "model_type": "bpe",
            "vocab_size": 900,
            "byte_fallback": True,
            "normalization_rule_name": "identity",
            "remove_extra_whitespaces": False,
            "split_digits": True,
            "allow_whitespace_only_pieces": True,
            "character_coverage": 0.9995,
            "num_threads": 1,
        }
        | options,
    )
    path.write_bytes(stream.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=stream.getvalue())


@pytest.fixture(scope="module")
def sp(tmp_path_factory):
    path = tmp_path_factory.mktemp("sentencepiece") / "tokenizer.model"
    return path, train_sentencepiece(path)


def write_llama2c_tokenizer(path, source):
    """What llama2.c's ``Tokenizer.export`` writes."""
    pieces = []
    for i in range(source.get_piece_size()):
        piece = {1: "\n<s>\n", 2: "\n</s>\n"}.get(i, source.id_to_piece(i)).replace(SPACE, " ")
        pieces.append((piece.encode(), source.get_score(i)))
    with path.open("wb") as file:
        file.write(struct.pack("I", max(len(piece) for piece, _ in pieces)))
        for piece, score in pieces:
            file.write(struct.pack("fI", score, len(piece)) + piece)


def write_gguf_tokenizer(path, source):
    n = range(source.get_piece_size())
    kinds = [2 if source.is_unknown(i) else 3 if source.is_control(i) else 6 if source.is_byte(i) else 1 for i in n]

    def fields(writer):
        writer.add_tokenizer_model("llama")
        writer.add_token_list([source.id_to_piece(i) for i in n])
        writer.add_token_scores([source.get_score(i) for i in n])
        writer.add_token_types(kinds)
        writer.add_add_bos_token(True)

    write_gguf(path, replace(SHAPE, vocab_size=len(n)), fields=fields)


@pytest.mark.parametrize("form", ["model", "bin", "gguf"])
def test_sentencepiece_in_all_its_files(tmp_path, sp, page, form):
    path, source = sp
    if form == "model":
        tokenizer = read_tokenizer(path)
    elif form == "bin":
        write_llama2c_tokenizer(tmp_path / "tokenizer.bin", source)
        tokenizer = read_tokenizer(tmp_path / "tokenizer.bin")
    else:
        write_gguf_tokenizer(tmp_path / "model.gguf", source)
        tokenizer = open_checkpoint(tmp_path / "model.gguf").tokenizer
    assert (tokenizer.bos, tokenizer.eos_ids, tokenizer.vocab_size) == (1, (2,), 900)
    for text in [page, OTHER, *page.splitlines(), "a", " ", "  x", "\n", "é"]:
        ids = source.encode(text)
        assert tokenizer.encode(text) == [1, *ids]
        assert tokenizer.encode(text, bos=False) == ids
        assert tokenizer.decode([1, *ids, 2]) == text
    assert tokenizer.encode("<s>hi</s>", bos=False) == [1, *source.encode("hi"), 2]
    assert tokenizer.encode("") == [1]


@pytest.mark.parametrize("options", [{"model_type": "unigram"}, {"normalization_rule_name": "nmt_nfkc"}])
def test_other_sentencepiece_models(tmp_path, page, options):
    source = train_sentencepiece(tmp_path / "tokenizer.model", **options)
    tokenizer = read_tokenizer(tmp_path / "tokenizer.model")
    for text in (page, OTHER, *page.splitlines(), "ﬁ ½"):
        assert tokenizer.encode(text, bos=False) == source.encode(text)
        assert tokenizer.decode(source.encode(text)) == source.decode(source.encode(text))


def test_sentencepiece_with_spaces_after_words_is_refused(tmp_path):
    train_sentencepiece(tmp_path / "tokenizer.model", treat_whitespace_as_suffix=True)
    with pytest.raises(TokenizerError, match=r"tokenizer\.model: a sentencepiece model with spaces after the words"):
        read_tokenizer(tmp_path / "tokenizer.model")


def test_sentencepiece_without_a_space_before_the_text(tmp_path, page):
    source = train_sentencepiece(tmp_path / "tokenizer.model", add_dummy_prefix=False)
    tokenizer = read_tokenizer(tmp_path / "tokenizer.model")
    for text in (page, "a", " a"):
        assert tokenizer.encode(text, bos=False) == source.encode(text)
        assert tokenizer.decode(source.encode(text)) == text


def test_sentencepiece_that_removes_spaces(tmp_path, page):
    # llama2.c trains its own tokenizers so.
    source = train_sentencepiece(tmp_path / "tokenizer.model", remove_extra_whitespaces=True)
    tokenizer = read_tokenizer(tmp_path / "tokenizer.model")
    for text in (page, OTHER, "  a  b\t\t c  ", " ", "a \n b "):
        assert tokenizer.encode(text, bos=False) == source.encode(text)
        assert tokenizer.decode(source.encode(text)) == source.decode(source.encode(text))


SPLITS = {
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    "llama-bpe": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    ),
}
SPECIAL = ["<|end|>", "<|im_start|>", "<|im_end|>"]


def train_byte_level(split, corpus):
    model = tokenizers.Tokenizer(models.BPE())
    model.pre_tokenizer = split
    model.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False)
    model.train_from_iterator(corpus, trainer)
    return model


def byte_level_gguf(path, source, pre, **options):
    state = json.loads(source.to_str())["model"]
    tokens = sorted(state["vocab"], key=state["vocab"].get)

    def fields(writer):
        writer.add_tokenizer_model("gpt2")
        if pre is not None:
            writer.add_tokenizer_pre(pre)
        writer.add_token_list(tokens)
        writer.add_token_types([3 if token in SPECIAL else 1 for token in tokens])
        writer.add_token_merges([" ".join(pair) for pair in state["merges"]])
        for add, value in options.items():
            getattr(writer, add)(value)

    write_gguf(path, replace(SHAPE, vocab_size=len(tokens)), fields=fields)


@pytest.mark.parametrize("pre", SPLITS)
def test_byte_level_bpe_from_gguf(tmp_path, pre, page):
    # Trained on the page too, with digits and accents, so that a wrong split shows as other merges.
    source = train_byte_level(SPLITS[pre], [*CORPUS, *[page, "x ½ 1234 12345 123 don't DON'T"] * 50])
    byte_level_gguf(tmp_path / "model.gguf", source, pre, add_chat_template="{{ messages[0].content }}{{ eos_token }}")
    tokenizer = open_checkpoint(tmp_path / "model.gguf").tokenizer
    bos = [1] if pre == "llama-bpe" else []
    for text in [page, OTHER, *page.splitlines(), "x ½ 1234", "DON'T", "", " "]:
        ids = source.encode(text).ids
        assert tokenizer.encode(text) == bos + ids
        assert tokenizer.decode(ids) == text
    assert tokenizer.encode("<|im_start|>a<|im_end|>", bos=False) == [1, source.token_to_id("a"), 2]
    assert tokenizer.chat([{"role": "user", "content": "hi"}]) == "hi<|im_end|>"


@pytest.mark.parametrize("pre", [*PRE_TOKENIZERS, None])
def test_every_pre_tokenizer_loses_nothing(tmp_path, pre, page):
    source = train_byte_level(SPLITS["gpt-2"], CORPUS)
    byte_level_gguf(tmp_path / "model.gguf", source, pre, add_add_bos_token=True)
    tokenizer = open_checkpoint(tmp_path / "model.gguf").tokenizer
    ids = tokenizer.encode(page)
    assert ids[0] == tokenizer.bos == 1
    assert tokenizer.decode(ids) == page
    numbers = [tokenizer.model.id_to_token(i) for i in tokenizer.encode("7777777", bos=False)]
    longest = 1 if PRE_TOKENIZERS[pre or "default"][0] == r"\p{N}" else 7
    assert max(map(len, numbers)) <= longest


def test_tokenizers_in_gguf_that_are_refused(tmp_path):
    source = train_byte_level(SPLITS["gpt-2"], CORPUS)
    path = tmp_path / "model.gguf"
    byte_level_gguf(path, source, "klingon")
    with pytest.raises(CheckpointError, match=r"model\.gguf: the pre-tokenizer 'klingon' is not known.*--tokenizer"):
        open_checkpoint(path)
    source.save(str(tmp_path / "tokenizer.json"))
    assert open_checkpoint(path, tokenizer=tmp_path / "tokenizer.json").tokenizer.encode("dog") == source.encode("dog").ids
    byte_level_gguf(path, source, "gpt-2", add_token_merges=["a b", "Q QQ"])
    with pytest.raises(CheckpointError, match=r"model\.gguf: the merges do not fit the vocabulary"):
        open_checkpoint(path)
    write_gguf(path, fields=lambda w: [w.add_tokenizer_model("rwkv"), w.add_token_list(["a"])])
    with pytest.raises(CheckpointError, match=r"model\.gguf: the tokenizer 'rwkv' is not supported"):
        open_checkpoint(path)
    write_gguf(path, fields=lambda w: [w.add_tokenizer_model("llama"), w.add_token_list(["a", "b", "a"])])
    with pytest.raises(CheckpointError, match=r"model\.gguf: the token 'a' occurs twice"):
        open_checkpoint(path)


def test_tokenizer_of_transformers():
    expected = json.loads((FIXTURES / "transformers_gqa" / "expected.json").read_text())
    tokenizer = open_checkpoint(FIXTURES / "transformers_gqa").tokenizer
    assert (tokenizer.bos, tokenizer.eos_ids, tokenizer.vocab_size) == (0, (1, 3), 299)
    for text, ids in expected["encoded"]:
        assert tokenizer.encode(text) == ids
        assert tokenizer.encode(text, bos=False) == ids[1:]
    assert tokenizer.chat(expected["messages"]) == expected["chat"]
    assert tokenizer.chat(expected["messages"], add_generation_prompt=False) == expected["chat"].removesuffix(
        "<|im_start|>assistant\n"
    )
    with pytest.raises(TokenizerError, match="chat template: no such role"):
        tokenizer.chat([{"role": "wizard", "content": "hi"}])


@pytest.mark.parametrize("kind", ["json", "model"])
def test_a_saved_tokenizer_is_the_same(tmp_path, sp, page, kind):
    first = read_tokenizer(sp[0]) if kind == "model" else open_checkpoint(FIXTURES / "transformers_gqa").tokenizer
    first.chat_template = "{{ bos_token }}{{ messages[0].content }}é"
    first.save(tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [f"tokenizer.{kind}", "tokenizer_config.json"]
    second = tokenizer_in(tmp_path / "out")
    for member in ("bos", "eos_ids", "vocab_size", "base_size", "chat_template", "special"):
        assert getattr(second, member) == getattr(first, member), member
    assert second.encode(page) == first.encode(page)
    assert second.chat([{"role": "user", "content": "x"}]) == first.chat([{"role": "user", "content": "x"}])
    assert tokenizer_in(tmp_path) is None


def small(**options):
    return Tokenizer(train_byte_level(SPLITS["gpt-2"], CORPUS[:50]), **options)


def test_the_stream_is_the_text_and_never_half_a_character(sp, page):
    for tokenizer in (small(), read_tokenizer(sp[0])):
        ids = tokenizer.encode(page, bos=False)
        stream = StreamDecoder(tokenizer)
        pieces = [stream.push(i) for i in ids]
        assert "".join(pieces) == page and stream.finish() == ""
        assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
        # It is a stream: after each token all is there but the character that the token begins.
        for n in range(1, len(ids)):
            text = "".join(pieces[:n])
            assert page.startswith(text)
            assert len(text) >= len(tokenizer.decode(ids[:n]).rstrip("\N{REPLACEMENT CHARACTER}"))


def test_the_stream_goes_on_after_a_prompt(sp):
    path, source = sp
    tokenizer = read_tokenizer(path)
    prompt, rest = source.encode("the parser"), source.encode("argument list")
    stream = StreamDecoder(tokenizer, prompt)
    assert "".join(map(stream.push, rest)) == " argument list"
    assert "".join(map(StreamDecoder(tokenizer).push, rest)) == "argument list"


def test_the_stream_ends_an_incomplete_character():
    tokenizer = small()
    ids = tokenizer.encode("a🐉")
    stream = StreamDecoder(tokenizer)
    assert [stream.push(i) for i in ids[:-1]] == ["a"] + [""] * (len(ids) - 2)
    assert stream.finish() == "\N{REPLACEMENT CHARACTER}"
    assert stream.finish() == ""


def test_special_tokens_are_not_text():
    tokenizer = small()
    ids = tokenizer.encode("<|im_start|>hi<|im_end|>")
    assert ids[0] == 1 and ids[-1] == 2
    assert tokenizer.decode(ids) == "hi"
    assert "".join(map(StreamDecoder(tokenizer).push, ids)) == "hi"


def test_templates_see_what_transformers_shows_them():
    template = "{{ messages | tojson }}{{ strftime_now('%Y') | length }}"
    template += "{% for m in messages %}{% break %}{% endfor %}"
    text = small(chat_template=template).chat([{"role": "user", "content": "<é&'>"}])
    assert text == '[{"role": "user", "content": "<é&\'>"}]4'


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{% for %}", "chat template: "),
        ("{{ raise_exception('roles must alternate') }}", "chat template: roles must alternate"),
        (None, "no chat template"),
    ],
)
def test_templates_that_are_refused(template, message):
    with pytest.raises(TokenizerError, match=message):
        small(chat_template=template).chat([{"role": "user", "content": "hi"}])


def hugging_face_with(directory, config=None, **files):
    write_hugging_face(directory, replace(SHAPE, vocab_size=1000))
    if config is not None:
        (directory / "tokenizer_config.json").write_text(json.dumps(config))
    for name, text in files.items():
        (directory / name.replace("__", ".")).write_text(text)


def test_files_beside_tokenizer_json(tmp_path):
    model = train_byte_level(SPLITS["gpt-2"], CORPUS)
    model.enable_truncation(5)
    model.enable_padding(length=7)
    text = model.to_str()
    config = {"bos_token": "<|end|>", "eos_token": {"content": "<|im_end|>"}, "chat_template": "old"}
    hugging_face_with(tmp_path, config, tokenizer__json=text, chat_template__jinja="new {{ eos_token }}")
    tokenizer = read_tokenizer(tmp_path)
    assert (tokenizer.bos, tokenizer.eos_ids, tokenizer.chat([])) == (None, (2,), "new <|im_end|>")
    assert len(tokenizer.encode("one two three four five six seven eight")) > 7
    config |= {
        "add_bos_token": True,
        "chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}],
    }
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = read_tokenizer(tmp_path / "tokenizer.json")
    assert (tokenizer.bos, tokenizer.chat([])) == (0, "d")
    assert tokenizer.encode("") == [0]


def test_the_post_processor_says_whether_texts_start_with_a_token(tmp_path):
    model = train_byte_level(SPLITS["gpt-2"], CORPUS)
    model.post_processor = processors.TemplateProcessing(
        single="<|end|> $A <|im_end|>", special_tokens=[("<|end|>", 0), ("<|im_end|>", 2)]
    )
    hugging_face_with(tmp_path, tokenizer__json=model.to_str())
    assert read_tokenizer(tmp_path).encode("") == [0, 2]
    assert read_tokenizer(tmp_path).warnings == ["tokenizer: puts '<|im_end|>' after every prompt, as its files say"]
    (tmp_path / "tokenizer_config.json").write_text('{"add_bos_token": false, "add_eos_token": false}')
    assert read_tokenizer(tmp_path).encode("") == []


def test_tokens_added_by_the_configuration(tmp_path, sp):
    added = {"900": {"content": "<|user|>", "special": True}, "1": {"content": "<s>", "special": True}}
    hugging_face_with(tmp_path, {"added_tokens_decoder": added})
    (tmp_path / "tokenizer.model").write_bytes(sp[0].read_bytes())
    tokenizer = open_checkpoint(tmp_path).tokenizer
    assert tokenizer.encode("<|user|>") == [1, 900] and tokenizer.vocab_size == 901
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": {"905": added["900"]}}))
    with pytest.raises(CheckpointError, match=r"its configuration has '<\|user\|>' as 905, not 900"):
        open_checkpoint(tmp_path)


def test_model_and_tokenizer_agree_on_the_end(tmp_path):
    model = train_byte_level(SPLITS["gpt-2"], CORPUS)
    hugging_face_with(
        tmp_path,
        {"eos_token": "<|end|>", "bos_token": "<|im_start|>", "add_bos_token": True},
        tokenizer__json=model.to_str(),
    )
    stated = open_checkpoint(tmp_path)
    assert stated.config.eos_token_ids == stated.tokenizer.eos_ids == (2,)
    raw = json.loads((tmp_path / "config.json").read_text()) | {"eos_token_id": None, "bos_token_id": None}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    silent = open_checkpoint(tmp_path)
    assert silent.config.eos_token_ids == silent.tokenizer.eos_ids == (0,)
    assert silent.config.bos_token_id == silent.tokenizer.bos == 1


def test_a_tokenizer_larger_than_the_model(tmp_path):
    model = train_byte_level(SPLITS["gpt-2"], CORPUS)
    write_hugging_face(tmp_path)
    (tmp_path / "tokenizer.json").write_text(model.to_str())
    with pytest.raises(CheckpointError, match=r"its tokenizer has 900 tokens, the model only 75: .*--tokenizer"):
        open_checkpoint(tmp_path)
    model.add_special_tokens([AddedToken("<pad>", special=True)])
    write_hugging_face(tmp_path, replace(SHAPE, vocab_size=900))
    (tmp_path / "tokenizer.json").write_text(model.to_str())
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.notes == ["tokenizer: tokens 900 to 900 are not in the model"]
    with pytest.raises(TokenizerError, match=r"the token '<pad>' \(900\) is beyond the model's 900"):
        checkpoint.tokenizer.encode("a<pad>")


def test_files_that_are_no_tokenizers(tmp_path, sp):
    for name, data, message in (
        ("tokenizer.json", b"{}", "not a tokenizer.json"),
        ("tokenizer.model", b"\x00\x01nonsense", "not a sentencepiece model"),
        ("tokenizer.bin", b"\x00\x00\x00\x00abc", "truncated after 0 tokens"),
        (
            "tokenizer.bin",
            struct.pack("<ifi", 4, 0.0, 400) + b"a",
            "truncated, or no llama2.c tokenizer, at token 0",
        ),
        ("tokenizer.bin", struct.pack("<ifi", 4, 0.0, 1) + b"a", "its tokens 3 to 258 are not the bytes"),
        ("tokenizer.bin", struct.pack("<ifi", 4, 0.0, 1) + b"\xff", "token 0 is no UTF-8"),
        ("tokenizer.txt", b"", "not a tokenizer.json, a tokenizer.model or a llama2.c tokenizer.bin"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(TokenizerError, match=message) as error:
            read_tokenizer(tmp_path / name)
        assert name in str(error.value) and "\n" not in str(error.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(TokenizerError, match=r"empty: holds neither tokenizer\.json"):
        read_tokenizer(tmp_path / "empty")


def test_llama2c_tokenizers_are_found_beside_the_model(tmp_path, sp):
    config = replace(SHAPE, vocab_size=900, n_heads=8, head_dim=8)
    write_llama2c(tmp_path / "model.bin", config, random_weights(config))
    write_llama2c_tokenizer(tmp_path / "tokenizer.bin", sp[1])
    checkpoint = open_checkpoint(tmp_path / "model.bin")
    assert checkpoint.tokenizer.encode("a b") == [1, *sp[1].encode("a b")]
    assert checkpoint.tokenizer.eos_ids == checkpoint.config.eos_token_ids == (1, 2)
    (tmp_path / "tokenizer.bin").rename(tmp_path / "tok900.bin")
    assert open_checkpoint(tmp_path / "model.bin").tokenizer.vocab_size == 900
    (tmp_path / "tok900.bin").rename(tmp_path / "elsewhere.bin")
    assert open_checkpoint(tmp_path / "model.bin").tokenizer is None
    assert open_checkpoint(tmp_path / "model.bin", tokenizer=tmp_path / "elsewhere.bin").tokenizer.bos == 1
