"""The map of the ROMs, against sizes worked out by hand and the formulas of its printed page."""

import pytest

from weights_to_rom.model_format import ModelFormat
from weights_to_rom.rom_map import (
    CONSTANT_WORD,
    FORMULAS,
    NORM_WORD,
    Rom,
    rom_map,
    rom_map_page,
    stage_roms,
    weight_word,
)
from weights_to_rom.schedule import all_matrices, embedding_matrix

SHAPE = {"dim": 64, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "head_dim": 16, "ffn_dim": 96, "vocab_size": 50}
LANES = [(1, 8, 1), (1, 4, 2), (2, 32, 8), (12, 16, 4)]


def model(**changes) -> ModelFormat:
    return ModelFormat(**SHAPE | changes, max_seq_len=64, **({} if "tied" in changes else {"tied": True}))


def sizes(roms: dict[str, Rom]) -> dict[str, tuple[int, int]]:
    assert [rom.name for rom in roms.values()] == list(roms)
    return {name: (rom.width, rom.depth) for name, rom in roms.items()}


def test_sizes_by_hand():
    # Words of a layer in groups of 2 rows, 2 beats a block: (128/2 * 2 + 64/2 * 2 + 192/2 * 2 + 64/2 * 3) * 2 = 960.
    layer = (64 * 2 + 32 * 2 + 96 * 2 + 32 * 3) * 2
    head = 25 * 2 * 2 * 2
    assert sizes(rom_map(model(), row_lanes=2, block_lanes=16, vector_lanes=4)) == {
        "weights_00": (72, 2 * layer + head),
        "weights_01": (72, 2 * layer + head),
        "rows": (20, 2 * (64 + 32 + 96 + 32) + 25),
        "gain": (64, 5 * 64 // 4),
        "norm": (40, 5),
        "freq": (64, 4),
        "constant": (38, 1),
    }


def test_an_untied_embedding_has_roms_of_its_own():
    tied, untied = (rom_map(model(tied=tied), row_lanes=2, block_lanes=16, vector_lanes=4) for tied in (True, False))
    assert sizes(untied) == sizes(tied) | {"embedding_00": (72, 50 * 2 * 2 * 2), "embedding_rows": (10, 50)}


def test_the_stages_of_a_chain_share_the_layers_out():
    lanes = {"row_lanes": 2, "block_lanes": 16, "vector_lanes": 4}
    first = sizes(stage_roms(model(), **lanes, layers=range(1), head=False, prefix="a_"))
    second = sizes(stage_roms(model(), **lanes, layers=range(1, 2), prefix="b_"))
    whole = sizes(stage_roms(model(), **lanes))
    assert not set(first) & set(second) and not set(first) & set(whole)
    for name, (width, depth) in whole.items():
        (width_a, depth_a), (width_b, depth_b) = first[f"a_{name}"], second[f"b_{name}"]
        assert width_a == width_b == width
        assert (depth_a == depth_b == depth) if name == "freq" else depth_a + depth_b == depth


def test_slices():
    assert (NORM_WORD.slice("eps"), NORM_WORD.slice("exponent")) == (slice(0, 32), slice(32, 40))
    assert (CONSTANT_WORD.slice("residual_shift"), CONSTANT_WORD.slice("end_token")) == (slice(0, 6), slice(6, 38))
    assert (weight_word(8).slice("code"), weight_word(8).slice("dm")) == (slice(0, 32), slice(32, 36))
    with pytest.raises(KeyError, match="k"):
        NORM_WORD.slice("k")


@pytest.mark.parametrize("shape", [{}, {"tied": False}, {"dim": 40, "n_layers": 1, "vocab_size": 77, "tied": False}])
@pytest.mark.parametrize(("row_lanes", "block_lanes", "vector_lanes"), LANES)
def test_the_printed_formulas_are_those_of_the_map(shape, row_lanes, block_lanes, vector_lanes):
    lanes = {"row_lanes": row_lanes, "block_lanes": block_lanes, "vector_lanes": vector_lanes}
    names = lanes | {"model": model(**shape), "all_matrices": all_matrices, "embedding_matrix": embedding_matrix}
    for name, rom in rom_map(model(**shape), **lanes).items():
        formulas = FORMULAS[name if name in FORMULAS else name[:-2] + "NN"]
        assert [eval(formula, names) for formula in formulas] == [rom.width, rom.depth]


def test_the_page_has_every_rom_and_field():
    page = rom_map_page()
    for name in FORMULAS:
        assert f"| `{name}` | `" in page
    for rom in rom_map(model(tied=False), row_lanes=1, block_lanes=32, vector_lanes=2).values():
        for field in rom.word.fields:
            assert f"`{field.name}` | " in page
    assert all(line.count("|") - line.count("\\|") in (0, 4, 7) for line in page.splitlines())
