"""LoRA adapters: reading peft's files, quantising, the image that loads one."""
