# amaranth: UnusedElaboratable=no
"""The iCE40's cells take the place of modules of a chip.  ``tests/chip`` tests that they compute the same."""

import pytest

from fpga.ice40.parts import SPRAM_WORDS, spram_words, with_cells
from hdl.config import ChipConfig
from hdl.verilog import chip_verilog
from tests.support.models import random_model


def verilog(max_context: int, n_sequences: int = 1, shared: bool = True, n_layers: int = 2) -> str:
    model = random_model(0, 24, n_layers=n_layers, max_seq_len=256).format
    lanes = {"shared": True} if shared else {}
    return chip_verilog(model, ChipConfig.for_model(model, max_context=max_context, n_sequences=n_sequences, **lanes))


def test_each_part_is_there_once_and_made_of_cells():
    text = with_cells(verilog(16))
    for part in ("multiply_bytes", "multiply_signed", "multiply_unsigned", "spram"):
        assert text.count(f"\nmodule {part}") == 1
    assert text.count("SB_MAC16 #(") == 3
    assert text.count("SB_SPRAM256KA ram (") == 1
    assert "ram_8x" not in text[text.index("\nmodule spram") :]


def test_memory_that_is_not_there():
    most = verilog(256, n_sequences=2)
    assert spram_words(most) == SPRAM_WORDS
    with_cells(most)
    with pytest.raises(ValueError, match=r"want 32,768 words of 64 bits, and the SPRAMs have 16,384: lower max_context"):
        with_cells(verilog(256, n_sequences=3))


def test_other_chips():
    with pytest.raises(ValueError, match="the chip has no module multiply_bytes: is it one with the shared engine"):
        with_cells(verilog(16, shared=False))
