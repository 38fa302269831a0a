"""Adapters as peft wrote them: read, computed in floating point against peft's logits, and refused by name."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.data.generators.make_float_llama_reference import difference, random_tokens
from tests.data.generators.make_peft_reference import ALL, CASES, FOLDER, LOGITS, base_weights
from tests.support.checkpoints import write_safetensors
from weights_to_rom import patterns
from weights_to_rom.adapters.peft import CONFIG, WEIGHTS, AdapterError, open_peft
from weights_to_rom.config import LlamaConfig
from weights_to_rom.quantise.float_llama import FloatLlama
from weights_to_rom.readers.huggingface import HuggingFaceCheckpoint
from weights_to_rom.readers.safetensors_file import SafetensorsFile

Q0 = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"


def read(name: str, config: LlamaConfig | None = None):
    return open_peft(FOLDER / f"peft_{name}", config or CASES[name][0])


def tensors_of(folder: Path) -> dict[str, np.ndarray]:
    file = SafetensorsFile(folder / WEIGHTS)
    return {name: file.read(name) for name in file.entries}


@pytest.fixture
def folder(tmp_path):
    """A copy of an adapter of q and v, rank 4."""
    return Path(shutil.copytree(FOLDER / "peft_qv", tmp_path / "adapter"))


def edit(folder: Path, **changes) -> None:
    raw = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(raw | changes))


def rewrite(folder: Path, dtype: str = "float32", **tensors) -> None:
    """Other tensors by their short name "layers.0.self_attn.q_proj.lora_A"; None takes one away."""
    changed = {f"base_model.model.model.{name}.weight": t for name, t in tensors.items()}
    kept = tensors_of(folder) | changed
    write_safetensors(folder / WEIGHTS, {name: t for name, t in kept.items() if t is not None}, dtype)


def refuse(folder: Path, message: str, config: LlamaConfig = CASES["qv"][0]) -> None:
    with pytest.raises(AdapterError, match=message) as caught:
        open_peft(folder, config)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("name", CASES)
def test_equals_peft(name):
    config, _ = CASES[name]
    llama = FloatLlama(config, base_weights(config).__getitem__, np.float64, read(name))
    with np.load(LOGITS) as logits:
        assert difference(llama.forward(random_tokens(config)), logits[name]) < 1e-9


@pytest.mark.parametrize("name", CASES)
def test_float32(name):
    config, _ = CASES[name]
    logits = FloatLlama(config, base_weights(config).__getitem__, np.float32, read(name)).forward(random_tokens(config))
    assert logits.dtype == np.float32
    with np.load(LOGITS) as stored:
        assert difference(logits, stored[name]) < 1e-4


@pytest.mark.parametrize("name", CASES)
def test_the_stored_adapters_count(name):
    """Without the adapter, or with its layers in another place, the logits are others."""
    config, _ = CASES[name]
    plain = FloatLlama(config, base_weights(config).__getitem__, np.float64).forward(random_tokens(config))
    with np.load(LOGITS) as logits:
        assert difference(plain, logits[name]) > 0.5


def test_steps_equal_the_whole():
    config, _ = CASES["all"]
    llama, tokens = FloatLlama(config, base_weights(config).__getitem__, np.float64, read("all")), random_tokens(config)
    steps = [llama.step(t) for t in tokens]
    np.testing.assert_allclose(steps, llama.forward(tokens), rtol=0, atol=1e-11)


def test_ranks_and_scales_by_pattern():
    """By hand, from the patterns in make_peft_reference.py; JSON sorts them, and the first that matches counts."""
    pairs = read("patterns").matrices
    assert {name: pair.rank for name, pair in pairs.items()} == {
        **{f"layers.{i}.{kind}": 4 for i in range(2) for kind in ("q", "k", "o", "gate", "up", "down")},
        **{f"layers.{i}.v": 2 for i in range(2)},
        **{f"layers.0.{kind}": 3 for kind in ("gate", "up", "down")},
        "layers.1.q": 8,
    }
    assert pairs["layers.0.q"].scale == 6 / 4
    assert pairs["layers.1.q"].scale == 5 / 8
    assert pairs["layers.0.gate"].scale == 20 / 3  # not 1000: "(gate|up)_proj" comes first
    assert pairs["layers.1.up"].scale == 20 / 4
    assert pairs["layers.0.down"].scale == 6 / 3
    assert pairs["layers.1.v"].scale == 6 / 2
    assert {pair.scale for pair in read("rslora").matrices.values()} == {3 / np.sqrt(2)}


def test_what_is_adapted():
    assert sorted(read("qv").matrices) == ["layers.0.q", "layers.0.v", "layers.1.q", "layers.1.v"]
    assert sorted(read("layers").matrices) == ["layers.0.k", "layers.0.up", "layers.2.k", "layers.2.up"]
    assert read("layers").targets == ["k", "up"]
    assert (read("patterns").rank, read("patterns").targets) == (8, ["q", "k", "v", "o", "gate", "up", "down"])


def test_tensors_are_those_of_the_file():
    tensors, pair = tensors_of(FOLDER / "peft_qv"), read("qv").matrices["layers.0.q"]
    np.testing.assert_array_equal(pair.a, tensors[Q0.format("A")])
    np.testing.assert_array_equal(pair.b, tensors[Q0.format("B")])
    assert pair.a.dtype == pair.b.dtype == np.float32
    assert (pair.a.shape, pair.b.shape) == ((4, 48), (64, 4))


@pytest.mark.parametrize(("dtype", "unit"), [("bfloat16", 2.0**-7), ("float16", 2.0**-10)])
def test_halves_are_exact(folder, dtype, unit):
    a = np.arange(4 * 48).reshape(4, 48).astype(np.float32) % 64 * unit
    rewrite(folder, dtype, **{"layers.0.self_attn.q_proj.lora_A": a})
    np.testing.assert_array_equal(open_peft(folder, CASES["qv"][0]).matrices["layers.0.q"].a, a)


@pytest.mark.parametrize(
    "changes",
    [
        {"target_modules": ["model.layers.0.self_attn.q_proj", "layers.1.self_attn.q_proj", "self_attn.v_proj"]},
        {"target_modules": r".*\.(q|v)_proj"},
        {"target_modules": "all-linear", "exclude_modules": ["k_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]},
        {"target_modules": ALL, "exclude_modules": r".*\.(k|o|gate|up|down)_proj"},
        {"layers_to_transform": [0, 1]},
        {"layers_to_transform": [0, 1, 5], "layers_pattern": "layers"},
        {"layers_to_transform": [1, 0], "layers_pattern": ["h", "layers"]},
        {"layers_to_transform": []},
        {"lora_dropout": 0.3, "task_type": None, "revision": "main", "inference_mode": False, "a_later_option": False},
        {"init_lora_weights": "gaussian"},
        {"rank_pattern": {"self_attn": 9, "proj": 9, "layers.1": 9, "q_proj.weight": 9, "_proj$": 9}},
    ],
)
def test_other_words_for_the_same(folder, changes):
    edit(folder, **changes)
    found = open_peft(folder, CASES["qv"][0]).matrices
    assert sorted(found) == ["layers.0.q", "layers.0.v", "layers.1.q", "layers.1.v"]


def test_an_entry_that_names_a_module_whole_is_not_bound_by_layers(folder):
    """peft asks for layers_to_transform only where a name matched by its end."""
    edit(folder, target_modules=["model.layers.1.self_attn.q_proj", "v_proj"], layers_to_transform=0)
    rewrite(folder, **{f"layers.{i}.self_attn.{kind}_proj.lora_{part}": None for i, kind in ((0, "q"), (1, "v")) for part in "AB"})
    assert sorted(open_peft(folder, CASES["qv"][0]).matrices) == ["layers.0.v", "layers.1.q"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3', not 'LORA'"),
        ({"peft_type": None}, "peft_type is None"),
        ({"use_dora": True}, "use_dora is True"),
        ({"lora_bias": True}, "lora_bias is True"),
        ({"bias": "lora_only"}, "bias is 'lora_only'"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save is \['lm_head'\]"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out is True"),
        ({"use_qalora": True}, "use_qalora is True"),
        ({"target_parameters": ["experts.up"]}, "target_parameters is"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication is"),
        ({"trainable_token_indices": [3]}, r"trainable_token_indices is \[3\]"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens is"),
        ({"use_bdlora": {"nblocks": 2}}, "use_bdlora is"),
        ({"arrow_config": {"top_k": 3}}, "arrow_config is"),
        ({"kasa_config": {"beta": 1e-4}}, "kasa_config is"),
        ({"monteclora_config": {"num_samples": 8}}, "monteclora_config is"),
        ({"megatron_config": {"x": 1}}, "megatron_config is"),
        ({"of_tomorrow": "on" * 99}, r"of_tomorrow is '(on)*o?\.\.\.: the chip computes plain LoRA"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is 'pissa_niter_4', which changes the base model"),
        ({"init_lora_weights": "olora"}, "init_lora_weights is 'olora'"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights is 'loftq'"),
        ({"r": 0}, "r must be an integer from 1 to 2147483647, not 0"),
        ({"r": "8"}, "r must be an integer from 1 to 2147483647, not '8'"),
        ({"rank_pattern": {"v_proj": True}}, "rank_pattern must be an object of positive integers .*, not {'v_proj': True}"),
        ({"lora_alpha": "x"}, "lora_alpha must be a finite number, not 'x'"),
        ({"lora_alpha": float("nan")}, "lora_alpha must be a finite number, not nan"),
        ({"alpha_pattern": {"v_proj": None}}, "alpha_pattern must be an object of finite numbers by pattern, not {'v_proj': None}"),
        ({"rank_pattern": [1]}, r"rank_pattern must be an object of positive integers by pattern, not \[1\]"),
        ({"layers_to_transform": "0"}, "layers_to_transform must be a layer's number or a list of them, not '0'"),
        ({"target_modules": None}, "target_modules is missing"),
        ({"target_modules": ["wqkv"]}, "target_modules names none of self_attn.q_proj"),
        ({"target_modules": "q_proj("}, r"'q_proj\(' is no regular expression"),
        ({"rank_pattern": {"*": 3}}, "is no regular expression"),
        ({"target_modules": ["q_proj", "k_proj", "v_proj"]}, "lacks .*layers.0.self_attn.k_proj.lora_A.weight, which .* promises"),
        ({"target_modules": ["q_proj"]}, r"holds .*layers.0.self_attn.v_proj.lora_A.weight, which .* does not name"),
        ({"layers_to_transform": [1]}, r"holds .*layers.0.self_attn.q_proj.lora_A.weight, which .* does not name"),
        ({"r": 8}, r"q_proj.lora_A.weight has shape \(4, 48\), not \(8, 48\)"),
    ],
)
def test_refused_configurations(folder, changes, message):
    edit(folder, **changes)
    refuse(folder, message)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"layers.0.self_attn.q_proj.lora_B": None}, "lacks base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"),
        ({"layers.1.self_attn.v_proj.lora_A": None}, "lacks base_model.model.model.layers.1.self_attn.v_proj.lora_A.weight"),
        ({"layers.2.self_attn.v_proj.lora_A": np.ones((4, 48))}, "holds .*layers.2.* of a base with 2 layers"),
        ({"embed_tokens.lora_embedding_A": np.ones((4, 61))}, "holds .*embed_tokens.lora_embedding_A.*nothing else"),
        ({"layers.0.self_attn.q_proj.lora_magnitude_vector": np.ones(64)}, "holds .*lora_magnitude_vector"),
        ({"layers.0.self_attn.q_proj.lora_A": np.ones((4, 64))}, r"lora_A.weight has shape \(4, 64\), not \(4, 48\): .*layers.0.q"),
        ({"layers.1.self_attn.v_proj.lora_B": np.ones((64, 4))}, r"lora_B.weight has shape \(64, 4\), not \(32, 4\): .*layers.1.v"),
        ({"layers.0.self_attn.q_proj.lora_B": np.full((64, 4), np.nan)}, "q_proj.lora_B.weight holds a NaN or an infinity"),
        ({"layers.0.self_attn.q_proj.lora_A": np.full((4, 48), -np.inf)}, "q_proj.lora_A.weight holds a NaN or an infinity"),
    ],
)
def test_refused_tensors(folder, tensors, message):
    rewrite(folder, **tensors)
    refuse(folder, message)


def renamed(folder: Path, change) -> None:
    """Write the tensors under other names."""
    write_safetensors(folder / WEIGHTS, {change(name): t for name, t in tensors_of(folder).items()}, "float32")


def test_the_name_default_may_stay_in_the_keys(folder):
    """Programs that save a state dict themselves leave it in, and peft loads it."""
    before = open_peft(folder, CASES["qv"][0])
    renamed(folder, lambda name: name.replace(".weight", ".default.weight"))
    after = open_peft(folder, CASES["qv"][0])
    assert list(after.matrices) == list(before.matrices)
    for name, pair in after.matrices.items():
        np.testing.assert_array_equal(pair.a, before.matrices[name].a)
        np.testing.assert_array_equal(pair.b, before.matrices[name].b)
    tensors = tensors_of(folder)
    write_safetensors(folder / WEIGHTS, tensors | {Q0.format("A"): tensors[Q0.format("A.default")]}, "float32")
    refuse(folder, r"holds \S*q_proj\.lora_A\.weight twice: as \S*lora_A\.\S*weight and as ")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("base_model.model.model.", "base_model.model."),
        ("base_model.model.model.", "base_model.model._orig_mod.model."),
        ("base_model.model.model.", "module.base_model.model.model."),
        ("base_model.model.model.", "model."),
        ("base_model.model.model.", "_orig_mod.base_model.model.model."),
    ],
)
def test_names_that_peft_would_ignore(folder, old, new):
    renamed(folder, lambda name: name.replace(old, new))
    refuse(folder, rf"holds {new}layers.0\S*, which peft would ignore, .* this one to {old}layers.0.self_attn.")


def test_an_adapter_of_another_name(folder):
    renamed(folder, lambda name: name.replace(".weight", ".pirates.weight"))
    refuse(folder, r"lora_A\.pirates\.weight, which peft would ignore, .* this one to base_model\.\S*_proj\.lora_A\.weight$")


@pytest.mark.parametrize("field", ["target_modules", "exclude_modules", "rank_pattern", "layers_pattern"])
def test_patterns_that_do_not_end(folder, field, monkeypatch):
    monkeypatch.setattr(patterns, "MATCH_SECONDS", 0.5)
    pattern = "(.*)*" * 12 + "!"
    changes = {"rank_pattern": {pattern: 4}}.get(field, pattern)
    edit(folder, **{"layers_to_transform": [0, 1]} | {field: changes})
    refuse(folder, r"adapter_config.json: the pattern .* cannot be matched in 0.5 seconds")


def test_a_pattern_without_a_number_names_no_layer(folder):
    edit(folder, layers_to_transform=[0, 1], layers_pattern="(h|layers)", target_modules=["q_proj", "v_proj"])
    assert len(open_peft(folder, CASES["qv"][0]).matrices) == 4
    edit(folder, layers_pattern="model|layers")
    refuse(folder, "target_modules names none of")


def test_another_base_model(folder):
    refuse(folder, r"lora_A.weight has shape \(4, 48\), not \(4, 72\)", replace(CASES["qv"][0], dim=72))


def test_refused_type(folder):
    rewrite(folder, "float64")
    refuse(folder, "has the unsupported type F64")


def test_missing_files(folder, tmp_path):
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")
    refuse(folder, r"adapter_model.safetensors is missing \(of adapter_model.bin only the safetensors version is read\)")
    (folder / "adapter_model.bin").unlink()
    refuse(folder, "adapter_model.safetensors is missing$")
    (folder / CONFIG).unlink()
    refuse(folder, "adapter_config.json is missing: no folder that peft wrote")
    refuse(tmp_path / "nothing", "adapter_config.json is missing")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1]", b'"LORA"'])
def test_damaged_configurations(folder, content):
    (folder / CONFIG).write_bytes(content)
    refuse(folder, "not JSON|not a JSON object")


def test_truncated_weights(folder):
    whole = (folder / WEIGHTS).read_bytes()
    for length in (0, 7, 8, 100, len(whole) // 2, len(whole) - 1):
        (folder / WEIGHTS).write_bytes(whole[:length])
        refuse(folder, "truncated|not that of a safetensors file")


def test_the_bundled_adapter_is_for_the_bundled_model():
    models = Path(__file__).parents[3] / "models"
    config = HuggingFaceCheckpoint(models / "stories-260k").config
    adapter = open_peft(models / "stories-260k-pirates", config)
    assert (adapter.rank, len(adapter.matrices)) == (8, 7 * config.n_layers)
    about = json.loads((models / "stories-260k-pirates" / CONFIG).read_text())
    assert about["base_model_name_or_path"] == "stories-260k"
    assert (models / "stories-260k-pirates" / WEIGHTS).stat().st_size < 300_000
