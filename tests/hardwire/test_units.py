"""``hardwire verify --units``: every unit's port equals golden, and a difference names the right unit."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from hardwire.check import verify
from hardwire.compiled import CompiledModel
from hardwire.compiler import compile_model
from hardwire.source import Source
from hardwire.target import Target
from sim.golden.llama import GoldenLlama
from sim.rtl.observe import Beats, ObservedChip
from tests.support.adapters import random_adapter
from tests.support.cli import SHAPE, Hardwire, write_model
from tests.support.packer import packed_wrong

pytestmark = pytest.mark.xdist_group("sample")  # one worker, so that its chip is built once

CONFIG = replace(SHAPE, n_layers=3, max_seq_len=16)
RANK = 4
PROMPT = "7 9 30 11"
KINDS = ("q", "k", "v", "o", "gate", "up", "down")


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A chip with every option that changes the beats: several passes of attention, a sliding window, a LoRA adder."""
    folder = tmp_path_factory.mktemp("sample")
    compile_model(
        Source.open(str(write_model(folder / "model", config=CONFIG))),
        folder / "out",
        simulation=False,
        row_lanes=2,
        block_lanes=8,
        attention_heads=1,
        attention_lanes=4,
        n_sinks=3,
        lora_rank=RANK,
    )
    CompiledModel(folder / "out").chip(kind=ObservedChip).close()
    return folder / "out"


class WithAdapters(Target):
    """A target whose chip gets ``adapter``, and whose golden gets ``golden_adapter``."""

    def __init__(self, out, adapter, golden_adapter=None):
        super().__init__(str(out))
        self.integer_adapter, self._golden_adapter = adapter, golden_adapter

    def golden(self):
        golden = super().golden()
        if self._golden_adapter is not None:
            extend = golden.extend
            golden.extend = lambda tokens, adapter=None, **options: extend(tokens, adapter=self._golden_adapter, **options)
        return golden


@pytest.mark.parametrize("steps", [None, 15, 0b1010])
def test_every_beat_at_every_port_is_goldens(out, steps):
    """The text is longer than the context; the adapter is on some projections, on all, or absent."""
    output = CompiledModel(out)
    rng = np.random.default_rng(1)
    adapter = None if steps is None else random_adapter(rng, output.format, RANK, steps)
    figures = verify(WithAdapters(out, adapter), [PROMPT, "40"], 30, [])
    assert figures["first_difference"] is None and figures["n_tokens"] == 33 + 30
    sample, f, vl, xl = figures["sample"], output.format, output.config.vector_lanes, output.config.x_lanes
    assert sample["n_identical_beats"] == sample["n_beats"] and sample["layers"] == [0, 1, 2]
    results = f.n_layers * (f.qkv_rows + 2 * f.dim + 2 * f.ffn_padded) // vl + -(-f.vocab_size // vl)
    turned = f.n_layers * (f.qkv_rows + f.n_heads * f.head_dim) // vl
    elements = (2 * f.n_layers + 1) * f.dim
    assert {port: n / 63 for port, n in sample["n_beats"].items() if not port.startswith("kv_cache")} == {
        "embedding": f.dim // vl,
        "residual": elements // vl,
        "rmsnorm": elements // vl,
        "mx_norm": elements // xl,
        "matvec": results,
        "lora": results,
        "rope": turned,
        "mx_qkv": turned,
        "attention": f.n_layers * f.attn_dim // vl,
        "mx_attention": f.n_layers * f.attn_dim // xl,
        "swiglu": f.n_layers * f.ffn_padded // vl,
        "mx_swiglu": f.n_layers * f.ffn_padded // xl,
    }
    places = sum(min(position + 1, CONFIG.max_seq_len) for n in (33, 30) for position in range(n))
    assert sample["n_beats"]["kv_cache.k"] == sample["n_beats"]["kv_cache.v"] == f.n_layers * f.n_heads * places * f.head_dim // 4


def test_layers_that_are_chosen(out, tmp_path):
    every, some = (verify(Target(str(out)), [PROMPT], 3, layers)["sample"] for layers in ([], [2, 1, 2]))
    assert some["layers"] == [1, 2] and some["n_beats"] == some["n_identical_beats"]
    assert some["n_beats"]["attention"] == every["n_beats"]["attention"] * 2 // 3
    # Of seven results: that of the embedding, the input of layer 1, and two of each of layers 1 and 2.
    assert some["n_beats"]["residual"] == every["n_beats"]["residual"] * (1 + 1 + 4) // 7
    wrong = packed_wrong(out, tmp_path / "out", lambda model: changed(model, "layers.0.q", "e", lambda e: row_exponent(e, 3)))
    for layers, unit, layer, what in (([0], "matvec", 0, "q[3]"), ([2], "residual", 1, "not sampled")):
        first = verify(Target(str(wrong)), [PROMPT], 3, layers)["first_difference"]
        assert (first["unit"], first["layer"]) == (unit, layer) and what in first["what"]


# Faults of a packer.  Each returns the spoilt model, and the unit, layer and element that the difference must name.


