"""The order of the matrices, and how many words each takes, against numbers worked out by hand."""

import pytest

from tests.support.models import random_config
from weights_to_rom.model_format import ModelFormat
from weights_to_rom.schedule import (
    MatrixShape,
    Step,
    all_matrices,
    embedding_matrix,
    head_matrix,
    layer_matrices,
)


def model(**changes) -> ModelFormat:
    formats = {name: changes.pop(name) for name in list(changes) if name.endswith("_bits")}
    return ModelFormat.of(random_config(**changes), **formats)


def test_a_model_whose_sizes_are_no_multiples_of_anything():
    # 5 + 2 * 1 heads of 24; ceil32(40) = 64, ceil32(5 * 24) = 128, ceil32(33) = 64.
    f = model(
        dim=40,
        n_layers=3,
        n_heads=5,
        n_kv_heads=1,
        head_dim=24,
        ffn_dim=33,
        vocab_size=77,
        tied=False,
        head_bits=4,
        qkv_bits=8,
        down_bits=8,
    )
    layer = (
        MatrixShape(Step.QKV, 168, 2, 2),
        MatrixShape(Step.O, 64, 4, 1),
        MatrixShape(Step.GATE_UP, 128, 2, 1),
        MatrixShape(Step.DOWN, 64, 2, 2),
    )
    head = MatrixShape(Step.HEAD, 77, 2, 1)
    assert layer_matrices(f) == layer
    assert head_matrix(f) == head and embedding_matrix(f) == MatrixShape(Step.HEAD, 77, 2, 2)
    assert all_matrices(f) == layer * 3 + (head,)


def test_a_tied_head_is_the_embedding():
    assert head_matrix(model()) == embedding_matrix(model()) == MatrixShape(Step.HEAD, 50, 1, 2)


@pytest.mark.parametrize(
    ("row_lanes", "block_lanes", "groups", "words"),
    [(1, 32, 77, 77 * 3 * 2), (2, 32, 39, 39 * 3 * 2), (12, 16, 7, 7 * 3 * 2 * 2), (64, 4, 2, 2 * 3 * 2 * 8)],
)
def test_words(row_lanes, block_lanes, groups, words):
    """A group of rows reads each plane of each block in 32 / block_lanes beats; the last group is whole."""
    matrix = MatrixShape(Step.HEAD, 77, 3, 2)
    assert (matrix.groups(row_lanes), matrix.words(row_lanes, block_lanes)) == (groups, words)
