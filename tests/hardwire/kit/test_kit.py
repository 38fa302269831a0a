"""The kit in OUT: its files agree with the chip, and other people's tools read and run it from any folder."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pyslang import driver

from hardwire.chip import Chip
from hardwire.compiled import CompiledModel
from hardwire.compiler import compile_model
from hardwire.source import Source
from hdl.interface import COMMAND, LOAD_REPLY, LOAD_WORD, REPLY, LoadStatus, Status
from sim.rtl.observe import taps
from sim.rtl.trace import find_unit, units
from sim.rtl.verilator import SimulationError, verilator
from sim.session import generate
from tests.support.cli import write_model

pytestmark = pytest.mark.xdist_group("kit")  # one worker, so that its chips are compiled once

CHIPS: dict[str, dict] = {"chip": {"block_lanes": 8}, "left_chip": {"block_lanes": 8, "prefix": "left", "lora_rank": 4}}
"""Options of compile, by the name of the top module."""

slow = pytest.mark.kit
"""Tests that `make test` leaves to `make test-kit`."""


@pytest.fixture(scope="module")
def kits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two compiled models, named as their top modules and moved to another folder.  Tests do not write to them."""
    folder = tmp_path_factory.mktemp("kits")
    source = Source.open(str(write_model(folder / "model")))
    for name, options in CHIPS.items():
        compile_model(source, folder / "made" / name, simulation=False, **options)
    return (folder / "made").rename(folder / "moved")


@pytest.fixture(params=CHIPS)
def kit(kits: Path, request: pytest.FixtureRequest) -> Path:
    return kits / request.param


def golden(out: Path) -> list[int]:
    """The tokens that follow the prompt of the kit, by the integer model that is in the folder."""
    text = json.loads((out / "tokens.json").read_text())
    session = Chip(out).session("golden")
    return [reply.token for reply in generate(session, text["prompt"], len(text["tokens"]))]


