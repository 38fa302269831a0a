"""Memories without contents, as Verilog modules: a word is unknown until it is written."""

from amaranth.hdl import ClockSignal, Instance, Module, Value
from amaranth.lib.memory import Memory

from hdl.lib.rom import address_bits

NEVER_BOTH = {"no_rw_check": 1}
"""An attribute of a memory: no cycle reads and writes the same address, so Yosys need not add a bypass."""


class VerilogPlatform:
    """The Amaranth platform for writing Verilog.

    A memory without contents that has one write port and one read port becomes an instance of a module ``ram_<w>x<d>``.  The
    text then does not grow with the depth, and does not give an SRAM a first value.  ``verilog`` is the text of these modules.
    Amaranth itself writes all other memories: tables, and memories with more ports.
    """

    def __init__(self):
        self._modules: dict[str, str] = {}

    @property
    def verilog(self) -> str:
        return "".join(f"\n{text}" for _, text in sorted(self._modules.items()))

    def get_memory(self, memory: Memory):
        """Amaranth's hook: the module that stands for ``memory``."""
        writes, reads = memory.write_ports, memory.read_ports
        if len(writes) != 1 or len(reads) != 1 or any(map(_contents, memory.init)):
            return memory.elaborate(None)
        (write,), (read,) = writes, reads
        if len(write.en) != 1 or read.transparent_for or read.domain not in ("comb", write.domain):
            return memory.elaborate(None)
        width, clocked = len(Value.cast(write.data)), read.domain != "comb"
        apart = NEVER_BOTH.items() <= memory.attrs.items()
        name = f"ram_{width}x{memory.depth}" + ("" if clocked else "_async") + ("_apart" if apart else "")
        self._modules[name] = _ram_verilog(name, width, memory.depth, clocked, apart)
        m = Module()
        enable = {"i_re": read.en} if clocked else {}
        m.submodules.ram = Instance(
            name,
            i_clk=ClockSignal(write.domain),
            i_we=write.en,
            i_waddr=write.addr,
            i_wdata=write.data,
            i_raddr=read.addr,
            o_rdata=read.data,
            **enable,
        )
        return m


def _contents(word) -> bool:
    """Whether a word of a memory's ``init`` is not zero; a word of a structure is None until it is given."""
    return word is not None and (not isinstance(word, int) or word != 0)


def _ram_verilog(name: str, width: int, depth: int, clocked: bool, apart: bool) -> str:
    top, read = address_bits(depth) - 1, "reg" if clocked else "wire"
    lines = [
        f"module {name} (",
        "  input clk,",
        "  input we,",
        f"  input [{top}:0] waddr,",
        f"  input [{width - 1}:0] wdata,",
        *(["  input re,"] if clocked else []),
        f"  input [{top}:0] raddr,",
        f"  output {read} [{width - 1}:0] rdata",
        ");",
        f"  {'(* no_rw_check *) ' if apart else ''}reg [{width - 1}:0] mem [0:{depth - 1}];",
        "  always @(posedge clk) if (we) mem[waddr] <= wdata;",
        "  always @(posedge clk) if (re) rdata <= mem[raddr];" if clocked else "  assign rdata = mem[raddr];",
        "endmodule",
    ]
    return "\n".join(lines) + "\n"
