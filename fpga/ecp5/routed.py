"""Turn a placed ECP5 netlist into Verilog that simulates the board cell by cell."""

import json
from collections.abc import Iterator

from fpga.ecp5.readback import UNITS
from fpga.job import ROUTED_BOARD, Placed
from synth.run import BuildError


def routed_verilog(placed: Placed) -> str:
    """Return a module ``board`` that simulates the placed netlist, with statements for every cell.

    Flip-flops start in the state after configuration, and ``rst`` is not connected.  ``clk`` takes the place of the PLL's output.
    Raises BuildError for a cell, or a mode of a cell, that has no model here.
    """
    (top,) = json.loads(placed.netlist.read_text())["modules"].values()
    (clock,) = (cell["connections"]["CLKO"][0] for cell in top["cells"].values() if cell["type"] == "DCCA")
    ports = {name: port["bits"][0] for name, port in top["ports"].items()}
    nets = sorted({bit for cell in top["cells"].values() for bits in cell["connections"].values() for bit in bits})
    lines, changed = [], []
    held = {
        cell["connections"]["Q"][0]: _flag(cell, "REGSET", "SET") for cell in top["cells"].values() if cell["type"] == "TRELLIS_FF"
    }
    lines += [f"  reg n{bit} = {held[bit]};" if bit in held else f"  wire n{bit};" for bit in nets]
    for number, (name, cell) in enumerate(top["cells"].items()):
        for clocked in ("CLK", "WCK", "CLKA", "CLKB"):
            if cell["connections"].get(clocked) not in (None, [], [clock]):
                raise BuildError(f"{name}: has a clock of its own, which is not modelled")
        if cell["type"] not in MODELS:
            raise BuildError(f"{name}: there is no model of a {cell['type']}")
        try:
            for line in MODELS[cell["type"]](cell, f"c{number}"):
                (changed if line.startswith("if") else lines).append("    " + line)
        except ValueError as error:
            raise BuildError(f"{name}: {error}, which is not modelled") from None
    return "\n".join(
        (
            ROUTED_BOARD,
            *lines,
            f"  assign n{ports['clk']} = clk;",
            f"  assign n{ports['rx']} = rx;",
            f"  assign tx = n{ports['tx']};",
            "  assign busy = 0;",
            "  reg [3:0] locking = 0;",
            "  function lut(input [15:0] held, input [3:0] at);",
            "    lut = held[at];",
            "  endfunction",
            "  always @(posedge clk) begin",
            "    locking <= locking + {3'd0, !(&locking)};",
            *changed,
            "  end",
            "endmodule",
            "",
        )
    )


def _known(cell: dict, name: str) -> str:
    """Return a parameter or an attribute of a cell, or "" if the cell does not have it."""
    return (cell["parameters"] | cell["attributes"]).get(name, "").strip()


def _flag(cell: dict, name: str, value: str) -> str:
    """Return a Verilog constant: 1 if the parameter ``name`` of a cell is ``value``, else 0."""
    return f"1'b{int(_known(cell, name) == value)}"


def _in(cell: dict, port: str, open_is: int = 1) -> str:
    """Return the Verilog expression of an input after its multiplexer.  An input without a wire is ``open_is``."""
    mux, bits = _known(cell, f"{port}MUX"), cell["connections"].get(port)
    if mux in ("0", "1"):
        return f"1'b{mux}"
    if not bits:
        return f"1'b{open_is ^ (mux == 'INV')}"
    return f"{'!' if mux == 'INV' else ''}n{bits[0]}"


def _bus(cell: dict, name: str, high: int, low: int = 0) -> str:
    """Return the Verilog expression of the inputs ``name`` + HIGH down to ``name`` + LOW."""
    return "{" + ", ".join(_in(cell, f"{name}{bit}") for bit in range(high, low - 1, -1)) + "}"


def _assign(cell: dict, port: str, value: str) -> Iterator[str]:
    """Yield the assignment of ``value`` to an output, if the output has a wire."""
    if bits := cell["connections"].get(port):
        yield f"assign n{bits[0]} = {value};"


