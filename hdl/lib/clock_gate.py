"""Clock gates: a unit without a vector inside is not clocked.

An ASIC saves power and a simulator saves time, because it evaluates only the units that are clocked.  On an FPGA the gate is a
wire.  The chip does the same there, because a unit without work changes nothing that another unit can see.
"""

from amaranth.hdl import ClockDomain, ClockSignal, DomainRenamer, Instance, Module, ResetSignal, Signal
from amaranth.lib import stream, wiring

CLOCK_GATE_VERILOG = """\
// ``gated`` runs while ``en`` was high in the low half of ``clk`` before.  Synthesis for an FPGA gets a wire; an ASIC replaces
// the module by its library's integrated clock gate.
module clock_gate (
  input clk,
  input en,
  output gated
);
`ifdef SYNTHESIS
  assign gated = clk;
  wire unused = en;
`else
  reg open = 1'b1;
  always @(negedge clk) open <= en;
  assign gated = clk & open;
`endif
endmodule
"""


def _ends(port: stream.Interface):
    """Whether a vector ends in this cycle: with the beat that has ``last``, or with each beat if the payload has no ``last``."""
    layout = getattr(port.payload, "shape", lambda: None)()
    fields = dict(iter(layout)) if hasattr(layout, "__iter__") else {}
    moves = port.valid & port.ready
    return moves & port.payload.last if "last" in fields else moves


def add_gated(m: Module, name: str, unit: wiring.Component, wake=0) -> None:
    """Add ``unit`` as the submodule ``name`` and clock it only while it has work.

    The unit takes vectors on ``i`` and gives one vector on ``o`` for each, with at most 7 inside at once.  It is clocked while a
    beat is offered at ``i``, from a vector's first beat in to its last beat out, and while ``wake`` is high.  In all other
    cycles it has no result to give, so the stopped clock has the effect of a stall.

    Parameters
    ----------
    m : the module that the unit is added to
    name : the name of the submodule; the names of the gate and of the signals begin with it
    unit : a component with the streams ``i`` and ``o``
    wake : high in each cycle in which another input of the unit needs the clock
    """
    inside, within = Signal(3, name=f"{name}_inside"), Signal(name=f"{name}_within")
    starts, ends, leaves = (Signal(name=f"{name}_{what}") for what in ("starts", "ends", "leaves"))
    moves = unit.i.valid & unit.i.ready
    m.d.comb += [starts.eq(moves & ~within), ends.eq(_ends(unit.i)), leaves.eq(_ends(unit.o))]
    with m.If(moves):
        m.d.sync += within.eq(~ends)
    m.d.sync += inside.eq(inside + starts - leaves)

    domain = f"{name}_clock"
    m.domains += ClockDomain(domain, local=True)
    awake = Signal(name=f"{name}_awake")
    # The reset is registered in the unit's own domain, so that nothing of the unit depends on a clock that always runs.
    reset = Signal(init=1, reset_less=True, name=f"{name}_reset")
    m.d[domain] += reset.eq(ResetSignal())
    m.d.comb += [awake.eq(unit.i.valid | inside.any() | wake | ResetSignal() | reset), ResetSignal(domain).eq(reset)]
    m.submodules[f"{name}_gate"] = Instance("clock_gate", i_clk=ClockSignal(), i_en=awake, o_gated=ClockSignal(domain))
    m.submodules[name] = DomainRenamer(domain)(unit)
