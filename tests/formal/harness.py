# amaranth: UnusedElaboratable=no
"""What a proof is made of: a unit, inputs that the solver chooses, what is assumed of them and what is claimed."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType

from amaranth.asserts import AnyConst
from amaranth.back import rtlil
from amaranth.hdl import Assert, Assume, ClockDomain, Cover, Module, Signal, Value


class Harness:
    """``m`` holds the unit and a model of it.  With ``invariants`` false, as for seeded bugs and covers, only the
    claims are asserted, so that a counterexample names one of them."""

    def __init__(self, invariants: bool):
        self.invariants = invariants
        self.m = Module()
        self.m.domains.sync = self._sync = ClockDomain(reset_less=True)
        self._inputs = {}
        self.assertions = self.covers = 0

    def free(self, *inputs):
        """Inputs of the unit: anything in any cycle."""
        self._inputs |= {signal.name: (signal, None) for signal in map(Value.cast, inputs)}

    def arbitrary(self, limit: int, name: str) -> Signal:
        """A number below ``limit`` that never changes: what is proven for it is proven for each."""
        number = Signal(range(max(2, limit)), name=name)
        self.m.d.comb += number.eq(AnyConst(number.shape()))
        self.assume(number < limit)
        return number

    def before(self, value) -> Signal:
        """``value`` one cycle ago, zero in the first."""
        register = Signal(value.shape(), name="before")
        self.m.d.sync += register.eq(value)
        return register

    def assume(self, condition):
        self.m.d.comb += Assume(condition)

    def claim(self, name: str, condition):
        """Assert a property.  ``name`` says what is wrong when it fails."""
        self._check(Assert(condition), name)
        self.assertions += 1

    def invariant(self, name: str, condition):
        """Assert what induction needs and no user cares for."""
        if self.invariants:
            self.claim(f"invariant {name}", condition)

    def cover(self, name: str, condition):
        """Ask for a trace in which ``condition`` holds once."""
        self._check(Cover(condition), name)
        self.covers += 1

    def _check(self, statement, name):
        statement.src_loc = (name, 0)  # what the prover prints
        self.m.d.comb += statement

    def stays(self, stream):
        """The rule of a stream: an offered payload stays, unchanged, until it moves."""
        payload = Value.cast(stream.payload)
        waited = self.before(stream.valid & ~stream.ready)
        return implies(waited, stream.valid & (payload == self.before(payload)))

    def rtlil(self) -> str:
        return rtlil.convert(self.m, ports=self._inputs | {"clk": (self._sync.clk, None)})


def implies(condition, consequence):
    return ~Value.cast(condition).bool() | Value.cast(consequence).bool()


def registers(fragment) -> dict[str, Signal]:
    """A unit's own registers by name."""
    return {signal.name: signal for signal in fragment.statements["sync"]._lhs_signals()}


@dataclass(frozen=True)
class Bug:
    """The unit's source with ``old``, which stands there once, replaced by ``new``: ``claim`` must fail within
    ``depth`` cycles, for the shape of that name."""

    name: str
    old: str
    new: str
    claim: str
    shape: str
    depth: int


@dataclass(frozen=True)
class Proof:
    """``claims(model)`` of ``model(module, shape, invariants)``, for each of ``shapes`` (by name).

    mode "prove": by induction over ``depth`` cycles, from any state; "bmc": for the first ``depth`` cycles after
    reset; "cover": each of the covers is reached within them.
    """

    title: str
    module: ModuleType
    model: Callable[[ModuleType, tuple, bool], Harness]
    claims: Callable[[Harness], None]
    shapes: dict[str, tuple]
    mode: str
    depth: int
    bugs: Sequence[Bug] = ()

    def harness(self, shape: str) -> Harness:
        return self._claimed(self.module, shape, self.mode == "prove")

    def broken(self, bug: Bug) -> Harness:
        source = inspect.getsource(self.module)
        if source.count(bug.old) != 1:
            raise ValueError(
                f"{self.title}: bug {bug.name!r} replaces {bug.old!r}, which is in "
                f"{self.module.__name__} {source.count(bug.old)} times, not once"
            )
        module = ModuleType(self.module.__name__)
        exec(compile(source.replace(bug.old, bug.new), self.module.__file__, "exec"), module.__dict__)
        return self._claimed(module, bug.shape, False)

    def _claimed(self, module, shape, invariants):
        model = self.model(module, self.shapes[shape], invariants)
        self.claims(model)
        return model
