"""Adapters as peft writes them for small random Llamas, its logits, and their comparison with FloatLlama.

    python tests/data/generators/make_peft_reference.py            # writes peft_NAME/ and peft_logits.npz
    python tests/data/generators/make_peft_reference.py --check    # compares with peft live, and writes nothing

Needs torch, transformers and peft (the ``train`` extra).  The base models' weights come from a numpy seed, rounded to
float32, since peft gives adapters the type of the base model.  As in make_float_llama_reference.py the stored logits
are of transformers with its casts to float32 read as float64; ``--check`` also compares with it as it is.
"""

import argparse
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.data.generators.make_float_llama_reference import (
    case,
    difference,
    float32_read_as_float64,
    hf_logits,
    hf_model,
    random_tokens,
    random_weights,
)
from weights_to_rom.adapters.peft import MODULES, WEIGHTS, open_peft
from weights_to_rom.config import LlamaConfig
from weights_to_rom.quantise.float_llama import FloatLlama

FOLDER = Path(__file__).parents[1]
LOGITS = FOLDER / "peft_logits.npz"
ALL = [module.rpartition(".")[2] for module in MODULES.values()]

CASES: dict[str, tuple[LlamaConfig, dict]] = {
    "qv": (case(4, 2, 16), {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}),
    "all": (case(6, 3, 8, tied=True), {"r": 8, "lora_alpha": 12, "target_modules": ALL}),
    "rslora": (case(3, 1, 16), {"r": 2, "lora_alpha": 3, "use_rslora": True, "target_modules": ["o_proj", "down_proj"]}),
    "patterns": (
        case(4, 2, 16),
        {
            "r": 4,
            "lora_alpha": 6,
            "target_modules": ALL,
            # One name, one anchored name, one expression; the first that matches counts.
            "rank_pattern": {"v_proj": 2, "^model.layers.1.self_attn.q_proj": 8, r"layers\.0\.mlp\..*": 3},
            "alpha_pattern": {r"(gate|up)_proj": 20, "mlp.gate_proj": 1000, "layers.1.self_attn.q_proj": 5},
        },
    ),
    "layers": (
        case(4, 4, 8, n_layers=3),
        {"r": 3, "lora_alpha": 9, "target_modules": ["k_proj", "up_proj"], "layers_to_transform": [0, 2]},
    ),
}


def base_weights(config: LlamaConfig) -> dict[str, np.ndarray]:
    return {name: w.astype(np.float32).astype(np.float64) for name, w in random_weights(config).items()}


def write(name: str, config: LlamaConfig, lora: dict) -> None:
    """The two files that peft writes; it starts B at random, so that it counts."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    model = hf_model(config, base_weights(config)).float()
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **lora))
    adapted.save_pretrained(FOLDER / f"peft_{name}")
    (FOLDER / f"peft_{name}" / "README.md").unlink(missing_ok=True)  # peft's empty form of a model card


def peft_logits(name: str, config: LlamaConfig, arithmetic: Callable = nullcontext) -> np.ndarray:
    """The adapter is loaded outside of ``arithmetic``, which is for transformers alone."""
    from peft import PeftModel

    with arithmetic():
        base = hf_model(config, base_weights(config))
    model = PeftModel.from_pretrained(base, FOLDER / f"peft_{name}").eval()
    with arithmetic():
        return hf_logits(model, random_tokens(config))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare and write nothing")
    check = parser.parse_args().check
    worst, logits = 0.0, {}
    print("max|difference| / max|logit|     peft   all in float64    effect of the adapter")
    for name, (config, lora) in CASES.items():
        if not check:
            write(name, config, lora)
        plain = peft_logits(name, config)
        exact = logits[name] = peft_logits(name, config, float32_read_as_float64)
        weights, tokens = base_weights(config), random_tokens(config)
        adapter = open_peft(FOLDER / f"peft_{name}", config)
        got = FloatLlama(config, weights.__getitem__, np.float64, adapter).forward(tokens)
        without = FloatLlama(config, weights.__getitem__, np.float64).forward(tokens)
        errors = difference(got, plain), difference(got, exact)
        worst = max(worst, errors[0], errors[1] * 1e5)
        print(f"{name:28} {errors[0]:8.1e} {errors[1]:16.1e} {difference(without, exact):24.1e}")
    if not check:
        np.savez_compressed(LOGITS, **logits)
        print(f"wrote {sum((FOLDER / f'peft_{name}' / WEIGHTS).stat().st_size for name in CASES)} bytes of adapters")
    return int(worst > 1e-4)


if __name__ == "__main__":
    sys.exit(main())
