# amaranth: UnusedElaboratable=no
"""Wide beats as narrow ones: every element once, in order, and the cycles that takes."""

import random

import pytest

import hdl.lib.narrow
from hdl.lib.narrow import Narrow
from tests.support.streams import collect, drive, simulate

SHAPES = [  # lanes, to, n
    (8, 4, 64),
    (8, 2, 61),
    (8, 1, 17),
    (4, 4, 12),
    (4, 2, 5),
    (8, 4, 4),
    (2, 1, 1),
]
WIDTH = 12


def beats(vector, lanes, rng):
    """Filled up with noise, which a narrow beat may hold only beyond the vector's end."""
    padded = vector + [rng.randrange(-2048, 2048) for _ in range(-len(vector) % lanes)]
    return [{"data": padded[k : k + lanes], "last": int(k + lanes >= len(padded))} for k in range(0, len(padded), lanes)]


def check(lanes, to, n, stall_in, stall_out):
    rng = random.Random(n)
    vectors = [[rng.choice((-2048, 2047, rng.randrange(-2048, 2048))) for _ in range(n)] for _ in range(5)]
    sent = [beat for vector in vectors for beat in beats(vector, lanes, rng)]
    times_in, times_out = [], []
    dut = Narrow(lanes=lanes, to=to, n=n, width=WIDTH)
    per_vector = -(-n // to)
    _, got = simulate(
        dut,
        lambda ctx: drive(ctx, dut.i, sent, stall_in, times=times_in),
        lambda ctx: collect(ctx, dut.o, 5 * per_vector, stall_out, times=times_out),
    )
    for k, vector in enumerate(vectors):
        of_vector = got[k * per_vector : (k + 1) * per_vector]
        assert [beat["last"] for beat in of_vector] == [0] * (per_vector - 1) + [1]
        assert [x for beat in of_vector for x in beat["data"]][:n] == vector, f"vector {k}"
    return times_in, times_out


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("stalls", [(0.4, 0.0), (0.0, 0.5), (0.4, 0.4)])
def test_every_element_once(shape, stalls):
    check(*shape, *stalls)


@pytest.mark.parametrize(("lanes", "to", "n"), SHAPES)
def test_a_narrow_beat_a_cycle(lanes, to, n):
    times_in, times_out = check(lanes, to, n, 0.0, 0.0)
    assert times_out == list(range(5 * -(-n // to)))
    assert times_in[-1] == times_out[-1] and len(times_in) == 5 * -(-n // lanes)


def test_bad_parameters():
    with pytest.raises(ValueError, match=r"to must divide lanes \(8\), not 3"):
        Narrow(lanes=8, to=3, n=8, width=WIDTH)


def test_a_beat_that_is_cut_short_is_caught(monkeypatch):
    """As if every last beat were complete."""
    monkeypatch.setattr(hdl.lib.narrow, "Mux", lambda test, yes, no: no if isinstance(no, int) and no == 3 else yes)
    with pytest.raises(AssertionError):
        check(8, 2, 61, 0.0, 0.0)
