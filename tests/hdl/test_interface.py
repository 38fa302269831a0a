"""Layouts of the chip's edge: packed fields are found again, and values that do not fit are refused."""

import random

import pytest

from hdl.interface import COMMAND, LOAD_REPLY, LOAD_WORD, REPLY


@pytest.mark.parametrize("layout", [COMMAND, REPLY, LOAD_WORD, LOAD_REPLY], ids=["command", "reply", "load word", "load reply"])
def test_pack_and_unpack(layout):
    rng = random.Random(layout.size)
    for _ in range(100):
        values = {name: rng.choice((0, (1 << width) - 1, rng.getrandbits(width))) for name, width in layout.widths.items()}
        word, offset = layout.pack(**values), 0
        for name, width in layout.widths.items():
            assert word >> offset & ((1 << width) - 1) == values[name]
            offset += width
        assert word >> offset == 0
        assert layout.unpack(word) == values
    assert layout.pack() == 0
    assert layout.size == sum(layout.widths.values())


def test_a_value_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="adapter must be 0 to 15, not 16"):
        COMMAND.pack(adapter=16)
    with pytest.raises(ValueError, match="token must be 0 to 4294967295, not -1"):
        COMMAND.pack(token=-1)
    with pytest.raises(ValueError, match="there is no field tokens: there are token, sequence"):
        COMMAND.pack(tokens=1)
