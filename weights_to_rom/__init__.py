"""From a checkpoint to ROM images: read, quantise, pack."""
