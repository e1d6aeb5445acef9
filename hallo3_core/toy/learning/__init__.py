"""How the toy release's small networks learn the drawn world: VAE, wav2vec2 and T5. The transformers have `train`."""
