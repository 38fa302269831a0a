"""The cells of a netlist are counted by type and by resource."""

import json

from synth.cells import ECP5, ICE40, Library, cells_by_type


def test_cells_of_an_ecp5():
    counts = {"LUT4": 10, "CCU2C": 3, "TRELLIS_DPR16X4": 1, "TRELLIS_FF": 7, "DP16KD": 2, "PDPW16KD": 1, "MULT18X18D": 4, "MUX": 9}
    assert ECP5.count(counts) == {"luts": 22, "flip_flops": 7, "block_rams": 3, "dsps": 4}


def test_cells_of_an_ice40():
    counts = {"SB_LUT4": 3, "SB_CARRY": 9, "SB_DFF": 1, "SB_DFFESR": 2, "SB_RAM40_4K": 4, "SB_RAM40_4KNR": 1, "SB_MAC16": 5}
    assert ICE40.count(counts) == {"luts": 3, "flip_flops": 3, "block_rams": 5, "dsps": 5}


def test_a_resource_may_be_an_area():
    library = Library("toy", {"area": {"NAND2": 1.5, "DFF": 6.0}})
    assert library.count({"NAND2X1": 4, "DFFSR": 2, "FILL": 7}) == {"area": 18.0}
    assert library.takes("area", "FILL") == 0


def test_statistics_of_yosys(tmp_path):
    file = tmp_path / "statistics.json"
    file.write_text(json.dumps({"modules": {}, "design": {"num_cells": 3, "num_cells_by_type": {"LUT4": 3}}}))
    assert cells_by_type(file) == {"LUT4": 3}
