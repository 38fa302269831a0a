"""Tokens that the files of a model declare are whole, whichever file it is."""

import json

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from tests.support.tokens import BASE
from weights_to_rom.text.added_tokens import Splitter
from weights_to_rom.text.errors import TokenizerError
from weights_to_rom.text.open import read_tokenizer
from weights_to_rom.text.sentencepieces import BYTE, CONTROL, NORMAL, SPACE, UNKNOWN, USER_DEFINED, sentencepiece_model

MARK = "<|turn|>"


def test_a_text_is_cut_at_its_added_tokens():
    splitter = Splitter(
        {
            7: AddedToken("<l>", lstrip=True),
            9: AddedToken("cat", single_word=True),
            4: AddedToken("<r>", rstrip=True, special=True),
            5: AddedToken("<<l>", normalized=False),
        }
    )
    assert splitter.split("x <l> y") == ["x", 7, " y"]
    assert splitter.split("cat concat cat.") == [9, " concat ", 9, "."]
    assert splitter.split("🐉 <r>  \n🐲<l><l>") == ["🐉 ", 4, "🐲", 7, 7]
    assert splitter.split("<<l><l>") == [5, 7]
    assert splitter.split("") == []
    assert Splitter({}).split("<l>") == ["<l>"]


LETTERS = ["a", "b", "<", ">", "|", "t", "u", "r", "n", "e", "o"]


def json_folder(folder, vocabulary=(MARK,), added=()):
    """A tokenizer.json of letters.  The mark is an ordinary entry of the vocabulary, to which no merges lead."""
    model = tokenizers.Tokenizer(
        models.BPE({token: i for i, token in enumerate([*LETTERS, "Ġ", "Ċ", "ab", *vocabulary])}, [("a", "b")])
    )
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    model.add_tokens(list(added))
    model.save(str(folder / "tokenizer.json"))
    return 14


def model_folder(folder, kind=NORMAL):
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), SPACE, *LETTERS, MARK]
    kinds = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * 12, kind]
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(tokens, [0.0] * len(tokens), kinds))
    return len(tokens) - 1


def write(folder, **files):
    for name, value in files.items():
        (folder / name.replace("__", ".")).write_text(json.dumps(value))


