"""Parts of cocotb test benches: the runner, and drivers and monitors of streams.  Only tests use them."""
