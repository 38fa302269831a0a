"""The rules of the next word, on integers."""

from types import SimpleNamespace

import pytest

from hdl.engine.isa import RULES, Seq


def test_every_seq_has_a_rule():
    assert list(RULES) == list(Seq)


def walk(seq: Seq, counter: str, start: int, **state: int) -> list[int]:
    """The values of a counter until the word does not jump, and the value after that."""
    rule, value, values = RULES[seq], start, []
    while True:
        jumps = rule.jumps(SimpleNamespace(**state, **{counter: value}))
        value = (rule.again if jumps else rule.ends)(value)
        values.append(value)
        if not jumps:
            return values


@pytest.mark.parametrize(
    ("seq", "counter", "start", "state", "expected"),
    [
        (Seq.LOOP_I, "i", 0, {"last": 3}, [1, 2, 3, 0]),
        (Seq.LOOP_H, "h", 0, {"last": 0}, [0]),
        (Seq.LOOP_8, "i", 8, {}, [*range(9, 17)]),
        (Seq.REWIND_8, "i", 8, {}, [*range(9, 16), 8]),
        (Seq.LOOP_32, "i", 32, {}, [*range(33, 65)]),
        (Seq.REWIND_32, "i", 32, {}, [*range(33, 64), 32]),
        (Seq.LOOP_SUM, "p", 0, {"place": 2}, [1, 2, 0]),
        (Seq.LOOP_SCORE, "p", 0, {"beyond": 3}, [1, 2, 3, 0]),
        (Seq.LOOP_LAYER, "layer", 0, {"last_layer": 1}, [1, 2]),
        (Seq.PAUSE, "paused", 0, {"limit": 2}, [1, 2, 0]),
        (Seq.UNLESS_I, "i", 8, {"last": 7}, [0]),
    ],
)
def test_counters(seq, counter, start, state, expected):
    assert walk(seq, counter, start, **state) == expected