def changed(model, name, part, change):
    """Return the model with ``change`` applied to a copy of one array of one matrix."""
    matrix = model.matrices[name]
    array = getattr(matrix, part).copy()
    change(array)
    return replace(model, matrices={**model.matrices, name: replace(matrix, **{part: array})})


def place(model, rng, kind=None):
    """Choose a row whose first block has a scale that a fault visibly changes, and return its layer, kind and number."""
    layer, kind = int(rng.integers(model.format.n_layers)), kind or str(rng.choice(KINDS))
    matrix = model.matrices[f"layers.{layer}.{kind}"]
    row = int(rng.choice(np.flatnonzero((matrix.d[:, 0] > 8) & (matrix.m[:, 0] > 8))))
    return layer, kind, row


def spoil(model, rng, part, change, kind=None):
    layer, kind, row = place(model, rng, kind)
    return changed(model, f"layers.{layer}.{kind}", part, lambda array: change(array, row)), ("matvec", layer, f"{kind}[{row}]")


def code(array, row):
    array[row, 0, 5] ^= 8


def halved(array, row):
    array[row, 0] //= 2


def row_exponent(array, row):
    array[row] += 1


def norm(model, rng, **changes):
    layer, kind = int(rng.integers(model.format.n_layers)), str(rng.choice(["attn_norm", "ffn_norm"]))
    name = f"layers.{layer}.{kind}"
    old = model.norms[name]
    new = replace(old, **{part: change(getattr(old, part)) for part, change in changes.items()})
    return replace(model, norms={**model.norms, name: new}), layer, kind


def gain(model, rng):
    i = int(rng.integers(model.format.dim))
    spoilt, layer, kind = norm(model, rng, gain_q=lambda g: np.where(np.arange(len(g)) == i, g ^ 64, g))
    return spoilt, ("rmsnorm", layer, f"{kind}[{i}]")


def norm_exponent(model, rng):
    spoilt, layer, kind = norm(model, rng, gain_exp=lambda e: e + 1)
    return spoilt, ("rmsnorm", layer, f"exponent of {kind}[0]")


def epsilon(model, rng):
    spoilt, layer, _ = norm(model, rng, eps_q=lambda e: 2**32 - 1)
    return spoilt, ("rmsnorm", layer, None)


