"""Weights as blocks of integers: the format, rounding to nearest, GPTQ and its float reference."""
