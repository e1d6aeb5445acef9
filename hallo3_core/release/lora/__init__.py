"""LoRA files: opened once, matched to the networks' layers, and applied in memory or merged while converting."""
