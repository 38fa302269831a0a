"""LoRA adapters of a compiled model.

OUT/adapters/NAME/ holds one adapter, packed for the chip in OUT; NAME is its folder's name:

adapter.safetensors   the integer adapter
frame.bin             the frame that loads it (docs/arithmetic.md, section 6), little-endian 32-bit words
report.json           figures
"""

from pathlib import Path

from hardwire.output import Output, OutputError, write_json, written_whole
from weights_to_rom.config import LlamaConfig
from weights_to_rom.lora import adapter_bits, frame, quantise_adapter
from weights_to_rom.model_format import ModelFormat
from weights_to_rom.peft import AdapterError, open_peft
from weights_to_rom.schedule import Step

INTEGERS = "adapter.safetensors"


def pack(out: Path, adapter_dir: Path, slot: int = 1) -> dict:
    """Quantise a folder that peft wrote for the chip in ``out``, as its adapter ``slot``, and return the figures.

    An adapter of the same name is replaced.  Raises OutputError if the chip has no LoRA or not that many adapters, and
    AdapterError for an adapter that the chip cannot hold.
    """
    output = Output(out)
    config, fmt = output.config, output.format
    output.check_lora()
    if not 1 <= slot <= config.n_adapters:
        raise OutputError(f"{out}: its chip holds adapters 1 to {config.n_adapters}, not {slot}")
    adapter = open_peft(adapter_dir, shape_of(fmt))
    integers = quantise_adapter(adapter, fmt, output.model.residual_shift, config.lora_rank)
    words = frame(integers, fmt, slot, config.lora_lanes, config.vector_lanes)
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
        (new / INTEGERS).chmod((new / "frame.bin").stat().st_mode)  # which safetensors makes private
        write_json(new / "report.json", figures)
    return figures


def shape_of(fmt: ModelFormat) -> LlamaConfig:
    """The base model's shape, as far as the sizes of tensors depend on it."""
    names = ("dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "ffn_dim", "vocab_size", "max_seq_len", "tied")
    return LlamaConfig(**{name: getattr(fmt, name) for name in names})
