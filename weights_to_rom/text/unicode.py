"""Texts from outside, whose bytes need not be UTF-8."""

from weights_to_rom.text.errors import TokenizerError


def unicode_of(text: str) -> str:
    """Return a text without lone surrogates.

    Python passes on the bytes that it cannot decode as lone surrogates: those that are not UTF-8 and, in a locale that knows
    ASCII alone, all others.  The latter are UTF-8 after all.  Raises TokenizerError for the former.
    """
    try:
        return text.encode(errors="surrogateescape").decode()
    except UnicodeError as error:
        # Such bytes have no meaning that a tokenizer could encode, and replacing them would change the prompt in silence.
        place = f"byte {error.start}" if isinstance(error, UnicodeDecodeError) else f"character {getattr(error, 'start', 0)}"
        raise TokenizerError(f"the text is not UTF-8 ({place}): write it in UTF-8") from None
