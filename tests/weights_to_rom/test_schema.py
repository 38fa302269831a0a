"""Fields are checked for type and range, and a message names the field, the right values and the wrong one."""

import math

import pytest
from pydantic import Field

from weights_to_rom.errors import HardwireError
from weights_to_rom.schema import Count, Finite, Flag, Numbers, Positive, Schema, Text, Texts, TokenIds, checked, short


class OwnError(HardwireError):
    pass


class Example(Schema):
    size: Count
    heads: Count | None = Field(None, alias="some.heads")
    eps: Positive = 1e-6
    shift: Finite = 0.0
    name: Text = "x"
    tied: Flag = False
    ends: TokenIds = 0
    tokens: Texts | None = None
    scores: Numbers | None = None


def test_values_and_defaults():
    found = checked(
        Example, {"size": 3, "some.heads": 2, "eps": 1, "ends": [1, 2], "tokens": None, "more": object()}, "f", OwnError
    )
    assert (found.size, found.heads, found.eps, found.ends, found.tokens) == (3, 2, 1.0, [1, 2], None)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "f: size is missing"),
        ({"size": None}, "f: size is missing"),
        ({"size": 0}, "f: size must be an integer from 1 to 2147483647, not 0"),
        ({"size": 2**31}, "f: size must be an integer from 1 to 2147483647, not 2147483648"),
        ({"size": True}, "f: size must be an integer from 1 to 2147483647, not True"),
        ({"size": 3.0}, "f: size must be an integer from 1 to 2147483647, not 3.0"),
        ({"size": "3"}, "f: size must be an integer from 1 to 2147483647, not '3'"),
        ({"some.heads": [1]}, "f: some.heads must be an integer from 1 to 2147483647, not [1]"),
        ({"eps": 0.0}, "f: eps must be a positive finite number, not 0.0"),
        ({"eps": math.nan}, "f: eps must be a positive finite number, not nan"),
        ({"eps": math.inf}, "f: eps must be a positive finite number, not inf"),
        ({"shift": -math.inf}, "f: shift must be a finite number, not -inf"),
        ({"shift": 10**400}, f"f: shift must be a finite number, not 1{'0' * 17}...{'0' * 19}"),
        ({"name": 1}, "f: name must be a text, not 1"),
        ({"tied": 1}, "f: tied must be true or false, not 1"),
        ({"ends": [1, "x"]}, "f: ends must be a token number or a list of them, not [1, 'x']"),
        ({"tokens": "ab"}, "f: tokens must be a list of texts, not 'ab'"),
        ({"tokens": ["a", 1, 2]}, "f: tokens must be a list of texts, not 1 (entry 1)"),
        ({"scores": [0.5, math.nan]}, "f: scores must be a list of finite numbers, not nan (entry 1)"),
    ],
)
def test_the_first_wrong_field_is_named(fields, message):
    with pytest.raises(OwnError) as caught:
        checked(Example, {"size": 1} | fields if fields else {}, "f", OwnError)
    assert str(caught.value) == message


def test_values_in_messages_are_short():
    deep: list = []
    for _ in range(5000):
        deep = [deep]
    for value in ("x" * 10**6, list(range(10**6)), {str(i): i for i in range(10**5)}, deep):
        assert len(short(value)) <= 60
    assert short("abc") == "'abc'"
