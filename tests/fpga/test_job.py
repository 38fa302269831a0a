"""The critical path is read out of nextpnr's report."""

from fpga.job import critical_path


def test_the_critical_path_by_unit():
    def step(kind, cell, delay):
        return {"type": kind, "delay": delay, "from": {"cell": cell}}

    slow = [
        step("clk-to-q", "board.fifo.ram.mem.0.0", 5.5),
        step("routing", "board.fifo.ram.mem.0.0", 1.25),
        step("logic", "board.rx.crc_LUT4_Z_1", 0.25),
        step("routing", "board.rx.crc_LUT4_Z_1", 2.0),
        step("setup", "board.rx.held_TRELLIS_FF_Q", 0.5),
    ]
    found = {
        "critical_paths": [
            {"from": "<async>", "to": "posedge clk", "path": [step("routing", "x", 99.0)]},
            {"from": "posedge clk", "to": "posedge clk", "path": slow[:3]},
            {"from": "posedge clk", "to": "posedge clk", "path": slow},
            {"from": "<async>", "to": "<async>", "path": [step("routing", "x", 99.0)]},
        ]
    }
    assert critical_path(found) == [
        {"unit": "board.fifo.ram", "logic_ns": 5.5, "wires_ns": 1.25},
        {"unit": "board.rx", "logic_ns": 0.75, "wires_ns": 2.0},
    ]
