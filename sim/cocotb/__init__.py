"""Parts of cocotb test benches: the runner and drivers of streams.  Only tests use them."""
