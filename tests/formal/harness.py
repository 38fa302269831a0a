# amaranth: UnusedElaboratable=no
"""Parts of a proof: a unit, inputs that the solver chooses, assumptions about them, and claims about the unit."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType

from amaranth.asserts import AnyConst
from amaranth.back import rtlil
from amaranth.hdl import Assert, Assume, ClockDomain, Cover, Module, Signal, Value


class Harness:
    """A module ``m`` that holds a unit and a model of it, with assumptions and assertions.

    Parameters
    ----------
    invariants : assert the invariants that induction needs, too.  Seeded bugs and covers go without them, so that a
        counterexample names one of the claims.
    """

    def __init__(self, invariants: bool):
        self.invariants = invariants
        self.m = Module()
        self.m.domains.sync = self._sync = ClockDomain(reset_less=True)
        self._inputs = {}
        self.assertions = self.covers = 0

    def free(self, *inputs):
        """Let the solver choose these inputs of the unit anew in each cycle."""
        self._inputs |= {signal.name: (signal, None) for signal in map(Value.cast, inputs)}

    def arbitrary(self, limit: int, name: str) -> Signal:
        """A constant below ``limit`` that the solver chooses: a proof about it is a proof about every such number."""
        number = Signal(range(max(2, limit)), name=name)
        self.m.d.comb += number.eq(AnyConst(number.shape()))
        self.assume(number < limit)
        return number

    def before(self, value) -> Signal:
        """``value`` one cycle ago; 0 in the first cycle."""
        register = Signal(value.shape(), name="before")
        self.m.d.sync += register.eq(value)
        return register

    def assume(self, condition):
        self.m.d.comb += Assume(condition)

    def claim(self, name: str, condition):
        """Assert a property; ``name`` describes its failure."""
        self._check(Assert(condition), name)
        self.assertions += 1

    def invariant(self, name: str, condition):
        """Assert a property of the unit's registers that only induction needs."""
        if self.invariants:
            self.claim(f"invariant {name}", condition)

    def cover(self, name: str, condition):
        """Ask the solver for a trace in which ``condition`` holds once."""
        self._check(Cover(condition), name)
        self.covers += 1

    def _check(self, statement, name):
        statement.src_loc = (name, 0)  # the prover prints it
        self.m.d.comb += statement

    def stays(self, stream):
        """The rule of streams: an offered payload stays unchanged until it moves."""
        payload = Value.cast(stream.payload)
        waited = self.before(stream.valid & ~stream.ready)
        return implies(waited, stream.valid & (payload == self.before(payload)))

    def rtlil(self) -> str:
        return rtlil.convert(self.m, ports=self._inputs | {"clk": (self._sync.clk, None)})


def implies(condition, consequence):
    return ~Value.cast(condition).bool() | Value.cast(consequence).bool()


def registers(fragment) -> dict[str, Signal]:
    """The registers of a unit by name, without those of its submodules."""
    return {signal.name: signal for signal in fragment.statements["sync"]._lhs_signals()}


@dataclass(frozen=True)
class Bug:
    """A seeded bug: in the unit's source ``new`` replaces ``old``, which occurs once.

    The counterexample must violate ``claim`` within ``depth`` cycles, for the shape of the given name.
    """

    name: str
    old: str
    new: str
    claim: str
    shape: str
    depth: int


@dataclass(frozen=True)
class Proof:
    """A proof of ``claims(model)``, where model = ``model(module, shape, invariants)``, for each of ``shapes`` by name.

    mode "prove": by k-induction of ``depth`` cycles, which holds for any length of time; "bmc": for the first ``depth`` cycles
    after reset; "cover": every cover is reached within ``depth`` cycles.  Each of ``bugs`` must be found.
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
