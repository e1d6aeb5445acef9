"""Trains the toy release's small networks on the drawn world: VAE, wav2vec2 and T5. `train` trains the transformers."""
