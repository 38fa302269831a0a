"""Random adapters of integers, for tests that need what the adder computes and not what an adapter is good for."""

import numpy as np

from tests.support.models import random_config
from weights_to_rom.adapters.lora import STEPS, IntegerAdapter, LoraBlocks, matrix_shape
from weights_to_rom.model_format import ModelFormat


def random_format(**changes) -> ModelFormat:
    wide_bits = changes.pop("wide_bits", 32)
    return ModelFormat.of(random_config(**changes), wide_bits=wide_bits)


def random_blocks(rng, fmt, kind, rank, exponents="near") -> LoraBlocks:
    """``near``: parts as large as the base's results; ``wild``: shifts from nothing to saturation; ``far``: the ends."""
    rows, blocks = matrix_shape(fmt, kind)
    nb = min(32, rank)
    shapes = (rank, blocks, 32), (rank, blocks), (rows, rank // nb, nb), (rows, rank // nb)
    low, high = {"near": (-14, -6), "wild": (-40, 20), "far": (0, 0)}[exponents]
    made = []
    for shape in shapes:
        if len(shape) == 3:
            mant = rng.integers(-127, 128, shape)
            if rng.random() < 0.3:
                mant[rng.integers(len(mant))] = rng.choice([-127, 127])
            made.append(mant.astype(np.int8))
        else:
            made.append((rng.choice([-64, 63], shape) if exponents == "far" else rng.integers(low, high, shape)).astype(np.int8))
    return LoraBlocks(*made)


def random_adapter(rng, fmt, rank, steps=15, exponents="near") -> IntegerAdapter:
    """An adapter of the steps in the mask; of each at least one projection in one layer."""
    matrices = {}
    for step, kinds in STEPS.items():
        if steps >> step & 1:
            names = [f"layers.{layer}.{kind}" for layer in range(fmt.n_layers) for kind in kinds]
            kept = rng.random(len(names)) < 0.8
            kept[rng.integers(len(names))] = True
            matrices |= {
                name: random_blocks(rng, fmt, name.rpartition(".")[2], rank, exponents)
                for name, keep in zip(names, kept, strict=True)
                if keep
            }
    return IntegerAdapter(rank, matrices)
