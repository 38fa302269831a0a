"""Read-only memories: the only place where a model's numbers enter the hardware."""

from collections.abc import Sequence
from dataclasses import dataclass

from amaranth.hdl import Cat, ClockSignal, Instance, Module, Signal, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hdl.interface import rom_macro

SMALL_ROM_BITS = 256
"""A ROM of fewer bits is made of logic, because it would leave a block RAM almost empty."""


def address_bits(depth: int) -> int:
    """Width of an address of ``depth`` words; a memory of one word still has one address wire."""
    return max(1, (depth - 1).bit_length())


def _check_size(width: int, depth: int) -> None:
    if not isinstance(width, int) or width < 1:
        raise ValueError(f"width must be a positive integer, not {width!r}")
    if not isinstance(depth, int) or depth < 1:
        raise ValueError(f"depth must be a positive integer, not {depth!r}")


@dataclass(frozen=True)
class RomSpec:
    """A ROM with its contents in ``<name>.hex``: ``depth`` words of ``width`` bits, one hex word a line."""

    name: str
    width: int
    depth: int

    def __post_init__(self) -> None:
        _check_size(self.width, self.depth)


class RomPort(wiring.Signature):
    """A reader's view of ``lanes`` words that are read at one address; a reader has ``Out(RomPort(...))``.

    Members
    -------
    en, addr : Out    the words at ``addr`` appear on ``data`` after the ROM's ``latency`` cycles
    data : In(width).array(lanes)    holds while ``en`` is low; undefined until the first read

    Parameters
    ----------
    width : bits of a word
    depth : words that each ROM has
    lanes : ROMs that are read at the same address
    """

    def __init__(self, *, width: int, depth: int, lanes: int) -> None:
        super().__init__({"en": Out(1), "addr": Out(address_bits(depth)), "data": In(unsigned(width)).array(lanes)})


class Rom(wiring.Component):
    """data = the word at ``addr``, out of ``depth`` constant words of ``width`` bits.

    Latency: ``latency`` = 1 cycle.  Rate: a word a cycle.

    Parameters
    ----------
    width : bits of a word
    depth : number of words
    name : the contents are in ``<name>.hex``
    init : ``depth`` unsigned integers, which become part of the design.  Without them the module that ``rom_verilog`` writes
        reads ``<name>.hex``, and the design does not depend on the contents.

    Members
    -------
    addr : In
    en : In(1)
    data : Out(width)    the word at ``addr`` one cycle after ``en``; holds while ``en`` is low
    """

    latency = 1

    def __init__(self, *, width: int, depth: int, name: str, init: Sequence[int] | None = None) -> None:
        _check_size(width, depth)
        if init is not None:
            if len(init) != depth:
                raise ValueError(f"{name}: init must have {depth} words, not {len(init)}")
            for addr, word in enumerate(init):
                if type(word) is not int or not 0 <= word < 1 << width:
                    raise ValueError(f"{name}: word {addr} must be an int of {width} unsigned bits, not {word!r}")
        self.spec = RomSpec(name, width, depth)
        self._init = init
        super().__init__({"addr": In(address_bits(depth)), "en": In(1), "data": Out(width)})

    def elaborate(self, platform) -> Module:
        m = Module()
        if self._init is None:
            m.submodules.rom = Instance(
                f"rom_{self.spec.name}", i_clk=ClockSignal(), i_en=self.en, i_addr=self.addr, o_data=self.data
            )
            return m
        m.submodules.memory = memory = Memory(
            shape=unsigned(self.spec.width), depth=self.spec.depth, init=self._init, attrs={"ram_style": "block"}
        )
        read = memory.read_port()
        m.d.comb += [read.en.eq(self.en), read.addr.eq(self.addr), self.data.eq(read.data)]
        return m


PATH_BITS = 8 * 1024
"""The longest path of a ROM image in a simulation, in bits."""


