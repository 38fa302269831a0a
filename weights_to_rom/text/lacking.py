"""The characters of a text that a vocabulary lacks."""

import unicodedata
from typing import TYPE_CHECKING

from weights_to_rom.text.errors import TokenizerError

if TYPE_CHECKING:
    from weights_to_rom.text.tokenizer import Tokenizer

SPACES = "\n\t"
"""White space that a text may lose without a word.  A tokenizer may turn it into a space, which is no loss."""


def lacking(tokenizer: "Tokenizer", text: str) -> list[str]:
    """Return the characters of a text that become the unknown token, or no token at all, in the order in which they first come.

    Control characters and combining marks are left out, because many tokenizers remove them on purpose.
    """
    unknown = _unknown(tokenizer)

    def lacks(character: str) -> bool:
        try:
            alone, within, without = (tokenizer.encode(text, bos=False) for text in (character, f"a{character}a", "aa"))
        except TokenizerError:
            return True
        return bool(unknown & set(alone)) or within == without

    seen = (c for c in dict.fromkeys(text) if c in SPACES or unicodedata.category(c)[0] not in "CMZ")
    return [c for c in seen if lacks(c)]


def lacking_line(characters: list[str], most: int = 8) -> str:
    """Return a line for a person that names the characters, ``most`` of them at most."""
    named = ", ".join(map(repr, characters[:most]))
    others = f" and {len(characters) - most} others" if len(characters) > most else ""
    return f"the vocabulary lacks {named}{others}: the model does not see {'it' if len(characters) == 1 else 'them'}"


def _unknown(tokenizer: "Tokenizer") -> set[int]:
    """Return the numbers of the unknown token, of which a vocabulary may have none."""
    names = (tokenizer.special.get("unk_token"), getattr(tokenizer.model.model, "unk_token", None))
    ids = {tokenizer.model.token_to_id(name) for name in names if isinstance(name, str)}
    return {i for i in ids if i is not None} | ({tokenizer.pieces.source.unk_id()} if tokenizer.pieces else set())
