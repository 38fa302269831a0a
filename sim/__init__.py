"""References and simulation: float, integer (golden) and RTL behind one session."""
