"""Synthesis for any target: running the tools, counting the cells that they make, the units that can be synthesised alone."""
