"""Lattice ECP5: its tool flow, its clock, its netlist optimiser, and the checks of its bitstreams."""
