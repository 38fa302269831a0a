"""ROM images of an integer model."""
