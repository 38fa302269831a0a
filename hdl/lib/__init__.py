"""Plumbing of the units: streams, registers, delay lines, memories, arithmetic."""
