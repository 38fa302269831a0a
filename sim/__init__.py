"""References and simulation: the float model, the golden integer model and the RTL, each through the interface ``Session``."""
