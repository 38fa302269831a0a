"""The fabric: the matrices in ROM, multiplied by vectors of MX blocks."""
