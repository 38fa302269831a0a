"""The integer model: one module per hardware unit, under the same name."""
