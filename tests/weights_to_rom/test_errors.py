"""A message is one line that a terminal can print, whatever a damaged file puts into it."""

import pytest

from weights_to_rom.errors import HardwireError


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("model: holds é and 你好", "model: holds é and 你好"),
        ("two\nlines\r", r"two\nlines\r"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("half a pair: \ud83d", r"half a pair: \ud83d"),
        ("\u202eturned", r"\u202eturned"),
    ],
)
def test_a_message_is_one_printable_line(text, shown):
    assert str(HardwireError(text)) == shown
    shown.encode("utf-8")
