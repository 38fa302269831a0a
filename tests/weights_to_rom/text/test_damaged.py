"""Tokenizers and their settings that are damaged: whatever a library raises is one line."""

import json

import pytest
import tokenizers
from tokenizers import AddedToken, Regex, models, pre_tokenizers

from tests.fuzz.formats import SentencePiece
from weights_to_rom.text.errors import TokenizerError, library_errors
from weights_to_rom.text.open import read_tokenizer

PIECES = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), ("\u2581", -1.0, 1), ("a", -2.0, 1), ("\u2581a", -3.0, 1)]


def model_of(pieces):
    """A tokenizer.model without tokens of bytes."""
    return SentencePiece(pieces, {3: 2, 40: 0, 41: 1, 42: 2}).bytes()


@pytest.fixture
def folder(tmp_path):
    """A folder with a tokenizer.json that is right."""
    model = tokenizers.Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    model.add_special_tokens([AddedToken("<s>", special=True, normalized=False)])
    (tmp_path / "tokenizer.json").write_text(model.to_str())
    assert read_tokenizer(tmp_path).encode("ab") == [2]
    return tmp_path


def refused(path, message):
    with pytest.raises(TokenizerError, match=message) as caught:
        read_tokenizer(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eos_token_ids": ["x"]}, r"tokenizer_config\.json: eos_token_ids must be a list of token numbers, not 'x' \(entry 0\)"),
        ({"eos_token_ids": 2}, "eos_token_ids must be a list of token numbers, not 2"),
        ({"turn_end_ids": [-1]}, r"turn_end_ids must be a list of token numbers, not -1 \(entry 0\)"),
        ({"closing_id": "x"}, "closing_id must be a token number, not 'x'"),
        ({"add_bos_token": "yes"}, "add_bos_token must be true or false, not 'yes'"),
        ({"legacy": 1}, "legacy must be true or false, not 1"),
        ({"chat_template": 3}, "chat_template must be a text, or a list of objects with name and template, not 3"),
        ({"chat_template": [3]}, r"chat_template must be a text, or a list of objects"),
        ({"chat_template": [{"name": "default"}]}, "chat_template must be a text, or a list of objects"),
        ({"chat_template": [{"name": ["x"], "template": "y"}]}, "chat_template must be a text, or a list of objects"),
        ({"bos_token": "\ud800"}, "not JSON: .*surrogates not allowed"),
    ],
)
def test_settings(folder, settings, message):
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    refused(folder, message)


def test_a_template_that_is_not_utf8(folder):
    (folder / "chat_template.jinja").write_bytes("caf\u00e9".encode("latin-1"))
    refused(folder, r"chat_template\.jinja: not UTF-8: unexpected end of data at byte 3")


def test_a_tokenizer_that_is_not_utf8(folder):
    (folder / "tokenizer.json").write_bytes(b'{"x": "\xff"}')
    refused(folder, r"tokenizer\.json: not UTF-8: invalid start byte at byte 7")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model", "tokenizer.bin", "chat_template.jinja"])
def test_files_that_are_too_large(folder, name):
    """They hold nothing, which takes no room on the disk."""
    with (folder / name).open("wb") as file:
        file.truncate((64 << 20) + 1)
    path = folder / ("tokenizer.json" if name.endswith("jinja") else name)
    refused(path, rf"{name}: has 67108865 bytes, and no tokenizer has more than 67108864")


@pytest.mark.parametrize("score", [float("nan"), float("inf"), float("-inf")])
def test_scores_of_a_tokenizer_model(tmp_path, score):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(model_of(PIECES))
    assert read_tokenizer(path).encode("a") == [1, 5]
    path.write_bytes(model_of([*PIECES[:4], ("a", score, 1), PIECES[5]]))
    refused(path, r"tokenizer\.model: a sentencepiece model with a score that is not finite")


def test_pieces_that_are_not_utf8(tmp_path, capfd):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(model_of([*PIECES[:4], (b"\xff\xfe", -2.0, 1)]))
    refused(path, r"tokenizer\.model: (a sentencepiece model with pieces or rules that are not UTF-8|not a sentencepiece model)")
    assert capfd.readouterr() == ("", "")


def test_the_library_says_nothing_of_its_own(tmp_path, capfd):
    """It would warn of a piece that is a null character."""
    path = tmp_path / "tokenizer.model"
    path.write_bytes(SentencePiece([*PIECES, ("\0", -9.0, 1), *((f"<0x{i:02X}>", 0.0, 6) for i in range(256))]).bytes())
    assert read_tokenizer(path).encode("a")[0] == 1
    assert capfd.readouterr() == ("", "")


def test_a_text_that_the_library_refuses(tmp_path):
    """A unigram model without an unknown token."""
    path = tmp_path / "tokenizer.json"
    model = tokenizers.Tokenizer(models.Unigram([("a", -1.0), ("b", -2.0)], None, False))
    path.write_text(model.to_str())
    with pytest.raises(TokenizerError, match=r"the tokenizer cannot encode the text: .*unk_id"):
        read_tokenizer(path).encode("z")


def test_a_panic_of_the_library(tmp_path):
    """Its regular expressions end with a panic after ten million steps."""
    path = tmp_path / "tokenizer.json"
    model = tokenizers.Tokenizer(models.BPE({"a": 0, "!": 1}, []))
    model.pre_tokenizer = pre_tokenizers.Split(Regex(r"(\w|a)+$"), "isolated")
    path.write_text(model.to_str())
    with pytest.raises(TokenizerError, match=r"the tokenizer cannot encode the text: .*retry-limit"):
        read_tokenizer(path).encode("a" * 60 + "!")


def test_a_template_of_an_unknown_token(folder, capfd):
    """The library itself would load it, and panic at the first text."""
    path = folder / "tokenizer.json"
    raw = json.loads(path.read_text())
    single = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    template = {"type": "TemplateProcessing", "single": single,
                "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [3], "tokens": ["<s>"]}}}  # fmt: skip
    for processor in (template, {"type": "Sequence", "processors": [template]}):
        path.write_text(json.dumps(raw | {"post_processor": processor}))
        assert read_tokenizer(path).encode("ab") == [3, 2]
        wrong = json.dumps(raw | {"post_processor": processor}).replace('{"id": "<s>", "type_id"', '{"id": "<x>", "type_id"')
        path.write_text(wrong)
        refused(path, r"tokenizer\.json: its post-processor writes '<x>', which its special_tokens do not define")
    assert capfd.readouterr() == ("", "")


def test_an_interrupt_is_none_of_its_errors():
    with pytest.raises(KeyboardInterrupt), library_errors("x"):
        raise KeyboardInterrupt
