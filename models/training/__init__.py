"""Training of the bundled models, in the number formats of the chip.  Run a module from the repository's root."""
