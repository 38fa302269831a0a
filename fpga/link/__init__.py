"""The serial link between a host and a chip: its protocol, its hardware, the host's session, and a simulated board."""