def icarus(where: Path, *sources: Path, options: tuple[str, ...] = (), top: str = "") -> subprocess.CompletedProcess:
    """Compile with Icarus in the folder ``where``, without a warning, and run there."""
    assert shutil.which("iverilog"), "Icarus Verilog is missing: apt-get install iverilog"
    command = ["iverilog", "-g2012", "-Wall", *options, *(["-s", top] if top else []), "-o", "bench.vvp", *map(str, sources)]
    made = subprocess.run(command, cwd=where, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert (made.returncode, made.stdout) == (0, "")
    return subprocess.run(["vvp", "-n", "bench.vvp"], cwd=where, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_the_ports_are_those_of_the_verilog(kit):
    about, verilog = json.loads((kit / "chip.json").read_text()), (kit / "chip.v").read_text()
    assert about["module"] == kit.name
    body = re.search(rf"^module {kit.name}\((.*?)^endmodule", verilog, re.MULTILINE | re.DOTALL)[0]
    found = {
        name: (direction, int(high or 0) + 1)
        for direction, high, name in re.findall(r"^  (in|out)put (?:\[(\d+):0\] )?(\w+);", body, re.MULTILINE)
    }
    assert {port["name"]: (port["direction"], port["width"]) for port in about["ports"]} == found
    assert ("load__payload" in found) == (kit.name == "left_chip")
    layouts = {"i__payload": COMMAND, "o__payload": REPLY, "load__payload": LOAD_WORD, "loaded__payload": LOAD_REPLY}
    for port in about["ports"]:
        for field in port.get("fields", []):
            assert layouts[port["name"]].pack(**{field["name"]: 1}) == 1 << field["lsb"]
            assert layouts[port["name"]].widths[field["name"]] == field["width"]
    codes = {port["name"]: field["codes"] for port in about["ports"] for field in port.get("fields", []) if "codes" in field}
    assert codes["o__payload"] == {code.name: int(code) for code in Status}


def test_the_header_has_every_field(kit, tmp_path):
    """Icarus prints the localparams of the header, which a module includes."""
    layouts = {"COMMAND": COMMAND, "REPLY": REPLY} | ({"LOAD": LOAD_WORD, "LOADED": LOAD_REPLY} if "left" in kit.name else {})
    expected = {f"{name}_BITS": layout.size for name, layout in layouts.items()}
    for name, layout in layouts.items():
        for field, width in layout.widths.items():
            lsb = layout.pack(**{field: 1}).bit_length() - 1
            expected |= {f"{name}_{field.upper()}_LSB": lsb, f"{name}_{field.upper()}_BITS": width}
    expected |= {f"STATUS_{code.name}": int(code) for code in Status} | {"VOCAB_SIZE": 41, "MAX_CONTEXT": 24, "N_SEQUENCES": 1}
    if "left" in kit.name:
        expected |= {f"LOAD_STATUS_{code.name}": int(code) for code in LoadStatus}
    prefix = kit.name.upper()
    shows = "".join(f'    $display("{name} %0d", {prefix}_{name});\n' for name in expected)
    bench = tmp_path / "shows.v"
    bench.write_text(f'module shows;\n`include "chip.vh"\n  initial begin\n{shows}  end\nendmodule\n')
    printed = icarus(tmp_path, bench, options=(f"-I{kit}",)).stdout
    assert {name: int(value) for name, value in map(str.split, printed.splitlines())} == expected


@pytest.mark.parametrize("options", [(), pytest.param(("-DSYNTHESIS",), marks=slow)], ids=["simulation", "synthesis"])
def test_the_bench_in_icarus(kit, tmp_path, options):
    """From a third folder: nothing but the two files is named.  With SYNTHESIS the macro names the images."""
    if options:
        macro = "HARDWIRE_ROM_left" if "left" in kit.name else "HARDWIRE_ROM"
        options = (*options, f'-D{macro}="{kit}/rom/"')
    ran = icarus(tmp_path, kit / "chip.v", kit / "tb.v", options=options)
    tokens = golden(kit)
    assert len(set(tokens)) > 1
    assert ran.stdout.splitlines() == [*(f"token {token}" for token in tokens), "4 of 4 tokens equal the integer model's"]
    assert ran.returncode == 0


def copy(kits: Path, tmp_path: Path) -> Path:
    return shutil.copytree(kits / "chip", tmp_path / "copy")


def test_a_wrong_model_fails_the_bench(kits, tmp_path):
    """A code of every weight changes its sign: the first wrong token ends the simulation."""
    out = copy(kits, tmp_path)
    image = out / "rom/weights_00.hex"
    image.write_text("".join(f"{int(word, 16) ^ 0x888:09x}\n" for word in image.read_text().split()))
    ran = icarus(tmp_path, out / "chip.v", out / "tb.v")
    assert ran.returncode == 1
    assert re.search(r"FATAL: .*\n?.*position \d+: token \d+, and the integer model's is \d+", ran.stdout)
    assert "tokens equal" not in ran.stdout


@pytest.mark.parametrize("damage", ["missing", "cut off"])
def test_a_simulation_without_an_image_stops(kits, tmp_path, damage):
    out = copy(kits, tmp_path)
    image = out / "rom/gain.hex"
    if damage == "missing":
        image.unlink()
    else:
        image.write_text("".join(image.read_text().splitlines(keepends=True)[:-1]))
    ran = icarus(tmp_path, out / "chip.v", out / "tb.v")
    assert ran.returncode == 1
    assert f"{out}/rom/gain.hex is missing or cut off: define HARDWIRE_ROM as the folder of the ROM images" in ran.stdout
    assert "token " not in ran.stdout


def cocotb(out: Path, where: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(
        [sys.executable, str(out / "cocotb_bench.py")],
        cwd=where,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@slow
def test_the_bench_in_cocotb(kit, tmp_path):
    ran = cocotb(kit, tmp_path)
    assert ran.returncode == 0, ran.stdout
    assert [int(token) for token in re.findall(r"token (\d+)$", ran.stdout, re.MULTILINE)] == golden(kit)


@slow
def test_a_wrong_token_fails_the_bench_in_cocotb(kits, tmp_path):
    out = copy(kits, tmp_path)
    text = json.loads((out / "tokens.json").read_text())
    text["tokens"][2] ^= 1
    (out / "tokens.json").write_text(json.dumps(text))
    ran = cocotb(out, tmp_path)
    assert ran.returncode == 1
    assert f"and the integer model's is {text['tokens'][2]}" in ran.stdout


BOTH = """
module both;
  reg clk = 0, rst = 1, valid = 0;
  wire [1:0] ready, valids;
  wire [83:0] replies [0:1];
  chip a (.clk(clk), .rst(rst), .i__payload(COMMAND), .i__valid(valid), .i__ready(ready[0]), .o__payload(replies[0]),
          .o__valid(valids[0]), .o__ready(1'b0), .logits_valid(), .logits(), .busy(), .step());
  left_chip b (.clk(clk), .rst(rst), .i__payload(COMMAND), .i__valid(valid), .i__ready(ready[1]), .o__payload(replies[1]),
          .o__valid(valids[1]), .o__ready(1'b0), .logits_valid(), .logits(), .busy(), .step(),
          .load__payload(33'd0), .load__valid(1'b0), .load__ready(), .loaded__payload(), .loaded__valid(), .loaded__ready(1'b1));
  always #1 clk = ~clk;
  initial begin
    repeat (4) @(negedge clk);
    rst = 0;
    repeat (2) @(negedge clk);
    valid = 1;
    @(negedge clk) valid = 0;
    while (valids !== 2'b11) @(negedge clk);
    $display("%0d %0d", replies[0][31:0], replies[1][31:0]);
    $finish;
  end
  initial #100000 $fatal(1, "no reply");
endmodule
"""


def test_two_chips_in_one_design(kits, tmp_path):
    """In Icarus, which runs them, and in Verilator, which elaborates them: no two modules and no two macros meet."""
    command = COMMAND.pack(token=7, restart=1, sample=1)
    bench = tmp_path / "both.v"
    bench.write_text(BOTH.replace("COMMAND", f"{COMMAND.size}'d{command}"))
    sources = [kits / name / "chip.v" for name in CHIPS]
    session = Chip(kits / "chip").session("golden")
    token = session.step(7).token
    assert icarus(tmp_path, bench, *sources, top="both").stdout == f"{token} {token}\n"
    verilator("--lint-only", "--timing", "-Wno-lint", "-Wno-style", "--top-module", "both", str(bench), *map(str, sources))
    with pytest.raises(SimulationError, match="both"):
        verilator("--lint-only", "--timing", "--top-module", "both", str(bench), str(sources[0]))


def test_each_module_has_the_prefix(kits):
    names = re.findall(r"^module \\?([^\s(]+)", (kits / "left_chip/chip.v").read_text(), re.MULTILINE)
    assert len(names) > 50 and all(name.startswith("left_") for name in names)


def test_units_are_found_in_a_chip_with_a_prefix(kit):
    """By the paths that observed and traced simulations use."""
    compiled = CompiledModel(kit)
    paths = units(compiled.verilog.read_text(), kit.name)
    assert find_unit("attention.cache", paths) == f"{kit.name}.core.stage.attention.cache"
    scopes = {tap.scope for tap in taps(compiled.format, compiled.config).values()}
    assert len(scopes) > 5 and scopes <= set(paths)
    with pytest.raises(SimulationError, match=r"the chip has .*rmsnorm.*, and in them parts such as matvec\.lane_00"):
        find_unit("nothing", paths)


def test_slang_finds_nothing(kit, tmp_path):
    shows = tmp_path / "shows.sv"
    shows.write_text('module shows;\n`include "chip.vh"\nendmodule\n')
    assert slang(kit / "chip.v", kit / "tb.v", shows, options=f"-I {kit}")
    shows.write_text("module shows;\n  wire [3:0] a = undeclared;\nendmodule\n")
    assert not slang(shows)


def slang(*sources: Path, options: str = "") -> bool:
    """Whether slang reads and elaborates Verilog without an error or a warning."""
    read = driver.Driver()
    read.addStandardArgs()
    assert read.parseCommandLine(f"slang -Werror {options} {' '.join(map(str, sources))}")
    return read.processOptions() and read.parseAllSources() and read.runFullCompilation()


@slow
def test_debians_yosys_finds_nothing_wrong(kit, tmp_path):
    """It finds the images beside the file, and every module: no conflicting drivers, no undriven wires, no loops."""
    assert shutil.which("yosys"), "Yosys is missing: apt-get install yosys"
    script = f"read_verilog {kit}/chip.v {kit}/chip_axis.v; hierarchy -check -top {kit.name}_axis; proc; check -assert"
    ran = subprocess.run(["yosys", "-q", "-p", script], cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert (ran.returncode, ran.stdout) == (0, "")


def test_verilators_linter_finds_nothing(kit):
    verilator("--lint-only", "-Wall", "--top-module", kit.name, str(kit / "lint.vlt"), str(kit / "chip.v"))


def test_the_memories_are_those_of_the_verilog(kit):
    listed = json.loads((kit / "memories.json").read_text())
    text, manifest = (kit / "chip.v").read_text(), CompiledModel(kit).manifest
    prefix = kit.name.removesuffix("chip")
    roms = {memory["module"]: memory for memory in listed["macros"] if memory["kind"] == "ROM"}
    assert {name.removeprefix(f"{prefix}rom_"): (rom["width"], rom["depth"]) for name, rom in roms.items()} == {
        name: (rom["width"], rom["depth"]) for name, rom in manifest.items()
    }
    assert all((kit / rom["image"]).is_file() and rom["latency"] == 1 for rom in roms.values())
    rams = [memory for memory in listed["macros"] if memory["kind"] != "ROM"]
    assert {ram["module"] for ram in rams} == set(re.findall(rf"^module ({prefix}ram_\w+)", text, re.MULTILINE))
    for ram in rams:
        width, depth = re.search(r"ram_(\d+)x(\d+)", ram["module"]).groups()
        assert (ram["width"], ram["depth"]) == (int(width), int(depth))
        assert ram["latency"] == (0 if ram["module"].endswith("_async") else 1)
    # The two halves of the KV cache: a word for each block of a head and each position.
    (cache,) = [ram for ram in rams if "_apart" in ram["module"]]
    assert (cache["instances"], cache["width"], cache["depth"]) == (2, 72, 48)
    assert {"exp2", "rsqrt", "silu", "sine_0"} <= {table["name"] for table in listed["tables"]}


def test_the_other_files_name_what_there_is(kit):
    core = (kit / "chip.core").read_text()
    files = re.findall(r"(?:^      - |[\[ ])([\w/]+\.(?:vh|v|hex|vlt|sdc))\b", core, re.MULTILINE)
    assert {"chip.v", "chip.vh", "tb.v", "lint.vlt", "chip.sdc"} <= set(files)
    assert {f"rom/{name}.hex" for name in CompiledModel(kit).manifest} <= set(files)
    assert all((kit / name).is_file() for name in files)
    constrained = re.findall(r"[{ ](\w+)(?=\[\*\]| )", " ".join(re.findall(r"get_ports \{(.*)\}", (kit / "chip.sdc").read_text())))
    ports = {port["name"] for port in json.loads((kit / "chip.json").read_text())["ports"]}
    assert set(constrained) == ports - {"clk"}
    readme = (kit / "README.md").read_text()
    assert all(f"`{name}`" in readme for name in ports)
    assert ("Load an adapter" in readme) == ("left" in kit.name)
    assert str(kit.parent) not in readme + core
