"""The simulated chip: its Verilog, compiled by Verilator, as a Python object."""
