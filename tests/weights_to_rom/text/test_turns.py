"""Where a text begins and ends, and where a turn of a chat ends, by all files that may say so."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors

from tests.support.checkpoints import SHAPE, write_gguf, write_hugging_face
from weights_to_rom.readers.base import Checkpoint, CheckpointError
from weights_to_rom.readers.open import open_checkpoint
from weights_to_rom.text.errors import TokenizerError
from weights_to_rom.text.open import read_tokenizer, tokenizer_in
from weights_to_rom.text.tokenizer import TURN_ENDS, Tokenizer

SPECIAL = ("<begin>", "<stop>", "<turn>", "<more>", "<last>")
BEGIN, STOP, TURN, MORE, LAST = range(256, 261)


def talk(end: str) -> str:
    """A chat template that writes ``end`` after each message."""
    said = "{% for m in messages %}<turn>{{ m.role }}: {{ m.content }}" + end + "{% endfor %}"
    return said + "{{ '<turn>' if add_generation_prompt }}"


def byte_model(*special: str) -> tokenizers.Tokenizer:
    """A tokenizer of single bytes and special tokens, which have the numbers from 256 on."""
    model = tokenizers.Tokenizer(
        models.BPE({letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, [])
    )
    model.pre_tokenizer, model.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    model.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return model


def talker(template: str | None, *special: str, **options: Any) -> Tokenizer:
    return Tokenizer(byte_model(*(special or SPECIAL)), chat_template=template, **options)


def letters(text: str) -> list[int]:
    return byte_model().encode(text).ids


def hugging_face(folder: Path, config: dict, generation: dict | None = None, **ids: Any) -> Checkpoint:
    """Write and open a directory with the tokens of SPECIAL; ``ids`` are fields of config.json."""
    write_hugging_face(folder, replace(SHAPE, vocab_size=261), **ids)
    byte_model(*SPECIAL).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return open_checkpoint(folder)


def the_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    assert checkpoint.tokenizer is not None
    return checkpoint.tokenizer


@pytest.mark.parametrize("name", ["<|eot_id|>", "<|im_end|>", "<end_of_turn>", "<|end|>", "<|eom_id|>", "<|endoftext|>", "</s>"])
def test_a_chat_stops_at_well_known_tokens_that_no_file_gives(name):
    assert name in TURN_ENDS
    assert talker(None, "<begin>", name, eos_ids=[256]).chat_stop_ids == (256, 257)
    assert talker(None, "<begin>", f"{name} ", eos_ids=[256]).chat_stop_ids == (256,)


@pytest.mark.parametrize(
    ("template", "stops"),
    [
        (talk("<stop>\n"), [STOP]),
        (talk(" <stop>"), [STOP]),
        (talk("{% generation %}{% endgeneration %}<stop>"), [STOP]),
        (talk("{{ '<stop>' if loop.last else '<more>' }}"), [MORE, STOP]),
        (talk("{% if m.role == 'assistant' %}<stop>{% else %}<more>{% endif %}"), [STOP]),
        (talk("\n"), [TURN]),  # the model writes this token when it would speak for the other
        (talk("Goodbye.<stop>"), []),
        (talk("<stop>").replace("m.content", "m.content | upper"), []),
        ("{{ messages[0].content }}<stop>", []),
        ("{% if messages[-1].role != 'user' %}{{ raise_exception('ask') }}{% endif %}" + talk("<stop>"), [STOP]),
        ("{% if messages | length != 2 %}{{ raise_exception('two') }}{% endif %}" + talk("<stop>"), [STOP]),
        ("{% if messages | length > 1 %}{{ raise_exception('one') }}{% endif %}" + talk("<stop>"), []),
        ("{{ 1 / 0 }}", []),
        (None, []),
    ],
)
def test_a_chat_stops_at_the_token_that_the_template_writes_after_an_answer(template, stops):
    assert talker(template, eos_ids=[LAST]).chat_stop_ids == (LAST, *stops)


def test_a_chat_stops_at_no_token_that_the_model_lacks():
    tokenizer = talker(None, "<|im_end|>", "<|eot_id|>", eos_ids=[5])
    tokenizer.vocab_size = 257
    assert tokenizer.chat_stop_ids == (5, 256)


def test_a_chat_stops_at_the_ends_of_all_files_and_a_text_at_its_own(tmp_path):
    eos = {"eos_token": "<stop>"}
    checkpoint = hugging_face(tmp_path / "a", eos, {"eos_token_id": [LAST, 7]}, eos_token_id=MORE)
    tokenizer = the_tokenizer(checkpoint)
    assert checkpoint.config.eos_token_ids == tokenizer.eos_ids == (LAST, 7)
    assert sorted(tokenizer.chat_stop_ids) == [7, STOP, MORE, LAST]
    tokenizer = the_tokenizer(hugging_face(tmp_path / "b", eos, {"eos_token_id": None}, eos_token_id=[MORE, 9]))
    assert tokenizer.eos_ids == (MORE, 9) and sorted(tokenizer.chat_stop_ids) == [9, STOP, MORE]
    tokenizer = the_tokenizer(hugging_face(tmp_path / "c", eos, eos_token_id=None))
    assert tokenizer.eos_ids == tokenizer.chat_stop_ids == (STOP,)
    config = {"chat_template": talk("<turn>")}
    tokenizer = the_tokenizer(hugging_face(tmp_path / "d", config, eos_token_id=[]))
    assert tokenizer.eos_ids == () and tokenizer.chat_stop_ids == (TURN,)


def gguf_fields(writer: Any, *, kind: str = "gpt2", **fields: Any) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    writer.add_tokenizer_model(kind)
    if kind == "gpt2":
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list([*alphabet, *SPECIAL, "ab"])
        writer.add_token_types([1] * 256 + [3] * len(SPECIAL) + [1])
        writer.add_token_merges(["a b"])
    else:
        writer.add_token_list(
            ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "\N{LOWER ONE EIGHTH BLOCK}", "a", "b"]
        )
        writer.add_token_scores([0.0] * 259 + [-1.0, -2.0, -3.0])
        writer.add_token_types([2, 3, 3] + [6] * 256 + [1, 1, 1])
    for name, value in fields.items():
        getattr(writer, f"add_{name}")(value)


def gguf_file(path: Path, bos: int | None = BEGIN, eos: int | None = LAST, **fields: Any) -> Path:
    write_gguf(path, replace(SHAPE, vocab_size=262), bos=bos, eos=eos, fields=lambda writer: gguf_fields(writer, **fields))
    return path


def test_a_gguf_file_has_ends_of_text_turn_and_message(tmp_path):
    path = gguf_file(tmp_path / "model.gguf", eot_token_id=STOP, chat_template=talk("<more>"))
    checkpoint = open_checkpoint(path)
    tokenizer = the_tokenizer(checkpoint)
    assert checkpoint.config.eos_token_ids == tokenizer.eos_ids == (LAST,)
    assert tokenizer.chat_stop_ids == (LAST, STOP, MORE)
    messages = the_tokenizer(open_checkpoint(gguf_file(tmp_path / "eom.gguf", eom_token_id=TURN)))
    assert messages.eos_ids == (LAST,) and messages.chat_stop_ids == (LAST, TURN)


@pytest.mark.parametrize("add_bos", [None, True, False])
def test_a_sentencepiece_gguf_file_that_states_no_numbers_has_those_of_llama_cpp(tmp_path, add_bos):
    fields = {} if add_bos is None else {"add_bos_token": add_bos}
    checkpoint = open_checkpoint(gguf_file(tmp_path / "model.gguf", None, None, kind="llama", **fields))
    tokenizer = the_tokenizer(checkpoint)
    assert (checkpoint.config.bos_token_id, checkpoint.config.eos_token_ids) == (1, (2,))
    assert tokenizer.encode("a") == [*([] if add_bos is False else [1]), 259, 260]
    assert tokenizer.eos_ids == tokenizer.chat_stop_ids == (2,) and checkpoint.warnings == []
    assert {name: tokenizer.special[name] for name in ("bos_token", "eos_token", "unk_token")} == {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    other = open_checkpoint(gguf_file(tmp_path / "other.gguf", None, None))
    assert (other.config.bos_token_id, other.config.eos_token_ids) == (None, ())


def test_a_begin_token_beyond_the_vocabulary_is_as_if_it_was_not_stated(tmp_path):
    checkpoint = open_checkpoint(gguf_file(tmp_path / "model.gguf", 2**32 - 1, 5, kind="llama"))
    assert the_tokenizer(checkpoint).encode("a") == [1, 259, 260]
    assert checkpoint.warnings == [
        f"{tmp_path}/model.gguf: tokenizer.ggml.bos_token_id is 4294967295, but the model has 262 tokens: it is left out"
    ]


def test_special_tokens_of_a_gguf_file_are_numbers(tmp_path):
    write_gguf(tmp_path / "model.gguf", bos=None, fields=lambda writer: writer.add_string("tokenizer.ggml.bos_token_id", "one"))
    with pytest.raises(CheckpointError, match=r"model\.gguf: tokenizer\.ggml\.bos_token_id must be a token number, not 'one'"):
        open_checkpoint(tmp_path / "model.gguf")


@pytest.mark.parametrize("add_bos", [None, True, False])
def test_another_tokenizer_leaves_a_gguf_file_its_settings(tmp_path, add_bos):
    """The file's own tokens cannot be used, because their split into words has an unknown name."""
    fields = {} if add_bos is None else {"add_bos_token": add_bos}
    path = gguf_file(
        tmp_path / "model.gguf", tokenizer_pre="new", eot_token_id=STOP, chat_template=talk("{{ bos_token }}"), **fields
    )
    byte_model(*SPECIAL).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(CheckpointError, match="--tokenizer"):
        open_checkpoint(path)
    tokenizer = the_tokenizer(open_checkpoint(path, tmp_path / "tokenizer.json"))
    begin = [BEGIN] if add_bos else []
    assert tokenizer.encode("a") == [*begin, *letters("a")]
    said = [{"role": "user", "content": "a"}]
    assert tokenizer.encode_chat(said) == [*begin, TURN, *letters("user: a"), BEGIN, TURN]
    assert tokenizer.eos_ids == (LAST,) and tokenizer.chat_stop_ids == (LAST, STOP, BEGIN)


