"""The VAE at the preset's picture size: seconds and memory of encoding and of each decoding mode."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_parts.bench import Bench, attempt
from hallo3_core.clips import FRAMES_PER_CLIP
from hallo3_core.runtime.activations import decode_bytes, encode_bytes
from hallo3_core.vae.causal_conv import caches_in_host_memory
from hallo3_core.vae.latents import decode_tiled, decode_whole, encode

CONDITIONS = 3  # frames of a clip's conditioning: portrait and motion frames


@torch.inference_mode()
def vae(bench: Bench) -> dict[str, Any]:
    """Measures decoding whole, whole with caches in host memory, and tiled; encoding 1, 3 and all frames of a clip."""
    latent = clip_latent(bench)
    height, width = (8 * side for side in latent.shape[-2:])
    found: dict[str, Any] = {"pixels": [height, width], "held_GB": attempt(lambda: (bench.vae, bench.held_gb())[1])}
    draw = torch.Generator().manual_seed(1)
    pixels = torch.rand(1, 3, FRAMES_PER_CLIP, height, width, generator=draw).mul_(2).sub_(1)
    variants = {
        "decode": lambda: decode_whole(bench.vae, latent),
        "decode, caches in host memory": lambda: decode_lean(bench, latent),
        "decode in tiles": lambda: decode_tiled(bench.vae, latent),
    }
    frames: dict[str, Tensor] = {}
    for name, decode in variants.items():
        found[name] = attempt(lambda n=name, d=decode: bench.timed(lambda: frames.update({n: d()}), 1))
    found["decode"]["reckoned_activations_GB"] = gigabytes(decode_bytes(latent.shape[2], height, width, bench.dtype))
    found["differences"] = attempt(lambda: differences(*(frames[name].cpu() for name in variants)))
    frames.clear()
    for count in (1, CONDITIONS, FRAMES_PER_CLIP):
        some = pixels[:, :, :count].to(bench.device, bench.dtype)
        row = attempt(lambda some=some: bench.timed(lambda: encode(bench.vae, some), 1))
        row["reckoned_activations_GB"] = gigabytes(encode_bytes(count, height, width, bench.dtype))
        found[f"encode {count}"] = row
    return found


def clip_latent(bench: Bench) -> Tensor:
    """A clip's latent of unit normal noise."""
    config = bench.sizes.denoiser
    grid, patch = config.grid, config.patch
    draw = torch.Generator().manual_seed(0)
    shape = (1, config.channels, grid.frames, patch * grid.rows, patch * grid.columns)
    return torch.randn(shape, generator=draw).to(bench.device, bench.dtype)


def decode_lean(bench: Bench, latent: Tensor) -> Tensor:
    with caches_in_host_memory(bench.vae.autoencoder):
        return decode_whole(bench.vae, latent)


def differences(whole: Tensor, lean: Tensor, tiled: Tensor) -> dict[str, Any]:
    """Differences from the frames decoded whole, for pixels in 0..255."""
    return {
        "caches in host memory: equal": torch.equal(whole, lean),
        "in tiles: mean": round(float((tiled - whole).abs().mean() * 255), 3),
        "finite": bool(torch.isfinite(whole).all()),
    }


def gigabytes(count: int) -> float:
    return round(count / 1e9, 3)