def rom_verilog(name: str, width: int, depth: int, macro: str = rom_macro()) -> str:
    """The Verilog module ``rom_<name>`` that a ``Rom`` without ``init`` instantiates.

    The module reads ``<name>.hex`` in the folder that ``macro`` names, a string with a slash at its end.  Without the macro this is
    the folder ``rom`` beside the Verilog file: synthesis tools look for ``rom/<name>.hex`` from the file on, and a simulation
    takes the path of the file from ``__FILE__``.

    A simulation without the image would compute with unknown words, and so it ends with a message.  The last word shows whether
    the image was read to its end: it keeps both values that it is given, 0 and then all ones, only if nothing was read.  (The
    function ``$fopen`` takes no path of this type in SystemVerilog.)
    """
    _check_size(width, depth)
    style = "block" if width * depth >= SMALL_ROM_BITS else "logic"
    image, last = f"{name}.hex", f"mem[{depth - 1}]"
    default = f"rom/{image}"
    return f"""\
module rom_{name} (
  input clk,
  input en,
  input [{address_bits(depth) - 1}:0] addr,
  output reg [{width - 1}:0] data
);
  (* ram_style = "{style}" *)
  reg [{width - 1}:0] mem [0:{depth - 1}];
`ifdef SYNTHESIS
`ifdef {macro}
  initial $readmemh({{`{macro}, "{image}"}}, mem);
`else
  initial $readmemh("{default}", mem);
`endif
`else
  initial begin : image
    reg [{PATH_BITS - 1}:0] path;
`ifdef {macro}
    path = {{`{macro}, "{image}"}};
`else
    path = `__FILE__;
    while (path[7:0] != "/" && path[7:0] != 8'h00) path = path >> 8;
    path = {{path[{PATH_BITS - 8 * len(default) - 1}:0], "{default}"}};
`endif
    {last} = {{{width}{{1'b0}}}};
    $readmemh(path, mem);
    if ({last} == {{{width}{{1'b0}}}}) begin
      {last} = {{{width}{{1'b1}}}};
      $readmemh(path, mem);
      if ({last} == {{{width}{{1'b1}}}})
        $fatal(1, "%0s is missing or cut off: define {macro} as the folder of the ROM images, with a slash at its end", path);
    end
  end
`endif
  always @(posedge clk) if (en) data <= mem[addr];
endmodule
"""


class WeightRom(wiring.Component):
    """One ROM for each row lane, ``<name>_00``, ``<name>_01`` ..., all read at the same address.

    ``en`` and ``addr`` are registered, because the lanes are spread over the chip.

    Latency: ``latency`` = 2 cycles.  Rate: a word of each lane a cycle.

    Parameters
    ----------
    width : bits of a lane's word
    depth : words of a lane
    lanes : number of ROMs
    name : begins the names of the ROMs
    init : a list of ``depth`` words for each lane, or None for contents in files, as for ``Rom``

    Members
    -------
    port : In(RomPort)
    """

    latency = 2

    def __init__(
        self, *, width: int, depth: int, lanes: int, name: str = "weights", init: Sequence[Sequence[int]] | None = None
    ) -> None:
        self.specs = [RomSpec(f"{name}_{lane:02}", width, depth) for lane in range(lanes)]
        self._init = init or [None] * lanes
        super().__init__({"port": In(RomPort(width=width, depth=depth, lanes=lanes))})

    def elaborate(self, platform) -> Module:
        m = Module()
        en, addr = Signal(), Signal.like(self.port.addr, reset_less=True)
        m.d.sync += en.eq(self.port.en)
        with m.If(self.port.en):
            m.d.sync += addr.eq(self.port.addr)
        for spec, init, word in zip(self.specs, self._init, self.port.data, strict=True):
            m.submodules[spec.name] = rom = Rom(width=spec.width, depth=spec.depth, name=spec.name, init=init)
            m.d.comb += [rom.en.eq(en), rom.addr.eq(addr), word.eq(rom.data)]
        return m


class RowRom(wiring.Component):
    """One ROM whose word holds the small words of all row lanes, that of lane 0 in the low bits, and a register at its output.

    Latency: ``latency`` = 2 cycles.  Rate: a word a cycle.

    Parameters
    ----------
    width : bits of a lane's word
    depth : words of the ROM
    lanes : row lanes
    name : name of the ROM
    init : ``depth`` words of width * lanes bits, or None for contents in a file, as for ``Rom``

    Members
    -------
    port : In(RomPort)
    """

    latency = 2

    def __init__(self, *, width: int, depth: int, lanes: int, name: str = "rows", init: Sequence[int] | None = None) -> None:
        self.spec = RomSpec(name, width * lanes, depth)
        self._init = init
        super().__init__({"port": In(RomPort(width=width, depth=depth, lanes=lanes))})

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.rom = rom = Rom(width=self.spec.width, depth=self.spec.depth, name=self.spec.name, init=self._init)
        words = Signal.like(rom.data, reset_less=True)
        m.d.sync += words.eq(rom.data)
        m.d.comb += [rom.en.eq(self.port.en), rom.addr.eq(self.port.addr), Cat(*self.port.data).eq(words)]
        return m
