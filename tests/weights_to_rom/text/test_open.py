"""Which tokenizer file is which, and what the configuration of its folder changes."""

import json

import pytest
from tokenizers import Tokenizer, models, processors

from weights_to_rom.text.errors import TokenizerError
from weights_to_rom.text.open import read_tokenizer, tokenizer_in


def write_folder(folder, **config):
    model = Tokenizer(models.BPE({"a": 0, "<s>": 1, "</s>": 2}, []))
    model.add_special_tokens(["<s>", "</s>"])
    model.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_a_folder_without_a_tokenizer(tmp_path):
    assert tokenizer_in(tmp_path) is None
    with pytest.raises(TokenizerError, match="holds neither tokenizer"):
        read_tokenizer(tmp_path)


def test_special_tokens_come_from_the_configuration(tmp_path):
    folder = write_folder(
        tmp_path, bos_token={"content": "<s>"}, eos_token="</s>", add_bos_token=True, chat_template="{{ eos_token }}"
    )
    for path in (folder, folder / "tokenizer.json"):
        tokenizer = read_tokenizer(path)
        assert (tokenizer.bos, tokenizer.eos_ids) == (1, (2,))
        assert tokenizer.encode("aa") == [1, 0, 0]
        assert tokenizer.chat([]) == "</s>"


def test_the_older_file_prevails_unless_the_newer_list_is_there(tmp_path):
    # As in transformers 4 and 5.
    folder = write_folder(tmp_path, eos_token="</s>")
    (folder / "special_tokens_map.json").write_text('{"eos_token": "a"}')
    assert read_tokenizer(folder).eos_ids == (0,)
    write_folder(tmp_path, eos_token="</s>", added_tokens_decoder={"2": {"content": "</s>", "special": True}})
    assert read_tokenizer(folder).eos_ids == (2,)


def test_a_template_of_its_own_file_wins(tmp_path):
    write_folder(tmp_path, chat_template=[{"name": "default", "template": "one"}, {"name": "other", "template": "two"}])
    assert read_tokenizer(tmp_path).chat([]) == "one"
    (tmp_path / "chat_template.jinja").write_text("three")
    assert read_tokenizer(tmp_path).chat([]) == "three"


@pytest.mark.parametrize(("content", "message"), [("{", "not JSON"), ("[]", "not a JSON object")])
def test_a_damaged_configuration_is_named(tmp_path, content, message):
    write_folder(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(TokenizerError, match=rf"tokenizer_config\.json: {message}"):
        read_tokenizer(tmp_path)


def test_a_file_of_another_kind(tmp_path):
    (tmp_path / "vocab.txt").write_text("a")
    with pytest.raises(TokenizerError, match=r"vocab\.txt: not a tokenizer\.json"):
        read_tokenizer(tmp_path / "vocab.txt")


def test_a_begin_token_of_a_vocabulary_without_latin_letters(tmp_path):
    model = Tokenizer(models.BPE({"<s>": 0, "我": 1}, []))
    model.add_special_tokens(["<s>"])
    model.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    model.save(str(tmp_path / "tokenizer.json"))
    tokenizer = read_tokenizer(tmp_path)
    assert (tokenizer.encode("我"), tokenizer.closing) == ([0, 1], None)