def frequency(model, rng):
    j = int(rng.integers(1, model.format.head_dim // 2))
    freq_q = model.freq_q.copy()
    freq_q[j] ^= 1 << 27
    return replace(model, freq_q=freq_q), ("rope", 0, f"k[0, {2 * j}]")


def residual_shift(model, rng):
    return replace(model, residual_shift=model.residual_shift + 1), ("embedding", None, "h[0]")


def end_of_text(model, rng):
    logits = GoldenLlama(model).extend([int(word) for word in PROMPT.split()])
    return replace(model, eos_token_ids=(int(np.argmax(logits[-1])),)), ("constant", None, "end")


def token_written(model, rng):
    return changed(model, "embed", "q", lambda q: code(q, 0)), ("matvec", None, "embed[0]")


FAULTS = {
    **{f"code of {kind}": lambda model, rng, kind=kind: spoil(model, rng, "q", code, kind) for kind in KINDS},
    "block scale": lambda model, rng: spoil(model, rng, "d", halved),
    "block minimum": lambda model, rng: spoil(model, rng, "m", halved),
    "row exponent": lambda model, rng: spoil(model, rng, "e", row_exponent),
    "gain": gain,
    "norm exponent": norm_exponent,
    "epsilon": epsilon,
    "frequency": frequency,
    "residual shift": residual_shift,
    "end of text": end_of_text,
    "LM head": token_written,
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_wrong_rom_is_traced_to_its_unit(out, tmp_path, name):
    rng = np.random.default_rng(sum(name.encode()))
    expected = None

    def wrong(model):
        nonlocal expected
        spoilt, expected = FAULTS[name](model, rng)
        return spoilt

    figures = verify(Target(str(packed_wrong(out, tmp_path / "out", wrong))), [PROMPT, "1 2 3 4 5 6"], 20, [])
    first = figures["first_difference"]
    unit, layer, what = expected
    assert (first["unit"], first["layer"]) == (unit, layer)
    assert first["rtl"] != first["golden"]
    if what is not None:
        assert first["what"].startswith(what)


def watched(monkeypatch, tamper):
    """Let ``tamper`` change the recorded beats: it gets their words and their ends, by unit."""
    take = ObservedChip.take

    def tampered(chip):
        beats, ends = take(chip)
        words = {port: part._words[:, :-1].copy() for port, part in beats.items()}
        tamper(words, ends)
        return {port: Beats(chip.taps[port], part) for port, part in words.items()}, ends

    monkeypatch.setattr(ObservedChip, "take", tampered)


PORTS = (
    "embedding",
    "residual",
    "rmsnorm",
    "mx_norm",
    "matvec",
    "lora",
    "rope",
    "mx_qkv",
    "kv_cache.k",
    "kv_cache.v",
    "attention",
    "mx_attention",
    "swiglu",
    "mx_swiglu",
)


@pytest.mark.parametrize("port", PORTS)
@pytest.mark.parametrize("field", ["value", "exponent"])
def test_one_bit_at_any_port_is_seen(out, monkeypatch, port, field):
    """One bit is changed in the second chunk, at its last position; the difference names that bit, and no other."""
    rng = np.random.default_rng(sum(port.encode()))
    output = CompiledModel(out)
    chip = output.chip(kind=ObservedChip)
    tap = chip.taps[port]
    chip.close()
    starts, width = (tap.values, tap.width) if field == "value" else (tap.exponents, 8)
    if not starts:
        assert port in ("embedding", "residual", "matvec", "lora")  # fixed point with LSB 2**-12, without exponents
        return
    bit = int(rng.integers(width))
    done = False

    def flip(words, ends):
        nonlocal done
        if len(ends[port]) == 2 and not done:
            begin, end = ends[port]
            word, at = divmod(int(rng.choice(starts)) + bit, 64)
            words[port][rng.integers(begin, end), word] ^= np.uint64(1 << at)
            done = True

    watched(monkeypatch, flip)
    figures = verify(Target(str(out)), [PROMPT], 3, [])
    first = figures["first_difference"]
    assert (first["unit"], first["position"]) == (port.partition(".")[0], 2)
    assert first["rtl"] ^ first["golden"] == (-1 << bit if bit == width - 1 else 1 << bit)
    assert ("exponent of" in first["what"]) == (field == "exponent")
    sample = figures["sample"]
    assert {p: sample["n_beats"][p] - n for p, n in sample["n_identical_beats"].items() if n != sample["n_beats"][p]} == {port: 1}
    assert figures["n_identical_logits"] == figures["n_logits"]  # the replies do not show the fault


@pytest.mark.parametrize(("more", "what"), [(-1, "beats"), (1, "beats after the last result")])
def test_a_beat_too_few_or_too_many_is_seen(out, monkeypatch, more, what):
    def shift(words, ends):
        ends["swiglu"][-1] += more
        words["swiglu"] = np.resize(words["swiglu"], (ends["swiglu"][-1], words["swiglu"].shape[1]))

    watched(monkeypatch, shift)
    first = verify(Target(str(out)), [PROMPT], 3, [])["first_difference"]
    assert (first["unit"], first["position"], first["what"]) == ("swiglu", 0, what)


def test_another_adapter_than_goldens_is_traced_to_the_adder(out):
    fmt = CompiledModel(out).format
    adapter = random_adapter(np.random.default_rng(2), fmt, RANK)
    name = f"layers.1.{next(kind for kind in KINDS if f'layers.1.{kind}' in adapter.matrices)}"
    blocks = adapter.matrices[name]
    b_exp = blocks.b_exp.copy()
    b_exp[6] += 1
    other = replace(adapter, matrices={**adapter.matrices, name: replace(blocks, b_exp=b_exp)})
    first = verify(WithAdapters(out, adapter, other), [PROMPT], 3, [])["first_difference"]
    assert (first["unit"], first["layer"], first["what"]) == ("lora", 1, f"{name.rpartition('.')[2]}[6]")


def test_command(out, tmp_path, capsys, monkeypatch):
    hardwire = Hardwire(capsys, monkeypatch)
    result = hardwire("verify", out, "--units", "--prompt", PROMPT, "--tokens", 2)
    assert result.code == 0 and "beats at 14 ports inside the chip identical to golden, layers 0, 1, 2" in result.out
    wrong = packed_wrong(out, tmp_path / "out", lambda model: changed(model, "layers.1.up", "e", lambda e: row_exponent(e, 3)))
    result = hardwire("verify", wrong, "--units", "--layer", 1, "--prompt", PROMPT, "--tokens", 2)
    assert result.code == 1
    assert f"DIFFERENT: prompt '{PROMPT}', position 0, layer 1, unit matvec, up[3]: rtl " in result.out
    figures = json.loads(hardwire("verify", wrong, "--units", "--prompt", PROMPT, "--tokens", 2, "--json").out)
    assert (figures["first_difference"]["unit"], figures["first_difference"]["layer"]) == ("matvec", 1)
    for arguments, code, complaint in (
        (("--layer", 1), 2, "add --units"),
        (("--units", "--layer", 3), 1, "there is no layer 3: the model has 0 to 2"),
    ):
        result = hardwire("verify", out, *arguments)
        assert result.code == code and complaint in result.err and result.err.count("\n") == 1 and result.out == ""


def test_two_chips_are_closed_in_any_order(out):
    """A library with scopes can wait for ever when a chip closes, so the test closes two in a process of its own."""
    code = (
        "import sys; from hardwire.compiled import CompiledModel; from sim.rtl.observe import ObservedChip; "
        "out = CompiledModel(sys.argv[1]); first, second = (out.chip(kind=ObservedChip) for _ in range(2)); "
        "second.close(); first.close()"
    )
    subprocess.run([sys.executable, "-c", code, str(out)], check=True, timeout=60)
