"""The folder of a compiled model: its files, and folders that are refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import hdl.verilog
from hardwire.chip import Chip
from hardwire.compiled import CompiledError, CompiledModel, keep_builds, replaced, sha256
from hardwire.compiler import compile_model
from hardwire.source import Source
from tests.support.cli import write_model
from weights_to_rom.pack.rom_image import rom_images

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
    assert derived["multipliers_per_cycle"] == 8
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
