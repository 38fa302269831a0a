"""The serial link between a host and a chip: protocol, hardware, host, and a simulated board."""
