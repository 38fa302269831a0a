"""The shared engine: units with named wires, the instruction set, the program of a model, and its cycles."""
