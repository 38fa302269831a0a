"""Attention: scores of queries against keys, running sums, division, and the KV cache."""
