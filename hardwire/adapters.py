"""LoRA adapters of a compiled model.

OUT/adapters/NAME/ holds one adapter, packed for the chip in OUT; NAME is the name of the folder that peft wrote:

adapter.safetensors   the integer adapter
frame.bin             the load image (docs/arithmetic.md, section 6): the little-endian 32-bit words that the chip takes
report.json           figures
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hardwire.compiled import CompiledError, CompiledModel, write_json
from hardwire.folders import written_whole
from hardwire.progress import step
from weights_to_rom.adapters.lora import adapter_bits, load_image, quantise_adapter
from weights_to_rom.adapters.peft import MODULES, AdapterError, LoraPair, PeftAdapter, open_peft
from weights_to_rom.model_format import shape_of
from weights_to_rom.schedule import Step

INTEGERS = "adapter.safetensors"


def pack(out: Path, adapter_dir: Path, slot: int = 1) -> dict:
    """Quantise an adapter for the chip in ``out``, and return the figures.  An adapter of the same name is replaced.

    Parameters
    ----------
    out : Path          a compiled model
    adapter_dir : Path  a folder that peft wrote
    slot : int          number by which the chip knows the adapter, from 1

    Raises
    ------
    CompiledError   if the chip has no LoRA adder, or not that many adapters
    AdapterError    for an adapter that the chip cannot hold
    """
    compiled = CompiledModel(out)
    config, fmt = compiled.config, compiled.format
    compiled.check_lora()
    if not 1 <= slot <= config.n_adapters:
        raise CompiledError(f"{out}: its chip holds adapters 1 to {config.n_adapters}, not {slot}")
    adapter = open_peft(adapter_dir, shape_of(fmt))
    integers = quantise_adapter(adapter, fmt, compiled.model.residual_shift, config.lora_rank)
    words = load_image(integers, fmt, slot, config.lora_lanes, config.vector_lanes)
    name = adapter_dir.resolve().name
    folder = out / "adapters" / name
    if folder.exists() and not (folder / INTEGERS).is_file():
        raise AdapterError(f"{folder}: is in the way, and no packed adapter: move it away")
    figures = {
        "name": name,
        "folder": str(folder),
        "slot": slot,
        **integers.report,
        "chip_rank": config.lora_rank,
        "steps": [step.name.lower() for step in Step if integers.steps >> step & 1],
        "sram_bits": adapter_bits(fmt, config.lora_rank, config.lora_lanes),
        "frame_words": len(words),
        "layout": f"{words[1]:08x}",
    }
    with written_whole(folder) as new:
        integers.save(new / INTEGERS)
        (new / "frame.bin").write_bytes(words.astype("<u4").tobytes())
        (new / INTEGERS).chmod((new / "frame.bin").stat().st_mode)  # safetensors gives its file private permissions
        write_json(new / "report.json", figures)
    return figures


def cost(out: Path, context: int) -> dict:
    """Measure the cycles of a sampled token without an adapter, with one on q and v, and with one on all seven projections.

    All weights of the adapters are 1, because no cycle depends on a weight.

    Parameters
    ----------
    out : Path      a compiled model with a LoRA adder
    context : int   positions that the token attends to, itself included

    Returns "cycles" by adapter, and "switching_cycles": the cycles that a token takes longer if the previous token belonged to
    another sequence with another adapter.  Raises CompiledError.
    """
    from hdl.interface import LoadStatus, Status

    compiled = CompiledModel(out)
    compiled.check_lora()
    config, fmt = compiled.config, compiled.format
    if not 2 <= context <= config.max_context:
        raise CompiledError(f"{out}: a context is 2 to {config.max_context} positions there, not {context}")
    with step("build the simulation") as running:
        chip = compiled.chip(lambda done, what: running.update(what, done))

    def load(number: int, kinds: Sequence[str]) -> None:
        shapes = {name: shape for name, shape in shape_of(fmt).tensor_shapes().items() if name.rpartition(".")[2] in kinds}
        ones = {
            name: LoraPair(np.ones((config.lora_rank, inputs)), np.ones((rows, config.lora_rank)), 1.0)
            for name, (rows, inputs) in shapes.items()
        }
        integers = quantise_adapter(PeftAdapter("ones", ones), fmt, 0, config.lora_rank)
        reply = chip.load(load_image(integers, fmt, number, config.lora_lanes, config.vector_lanes))
        if reply.status != LoadStatus.OK:
            raise CompiledError(f"{out}: the chip did not take an adapter: {reply.status.name}")

    def cycles_of(sequence: int, adapter: int) -> int:
        reply = chip.token(0, sequence=sequence, adapter=adapter)
        if reply.status != Status.OK:
            raise CompiledError(f"{out}: the chip refused a token with adapter {adapter}: {reply.status.name}")
        return reply.cycles

    def at_context(sequence: int, adapter: int) -> int:
        """Fill the context of a sequence, and return the cycles of its last token."""
        for position in range(context - 1):
            chip.token(0, sequence=sequence, restart=position == 0, sample=False)
        return cycles_of(sequence, adapter)

    cycles, last = {"none": at_context(0, 0)}, {}
    with step("measure") as running:
        for name, kinds in (("q_v", ("q", "v")), ("all", tuple(MODULES))):
            running.update(name)
            load(1, kinds)
            cycles[name] = at_context(0, 1)
        if config.n_sequences > 1 and config.n_adapters > 1 and context < config.max_context:
            # Both tokens are of sequence 1, at the next position.  The token that precedes "alone" is of sequence 1 as well; the
            # one that precedes "switching" is of sequence 0, with the other adapter.
            load(2, ("q", "v"))
            at_context(1, 2)
            last["alone"] = cycles_of(1, 2)
            at_context(1, 2)
            cycles_of(0, 1)
            last["switching"] = cycles_of(1, 2)
    chip.close()
    return {
        "context": context,
        "chip_rank": config.lora_rank,
        "multipliers": config.row_lanes * config.block_lanes,
        "lora_multipliers": 32 * config.lora_lanes,
        "sram_bits": config.n_adapters * adapter_bits(fmt, config.lora_rank, config.lora_lanes),
        "cycles": cycles,
        "more": {name: round(taken / cycles["none"] - 1, 4) for name, taken in cycles.items() if name != "none"},
        "switching_cycles": last["switching"] - last["alone"] if last else None,
    }
