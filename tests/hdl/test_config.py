"""Chip options: defaults that are filled in, values that are refused, and a help text for each option."""

import hashlib
import json
import re
import time
from dataclasses import MISSING, fields
from itertools import product

import pytest

from hdl.config import MAX_KV_BITS, SHARED_LANES, ChipConfig, ConfigError
from tests.support.models import random_config
from weights_to_rom.errors import HardwireError
from weights_to_rom.model_format import ModelFormat

FORMATS = [
    ModelFormat.of(random_config(**shape), wide_bits=wide_bits)
    for shape, wide_bits in (
        ({}, 32),
        ({}, 24),
        ({"dim": 48, "n_heads": 3, "n_kv_heads": 1, "head_dim": 16, "ffn_dim": 100, "tied": False}, 32),
        ({"dim": 64, "head_dim": 64}, 32),
        ({"dim": 288, "n_heads": 6, "n_kv_heads": 6, "head_dim": 48, "max_seq_len": 1024}, 32),
    )
]
GRID = {
    "row_lanes": (1, 2, 3, 16, 64, 256),
    "block_lanes": (4, 5, 8, 16, 32),
    "vector_lanes": (None, 2, 4, 8, 64),
    "attention_heads": (None, 1, 4),
    "max_context": (None, 16, 257),
    "shared": (False, True),
}
FILLED_IN = "99d22b09"
"""Of every combination of GRID, for every one of FORMATS: the start of a hash of the configurations, or that it is refused."""


def filled_in(model: ModelFormat, given: dict) -> dict | None:
    try:
        return {name: of for name, of in ChipConfig.for_model(model, **given).as_dict().items() if name != "prefix"}
    except ConfigError:
        return None


def test_what_is_filled_in_stays_as_it_is():
    combinations = [dict(zip(GRID, values, strict=True)) for values in product(*GRID.values())]
    found = [filled_in(model, given) for model in FORMATS for given in combinations]
    assert sum(config is not None for config in found) > 500
    assert hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:8] == FILLED_IN


@pytest.mark.parametrize(
    ("shape", "given", "expected"),
    [
        (0, {}, {"row_lanes": 1, "block_lanes": 32, "vector_lanes": 4, "attention_heads": 2, "attention_lanes": 8}),
        (0, {"max_context": None}, {"max_context": 64, "multiplier": "plain", "n_adapters": 2, "sampler_lanes": 0}),
        (0, {"row_lanes": 8}, {"vector_lanes": 8, "attention_heads": 4}),  # eight rows of one block: 8 results a cycle
        (2, {"row_lanes": 12, "block_lanes": 16}, {"vector_lanes": 4, "attention_heads": 3, "attention_lanes": 16}),
        (4, {}, {"vector_lanes": 4, "attention_heads": 1, "max_context": 1024}),
        (4, {"row_lanes": 64}, {"vector_lanes": 16, "attention_heads": 6}),  # matrices of 200 cycles
        (0, {"row_lanes": 6}, {"vector_lanes": 2}),  # 4 would not fit the row lanes
        (0, {"row_lanes": 8, "sampler_lanes": 8}, {"vector_lanes": 8}),
        (0, {"sampler_lanes": 8}, {"vector_lanes": 8}),
        (4, {"sampler_lanes": 16}, {"vector_lanes": 16}),
        (0, {"vector_lanes": 2}, {"row_lanes": 1, "attention_lanes": 8}),
        (1, {"shared": True}, {**SHARED_LANES, "max_context": 64, "lora_lanes": 1}),
    ],
)
def test_defaults(shape, given, expected):
    config = ChipConfig.for_model(FORMATS[shape], **given).as_dict()
    assert {name: config[name] for name in expected} == expected


