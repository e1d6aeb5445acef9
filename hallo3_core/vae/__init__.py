"""CogVideoX's VAE: encoding, decoding in chunks or tiles, previews, and the scale of latents and pixels."""
