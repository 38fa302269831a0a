"""The folder of a compiled model: its files, and folders that are refused."""

import hashlib
import json
import shutil
from functools import partial, wraps
from pathlib import Path

import numpy as np
import pytest

import hardwire.compiler
import hardwire.source
import hdl.verilog
from hardwire.chip import Chip
from hardwire.compiled import CompiledError, CompiledModel, keep_builds, replaced, sha256
from hardwire.compiler import compile_model, respin
from hardwire.explain import explain
from hardwire.folders import DiskError
from hardwire.source import Source
from sim.rtl.chip import harness_defines
from sim.rtl.verilator import SimulationError, content_key, find_library
from tests.support.cli import write_model
from weights_to_rom.pack.rom_image import rom_images
from weights_to_rom.scratch import BusyError

pytestmark = pytest.mark.xdist_group("output")  # one worker, so that its chips are built once


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiled model without its simulation.  Tests do not write to it."""
    folder = tmp_path_factory.mktemp("output")
    model = write_model(folder / "model")
    compile_model(Source.open(str(model)), folder / "out", simulation=False, block_lanes=8)
    return folder / "out"


@pytest.fixture
def out(compiled: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return shutil.copytree(compiled, tmp_path / "copy")


def test_contents(compiled):
    output = CompiledModel(compiled)
    model = Source.open(str(compiled.parent / "model")).quantise()
    assert output.format == model.format == output.model.format
    assert output.tokenizer is None
    assert (output.config.block_lanes, output.config.max_context) == (8, 24)
    for name, matrix in model.matrices.items():
        assert np.array_equal(output.model.matrices[name].q, matrix.q)
    images = list(rom_images(model, row_lanes=1, block_lanes=8, vector_lanes=output.config.vector_lanes))
    assert sorted(output.manifest) == sorted(image.name for image in images)
    for image in images:
        assert (compiled / "rom" / f"{image.name}.hex").read_bytes() == image.hex_text()
    verilog = output.verilog.read_text()
    assert "module chip(" in verilog
    assert all(f'"{image.name}.hex"' in verilog for image in images)


def test_report(compiled):
    report = CompiledModel(compiled).report
    derived = report["derived"]
    embedding, layer = 41 * 32, 32 * 8 * (4 + 2) * 2 + 3 * 32 * 40 + 2 * 32
    assert derived["parameters"] == embedding + layer + 32
    manifest = CompiledModel(compiled).manifest
    assert derived["rom_bits"] == sum(rom["width"] * rom["depth"] for rom in manifest.values())
    assert derived["bits_per_weight"] == round(derived["rom_bits"] / derived["parameters"], 3)
    assert derived["multipliers"] == 8
    assert 0 < report["measured"]["worst_block_error"] < 0.3
    steps = {"quantise", "measure ranges", "pack ROM images", "generate Verilog", "write the kit"}
    assert set(report["measured"]["step_seconds"]) == steps
    assert "decode" not in report["measured"]  # nothing was simulated


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"0\n")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


@pytest.mark.parametrize(
    ("name", "damage", "complaint"),
    [
        ("chip.v", append, "chip.v is not the file that was compiled"),
        ("chip.v", Path.unlink, "chip.v is missing"),
        ("model.safetensors", cut, "model.safetensors is not the file that was compiled"),
        ("rom/weights_00.hex", append, "rom/weights_00.hex is not the file that was compiled"),
        ("rom/rows.hex", Path.unlink, "rom/rows.hex is missing"),
        ("rom/manifest.json", cut, "rom/manifest.json is not the file that was compiled"),
        ("chip.json", cut, "chip.json cannot be read"),
        ("chip.json", lambda p: p.write_text("[]"), "chip.json is not a JSON object"),
        ("chip.json", lambda p: edit_json(p, kind="x 7"), "chip.json is of kind 'x 7'"),
        ("chip.json", lambda p: p.write_text('{"kind": "hardwire output 1"}'), "chip.json lacks source"),
        ("chip.json", lambda p: edit_json(p, ports={}), "ports of another version"),
        ("chip.json", lambda p: edit_json(p, chip_config={"row_lanes": 1}), "compiled by another version"),
        ("chip.json", Path.unlink, "no compiled model"),
    ],
)
def test_damage_is_named(out, name, damage, complaint):
    damage(out / name)
    with pytest.raises(CompiledError, match=complaint) as error:
        Chip(out).session("rtl")
    assert str(out) in str(error.value) and "\n" not in str(error.value)


def test_a_simulation_that_is_cut_off_is_not_opened(out, monkeypatch):
    """Opening it would end the process.  It is built again, for which g++ is missing here."""
    output = CompiledModel(out)
    key = content_key(output.verilog.read_text(), harness_defines(output.format, output.config))
    (out / "simulation").mkdir()
    whole = b"\x7fELF" + bytes(1000)
    library = out / "simulation" / f"{key}-{hashlib.sha256(whole).hexdigest()[:16]}.so"
    library.write_bytes(whole)
    find = partial(find_library, output.verilog, library.parent, harness_defines(output.format, output.config))
    assert find() == library
    monkeypatch.setattr("sim.rtl.verilator.shutil.which", lambda name: None)
    for damaged in (whole[:500], b"", whole[:-1] + b"?"):
        library.write_bytes(damaged)
        with pytest.raises(SimulationError, match=r"^g\+\+ is missing.*apt-get install g\+\+"):
            output.chip()
        assert find() is None and not library.exists()


@pytest.mark.parametrize(
    "report",
    [
        "{}",
        '{"derived": {}}',
        '{"derived": {}, "measured": 5}',
        '{"derived": {}, "measured": {"decode": []}}',
        '{"derived": {}, "measured": {"decode": {"1": 7}, "prefill": {"1": 7}}}',
        '{"derived": {}, "measured": {"decode": {"1": {"cycles": "7"}}, "prefill": {"1": 7}}}',
        '{"derived": {}, "measured": {"decode": {"1": {"cycles": 7}}}}',
    ],
)
def test_a_report_without_figures_is_named(out, compiled, report, monkeypatch):
    (out / "report.json").write_text(report)
    words = rf"^{out}: report.json lacks the figures of a compiled model: compile it again$"
    for use in (
        lambda: explain(str(out), None, None),
        lambda: respin(out, Source.open(str(compiled.parent / "model"))),
    ):
        with pytest.raises(CompiledError, match=words):
            use()


def test_what_two_compilations_share_is_made_once(out, compiled, monkeypatch):
    """Another context keeps the integer model and the ROM images; other code makes everything again."""

    def chip_verilog(model, config):  # the real one takes seconds
        return f"module chip;  // {config}\nendmodule\n"

    monkeypatch.setattr(hdl.verilog, "chip_verilog", chip_verilog)
    source, made = Source.open(str(compiled.parent / "model")), []
    for module, name in (
        (hardwire.source, "quantise_checkpoint"),
        (hardwire.compiler, "rom_images"),
        (hdl.verilog, "chip_verilog"),
    ):
        monkeypatch.setattr(module, name, noted(getattr(module, name), made))
    files = {name: sha256(out / name) for name in ("model.safetensors", "rom/manifest.json")}
    compile_model(source, out, simulation=False, block_lanes=8, max_context=16)
    assert made == ["chip_verilog"]
    assert files == {name: sha256(out / name) for name in files} and CompiledModel(out).config.max_context == 16
    made.clear()
    compile_model(source, out, simulation=False, block_lanes=8, max_context=16)
    assert made == []
    compile_model(source, out, simulation=False, block_lanes=4, max_context=16)
    assert made == ["rom_images", "chip_verilog"]
    made.clear()
    monkeypatch.setattr("hardwire.keys.code_of", lambda package: "other code")
    compile_model(source, out, simulation=False, block_lanes=4, max_context=16)
    assert made == ["quantise_checkpoint", "rom_images", "chip_verilog"]
    made.clear()
    model = shutil.copytree(compiled.parent / "model", out.parent / "model")
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-2] + b"\x00\x3f")
    compile_model(Source.open(str(model)), out, simulation=False, block_lanes=4, max_context=16)
    assert made == ["quantise_checkpoint", "rom_images"]


def noted(function, made: list):
    """The same function, which notes its name in ``made`` when it is called."""

    @wraps(function)
    def call(*arguments, **options):
        made.append(function.__name__)
        return function(*arguments, **options)

    return call


def test_a_missing_compiler_is_noticed_first(out, compiled, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr("sim.rtl.verilator.shutil.which", lambda name: None)
    monkeypatch.setattr(hardwire.source, "quantise_checkpoint", noted(hardwire.source.quantise_checkpoint, made))
    source = Source.open(str(compiled.parent / "model"))
    for folder in (tmp_path / "new", out):
        with pytest.raises(SimulationError, match=r"g\+\+ is missing"):
            compile_model(source, folder, block_lanes=8)
    assert made == [] and not (tmp_path / "new").exists()


def test_two_compilations_at_once(out, compiled):
    source = Source.open(str(compiled.parent / "model"))
    with replaced(out), pytest.raises(BusyError, match="another hardwire writes it now"):
        compile_model(source, out, simulation=False, block_lanes=8)


def test_a_disk_without_room_is_noticed_first(out, compiled, monkeypatch):
    monkeypatch.setattr("hardwire.folders._free", lambda path: 1000)
    before = sha256(out / "chip.json")
    with pytest.raises(DiskError, match=rf"^{out}: No space left on device: it takes about [\d,]+ bytes, and 1,000 bytes are free"):
        compile_model(Source.open(str(compiled.parent / "model")), out, simulation=False)
    assert sha256(CompiledModel(out).folder / "chip.json") == before


def test_float_session_needs_the_checkpoint(out, compiled):
    model = shutil.copytree(compiled.parent / "model", out.parent / "moved")
    edit_json(out / "chip.json", source=str(model))
    assert 0 <= Chip(out).session("float").step(5).token < 41
    shutil.rmtree(model)
    with pytest.raises(CompiledError, match=r"backend float needs the checkpoint.*moved"):
        Chip(out).session("float")


def test_golden_session_has_the_compiled_context(compiled):
    session = Chip(compiled).session("golden")
    assert (session.vocab_size, session.max_context) == (41, 24)
    with pytest.raises(ValueError, match="backend must be one of rtl, golden, float"):
        Chip(compiled).session("numpy")


def test_what_is_no_output_is_not_replaced(tmp_path, compiled):
    source = Source.open(str(compiled.parent / "model"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    (tmp_path / "file").write_text("x")
    for name, complaint in (("full", "not a compiled model"), ("file", "is not a folder")):
        with pytest.raises(CompiledError, match=complaint):
            compile_model(source, tmp_path / name, simulation=False)
    assert (tmp_path / "full" / "thesis.tex").read_text() == "years of work"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "full"]


def test_an_empty_folder_and_an_output_are_replaced(out, compiled):
    empty = out.parent / "empty"
    empty.mkdir()
    (out / "left-over").touch()
    for folder in (empty, out, out.parent / "deeper" / "new"):
        with replaced(folder) as new:
            shutil.copytree(compiled, new, dirs_exist_ok=True)
        assert CompiledModel(folder).about == CompiledModel(compiled).about
        assert not (folder / "left-over").exists()
        assert not list(folder.parent.glob(".*"))


def test_a_failed_compile_leaves_what_was_there(out, compiled, monkeypatch):
    before = sha256(out / "chip.json")

    def broken(model, config):
        raise ValueError("no Verilog today")

    monkeypatch.setattr(hdl.verilog, "chip_verilog", broken)
    source = Source.open(str(compiled.parent / "model"))
    for folder in (out, out.parent / "new"):
        with pytest.raises(ValueError, match="no Verilog today"):
            compile_model(source, folder, simulation=False, max_context=8)
    assert sha256(CompiledModel(out).folder / "chip.json") == before
    assert [p.name for p in out.parent.iterdir()] == [out.name]


def test_an_interrupted_compile_leaves_what_was_there(out):
    with pytest.raises(KeyboardInterrupt), replaced(out) as folder:
        (folder / "chip.v").write_text("half of it")
        raise KeyboardInterrupt
    assert [p.name for p in out.parent.iterdir()] == [out.name]
    CompiledModel(out)


def test_lanes_that_do_not_fit_write_nothing(tmp_path, compiled):
    with pytest.raises(ValueError, match="row_lanes"):
        compile_model(Source.open(str(compiled.parent / "model")), tmp_path / "out", row_lanes=3)
    assert not list(tmp_path.iterdir())


def test_only_a_build_of_the_same_chip_is_kept(out, tmp_path):
    (out / "simulation").mkdir()
    (out / "simulation" / "0123.so").write_text("a build")
    (out / "simulation" / "build-x").mkdir()
    for name, verilog, kept in (
        ("same", (out / "chip.v").read_text(), ["0123.so"]),
        ("other", "module x;", []),
    ):
        new = tmp_path / name
        new.mkdir()
        (new / "chip.v").write_text(verilog)
        keep_builds(out, new)
        assert [p.name for p in new.glob("simulation/*")] == kept


def test_what_was_built_for_boards_is_kept(out, tmp_path):
    build = out / "fpga" / "board"
    (build / "rom").mkdir(parents=True)
    (build / "top.bit").write_bytes(b"bits")
    (build / "rom" / "gain.hex").symlink_to("../../../rom/gain.hex")
    (tmp_path / "chip.v").write_text("module x;")
    keep_builds(out, tmp_path)
    assert (tmp_path / "fpga" / "board" / "top.bit").read_bytes() == b"bits"
    assert (tmp_path / "fpga" / "board" / "rom" / "gain.hex").readlink() == Path("../../../rom/gain.hex")
    assert (build / "top.bit").exists()