def _comb(cell: dict, name: str) -> Iterator[str]:
    """Yield the statements of a LUT, of a half of a CCU2C (one bit of a carry chain), or of 16 bits of distributed RAM."""
    mode, init = _known(cell, "MODE"), f"16'b{_known(cell, 'INITVAL') or '0'}"
    at = "{" + ", ".join(_in(cell, port) for port in "DCBA") + "}"
    if mode in ("", "LOGIC"):
        yield from _assign(cell, "F", f"lut({init}, {at})")
    elif mode == "CCU2":
        inject = _known(cell, "CCU2_INJECT1") == "YES"  # then the sum is the LUT alone, and the half generates no carry
        carry, both = _in(cell, "FCI", 0), f"{{2'b00, {_in(cell, 'B')}, {_in(cell, 'A')}}}"
        yield from _assign(cell, "F", f"lut({init}, {at})" + ("" if inject else f" ^ {carry}"))
        yield from _assign(cell, "FCO", f"lut({init}, {at}) ? {carry} : " + ("1'b0" if inject else f"lut({init}, {both})"))
    elif mode == "DPRAM":
        yield f"reg [15:0] {name} = {init};"
        # This is the order in which nextpnr connects the bits of the address, highest first, to the inputs of a LUT.
        yield from _assign(cell, "F", f"{name}[{{{', '.join(_in(cell, port) for port in 'ACBD')}}}]")
        yield f"if ({_in(cell, 'WRE')}) {name}[{_bus(cell, 'WAD', 3)}] <= {_in(cell, 'WD')};"
    elif mode != "RAMW_BLOCK":
        raise ValueError(f"mode {mode}")
    if cell["connections"].get("OFX"):
        raise ValueError("a wide LUT")


def _ramw(cell: dict, name: str) -> Iterator[str]:
    """Yield the wires through the write port of distributed RAM."""
    for outputs, inputs in (("WDO", ("C1", "A1", "D1", "B1")), ("WADO", ("D0", "B0", "C0", "A0"))):
        for bit, port in enumerate(inputs):
            yield from _assign(cell, f"{outputs}{bit}", _in(cell, port))


def _flip_flop(cell: dict, name: str) -> Iterator[str]:
    """Yield the statement of a flip-flop.  Its reset is synchronous, and has priority over its enable."""
    q, d = cell["connections"]["Q"][0], _in(cell, "DI" if _known(cell, "SD") == "1" else "M")
    enabled = f"if ({_in(cell, 'CE')}) n{q} <= {d};"
    cleared = f"if ({_in(cell, 'LSR', 0)}) n{q} <= {_flag(cell, 'REGSET', 'SET')};"
    if _known(cell, "SRMODE") not in ("", "LSR_OVER_CE") and cell["connections"].get("LSR"):
        raise ValueError(f"SRMODE {_known(cell, 'SRMODE')}")
    if _known(cell, "CLKMUX") not in ("", "CLK"):
        raise ValueError("an inverted clock")
    yield f"{cleared} else {enabled}" if cell["connections"].get("LSR") else enabled


def _multiplier(cell: dict, name: str) -> Iterator[str]:
    """Yield the statements of a multiplier of 18 x 18 bits, with registers at its operands and its product if it uses them."""
    if _known(cell, "REG_PIPELINE_CLK") not in ("", "NONE"):
        raise ValueError("a multiplier with a register within")

    def held(register: str, bits: int, to: str, value: str) -> Iterator[str]:
        if _known(cell, f"REG_{register}_CLK") in ("", "NONE"):
            yield f"wire [{bits - 1}:0] {to} = {value};"
        else:
            enabled, cleared = (_in(cell, _known(cell, f"REG_{register}_{pin}")) for pin in ("CE", "RST"))
            yield f"reg [{bits - 1}:0] {to} = 0;"
            yield f"if ({cleared}) {to} <= 0; else if ({enabled}) {to} <= {value};"

    for port in "AB":
        yield from held(f"INPUT{port}", 18, f"{name}{port}", _bus(cell, port, 17))
        sign = _in(cell, f"SIGNED{port}")
        yield f"wire [35:0] {name}{port}long = {{{{18{{{sign} && {name}{port}[17]}}}}, {name}{port}}};"
    yield from held("OUTPUT", 36, name, f"{name}Along * {name}Blong")
    for bit in range(36):
        yield from _assign(cell, f"P{bit}", f"{name}[{bit}]")


