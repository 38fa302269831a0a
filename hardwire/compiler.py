"""From a checkpoint to a folder that holds a chip, in the steps of STEPS."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from hardwire.progress import step
from hardwire.source import Source
from weights_to_rom.adapters.lora import adapter_bits
from weights_to_rom.integer_model import IntegerModel
from weights_to_rom.pack.rom_image import rom_images, write_rom_images

if TYPE_CHECKING:
    from hdl.config import ChipConfig


@dataclass
class Job:
    """A compilation: its inputs, and the results of the steps so far.

    Members
    -------
    source : Source           the checkpoint
    config : ChipConfig       lanes and memories of the chip
    wide_bits : int           width of the residual stream
    gptq_text : Path          calibration text, if weights are quantised by GPTQ
    out : Path                OUT
    folder : Path             where files are written; it becomes OUT when all steps have succeeded
    respun : CompiledModel    for a respin, the compiled model that gets new weights: the Verilog must equal its chip.v
    model : IntegerModel      made by ``quantise``
    report : dict             figures, which become report.json
    seconds : dict            how long each step took
    """

    source: Source
    config: "ChipConfig"
    wide_bits: int
    gptq_text: Path | None
    out: Path
    folder: Path
    respun: CompiledModel | None = None
    model: IntegerModel = field(init=False)
    report: dict = field(init=False)
    seconds: dict[str, float] = field(default_factory=dict)


def compile_model(
    source: Source,
    out: Path,
    *,
    wide_bits: int = 32,
    gptq_text: Path | None = None,
    simulation: bool = True,
    **lanes: Any,
) -> dict:
    """Compile a checkpoint into the folder ``out``, and return its report.

    Nothing is written before all options are known to fit the model.

    Parameters
    ----------
    source : Source      the checkpoint
    out : Path           folder to write; a compiled model in it is replaced
    wide_bits : int      width of the residual stream and of sums: 32 or 24
    gptq_text : Path     quantise by GPTQ, with this file as calibration text
    simulation : bool    build the simulation, and measure cycles with it
    lanes                fields of ChipConfig; ``ChipConfig.for_model`` fills in the others

    Raises
    ------
    ConfigError, CompiledError, CheckpointError, SimulationError
    """
    from hdl.config import ChipConfig

    config = ChipConfig.for_model(source.format(wide_bits), **lanes)
    check_replaceable(out)
    with replaced(out) as folder:
        return _run(Job(source, config, wide_bits, gptq_text, out, folder), simulation)


def respin(out: Path, source: Source, gptq_text: Path | None = None) -> dict:
    """Put the weights of another model of the same shape into a compiled model: a respin.

    The Verilog is generated again and must equal the old one to the byte; the simulation is kept.  Returns the report; its
    "respin" names the ROM images that changed.  Raises CompiledError for a model of another shape or format.
    """
    old = CompiledModel(out)
    ours, theirs = old.format.as_dict(), source.format(old.format.wide_bits).as_dict()
    if differing := [f"{name} is {theirs[name]}, not {ours[name]}" for name in ours if ours[name] != theirs[name]]:
        raise CompiledError(f"{source.checkpoint.source}: does not fit the chip in {out}: {'; '.join(differing)}")
    with replaced(out) as folder:
        job = Job(source, old.config, old.format.wide_bits, gptq_text, out, folder, old)
        report = _run(job, "decode" in old.report["measured"])
        new = CompiledModel(folder).manifest
    return report | {
        "respin": {
            "changed": [name for name, rom in new.items() if rom != old.manifest[name]],
            "unchanged": [name for name, rom in new.items() if rom == old.manifest[name]],
            "verilog_identical": True,
            "verilog_sha256": old.about["files"]["chip.v"],
        }
    }


def quantise(job: Job) -> None:
    """Write the integer model and the tokenizer."""
    job.model = job.source.quantise(job.wide_bits, job.gptq_text, job.seconds)
    for name, norm in job.model.norms.items():
        # The shared engine reads an epsilon as a signed word of 32 bits.
        if job.config.shared and norm.eps_q >= 1 << 31:
            raise CompiledError(
                f"{job.source.checkpoint.source}: the epsilon of {name} is too large for the shared engine: "
                "compile without --shared"
            )
    job.model.save(job.folder / "model.safetensors")
    if job.source.checkpoint.tokenizer is not None:
        job.source.checkpoint.tokenizer.save(job.folder / "tokenizer")


def pack(job: Job) -> None:
    """Write the ROM images, and make the report's figures that follow from shapes."""
    config = job.config
    with step("pack ROM images", job.seconds):
        images = rom_images(job.model, row_lanes=config.row_lanes, block_lanes=config.block_lanes, vector_lanes=config.vector_lanes)
        manifest = write_rom_images(images, job.folder / "rom")
    job.report = {
        "model": job.source.checkpoint.source,
        "notes": job.model.report["notes"],
        "derived": derived(job.model, config, manifest),
        "measured": {name: value for name, value in job.model.report.items() if name != "notes"},
    }


