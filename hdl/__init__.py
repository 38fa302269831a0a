"""The chip: every unit a module, put together in ``stage`` and ``chip``."""
