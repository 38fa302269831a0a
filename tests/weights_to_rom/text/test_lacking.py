"""The characters that a vocabulary lacks."""

import pytest
from tokenizers import Tokenizer as Model
from tokenizers import decoders, models, pre_tokenizers

from weights_to_rom.readers.open import open_checkpoint
from weights_to_rom.text.lacking import lacking, lacking_line
from weights_to_rom.text.tokenizer import Tokenizer


def words(unk: str | None) -> Tokenizer:
    """A vocabulary of the letters a to c, with or without an unknown token."""
    letters = {"<unk>": 0, "a": 1, "b": 2, "c": 3, "\u2581": 4}
    model = Model(models.BPE(letters, [], unk_token=unk) if unk else models.BPE(letters, []))
    model.pre_tokenizer = pre_tokenizers.Metaspace()
    return Tokenizer(model)


@pytest.mark.parametrize("unk", ["<unk>", None])
def test_characters_that_are_dropped_or_become_unknown(unk):
    assert lacking(words(unk), "abc \u00e9d\u00e9 cab\u6771") == ["\u00e9", "d", "\u6771"]
    assert lacking(words(unk), "cab cab") == []


def test_a_vocabulary_of_characters_lacks_some():
    tokenizer = open_checkpoint("stories-tiny").tokenizer
    assert tokenizer is not None
    assert lacking(tokenizer, "Once upon a time") == []
    assert lacking(tokenizer, "7 \u00c9clairs!") == ["7", "\u00c9"]


def test_bytes_lack_nothing(page):
    alphabet = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    model = Model(models.BPE(alphabet, []))
    model.pre_tokenizer, model.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    assert lacking(Tokenizer(model), page) == []


def test_the_line_names_a_few():
    assert lacking_line(["\u00e9"]) == "the vocabulary lacks '\u00e9': the model does not see it"
    assert lacking_line(list("abcd"), most=2) == "the vocabulary lacks 'a', 'b' and 2 others: the model does not see them"