FLAGS = dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), False)
WAYS = {
    "its number": lambda n: {"tokenizer_config__json": {"added_tokens_decoder": {str(n): {"content": MARK, **FLAGS}}}},
    "a name": lambda n: {"tokenizer_config__json": {"eos_token": MARK}},
    "a name and flags": lambda n: {"tokenizer_config__json": {"pad_token": {"content": MARK, **FLAGS}}},
    "a name of its own": lambda n: {"tokenizer_config__json": {"turn_token": MARK}},
    "a list": lambda n: {"tokenizer_config__json": {"additional_special_tokens": [MARK]}},
    "a list of objects": lambda n: {"tokenizer_config__json": {"extra_special_tokens": [{"content": MARK, **FLAGS}]}},
    "an object of names": lambda n: {"tokenizer_config__json": {"extra_special_tokens": {"turn": MARK}}},
    "the map": lambda n: {"special_tokens_map__json": {"eos_token": {"content": MARK, **FLAGS}}},
    "the map's list": lambda n: {"special_tokens_map__json": {"additional_special_tokens": [MARK]}},
    "added_tokens.json": lambda n: {"added_tokens__json": {MARK: n}},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("make", [json_folder, model_folder])
def test_a_declared_token_is_whole(tmp_path, make, way):
    number = make(tmp_path)
    assert number not in read_tokenizer(tmp_path).encode(f"a{MARK}b")
    write(tmp_path, **WAYS[way](number))
    tokenizer = read_tokenizer(tmp_path)
    ids = tokenizer.encode(f"a{MARK}{MARK}ab", bos=False)
    assert ids.count(number) == 2
    plain = tokenizer.encode("a", bos=False)
    assert ids == [*plain, number, number, *tokenizer.encode("ab", bos=False)]
    # A compiled model has files of its own.
    tokenizer.save(tmp_path / "saved")
    assert read_tokenizer(tmp_path / "saved").encode(f"a{MARK}{MARK}ab", bos=False) == ids


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("make", [json_folder, model_folder])
def test_a_token_that_the_vocabulary_lacks_follows_it(tmp_path, make, way):
    number = make(tmp_path) + 1
    files = {name: json.loads(json.dumps(value).replace(MARK, "<new>")) for name, value in WAYS[way](number).items()}
    write(tmp_path, **files)
    tokenizer = read_tokenizer(tmp_path)
    assert number in tokenizer.encode("a<new>b")
    assert tokenizer.vocab_size == number + 1 and tokenizer.base_size == number


def test_a_placeholder_has_the_text_that_the_configuration_gives_it(tmp_path):
    number = model_folder(tmp_path)
    numbered = {str(number): {"content": "<|im_start|>", **FLAGS, "special": True}, "2": {"content": "</s>", "special": True}}
    write(tmp_path, tokenizer_config__json={"added_tokens_decoder": numbered})
    tokenizer = read_tokenizer(tmp_path)
    assert tokenizer.encode("a<|im_start|>b", bos=False).count(number) == 1
    assert tokenizer.vocab_size == number + 1
    assert tokenizer.model.id_to_token(number) == "<|im_start|>"
    tokenizer.save(tmp_path / "saved")
    assert read_tokenizer(tmp_path / "saved").encode("a<|im_start|>b") == tokenizer.encode("a<|im_start|>b")


def test_user_defined_and_control_pieces_are_whole(tmp_path):
    for kind in (USER_DEFINED, CONTROL):
        number = model_folder(tmp_path, kind)
        tokenizer = read_tokenizer(tmp_path)
        assert tokenizer.encode(f"a{MARK}b", bos=False).count(number) == 1
        assert (MARK in tokenizer.decode([number])) == (kind == USER_DEFINED)


@pytest.mark.parametrize("make", [json_folder, model_folder])
@pytest.mark.parametrize(
    ("flag", "text", "same"),
    [("lstrip", f"a  {MARK}b", f"a{MARK}b"), ("rstrip", f"a{MARK} \n b", f"a{MARK}b"), ("single_word", f"a{MARK[:-1]}", None)],
)
def test_flags_count(tmp_path, make, flag, text, same):
    number = make(tmp_path)
    entry = {"content": MARK, **FLAGS, flag: True}
    write(tmp_path, tokenizer_config__json={"added_tokens_decoder": {str(number): entry}})
    tokenizer = read_tokenizer(tmp_path)
    if same is None:
        assert number in tokenizer.encode(f"a {MARK} b")
        assert number not in tokenizer.encode(f"a{MARK}b")
        return
    assert tokenizer.encode(text) == tokenizer.encode(same)
    write(tmp_path, tokenizer_config__json={"added_tokens_decoder": {str(number): {**entry, flag: False}}})
    assert len(read_tokenizer(tmp_path).encode(text)) > len(tokenizer.encode(text))


def test_flags_of_the_configuration_prevail_over_those_of_tokenizer_json(tmp_path):
    json_folder(tmp_path, added=[AddedToken(MARK, lstrip=True)])
    assert read_tokenizer(tmp_path).encode(f"a {MARK}") == [0, 14]
    write(tmp_path, tokenizer_config__json={"added_tokens_decoder": {"14": {"content": MARK, **FLAGS}}})
    assert read_tokenizer(tmp_path).encode(f"a {MARK}") == [0, 11, 14]


def test_flags_of_tokenizer_json_prevail_over_added_tokens_json(tmp_path):
    json_folder(tmp_path, added=[AddedToken(MARK, lstrip=True)])
    write(tmp_path, added_tokens__json={MARK: 14})
    assert read_tokenizer(tmp_path).encode(f"a {MARK}") == [0, 14]
    write(tmp_path, tokenizer_config__json={"eos_token": {"content": MARK, **FLAGS}})
    assert read_tokenizer(tmp_path).encode(f"a {MARK}") == [0, 14]


def test_a_token_that_is_declared_twice_has_the_flags_of_its_own_name(tmp_path):
    json_folder(tmp_path)
    both = {"eos_token": {"content": MARK, **FLAGS, "rstrip": True}, "additional_special_tokens": [{"content": MARK, **FLAGS}]}
    write(tmp_path, tokenizer_config__json=both)
    assert read_tokenizer(tmp_path).encode(f"{MARK} a") == [14, 0]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"eos_token": 7}, r"eos_token: a token must be a text or an object with content, not 7"),
        ({"eos_token": {"content": None}}, r"eos_token: a token must be a text or an object"),
        ({"additional_special_tokens": "<a>"}, r"additional_special_tokens must be a list, not '<a>'"),
        ({"additional_special_tokens": [["<a>"]]}, r"additional_special_tokens: a token must be"),
        ({"added_tokens_decoder": {"twelve": {"content": MARK}}}, r"added_tokens_decoder must map token numbers to tokens"),
        ({"added_tokens_decoder": [MARK]}, r"added_tokens_decoder must map token numbers to tokens"),
        (
            {"added_tokens_decoder": {"14": {"content": MARK, "lstrip": "no"}}},
            r"lstrip of '<\|turn\|>' must be true or false, not 'no'",
        ),
        ({"added_tokens_decoder": {"11": {"content": MARK}}}, r"its configuration has '<\|turn\|>' as 11, not 14"),
        ({"add_bos_token": "yes"}, r"add_bos_token must be true or false, not 'yes'"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_named(tmp_path, config, message):
    json_folder(tmp_path)
    write(tmp_path, tokenizer_config__json=config)
    with pytest.raises(TokenizerError, match=message) as error:
        read_tokenizer(tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_a_bpe_without_merges_is_refused(tmp_path):
    model = json.loads((BASE / "tokenizer.json").read_text())
    model["model"] |= {"merges": [], "ignore_merges": False}
    write(tmp_path, tokenizer__json=model)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: its BPE has no merges.* --tokenizer"):
        read_tokenizer(tmp_path)
    # With this, a word that is a token needs no merges.
    model["model"]["ignore_merges"] = True
    write(tmp_path, tokenizer__json=model)
    assert read_tokenizer(tmp_path).encode("argument") != []
    # A vocabulary of single letters needs none either.
    json_folder(tmp_path, vocabulary=())
    model = json.loads((tmp_path / "tokenizer.json").read_text())
    model["model"]["merges"] = []
    del model["model"]["vocab"]["ab"]
    write(tmp_path, tokenizer__json=model)
    assert read_tokenizer(tmp_path).encode("ab") == [0, 1]
