"""Random checkpoints of any shape, for tests of the arithmetic."""

from collections.abc import Mapping

import numpy as np

from weights_to_rom.compile import quantise_checkpoint
from weights_to_rom.config import LlamaConfig
from weights_to_rom.integer_model import IntegerModel
from weights_to_rom.quantise.rounding import quantise
from weights_to_rom.readers.base import BlockCodes, Checkpoint


class RandomCheckpoint(Checkpoint):
    """A checkpoint of normal weights, scaled by the number of inputs so that activations are of order one."""

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


class RandomBlocks(RandomCheckpoint):
    """A random checkpoint whose file holds codes, as GGUF files do.

    ``bits`` gives the bits of a matrix's codes by the last part of its name ("q", "down" ...).  Matrices that are
    not in it hold floats.
    """

    def __init__(self, config: LlamaConfig, seed: int = 0, bits: Mapping[str, int] | None = None):
        super().__init__(config, seed)
        self._bits = bits or {}

    def blocks(self, name: str) -> BlockCodes | None:
        super().blocks(name)
        bits = self._bits.get(name.rpartition(".")[2])
        if bits is None:
            return None
        matrix = quantise(super()._read(name), bits)
        return BlockCodes(matrix.q, matrix.scale.astype(np.float32), matrix.minimum.astype(np.float32), bits)

    def _read(self, name: str) -> np.ndarray:
        blocks = self.blocks(name)
        if blocks is None:
            return super()._read(name)
        return blocks.values()[:, : self.config.tensor_shapes()[name][1]]


def random_config(**changes) -> LlamaConfig:
    """Make the shape of a small Llama; ``changes`` are fields of LlamaConfig."""
    shape = {
        "dim": 32,
        "n_layers": 2,
        "n_heads": 4,
        "n_kv_heads": 2,
        "head_dim": 8,
        "ffn_dim": 48,
        "vocab_size": 50,
        "max_seq_len": 64,
        "tied": True,
    }
    return LlamaConfig(**(shape | changes))


def random_model(seed: int = 0, wide_bits: int = 32, **changes) -> IntegerModel:
    """The integer model of a random checkpoint."""
    return quantise_checkpoint(RandomCheckpoint(random_config(**changes), seed), wide_bits=wide_bits)
