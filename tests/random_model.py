"""Random checkpoints of any shape, for tests that need a model and not its sense."""

import numpy as np

from weights_to_rom.checkpoint import Checkpoint
from weights_to_rom.config import LlamaConfig
from weights_to_rom.integer_model import IntegerModel, quantise_checkpoint


class RandomCheckpoint(Checkpoint):
    """Weights that keep activations of order one: normal, scaled by the number of inputs."""

    def __init__(self, config: LlamaConfig, seed: int = 0):
        super().__init__(config, f"random weights {seed}")
        self._seed = seed

    def _read(self, name: str) -> np.ndarray:
        shape = self.config.tensor_shapes()[name]
        rng = np.random.default_rng([self._seed, *name.encode()])
        if len(shape) == 1:
            return rng.uniform(0.5, 1.5, shape).astype(np.float32)
        scale = 1.0 if name == "embed" else 1.5 / np.sqrt(shape[1])
        return (rng.normal(size=shape) * scale).astype(np.float32)


def random_config(**changes) -> LlamaConfig:
    """A small Llama; ``changes`` are fields of LlamaConfig."""
    shape = {"dim": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "head_dim": 8, "ffn_dim": 48, "vocab_size": 50,
             "max_seq_len": 64, "tied": True}
    return LlamaConfig(**(shape | changes))


def random_model(seed: int = 0, wide_bits: int = 32, **changes) -> IntegerModel:
    """The integer model of a random checkpoint."""
    return quantise_checkpoint(RandomCheckpoint(random_config(**changes), seed), wide_bits=wide_bits)
