"""CogVideoX's VAE behind encode and decode_chunks; tiles; latents and pixels."""
