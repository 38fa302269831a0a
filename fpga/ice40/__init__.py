"""Lattice iCE40: its tool flow, its clock, its cells for the shared engine, and the checks of its bitstreams."""
