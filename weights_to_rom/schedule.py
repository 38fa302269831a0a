"""The order in which a chip reads its matrices.  The packer and the fabric both follow it.

Each layer has the stacked rows of k, v and q, then o, then gate and up in turns of ``vector_lanes`` rows, then down.  The LM
head follows the last layer.  The weight ROM holds the matrices in this order, so that a counter is the fabric's address.
"""

from dataclasses import dataclass
from enum import IntEnum

from weights_to_rom.model_format import BLOCK, ModelFormat


class Step(IntEnum):
    """The use of a matrix in a layer, or as the head.  The fabric tags the results of a matrix with its step."""

    QKV = 0
    O = 1  # noqa: E741  (the field's name for the attention output projection)
    GATE_UP = 2
    DOWN = 3
    HEAD = 4


@dataclass(frozen=True)
class MatrixShape:
    """One matrix of the schedule: ``rows`` outputs, ``blocks`` input blocks of 32, ``planes`` of four bits (1 or 2)."""

    step: Step
    rows: int
    blocks: int
    planes: int

    def groups(self, row_lanes: int) -> int:
        """Count the groups of ``row_lanes`` rows.  The fabric computes a group at a time."""
        return -(-self.rows // row_lanes)

    def words(self, row_lanes: int, block_lanes: int) -> int:
        """Count the words that the matrix takes in a row lane's ROM.  The fabric reads one a cycle."""
        return self.groups(row_lanes) * self.blocks * self.planes * (BLOCK // block_lanes)


def layer_matrices(model: ModelFormat) -> tuple[MatrixShape, ...]:
    """The four matrices of a layer."""
    dim, attn, ffn = (n // BLOCK for n in (model.dim_padded, model.attn_padded, model.ffn_padded))
    return (
        MatrixShape(Step.QKV, model.qkv_rows, dim, model.qkv_bits // 4),
        MatrixShape(Step.O, model.dim_padded, attn, model.o_bits // 4),
        MatrixShape(Step.GATE_UP, 2 * model.ffn_padded, dim, model.gate_up_bits // 4),
        MatrixShape(Step.DOWN, model.dim_padded, ffn, model.down_bits // 4),
    )


def head_matrix(model: ModelFormat) -> MatrixShape:
    """The LM head."""
    return MatrixShape(Step.HEAD, model.vocab_size, model.dim_padded // BLOCK, model.head_bits // 4)


def embedding_matrix(model: ModelFormat) -> MatrixShape:
    """The embedding table of an untied model; it has a ROM of its own."""
    return MatrixShape(Step.HEAD, model.vocab_size, model.dim_padded // BLOCK, model.embed_bits // 4)


def all_matrices(model: ModelFormat) -> tuple[MatrixShape, ...]:
    """Every matrix in ROM order."""
    return layer_matrices(model) * model.n_layers + (head_matrix(model),)


@dataclass(frozen=True)
class LoraMatrix:
    """The adapters of one step: an A of rank x ``blocks`` blocks for each of ``targets`` projections, ``rows`` rows of B in all.

    docs/arithmetic.md, section 6, gives their places in adapter memory.
    """

    step: Step
    targets: int
    rows: int
    blocks: int

    def a_words(self, rank: int, lora_lanes: int) -> int:
        """Count the addresses of A."""
        return self.targets * (rank // lora_lanes) * self.blocks

    def b_words(self, rank: int, lora_lanes: int) -> int:
        """Count the addresses of B."""
        return -(-self.rows * rank // (BLOCK * lora_lanes))

    def words(self, rank: int, lora_lanes: int) -> int:
        """Count the addresses of the step.  The LoRA adder reads one a cycle."""
        return self.a_words(rank, lora_lanes) + self.b_words(rank, lora_lanes)


def lora_matrices(model: ModelFormat) -> tuple[LoraMatrix, ...]:
    """The steps of a layer that adapters can add to."""
    targets = {Step.QKV: 3, Step.O: 1, Step.GATE_UP: 2, Step.DOWN: 1}
    return tuple(LoraMatrix(m.step, targets[m.step], m.rows, m.blocks) for m in layer_matrices(model))
