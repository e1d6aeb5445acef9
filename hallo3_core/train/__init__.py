"""Training: the original's two phases and their tooling. Inference imports nothing from here."""
