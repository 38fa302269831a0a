"""Synthesis for any target: run the tools, count the cells of a netlist, and synthesise each unit of a chip alone."""
