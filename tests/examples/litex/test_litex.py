"""The example with LiteX: a system is written, and its simulation answers the host's program with golden's tokens."""

import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from hardwire.compiled import CompiledModel
from hardwire.compiler import compile_model
from hardwire.source import Source
from sim.backends import GoldenSession
from sim.cocotb.runner import build, run
from sim.session import Sampling, generate
from tests.chip.plan import random_adapters
from weights_to_rom.adapters.lora import load_image

pytestmark = pytest.mark.litex
ROOT = Path(__file__).parents[3]
TOP = "hardwire_soc"


@pytest.fixture(scope="module")
def system(tmp_path_factory) -> SimpleNamespace:
    """A compiled model, and a system that has its chip."""
    folder = tmp_path_factory.mktemp("litex")
    out, soc = folder / "out", folder / "soc"
    lanes = {"row_lanes": 2, "block_lanes": 8}
    compile_model(Source.open("stories-tiny"), out, simulation=False, max_context=64, lora_rank=4, n_adapters=2, **lanes)
    written = subprocess.run(
        [sys.executable, "-m", "examples.litex.soc", str(out), str(soc)], cwd=ROOT, text=True, capture_output=True
    )
    assert written.returncode == 0, written.stderr
    return SimpleNamespace(out=CompiledModel(out), gateware=soc / "gateware" / f"{TOP}.v", csr=soc / "csr.csv")


def expected(out: CompiledModel) -> dict:
    """Golden's tokens, with the prompts and settings that lead to them."""
    adapter = random_adapters(out.model, out.config, seed=1)[0]
    assert out.tokenizer is not None
    prompt = out.tokenizer.encode("Once upon a time")
    plan = {
        "vocab_size": out.format.vocab_size,
        "max_context": out.config.max_context,
        "image": load_image(adapter, out.format, 1, out.config.lora_lanes, out.config.vector_lanes),
    }
    for name, sampling, used in (
        ("likeliest", Sampling(), None),
        ("random", Sampling(2.0, seed=7), None),
        ("adapter", Sampling(), adapter),
    ):
        golden = GoldenSession(out.model, out.config.max_context, adapter=used)
        plan[name] = prompt, sampling, [reply.token for reply in generate(golden, prompt, 12, sampling)]
    texts = [tuple(plan[name][2]) for name in ("likeliest", "random", "adapter")]
    assert len(set(texts)) == 3, texts
    return plan


def test_the_system_gives_goldens_tokens(system, tmp_path, runtime):
    (tmp_path / "plan.pickle").write_bytes(pickle.dumps(expected(system.out)))
    (tmp_path / "csr.csv").write_text(system.csr.read_text())
    sources = (system.gateware, *(system.out.folder / name for name in ("chip.v", "chip_axis.v")))
    (tmp_path / "system.v").write_text("".join(path.read_text() for path in sources))
    shutil.copytree(system.out.folder / "rom", tmp_path / "rom")
    ports = re.findall(r"^ +(?:input|output) +wire .*?(\w+),?$", system.gateware.read_text(), re.MULTILINE)
    assert {"clk", "rst", "host_awaddr", "host_rdata"} <= set(ports)
    simulation = build(tmp_path / "system.v", TOP, ports, tmp_path, runtime=runtime)
    run(simulation, TOP, "tests.support.litex_bench", tmp_path, seed=1)


def test_registers_have_the_fields_of_the_payloads(system):
    """csr.csv has the registers that the host's program writes and reads."""
    registers = re.findall(r"^csr_register,hardwire_(\w+),", system.csr.read_text(), re.MULTILINE)
    commands = ["command_flags", "command_inv_temperature", "command_seed", "command_token"]
    replies = ["reply_token", "reply_position", "reply_flags", "reply_next"]
    loads = ["load_word", "load_last_word", "load_reply", "load_reply_next"]
    assert registers == ["status", *commands, *replies, *loads]
