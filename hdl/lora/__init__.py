"""LoRA: the adder of an adapter's results, one lane of it, and the loader of adapter memory."""
