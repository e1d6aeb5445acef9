"""The untrained toy VAE: random weights under the official names, scaled so that decoded frames are viewable."""

from __future__ import annotations

import torch
from torch import Tensor

from ..vae.autoencoder import VaeConfig, build_vae
from ..weights.vae_names import to_original

CONFIG = VaeConfig(block_out_channels=(32, 32, 64, 32), layers_per_block=1)
ACTIVE = 0.6  # root mean square of SiLU of a unit normal value
CONTRAST = 0.4  # standard deviation of decoded pixels, whose range is -1..1
LOG_VARIANCE = -6.0  # of the posterior: small, as in a trained encoder


def tiny_vae_tensors(seed: int = 0, config: VaeConfig = CONFIG) -> dict[str, Tensor]:
    """Tensors of a VAE of these sizes by official name, bfloat16; deterministic for a seed.

    Unit normal latents decode to pixels mostly within -1..1, and frames encode to latents of about unit size.

    Raises:
        InputError: diffusers, which defines the tensors, is not installed.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(shape: torch.Size, scale: float) -> Tensor:
        return torch.randn(shape, generator=generator) * scale

    tensors = {}
    for name, parameter in sorted(build_vae(config).autoencoder.named_parameters()):
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
        stem, _, kind = name.rpartition(".")
        if parameter.ndim == 1:
            gain = kind == "weight" or ".conv_y." in stem  # a norm's gain, which preserves magnitude
            value = gain + draw(parameter.shape, 0.1)
        elif ".conv_y." in stem or ".conv_b." in stem:
            value = draw(parameter.shape, 0.3 * fan_in**-0.5)
        elif "conv1" in stem or "conv2" in stem or "conv_out" in stem:  # after a norm and SiLU
            value = draw(parameter.shape, fan_in**-0.5 / ACTIVE)
        else:
            value = draw(parameter.shape, fan_in**-0.5)
        tensors[name] = value
    for kind in ("weight", "bias"):
        tensors[f"decoder.conv_out.conv.{kind}"] *= CONTRAST
        log_variance = tensors[f"encoder.conv_out.conv.{kind}"][config.latent_channels :]
        log_variance.mul_(0.1).add_(LOG_VARIANCE if kind == "bias" else 0)
    return {to_original(name): tensor.bfloat16() for name, tensor in tensors.items()}