def test_a_context_that_the_shared_engine_cannot_sum():
    long = ModelFormat.of(random_config(max_seq_len=1024), wide_bits=24)
    assert ChipConfig.for_model(long, shared=True).max_context == 256
    with pytest.raises(ConfigError, match="max_context must be at most 256 with the shared engine, not 257"):
        ChipConfig.for_model(long, shared=True, max_context=257)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"row_lanes": True}, "row_lanes must be a positive integer, not True"),
        ({"row_lanes": 129}, "row_lanes must be at most 128, the rows of the largest matrix, not 129"),
        ({"row_lanes": 10**6}, "row_lanes must be at most 128, the rows of the largest matrix, not 1000000"),
        ({"row_lanes": 7}, r"one of row_lanes \(7\) and vector_lanes \(4\) must divide the other: row_lanes 4 or 8 would do$"),
        ({"max_context": 0}, "max_context must be a positive integer, not 0"),
        ({"max_context": 10**30}, "max_context .* is beyond the 64 positions"),
        ({"attention_lanes": 0}, "attention_lanes must be a positive integer, not 0"),
        ({"n_sequences": 257}, "n_sequences must be at most 256, not 257"),
        ({"n_sequences": 65536}, "n_sequences must be at most 256, not 65536"),
        ({"row_lanes": 0}, "row_lanes must be a positive integer, not 0"),
        ({"row_lanes": "2"}, "row_lanes must be a positive integer, not '2'"),
        ({"n_sequences": 1.5}, "n_sequences must be a positive integer, not 1.5"),
        ({"block_lanes": 5}, "block_lanes must be 4, 8, 16 or 32, not 5"),
        ({"vector_lanes": 16}, r"vector_lanes \(16\) must divide gcd\(head_dim, 32\) = 8"),
        ({"vector_lanes": 3}, r"vector_lanes must be a power of two from 2 to block_lanes \(32\), not 3"),
        ({"row_lanes": 3}, r"one of row_lanes \(3\) and vector_lanes \(4\) must divide the other: row_lanes 2 or 4 would do$"),
        ({"attention_heads": 3}, "attention_heads must divide 2 .*, not 3: 2 or 4 would do$"),
        ({"attention_lanes": 3}, r"attention_lanes \(3\) must divide"),
        ({"multiplier": "abacus"}, "multiplier must be one of booth, magic, plain, not 'abacus'"),
        ({"max_context": 65}, r"max_context \(65\) is beyond the 64 positions"),
        ({"n_sinks": 64}, r"n_sinks must be 0 to max_context - 1 \(63\), not 64"),
        ({"n_sinks": "4"}, "n_sinks must be 0 to max_context - 1"),
        ({"lora_rank": 3}, "lora_rank must be a power of two from 2 to 64, or 0 for none, not 3"),
        ({"lora_rank": 4, "lora_lanes": 8}, r"lora_lanes must be a power of two that divides lora_rank \(4\), not 8"),
        ({"n_adapters": 16}, "n_adapters must be at most 15, not 16"),
        ({"sampler_lanes": 3}, r"sampler_lanes must divide vector_lanes \(4\), or be 0 for as many, not 3"),
        ({"sampler_lanes": -1}, "sampler_lanes must be an integer, 0 or more, not -1"),
        ({"prefix": "2nd"}, "prefix must be a Verilog name of at most 64 letters, digits and underscores, not '2nd'"),
        ({"prefix": "a b"}, "prefix must be a Verilog name"),
        ({"prefix": "größer"}, "prefix must be a Verilog name"),
        ({"prefix": "a" * 65}, "prefix must be a Verilog name"),
        ({"prefix": "a\n"}, "prefix must be a Verilog name"),
        ({"prefix": 3}, "prefix must be a Verilog name"),
        ({"lanes": 4}, "a chip has no option lanes: it has row_lanes, block_lanes,"),
        ({"shared": True}, "the shared engine does not fit the model: wide_bits must be 24, not 32"),
    ],
)
def test_what_does_not_fit_is_named(given, complaint):
    with pytest.raises(ConfigError, match=complaint) as refused:
        ChipConfig.for_model(FORMATS[0], **given)
    assert isinstance(refused.value, HardwireError) and "\n" not in str(refused.value)


def test_a_cache_that_no_chip_holds():
    """The refusal names the largest context, and the most sequences, that can be built; with those the cache fits."""
    model = ModelFormat.of(random_config(n_layers=32, n_heads=8, n_kv_heads=8, head_dim=128, max_seq_len=131_072))
    words = (
        r"a KV cache for 3 n_sequences of max_context 131072 takes 24.8 GiB, and at most 1 can be built: max_context (\d+) would do"
    )
    with pytest.raises(ConfigError, match=words) as refused:
        ChipConfig.for_model(model, n_sequences=3)
    most = int(re.search(r"max_context (\d+) would", str(refused.value))[1])
    assert ChipConfig.for_model(model, n_sequences=3, max_context=most).kv_bits(model) <= MAX_KV_BITS
    with pytest.raises(ConfigError):
        ChipConfig.for_model(model, n_sequences=3, max_context=most + 1)
    with pytest.raises(ConfigError, match="max_context 79 or n_sequences 15 would do"):
        ChipConfig.for_model(model, n_sequences=201, max_context=1024)


def test_every_number_is_answered_at_once():
    """Huge, zero and negative numbers, and numbers that are none: each is taken or refused, and nothing is counted up to it."""
    start = time.monotonic()
    for of in fields(ChipConfig):
        for value in (10**6, 10**30, 0, -1, -(10**30), 1.5, "7", True, [], {}):
            for model in FORMATS:
                filled_in(model, {of.name: value})
    assert time.monotonic() - start < 5


def test_every_option_describes_itself():
    """A default is a value, or a word for what the model decides."""
    for of in fields(ChipConfig):
        assert of.metadata["help"].endswith(".")
        assert of.default is not MISSING or of.metadata["shown"]


def test_bits_of_the_cache():
    config = ChipConfig.for_model(FORMATS[0], max_context=16, n_sequences=3, attention_lanes=4)
    values, exponents = 2 * 3 * 2 * 2 * 16 * 8, 2 * 3 * 2 * 2 * 16 * 8 // 4
    assert config.kv_bits(FORMATS[0]) == 8 * (values + exponents)


def test_bits_of_a_position():
    assert [ChipConfig.for_model(FORMATS[0], max_context=n).position_bits for n in (1, 2, 3, 64)] == [1, 1, 2, 6]
    assert ChipConfig.for_model(FORMATS[0], max_context=16, n_sinks=4).position_bits == 32
