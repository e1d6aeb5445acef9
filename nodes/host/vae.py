"""The VAE: the core's as a host VAE, and any CogVideoX VAE of the host with the core's interface."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import comfy.model_management as management
import comfy.sd
import torch
from torch import Tensor, nn

from ...hallo3_core.errors import InputError
from ...hallo3_core.release.detect import expect
from ...hallo3_core.release.layout import Release
from ...hallo3_core.runtime.activations import decode_bytes, encode_bytes
from ...hallo3_core.vae.autoencoder import PIXELS, VideoVae, channels_last, load_vae
from ...hallo3_core.weights.parts import VAE, sort_tensors
from ...hallo3_core.weights.reading import read_tensors
from .memory import WholePatcher
from .messages import speaking

log = logging.getLogger(__name__)

LATENT_CHANNELS = 16
_host = comfy.sd.VAE


class FirstStage(nn.Module):
    """The core's VAE with the host's calling convention. Cancel takes effect between chunks."""

    def __init__(self, vae: VideoVae):
        super().__init__()
        self.vae = vae

    def encode(self, pixels: Tensor) -> Tensor:
        """``b 3 t H W`` in -1..1 -> the posterior's mean ``b 16 t' h w``"""
        return self.vae.encode(pixels)

    def decode(self, latent: Tensor) -> Tensor:
        """``b 16 t h w`` -> ``b 3 (4 t - 3) H W``, about -1..1, in the release's chunks"""
        chunks = []
        for chunk in self.vae.decode_chunks(latent):
            management.throw_exception_if_processing_interrupted()
            chunks.append(chunk)
        return torch.cat(chunks, dim=2)