def test_the_tokenizer_that_is_named_keeps_what_a_gguf_file_does_not_say(tmp_path):
    named = talker(talk("<stop>"), bos=BEGIN, special={"bos_token": "<begin>"})
    named.save(tmp_path / "named")
    path = gguf_file(tmp_path / "model.gguf", None, None, tokenizer_pre="new")
    tokenizer = the_tokenizer(open_checkpoint(path, tmp_path / "named"))
    assert tokenizer.encode("a")[0] == BEGIN and tokenizer.chat_stop_ids == (STOP,)
    assert tokenizer.special["bos_token"] == "<begin>"


def test_a_begin_token_that_a_prompt_spells_is_not_doubled():
    tokenizer = talker(None, bos=BEGIN, closing=BEGIN)
    for text, ids in (("<begin>a", letters("a")), ("a", letters("a")), ("a<begin>", [*letters("a"), BEGIN]), ("", [])):
        assert tokenizer.encode_prompt(text) == [BEGIN, *ids, BEGIN]
    assert tokenizer.encode_prompt("<begin><begin>") == [BEGIN] * 3
    assert tokenizer.encode("<begin>a") == [BEGIN, BEGIN, *letters("a"), BEGIN]  # as transformers
    assert talker(None).encode_prompt("<begin>a") == [BEGIN, *letters("a")]


