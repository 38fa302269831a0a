"""The table of the seven projections agrees with the shapes and with the schedule."""

from tests.support.models import random_config
from weights_to_rom.model_format import ModelFormat
from weights_to_rom.projections import GROUPS, LINEARS, MODULES
from weights_to_rom.schedule import Step, lora_matrices


def test_every_matrix_of_a_layer():
    shapes = random_config(n_layers=1).tensor_shapes()
    assert [name for name, shape in shapes.items() if len(shape) == 2] == ["embed", *(f"layers.0.{kind}" for kind in LINEARS)]


def test_every_kind_is_in_one_group_and_has_a_module():
    assert sorted(kind for kinds in GROUPS.values() for kind in kinds) == sorted(LINEARS)
    assert tuple(MODULES) == LINEARS and len(set(MODULES.values())) == len(LINEARS)


def test_groups_are_the_steps_of_a_layer():
    matrices = lora_matrices(ModelFormat.of(random_config()))
    assert {matrix.step: matrix.targets for matrix in matrices} == {Step[name.upper()]: len(GROUPS[name]) for name in GROUPS}