class HostVae(comfy.sd.VAE):
    """The core's VAE for ComfyUI's nodes: whole clips as in the release, tiles if memory is short."""

    def __init__(self, vae: VideoVae):
        with _no_word_of_missing_weights():
            super().__init__(sd={})  # sets this host version's defaults; the rest overrides them
        self.latent_dim, self.latent_channels = 3, vae.latent_channels
        self.upscale_ratio = (lambda t: max(0, 4 * t - 3), PIXELS, PIXELS)
        self.downscale_ratio = (lambda t: max(0, (t + 3) // 4), PIXELS, PIXELS)
        self.upscale_index_formula = self.downscale_index_formula = (4, PIXELS, PIXELS)
        self.crop_input = False  # it would also crop the time axis of 5-D input
        self.memory_used_encode, self.memory_used_decode = encode_memory, decode_memory
        self.device, self.output_device = management.vae_device(), management.intermediate_device()
        self.vae_dtype = management.vae_dtype(self.device, [torch.bfloat16, torch.float32])
        self.first_stage_model = FirstStage(vae).to(self.vae_dtype).eval()
        if self.device.type == "cuda":
            channels_last(vae)
        self.patcher = WholePatcher(  # diffusers uses torch's layers
            self.first_stage_model, load_device=self.device, offload_device=management.vae_offload_device()
        )

    def encode(self, pixel_samples: Tensor) -> Tensor:
        """Like the host's, but repeats the call in float32 if activations overflow in fp16."""
        with speaking():
            return in_float32_if_need_be(self, partial(_host.encode, self), pixel_samples)

    def decode(self, samples_in: Tensor, *args, **kwargs) -> Tensor:
        """As `encode`."""
        with speaking():
            return in_float32_if_need_be(self, lambda latent: _host.decode(self, latent, *args, **kwargs), samples_in)

    def encode_tiled(self, pixel_samples: Tensor, *args, **kwargs) -> Tensor:
        """As `encode`."""
        with speaking():
            work = partial(_host.encode_tiled, self)
            return in_float32_if_need_be(self, lambda pixels: work(pixels, *args, **kwargs), pixel_samples)

    def decode_tiled(self, samples: Tensor, *args, **kwargs) -> Tensor:
        """As `encode`."""
        with speaking():
            work = partial(_host.decode_tiled, self)
            return in_float32_if_need_be(self, lambda latent: work(latent, *args, **kwargs), samples)


@contextmanager
def _no_word_of_missing_weights() -> Iterator[None]:
    """Suppresses the host's warning about a VAE without weights; ours get their weights right after."""

    def passes(record: logging.LogRecord) -> bool:
        return "No VAE weights detected" not in record.getMessage()

    root = logging.getLogger()
    root.addFilter(passes)
    try:
        yield
    finally:
        root.removeFilter(passes)


def in_float32_if_need_be(vae: Any, work: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    """Runs a host VAE on a tensor. If fp16, used on GPUs without bf16, turns finite input into NaN or infinity, repeats
    the call in float32 and keeps the VAE in float32."""
    found = work(values)
    if vae.vae_dtype != torch.float16 or found.isfinite().all() or not values.isfinite().all():
        return found
    log.warning("the VAE gave NaN in fp16: it runs in float32 from now on, which takes twice the memory")
    vae.vae_dtype = torch.float32
    vae.first_stage_model.float()
    vae.patcher.size = 0  # makes the host compute the size again
    return work(values)


def encode_memory(shape: tuple[int, ...], dtype: torch.dtype) -> float:
    """Bytes needed to encode ``b 3 t H W``."""
    batch, _, frames, height, width = shape
    return batch * encode_bytes(frames, height, width, dtype)


def decode_memory(shape: tuple[int, ...], dtype: torch.dtype) -> float:
    """Bytes needed to decode ``b 16 t h w``: the VAE's activations, and all frames twice, as chunks and joined."""
    batch, _, frames, height, width = shape
    height, width = PIXELS * height, PIXELS * width
    pictures = 2 * 3 * (4 * frames - 3) * height * width * dtype.itemsize
    return batch * (decode_bytes(frames, height, width, dtype) + pictures)


def load_host_vae(path: Path) -> HostVae:
    """Loads the VAE of a file (release, converted or diffusers naming) or of a release folder.

    Raises:
        InputError: it holds no CogVideoX VAE.
    """
    if path.is_dir():
        return HostVae(Release(path).vae())
    expect(path, VAE)
    tensors = read_tensors(path)
    parts = sort_tensors(tensors)
    return HostVae(load_vae(parts.tensors.get(VAE, tensors), label=path.name))


def decode(vae: Any, latent: Tensor) -> Tensor:
    """Unscaled ``1 16 t h w`` -> ``1 n H W 3`` in 0..1, with any VAE of the host."""
    return in_float32_if_need_be(vae, vae.decode, latent)


class CoreVae:
    """A VAE of the host with the core's interface. The host loads it on each call."""

    def __init__(self, vae: Any):
        """
        Raises:
            InputError: not a CogVideoX VAE.
        """
        stage = type(getattr(vae, "first_stage_model", None)).__name__
        if not isinstance(vae, HostVae) and "CogVideoX" not in stage:
            raise InputError(
                f"the VAE is a {stage}, expected CogVideoX's: use the node Hallo3 VAE Loader, or core's VAELoader with "
                "cogvideox_vae.safetensors"
            )
        self.vae = vae
        self.latent_channels = LATENT_CHANNELS

    def encode(self, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
        """``1 3 t H W`` in -1..1 -> unscaled latent ``1 16 t' h w``: the posterior's mean, on the CPU."""
        if noise is not None or pixels.shape[0] != 1:
            raise ValueError("the host's VAE encodes one clip at a time, to the mean")
        images = ((pixels[0] + 1) / 2).movedim(0, -1)  # t H W 3: five dimensions would lose frames in the host's crop
        return in_float32_if_need_be(self.vae, self.vae.encode, images).float()

    def decode_chunks(self, latent: Tensor) -> Iterator[Tensor]:
        """Unscaled ``1 16 t h w`` -> all frames at once, ``1 3 n H W`` in -1..1."""
        yield decode(self.vae, latent).mul(2).sub(1).movedim(-1, 1)
