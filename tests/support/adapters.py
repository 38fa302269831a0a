"""Random adapters, as integers and in peft's format, for tests of the arithmetic."""

import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tests.data.generators.make_peft_reference import FOLDER
from tests.support.models import random_config
from weights_to_rom.adapters.lora import STEPS, IntegerAdapter, LoraBlocks, matrix_shape
from weights_to_rom.adapters.peft import CONFIG, MODULES, WEIGHTS, LoraPair, PeftAdapter
from weights_to_rom.model_format import ModelFormat


def random_format(**changes) -> ModelFormat:
    wide_bits = changes.pop("wide_bits", 32)
    return ModelFormat.of(random_config(**changes), wide_bits=wide_bits)


def random_blocks(rng, fmt, kind, rank, exponents="near") -> LoraBlocks:
    """Random blocks of one matrix.

    ``exponents``: "near" makes B (A x) about as large as the base's results; "wild" makes it anything from 0 to
    saturation; "far" takes the least and the greatest exponents.
    """
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
    """A random adapter.  Each step in the mask ``steps`` has an adapter for at least one projection in one layer."""
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


def random_lora_blocks(rng, rank, n_blocks, rows, exponents) -> LoraBlocks:
    nb = min(32, rank)
    mant = lambda *shape: rng.integers(-127, 128, shape).astype(np.int8)  # noqa: E731
    return LoraBlocks(mant(rank, n_blocks, 32), exponents((rank, n_blocks)).astype(np.int8),
                      mant(rows, rank // nb, nb), exponents((rows, rank // nb)).astype(np.int8))  # fmt: skip


# No width is a whole number of blocks, and QKV has 40 rows, so that padding fills an address of B.
CONFIG_ODD = random_config(dim=40, n_heads=3, n_kv_heads=1, ffn_dim=52, n_layers=2)


def random_peft_adapter(rank=3, config=CONFIG_ODD, kinds=tuple(MODULES), scale=0.75, seed=0) -> PeftAdapter:
    rng = np.random.default_rng(seed)
    shapes = {name: shape for name, shape in config.tensor_shapes().items() if name.rpartition(".")[2] in kinds}

    def normal(*shape):
        return (rng.normal(size=shape) * rng.choice([1e-3, 0.1, 1], (shape[0], 1))).astype(np.float32)

    return PeftAdapter("tests/adapter", {
        name: LoraPair(normal(rank, inputs), normal(rows, rank), scale) for name, (rows, inputs) in shapes.items()})  # fmt: skip


def write_adapter(folder: Path, adapter: PeftAdapter) -> None:
    """Write an adapter in peft's format: its tensors, and the bundled adapter's configuration with its rank and targets."""
    shutil.copytree(FOLDER / "peft_qv", folder)
    raw = json.loads((folder / CONFIG).read_text())
    targets = [MODULES[kind].rpartition(".")[2] for kind in adapter.targets]
    scale = next(iter(adapter.matrices.values())).scale
    (folder / CONFIG).write_text(json.dumps(raw | {
        "r": adapter.rank, "lora_alpha": scale * adapter.rank, "target_modules": targets}))  # fmt: skip
    tensors = {}
    for name, pair in adapter.matrices.items():
        layer, kind = name.rsplit(".", 1)
        module = f"base_model.model.model.{layer}.{MODULES[kind]}"
        tensors |= {f"{module}.lora_A.weight": pair.a, f"{module}.lora_B.weight": pair.b}
    save_file(tensors, folder / WEIGHTS)
