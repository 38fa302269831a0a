"""Weights as blocks of integers: the format, rounding to nearest, and GPTQ with the float model that it runs on."""
