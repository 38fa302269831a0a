"""The chip's Verilog as a Python object."""
