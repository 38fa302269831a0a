"""Checkpoints of every format as named tensors."""