@pytest.mark.parametrize(("template", "written"), [(talk(""), []), ("{{ bos_token }}" + talk(""), [BEGIN])])
@pytest.mark.parametrize("add_bos", [None, True, False])
def test_a_begin_token_that_files_ask_for_comes_before_a_chat(tmp_path, template, written, add_bos):
    """Without the setting a chat is the template alone, as in transformers, also if a text begins with the token."""
    config = {"bos_token": "<begin>", "eos_token": "<stop>", "chat_template": template}
    config |= {} if add_bos is None else {"add_bos_token": add_bos}
    hugging_face(tmp_path / "model", config)
    model = byte_model(*SPECIAL)
    model.post_processor = processors.TemplateProcessing(single="<begin> $A", special_tokens=[("<begin>", BEGIN)])
    model.save(str(tmp_path / "model" / "tokenizer.json"))
    tokenizer = the_tokenizer(open_checkpoint(tmp_path / "model"))
    assert tokenizer.encode("a") == [*([] if add_bos is False else [BEGIN]), *letters("a")]
    expected = [*(written or ([BEGIN] if add_bos else [])), TURN, *letters("user: a"), TURN]
    said = [{"role": "user", "content": "a"}]
    assert tokenizer.encode_chat(said) == expected
    tokenizer.save(tmp_path / "saved")
    assert read_tokenizer(tmp_path / "saved").encode_chat(said) == expected


