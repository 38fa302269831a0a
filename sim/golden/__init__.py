"""The golden model: the chip's integers in numpy.  Each hardware unit has a module of the same name."""
