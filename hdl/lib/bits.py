"""Combinational pieces of the arithmetic: bit length, truncating shift, saturation, as expressions."""

from amaranth.hdl import Cat, Const, Mux, Value
from amaranth.utils import ceil_log2


def bitlen(value) -> Value:
    """Number of bits of an unsigned value; bitlen(0) = 0."""
    return _leading_one(Cat(Const(1, 1), value))


def _leading_one(value) -> Value:
    """Position of the leading one: a tree of halvings, its depth the logarithm of the width."""
    if len(value) == 1:
        return Const(0, 0)
    half = 1 << (ceil_log2(len(value)) - 1)
    low, high = value[:half], value[half:]
    return Mux(high.any(), Cat(_pad(_leading_one(high), ceil_log2(half)), Const(1, 1)), Cat(_leading_one(low), Const(0, 1)))


def _pad(value, width: int) -> Value:
    return Cat(value, Const(0, width - len(value)))


def magnitude(value) -> Value:
    """One's complement magnitude of a signed value, without its sign bit: value < 0 ? ~value : value."""
    value = Value.cast(value)
    return value[:-1] ^ value[-1].replicate(len(value) - 1)


def shift_right(value, shift, width: int, unit: int = 1) -> Value:
    """The low ``width`` bits, unsigned, of value >> (shift * unit).

    Large steps come first.  Each step then keeps only the bits that the smaller steps can still reach, so a shifter with a
    small ``width`` takes less than half the multiplexers of a full one.

    Parameters
    ----------
    value : the value to shift; a signed one shifts its sign in
    shift : unsigned; the shift in units
    width : bits of the result
    unit : bits of a unit, a power of two
    """
    value, shift = Value.cast(value), Value.cast(shift)
    for k in reversed(range(len(shift))):
        step = unit << k
        shifted = Mux(shift[k], value >> step, value)
        keep = width + step - unit
        # A value of fewer than ``keep`` bits stays signed, so that later steps extend its sign.
        value = shifted[:keep] if len(shifted) >= keep else shifted
    if value.shape().signed and len(value) < width:
        return Cat(value, value[-1].replicate(width - len(value)))
    return Cat(value, Const(0, max(0, width - len(value))))[:width]


def rshr(value, n: int) -> Value:
    """``value`` shifted right by ``n`` and rounded half up; n <= 0 shifts left, exactly (docs/arithmetic.md, section 1).

    The rounding is the carry into an adder of len(value) - n bits: (value >> n) + (bit n - 1 of value).  The result has
    one bit more than value >> n, since it may round up to the next power of two.
    """
    value = Value.cast(value)
    if n <= 0:
        return value << -n
    if n >= len(value):
        raise ValueError(f"n must be less than the {len(value)} bits of value, not {n!r}")
    kept = value[n:].as_signed() if value.shape().signed else value[n:]
    return kept + value[n - 1]


def saturate(value, width: int) -> Value:
    """A signed value clipped to ``width`` bits two's complement."""
    value = Value.cast(value)
    if len(value) <= width:
        return value
    sign, above = value[-1], value[width - 1 : -1]
    fits = ~(above ^ sign.replicate(len(above))).any()
    return Mux(fits, value[:width], Cat((~sign).replicate(width - 1), sign)).as_signed()
