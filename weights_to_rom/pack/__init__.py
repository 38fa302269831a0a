"""The integer model as contents of ROMs."""