def test_a_chat_does_not_end_where_the_model_answers():
    """Some models' texts end with a token of their own, but a conversation goes on."""
    tokenizer = talker(talk(""), bos=BEGIN, closing=LAST)
    tokenizer.chat_bos = True
    assert tokenizer.encode("a") == [BEGIN, *letters("a"), LAST]
    assert tokenizer.encode_chat([{"role": "user", "content": "a"}]) == [BEGIN, TURN, *letters("user: a"), TURN]


def test_a_saved_tokenizer_begins_and_ends_as_before(tmp_path):
    first = talker(talk("<stop>"), bos=BEGIN, eos_ids=[LAST, 3], special={"eos_token": "<last>"})
    first.turn_end_ids = MORE, 9
    first.save(tmp_path)
    second = tokenizer_in(tmp_path)
    assert second is not None and first.chat_stop_ids == (LAST, 3, MORE, 9, STOP)
    for member in ("bos", "eos_ids", "turn_end_ids", "chat_bos", "chat_stop_ids"):
        assert getattr(second, member) == getattr(first, member), member


def test_added_tokens_have_the_numbers_of_their_file(tmp_path):
    """The library counts them from the size of the vocabulary on, also where that holds a greater number."""
    text = byte_model("<a>", "<b>").to_str()
    file = json.loads(text)
    file["model"]["vocab"] |= {"ab": 258}
    file["model"]["merges"] = [["a", "b"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(file))
    tokenizer = read_tokenizer(tmp_path / "tokenizer.json")
    assert tokenizer.encode("<a>ab<b>") == [256, 258, 257] and tokenizer.vocab_size == 259
    assert tokenizer.decode([256, 258, 257]) == "ab"
    tokenizer.save(tmp_path / "saved")
    assert read_tokenizer(tmp_path / "saved").encode("<a>ab<b>") == [256, 258, 257]


@pytest.mark.parametrize("template", ["a\ud800b", [{"name": "default", "template": "\udfff"}]])
def test_a_template_that_is_not_unicode_leaves_the_model_its_texts(tmp_path, template):
    tokenizer = the_tokenizer(hugging_face(tmp_path / "model", {"chat_template": template}))
    tokenizer.save(tmp_path / "saved")
    for one in (tokenizer, read_tokenizer(tmp_path / "saved")):
        assert one.encode("a") == letters("a")
        with pytest.raises(TokenizerError, match=r"^chat template: its text is not Unicode$"):
            one.encode_chat([{"role": "user", "content": "a"}])
    with pytest.raises(CheckpointError, match="surrogates not allowed"):
        hugging_face(tmp_path / "other", {"chat_template": "", "bos_token": "\ud800"})


def test_bytes_that_are_not_utf8_are_refused_and_ascii_locales_are_understood():
    tokenizer = talker(None)
    assert tokenizer.encode("é".encode().decode("ascii", "surrogateescape")) == tokenizer.encode("é") == letters("é")
    for text, place in (("caf\udce9", "byte 3"), ("a\ud800", "character 1"), ("\udcff", "byte 0")):
        with pytest.raises(TokenizerError, match=rf"^the text is not UTF-8 \({place}\): write it in UTF-8$"):
            tokenizer.encode(text)


def test_a_begin_token_that_the_tokenizer_alone_has_begins_no_text(tmp_path):
    write_hugging_face(tmp_path, replace(SHAPE, vocab_size=256), bos_token_id=None, eos_token_id=None)
    byte_model(*SPECIAL).save(str(tmp_path / "tokenizer.json"))
    config = {"bos_token": "<begin>", "eos_token": "<stop>", "add_bos_token": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    checkpoint = open_checkpoint(tmp_path)
    lacks = f"{tmp_path}: {{}} is {{}}, but the model has 256 tokens: it is left out"
    assert checkpoint.warnings == [lacks.format("bos_token_id", BEGIN), lacks.format("eos_token_id", STOP)]
    tokenizer = the_tokenizer(checkpoint)
    assert tokenizer.encode("a") == letters("a") and tokenizer.eos_ids == tokenizer.chat_stop_ids == ()
