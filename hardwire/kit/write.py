"""Write the kit into the folder of a compiled model."""

import json
import shutil
from enum import IntEnum
from pathlib import Path

import jinja2

import hdl
from hardwire.compiled import CompiledModel, write_json
from hardwire.kit.expected import first_tokens
from hardwire.kit.memories import memories
from hardwire.target import Target
from hdl.axi_stream import AXI_TOP
from hdl.cycles.predict import predict_token
from hdl.interface import TOP, Layout, LoadStatus, Status, rom_macro

TEMPLATES = Path(__file__).with_name("templates")
LINT = Path(hdl.__file__).with_name("lint.vlt")

PAYLOADS = {"i__payload": "COMMAND", "o__payload": "REPLY", "load__payload": "LOAD", "loaded__payload": "LOADED"}
"""The name of each payload in chip.vh."""

CODES: dict[str, type[IntEnum]] = {"STATUS": Status, "LOAD_STATUS": LoadStatus}

PATIENCE = 4
"""How many times the predicted cycles of a token a test bench waits for it."""

CLOCK_MHZ = 50
"""The clock of chip.sdc and of the test benches: that of the projected figures in report.json."""


def write_kit(compiled: CompiledModel) -> None:
    """Write the files of the kit (``hardwire.kit``) into the folder of ``compiled``, whose chip.v is there.

    Raises HardwireError if the integer model cannot continue a prompt.
    """
    folder, config = compiled.folder, compiled.config
    tokens = first_tokens(Target(compiled))
    listed = memories(compiled.verilog.read_text(), config.prefix)
    write_json(folder / "tokens.json", tokens)
    write_json(folder / "memories.json", listed)
    shutil.copyfile(LINT, folder / "lint.vlt")
    context = min(config.max_context, len(tokens["prompt"]) + len(tokens["tokens"]))
    facts = {
        "module": config.module(TOP),
        "axis": config.module(AXI_TOP),
        "bench": config.module("tb"),
        "name": config.module(TOP).upper(),
        "prefix": config.prefix,
        "macro": rom_macro(config.prefix),
        "ports": compiled.ports,
        "inputs": _names(compiled, "in"),
        "outputs": _names(compiled, "out"),
        "lora": config.lora_rank > 0,
        "shared": config.shared,
        "localparams": localparams(compiled),
        "images": sorted(compiled.manifest),
        "memories": listed,
        "limit": PATIENCE * predict_token(compiled.format, config, context).total,
        "period_ns": 1000 / CLOCK_MHZ,
        "clock_mhz": CLOCK_MHZ,
        **tokens,
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["json"] = json.dumps
    environment.keep_trailing_newline = True
    for template in sorted(TEMPLATES.glob("*.j2")):
        (folder / template.stem).write_text(environment.get_template(template.name).render(facts))


def _names(compiled: CompiledModel, direction: str) -> str:
    """Return the ports of a direction as a list of Tcl, without the clock."""
    ports = [port for port in compiled.ports if port.direction == direction and port.name != "clk"]
    return " ".join(port.name if port.width == 1 else f"{port.name}[*]" for port in ports)


def localparams(compiled: CompiledModel) -> list[tuple[str, int]]:
    """Return name and value of each localparam of chip.vh: fields of payloads, codes, and limits of the chip."""
    found = {}
    for port in compiled.ports:
        if isinstance(port.layout, Layout):
            name, lsb = PAYLOADS[port.name], 0
            found[f"{name}_BITS"] = port.width
            for field, width in port.layout.widths.items():
                found |= {f"{name}_{field.upper()}_LSB": lsb, f"{name}_{field.upper()}_BITS": width}
                lsb += width
    for name, codes in CODES.items():
        if name == "STATUS" or compiled.config.lora_rank:
            found |= {f"{name}_{code.name}": int(code) for code in codes}
    config, shape = compiled.config, compiled.format
    found |= {
        "LOGIT_BITS": shape.wide_bits,
        "LOGIT_LANES": config.vector_lanes,
        "VOCAB_SIZE": shape.vocab_size,
        "MAX_CONTEXT": config.max_context,
        "N_SEQUENCES": config.n_sequences,
        "N_ADAPTERS": config.n_adapters if config.lora_rank else 0,
    }
    return [(f"{config.module(TOP).upper()}_{name}", value) for name, value in found.items()]