def verilog(job: Job) -> None:
    """Write chip.v, and chip.json with the hashes of all files so far.  Builds of the same Verilog are kept."""
    chip = job.folder / "chip.v"
    with step("generate Verilog", job.seconds):
        from hdl.verilog import chip_verilog

        chip.write_text(chip_verilog(job.model.format, job.config))
    if job.respun is not None and sha256(chip) != job.respun.about["files"]["chip.v"]:
        raise CompiledError(f"{job.out}: this version of hardwire generates other Verilog: compile it again")
    shutil.copymode(chip, job.folder / "model.safetensors")  # safetensors gives its file private permissions
    describe(job.folder, job.model, job.config, job.source)
    keep_builds(job.out, job.folder)


def simulation(job: Job) -> None:
    """Build the library of the simulated chip, unless it was kept."""
    with step("build the simulation", job.seconds) as running:
        CompiledModel(job.folder).chip(lambda done, what: running.update(what, done)).close()


def cycles(job: Job) -> None:
    """Measure the cycles of a token on the simulated chip."""
    chip = CompiledModel(job.folder).chip()
    with step("measure", job.seconds) as running:
        measured, job.report["projected"] = measure(chip, job.config.max_context, job.model.format.vocab_size, running.update)
    chip.close()
    job.report["measured"] |= measured


STEPS: tuple[Callable[[Job], None], ...] = (quantise, pack, verilog, simulation, cycles)
"""The steps of a compilation in their order.  Each reads results of the earlier steps from the Job and its folder."""

ON_THE_SIMULATION = (simulation, cycles)
"""The steps that a compilation without a simulation leaves out."""


def _run(job: Job, simulated: bool) -> dict:
    for run in STEPS:
        if simulated or run not in ON_THE_SIMULATION:
            run(job)
    job.report["measured"]["step_seconds"] = job.seconds
    write_json(job.folder / "report.json", job.report)
    return job.report


def derived(model: IntegerModel, config: "ChipConfig", manifest: Mapping[str, Mapping]) -> dict:
    """Return the figures that follow from shapes alone.  ``rom_bits`` counts all bits of the images' words, padding included."""
    rom_bits = sum(rom["width"] * rom["depth"] for rom in manifest.values())
    fmt, rank = model.format, config.lora_rank
    return {
        "parameters": model.parameters(),
        "rom_bits": rom_bits,
        "bits_per_weight": round(rom_bits / model.parameters(), 3),
        "kv_sram_bits": config.kv_bits(fmt),
        "lora_sram_bits": config.n_adapters * adapter_bits(fmt, rank, config.lora_lanes) if rank else 0,
        "multipliers": config.row_lanes * config.block_lanes,
        "weight_words_per_token": manifest["weights_00"]["depth"],
        "lanes": config.as_dict(),
    }
