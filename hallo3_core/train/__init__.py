"""Training: the original's two phases and what is around them. Inference imports nothing of it."""
