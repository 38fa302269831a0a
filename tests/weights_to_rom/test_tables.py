"""The tables are the formulas of docs/arithmetic.md, rounded correctly: here with 50 decimal digits.

Where numpy's last bit could decide between two entries, another machine might build another chip.
"""

from decimal import ROUND_HALF_EVEN, Decimal, localcontext

import pytest

from weights_to_rom.tables import exp2_table, gumbel_table, log2_table, rsqrt_table, silu_tables, sine_table

PI = Decimal("3.14159265358979323846264338327950288419716939937510")


@pytest.fixture(autouse=True)
def fifty_digits():
    with localcontext() as context:
        context.prec = 50
        yield


def rint(x: Decimal) -> int:
    return int(x.to_integral_value(ROUND_HALF_EVEN))


def log2(x: Decimal) -> Decimal:
    return x.ln() / Decimal(2).ln()


def sine(x: Decimal) -> Decimal:
    """Taylor's series, for 0 <= x < 2."""
    term, total, n = x, Decimal(0), 1
    while abs(term) > Decimal("1e-45"):
        total, term, n = total + term, -term * x * x / ((n + 1) * (n + 2)), n + 2
    return total


def test_rsqrt():
    table = rsqrt_table()
    assert table == [rint(2**15 / (2**o * (1 + (Decimal(i) + Decimal("0.5")) / 64)).sqrt()) for o in (0, 1) for i in range(64)]
    assert len(table) == 128 and min(table) > 2**14 and max(table) < 2**15  # 15 bits, the top one always set


@pytest.mark.parametrize("bits", [4, 10, 11])
def test_sine(bits):
    n = 1 << bits
    table = sine_table(bits)
    assert table == [min(32767, rint(2**15 * sine((Decimal(i) + Decimal("0.5")) * PI / 2 / n))) for i in range(n)]
    assert table == sorted(table) and table[0] > 0 and table[-1] <= 32767


def test_exp2():
    table = exp2_table()
    assert table == [rint(2**15 * Decimal(2) ** (Decimal(f) / 64)) for f in range(64)]
    assert table[0] == 1 << 15 and table[-1] < 1 << 16


def test_silu():
    def value(i: int) -> int:
        x = Decimal(i) / 16 - 8
        return rint(2**12 * x / (1 + (-x).exp()))

    values, steps = silu_tables()
    assert values == [value(i) for i in range(256)]
    assert steps == [value(i + 1) - value(i) for i in range(256)]
    assert all(-(1 << 15) <= v < 1 << 15 for v in values) and all(-(1 << 9) <= d < 1 << 9 for d in steps)


def test_log2():
    table = log2_table()
    assert table == [rint(2**12 * log2(1 + (Decimal(i) + Decimal("0.5")) / 256)) for i in range(256)]
    assert table[0] > 0 and table[-1] < 1 << 12


def test_gumbel():
    table = gumbel_table()
    z = [(Decimal(i) + Decimal("0.5")) / 128 for i in range(64)]
    assert table == [rint(2**12 * log2(-log2(1 - x) / x)) for x in z]
    assert table[0] > 0 and table[-1] < 1 << 13
