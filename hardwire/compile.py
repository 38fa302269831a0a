"""From a checkpoint to a folder that holds a chip: quantise, pack, generate, build, measure."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hardwire.cli.console import step
from hardwire.compiled import (
    CompiledError,
    CompiledModel,
    check_replaceable,
    describe,
    keep_builds,
    replaced,
    sha256,
    write_json,
)
from hardwire.measure import measure
from hardwire.source import Source
from weights_to_rom.adapters.lora import adapter_bits
from weights_to_rom.integer_model import IntegerModel
from weights_to_rom.pack.rom_image import rom_images, write_rom_images

if TYPE_CHECKING:
    from hdl.config import ChipConfig


def compile_model(
    source: Source,
    out: Path,
    *,
    wide_bits: int = 32,
    gptq_text: Path | None = None,
    simulation: bool = True,
    **lanes: object,
) -> dict:
    """Compile a checkpoint into the folder ``out`` and return its report.

    ``lanes`` are those fields of ChipConfig that are not left to ``ChipConfig.for_model``.
    Nothing is written before all of them are known to fit the model.
    """
    from hdl.config import ChipConfig

    config = ChipConfig.for_model(source.format(wide_bits), **lanes)  # type: ignore[arg-type]
    check_replaceable(out)
    seconds: dict[str, float] = {}
    model = source.quantise(wide_bits, gptq_text, seconds)
    _check_epsilons(source, model, config)
    with replaced(out) as folder:
        return _cast(source, model, config, folder, out, simulation, seconds)


def respin(out: Path, source: Source, gptq_text: Path | None = None) -> dict:
    """Put another model of the same shape into a compiled one.

    The Verilog is generated anew and must be what it was; the simulation stays.  Returns the report, in it
    "respin" with the ROM images that changed.  Raises CompiledError for a model of another shape or format.
    """
    old = CompiledModel(out)
    ours, theirs = old.format.as_dict(), source.format(old.format.wide_bits).as_dict()
    if differing := [f"{name} is {theirs[name]}, not {ours[name]}" for name in ours if ours[name] != theirs[name]]:
        raise CompiledError(f"{source.checkpoint.source}: does not fit the chip in {out}: {'; '.join(differing)}")
    seconds: dict[str, float] = {}
    model = source.quantise(old.format.wide_bits, gptq_text, seconds)
    _check_epsilons(source, model, old.config)
    with replaced(out) as folder:
        report = _cast(source, model, old.config, folder, out, "decode" in old.report["measured"], seconds, old)
        new = CompiledModel(folder).manifest
    return report | {
        "respin": {
            "changed": [name for name, rom in new.items() if rom != old.manifest[name]],
            "unchanged": [name for name, rom in new.items() if rom == old.manifest[name]],
            "verilog_identical": True,
            "verilog_sha256": old.about["files"]["chip.v"],
        }
    }


def _check_epsilons(source: Source, model: IntegerModel, config: "ChipConfig") -> None:
    """The shared engine takes them as signed words."""
    for name, norm in model.norms.items():
        if config.shared and norm.eps_q >= 1 << 31:
            raise CompiledError(
                f"{source.checkpoint.source}: the epsilon of {name} is too large for the shared engine: compile without --shared"
            )


def _cast(
    source: Source,
    model: IntegerModel,
    config: "ChipConfig",
    folder: Path,
    out: Path,
    simulation: bool,
    seconds: dict[str, float],
    respun: CompiledModel | None = None,
) -> dict:
    """Fill ``folder``, which is to become ``out``; its Verilog must be that of ``respun``."""
    checkpoint = source.checkpoint
    model.save(folder / "model.safetensors")
    if checkpoint.tokenizer is not None:
        checkpoint.tokenizer.save(folder / "tokenizer")
    with step("pack ROM images", seconds):
        manifest = write_rom_images(
            rom_images(
                model,
                row_lanes=config.row_lanes,
                block_lanes=config.block_lanes,
                vector_lanes=config.vector_lanes,
            ),
            folder / "rom",
        )
    with step("generate Verilog", seconds):
        from hdl.verilog import chip_verilog

        (folder / "chip.v").write_text(chip_verilog(model.format, config))
    if respun is not None and sha256(folder / "chip.v") != respun.about["files"]["chip.v"]:
        raise CompiledError(f"{out}: this version of hardwire generates other Verilog: compile it again")
    shutil.copymode(folder / "chip.v", folder / "model.safetensors")  # which safetensors makes private
    describe(folder, model, config, source.name, source.tokenizer)
    report = {
        "model": checkpoint.source,
        "notes": model.report["notes"],
        "derived": derived(model, config, manifest),
        "measured": {name: value for name, value in model.report.items() if name != "notes"},
    }
    keep_builds(out, folder)
    if simulation:
        output = CompiledModel(folder)
        with step("build the simulation", seconds) as running:
            chip = output.chip(lambda done, what: running.update(what, done))
        with step("measure", seconds) as running:
            measured, report["projected"] = measure(chip, config.max_context, model.format.vocab_size, running.update)
        chip.close()
        report["measured"] |= measured
    report["measured"]["step_seconds"] = seconds
    write_json(folder / "report.json", report)
    return report


def derived(model: IntegerModel, config: "ChipConfig", manifest: Mapping[str, Mapping]) -> dict:
    """Figures that follow from shapes alone.  ROM bits are all bits of the images' words."""
    rom_bits = sum(rom["width"] * rom["depth"] for rom in manifest.values())
    fmt, rank = model.format, config.lora_rank
    return {
        "parameters": model.parameters(),
        "rom_bits": rom_bits,
        "bits_per_weight": round(rom_bits / model.parameters(), 3),
        "kv_sram_bits": config.kv_bits(fmt),
        "lora_sram_bits": config.n_adapters * adapter_bits(fmt, rank, config.lora_lanes) if rank else 0,
        "multipliers_per_cycle": config.row_lanes * config.block_lanes,
        "weight_words_per_token": manifest["weights_00"]["depth"],
        "lanes": config.as_dict(),
    }