def _block_ram(cell: dict, name: str) -> Iterator[str]:
    """Yield the statements of a block RAM.

    A port that reads a word in the cycle in which the other port writes it gets the old word.
    """
    yield f"reg [8:0] {name} [0:{UNITS - 1}];"
    rows = [int(_known(cell, f"INITVAL_{k:02X}") or "0", 2) for k in range(64)]
    words = [row >> 20 * k & 0x3FFFF for row in rows for k in range(16)]
    units = "".join(f" {name}[{2 * at + half}] = {word >> 9 * half & 511};" for at, word in enumerate(words) for half in range(2))
    yield f"initial begin{units} end"
    widths = {port: int(_known(cell, f"DATA_WIDTH_{port}"), 2) for port in "AB"}
    for port, width in widths.items():
        enable, write = _in(cell, f"CE{port}"), _in(cell, f"WE{port}")
        mode = _known(cell, f"REGMODE_{port}")
        if mode not in ("", "NOREG", "OUTREG") or width not in (9, 18, 36):
            raise ValueError(f"a block RAM's port of {width} bits, {mode}")
        if enable == "1'b0" or not cell["connections"].get(f"CLK{port}"):
            continue
        if width == 36 and port == "B" and write != "1'b0":
            raise ValueError("a block RAM whose port B writes 36 bits")
        low = {9: 3, 18: 4, 36: 5}[width]
        row = _bus(cell, f"AD{port}", 13, low)
        at = [row] if width == 9 else [f"{{{row}, {low - 3}'d{k}}}" for k in range(width // 9)]
        if not (width == 36 and port == "A"):  # port A writes words of 36 bits, and port B reads them
            yield f"reg [{width - 1}:0] {name}{port} = 0;"
            yield f"if ({enable}) {name}{port} <= {{{', '.join(f'{name}[{unit}]' for unit in reversed(at))}}};"
            read = f"{name}{port}"
            if mode == "OUTREG":
                yield f"reg [{width - 1}:0] {read}held = 0;"
                yield f"if ({_in(cell, f'OCE{port}')}) {read}held <= {read};"
                read += "held"
            for bit in range(width):
                yield from _assign(cell, f"DO{'AB'[bit // 18] if width == 36 else port}{bit % 18}", f"{read}[{bit}]")
        if write != "1'b0":
            for k, unit in enumerate(at):
                chosen = f" && {_in(cell, f'AD{port}{k}')}" if width > 9 else ""
                data = _bus(cell, f"DI{'AB'[k // 2] if width == 36 else port}", 9 * (k % 2) + 8, 9 * (k % 2))
                yield f"if ({enable} && {write}{chosen}) {name}[{unit}] <= {data};"


def _io(cell: dict, name: str) -> Iterator[str]:
    """Yield the wire through a pin."""
    if _known(cell, "DIR") == "OUTPUT":
        yield from _assign(cell, "B", _in(cell, "I"))
    else:
        yield from _assign(cell, "O", f"n{cell['connections']['B'][0]}")


MODELS = {
    "TRELLIS_COMB": _comb,
    "TRELLIS_RAMW": _ramw,
    "TRELLIS_FF": _flip_flop,
    "MULT18X18D": _multiplier,
    "DP16KD": _block_ram,
    "TRELLIS_IO": _io,
    "DCCA": lambda cell, name: _assign(cell, "CLKO", _in(cell, "CLKI")),
    # One cycle of the simulation is one cycle of the PLL's output.
    "EHXPLLL": lambda cell, name: (*_assign(cell, "CLKOP", _in(cell, "CLKI")), *_assign(cell, "LOCK", "&locking")),
}
"""The model of each type of cell: a function that yields Verilog statements.

Statements that begin with "if" run at each rising edge of the clock.  All others are declarations and assignments.
"""
