"""The VAE's modules in a form that trains fast: same tensors and results, but differentiable."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...vae.autoencoder import VaeConfig, VideoVae, build_vae
from ...vae.causal_conv import CausalConv
from ...vae.spatial_norm import SpatialNorm

LOG_VARIANCE = -5.0  # initial, of the posterior
GROUP_LEVEL = 4.0  # constant in one channel of each group at the encoder's last norm; the signal is about 1


class FramewiseConv(CausalConv):
    """The causal convolution as a 2D convolution, with its three frames as channels: 2D kernels are several times as
    fast as 3D ones, on CPUs and GPUs. A single frame needs a third of the work."""

    def forward(self, inputs: Tensor, conv_cache: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        weight, before = self.conv.weight, self.conv.kernel_size[0] - 1
        padding, frames = self.conv.padding[-1], inputs.shape[2]
        x = inputs.permute(0, 2, 3, 4, 1)  # b t h w c
        if conv_cache is None and frames == 1:
            y = F.conv2d(_pictures(x), weight.sum(2), self.conv.bias, padding=padding)
            cache = inputs.expand(-1, -1, before, -1, -1)
        else:
            past = x[:, :1].expand(-1, before, -1, -1, -1) if conv_cache is None else conv_cache.permute(0, 2, 3, 4, 1)
            whole = torch.cat((past.to(x), x), dim=1)
            side_by_side = torch.cat([whole[:, n : n + frames] for n in range(before + 1)], dim=-1)
            kernel = weight.transpose(1, 2).flatten(1, 2)  # o (time c) y x
            y = F.conv2d(_pictures(side_by_side), kernel, self.conv.bias, padding=padding)
            cache = whole[:, -before:].permute(0, 4, 1, 2, 3)
        return y.unflatten(0, (-1, frames)).transpose(1, 2), cache


class PointwiseMatmul(nn.Module):
    """A 1x1x1 convolution as a matrix product. Takes over the weight ``o c 1 1 1`` and the bias."""

    def __init__(self, conv: nn.Conv3d):
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.movedim(1, -1), self.weight.flatten(1), self.bias).movedim(-1, 1)


class OpenNorm(SpatialNorm):
    """The decoder's norm out of place: autograd needs its inputs intact."""

    def forward(self, f: Tensor, zq: Tensor, conv_cache: dict | None = None) -> tuple[Tensor, dict]:
        scale, shift, x = self.conv_y.conv(zq), self.conv_b.conv(zq), self.norm_layer(f)
        frames = f.shape[2]
        first = 1 if frames > 1 and frames % 2 else 0
        parts = [(x[:, :, :1], slice(0, 1))] if first else []
        parts.append((x[:, :, first:], slice(first, None)))
        return torch.cat([_spread(part, scale[:, :, at], shift[:, :, at]) for part, at in parts], dim=2), {}


def trainable_vae(config: VaeConfig, device: torch.device | str) -> VideoVae:
    """Makes a VAE to train, initialised as a plain pyramid: residual blocks add little, convolutions see only the
    current frame, and the norm at the encoder's end preserves colours (see `_keep_levels`)."""
    vae = build_vae(config, device=device, dtype=torch.float32).requires_grad_(True).train()
    for module in list(vae.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, CausalConv):
                setattr(module, name, FramewiseConv(child.conv))
            elif isinstance(child, SpatialNorm):
                setattr(module, name, OpenNorm(child.norm_layer, child.conv_y, child.conv_b))
    for module in list(vae.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Conv3d) and child.kernel_size == (1, 1, 1):
                setattr(module, name, PointwiseMatmul(child))
    with torch.no_grad():
        _initialise(vae)
        _keep_levels(vae)
    return vae


def hold_past(vae: nn.Module) -> None:
    """Keeps the kernels' weights for past frames at zero: call after each backward pass while training on pictures."""
    for module in vae.modules():
        if isinstance(module, FramewiseConv) and module.conv.weight.grad is not None:
            module.conv.weight.grad[:, :, :-1] = 0


def _pictures(x: Tensor) -> Tensor:
    """``b t h w c -> (b t) c h w``, without a copy."""
    return x.flatten(0, 1).permute(0, 3, 1, 2)


def _spread(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Scales and shifts ``b c f H W`` by values ``b c t h w``, each repeated over its pixels and frames."""
    for dimension in (2, 3, 4):
        times = x.shape[dimension] // scale.shape[dimension]
        if times > 1:
            scale, shift = (y.repeat_interleave(times, dim=dimension) for y in (scale, shift))
    return torch.addcmul(shift, x, scale)


def _initialise(vae: nn.Module) -> None:
    for name, parameter in vae.named_parameters():
        stem, _, kind = name.rpartition(".")
        if parameter.ndim == 1:
            parameter.fill_(1.0 if kind == "weight" or ".conv_y." in stem else 0.0)
        elif ".conv_y." in stem or ".conv_b." in stem:
            nn.init.normal_(parameter, std=0.2 * parameter[0].numel() ** -0.5)
        else:
            window = parameter[:, :, -1] if parameter.ndim == 5 else parameter
            gain = 0.1 if ".conv2." in name else 1.0
            parameter.zero_()
            window.normal_(std=gain * window[0].numel() ** -0.5)
    moments = vae.autoencoder.encoder.conv_out.conv  # mean, then log-variance
    half = moments.out_channels // 2
    moments.weight[half:] *= 0.1
    moments.bias[half:] = LOG_VARIANCE


def _keep_levels(vae: nn.Module) -> None:
    """Sets one channel of each group in the input of the encoder's last norm to a constant larger than the signal. The
    group's mean and deviation then depend almost only on the constant, so the other channels keep their level. Without
    it, the norm over few channels removes the level, which is the colour."""
    last = vae.autoencoder.encoder.down_blocks[-1].resnets[0].conv_shortcut
    per_group = last.weight.shape[0] // vae.autoencoder.encoder.norm_out.num_groups
    last.weight[per_group - 1 :: per_group] = 0
    last.bias[per_group - 1 :: per_group] = GROUP_LEVEL
