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
    link,
    replaced,
    sha256,
    write_json,
)
from hardwire.folders import check_room
from hardwire.keys import cycles_key, model_key, rom_key, verilog_key
from hardwire.measure import MEASURED, measure
from hardwire.progress import step
from hardwire.source import Source
from weights_to_rom.adapters.lora import adapter_bits
from weights_to_rom.integer_model import IntegerModel
from weights_to_rom.model_format import ModelFormat
from weights_to_rom.pack.rom_image import rom_images, write_rom_images
from weights_to_rom.rom_map import rom_map

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
    old : CompiledModel       the compiled model in OUT, if there is one: results whose inputs are the same are taken from it
    respun : bool             this is a respin: the Verilog is generated in any case, and must equal that of ``old``
    keys : dict               the key of each result, which becomes "made_of" in chip.json
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
    old: CompiledModel | None = None
    respun: bool = False
    keys: dict[str, str | None] = field(default_factory=dict)
    model: IntegerModel = field(init=False)
    report: dict = field(init=False)
    seconds: dict[str, float] = field(default_factory=dict)

    def kept(self, name: str, key: str | None) -> CompiledModel | None:
        """Note the key of a result, and return the old compiled model if that has the result of the same key."""
        self.keys[name] = key
        same = self.old is not None and key is not None and self.old.made_of.get(name) == key
        return self.old if same else None


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

    Nothing is written before all options are known to fit the model.  Results of an earlier compilation in ``out`` are kept if
    everything that they are made of is the same.

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
    ConfigError, CompiledError, CheckpointError, SimulationError, BusyError, DiskError
    """
    from hdl.config import ChipConfig
    from sim.rtl.verilator import check_compiler

    model = source.format(wide_bits)
    config = ChipConfig.for_model(model, **lanes)
    check_replaceable(out)
    if simulation and not _has_simulation(out, verilog_key(model, config)):
        check_compiler()
    needed = bytes_of(model, config)
    check_room(out, needed)
    with replaced(out, needed) as folder:
        return _run(Job(source, config, wide_bits, gptq_text, out, folder, _intact(out)), simulation)


def respin(out: Path, source: Source, gptq_text: Path | None = None) -> dict:
    """Put the weights of another model of the same shape into a compiled model: a respin.

    The Verilog is generated again and must equal the old one to the byte; the simulation is kept.  Returns the report; its
    "respin" names the ROM images that changed.  Raises CompiledError for a model of another shape or format.
    """
    old = CompiledModel(out)
    ours, theirs = old.format.as_dict(), source.format(old.format.wide_bits).as_dict()
    if differing := [f"{name} is {theirs[name]}, not {ours[name]}" for name in ours if ours[name] != theirs[name]]:
        raise CompiledError(f"{source.checkpoint.source}: does not fit the chip in {out}: {'; '.join(differing)}")
    measured = "decode" in old.report["measured"]
    with replaced(out, bytes_of(old.format, old.config)) as folder:
        report = _run(Job(source, old.config, old.format.wide_bits, gptq_text, out, folder, old, respun=True), measured)
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
    file = job.folder / "model.safetensors"
    if old := job.kept("model", model_key(job.source, job.wide_bits, job.gptq_text)):
        link(old.folder / file.name, file)
        job.model = IntegerModel.load(file)
        job.source.add_warnings(old.warnings)
    else:
        job.model = job.source.quantise(job.wide_bits, job.gptq_text, job.seconds)
        job.model.save(file)
    if job.source.checkpoint.tokenizer is not None:
        job.source.checkpoint.tokenizer.save(job.folder / "tokenizer")


def pack(job: Job) -> None:
    """Write the ROM images, and make the report's figures that follow from shapes."""
    config = job.config
    if old := job.kept("rom", rom_key(job.folder / "model.safetensors", config)):
        shutil.copytree(old.folder / "rom", job.folder / "rom", copy_function=link)
        manifest = old.manifest
    else:
        manifest = _packed(job)
    job.report = {
        "model": job.source.checkpoint.source,
        "notes": job.model.report["notes"],
        "derived": derived(job.model, config, manifest),
        "measured": {name: value for name, value in job.model.report.items() if name != "notes"},
    }


