"""The cycles of a token, predicted from shapes, lanes and latencies."""