def _packed(job: Job) -> dict:
    config = job.config
    with step("pack ROM images", job.seconds):
        images = rom_images(job.model, row_lanes=config.row_lanes, block_lanes=config.block_lanes, vector_lanes=config.vector_lanes)
        return write_rom_images(images, job.folder / "rom")


def verilog(job: Job) -> None:
    """Write chip.v and chip_axis.v, and chip.json with the hashes of all files so far.  Builds of the same Verilog are kept."""
    chip = job.folder / "chip.v"
    old = job.kept("verilog", verilog_key(job.model.format, job.config))
    if old and not job.respun:
        for name in ("chip.v", "chip_axis.v"):
            link(old.folder / name, job.folder / name)
    else:
        with step("generate Verilog", job.seconds):
            from hdl.axi_stream import axi_stream_verilog
            from hdl.verilog import chip_verilog

            chip.write_text(chip_verilog(job.model.format, job.config))
            (job.folder / "chip_axis.v").write_text(axi_stream_verilog(job.model.format, job.config))
    job.keys["cycles"] = cycles_key(chip)
    if job.respun and job.old and sha256(chip) != job.old.about["files"]["chip.v"]:
        raise CompiledError(f"{job.out}: this version of hardwire generates other Verilog: compile it again")
    shutil.copymode(chip, job.folder / "model.safetensors")  # safetensors gives its file private permissions
    describe(job.folder, job.model, job.config, job.source, job.keys)
    keep_builds(job.out, job.folder)


def kit(job: Job) -> None:
    """Write the files with which others use chip.v (``hardwire.kit``)."""
    from hardwire.kit.write import write_kit

    with step("write the kit", job.seconds):
        write_kit(CompiledModel(job.folder))


def simulation(job: Job) -> None:
    """Build the library of the simulated chip, unless it was kept."""
    with step("build the simulation", job.seconds) as running:
        CompiledModel(job.folder).chip(lambda done, what: running.update(what, done)).close()


def cycles(job: Job) -> None:
    """Measure the cycles of a token on the simulated chip."""
    if old := job.kept("cycles", job.keys["cycles"]):
        measured, projected = old.report["measured"], old.report.get("projected")
        if projected and measured.keys() >= {*MEASURED}:
            job.report["measured"] |= {name: measured[name] for name in MEASURED}
            job.report["projected"] = projected
            return
    chip = CompiledModel(job.folder).chip()
    with step("measure", job.seconds) as running:
        measured, job.report["projected"] = measure(chip, job.config.max_context, job.model.format.vocab_size, running.update)
    chip.close()
    job.report["measured"] |= measured


STEPS: tuple[Callable[[Job], None], ...] = (quantise, pack, verilog, kit, simulation, cycles)
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


def _intact(out: Path) -> CompiledModel | None:
    """Return the compiled model in OUT, or None if there is none, or a damaged one."""
    try:
        old = CompiledModel(out)
        return old if old.report else None
    except CompiledError:
        return None


def _has_simulation(out: Path, verilog: str) -> bool:
    """Whether OUT has a simulation of the Verilog with this key.  Its files are checked later."""
    old = _intact(out)
    return old is not None and old.made_of.get("verilog") == verilog and any((out / "simulation").glob("*.so"))


def bytes_of(model: ModelFormat, config: "ChipConfig") -> int:
    """Return the bytes that the ROM images and the integer model of a chip take on the disk, without Verilog and simulation."""
    roms = rom_map(model, **config.rom_lanes).values()
    images = sum(rom.depth * (-(-rom.width // 4) + 1) for rom in roms)
    return images + sum(rom.depth * rom.width // 4 for rom in roms)  # a code of four bits takes a byte of the integer model


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
