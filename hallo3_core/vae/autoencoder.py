"""The causal video VAE: 8 x 8 pixels become one latent pixel, and after the first frame, four frames become one.

The network is diffusers' AutoencoderKLCogVideoX, with some modules replaced by equivalent ones that need less time and
memory (`causal_conv.py`, `norms.py`, `spatial_norm.py`, `resampling.py`). It is called as in the release, which
encodes all frames in one call and decodes pairs of latent frames with the convolutions' last frames carried over. Group
norms see the frames of one call, so the chunks affect the result: diffusers' own `encode` and `decode` give a
different one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import InputError, require_class
from ..runtime.without_storage import without_storage
from ..weights.parts import fill
from ..weights.vae_names import LEVELS, in_diffusers_names
from .causal_conv import replace_causal_convs
from .memory_order import CHANNELS_LAST, is_channels_last
from .norms import replace_group_norms
from .resampling import replace_resampling
from .spatial_norm import replace_spatial_norms

LATENT_SCALE = 0.7  # the denoiser's latents are the VAE's multiplied by this
PIXELS = 2 ** (LEVELS - 1)  # per side of one latent pixel
LOG_VARIANCE = (-30.0, 20.0)

Shape = tuple[int, ...]


@dataclass(frozen=True)
class VaeConfig:
    """Sizes of the VAE: channels per level from fine to coarse, residual blocks per encoder level (one more in the
    decoder), latent channels, and groups per group norm, which cannot be derived from tensor shapes."""

    block_out_channels: Shape = (128, 256, 256, 512)
    layers_per_block: int = 3
    latent_channels: int = 16
    norm_groups: int = 32

    def __post_init__(self):
        if len(self.block_out_channels) != LEVELS:
            raise ValueError(f"the VAE has {LEVELS} levels, got channels {self.block_out_channels}")
        for channels in self.block_out_channels:
            if channels % self.norm_groups:
                raise ValueError(f"{channels} channels cannot be shared among {self.norm_groups} groups")

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, Shape]) -> VaeConfig:
        """Derives the sizes from tensor shapes (official or diffusers names).

        Raises:
            InputError: a tensor that determines a size is missing or has the wrong rank: not this kind of VAE.
        """
        shapes = in_diffusers_names(shapes)
        first = "encoder.down_blocks.{}.resnets.{}.conv1.conv.weight"
        layers = 0
        while first.format(0, layers) in shapes:
            layers += 1
        try:
            channels = tuple(shapes[first.format(level, 0)][0] for level in range(LEVELS))
            latent_channels = shapes["decoder.conv_in.conv.weight"][1]
            return cls(channels, layers, latent_channels)
        except (KeyError, IndexError, ValueError) as error:
            reason = error if isinstance(error, ValueError) else f"{error} missing or misshapen"
            raise InputError(
                f"not a CogVideoX VAE: {reason}. Choose the release's 3d-vae.pt, or a diffusers CogVideoX VAE."
            ) from error


class VideoVae(nn.Module):
    """Encodes and decodes as the release does. `autoencoder` is diffusers' module. No state is kept between calls."""

    def __init__(self, autoencoder: nn.Module):
        super().__init__()
        self.autoencoder = autoencoder

    @property
    def latent_channels(self) -> int:
        return self.autoencoder.config.latent_channels

    def moments(self, pixels: Tensor) -> Tensor:
        """Frames ``b 3 t H W`` in -1..1 -> mean and log-variance, concatenated: ``b (2 c) t' h w``.

        All frames are encoded in one call: 1, 3, 17 and 49 frames give 1, 1, 5 and 13.

        Raises:
            InputError: not three channels, no frames, a side not divisible by 8, or NaN or infinite values.
        """
        shape = tuple(pixels.shape)
        if len(shape) != 5 or shape[1] != 3 or 0 in shape or any(side % PIXELS for side in shape[-2:]):
            raise InputError(
                f"frames to encode have shape {list(shape)}, expected [batch, 3, frames, height, width], height and "
                f"width multiples of {PIXELS}. Resize or crop them, and leave out an alpha channel."
            )
        _require_finite(pixels, "frames to encode")
        return self.unchecked_moments(pixels)

    def unchecked_moments(self, pixels: Tensor) -> Tensor:
        """`moments` without checks, for valid frames: the check would make every training step wait for the device."""
        moments, _ = self.autoencoder.encoder(self._placed(pixels))
        return moments.contiguous()

    def encode(self, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
        """Frames ``b 3 t H W`` in -1..1 -> unscaled latent ``b c t' h w``: the posterior's mean, which is
        deterministic.

        With `noise` (unit normal, of the latent's shape), the posterior sample that the original computes from it.

        Raises:
            InputError: as `moments`, or noise of the wrong shape.
        """
        return posterior(self.moments(pixels), noise)

    def decode_chunks(self, latent: Tensor) -> Iterator[Tensor]:
        """Unscaled latent ``b c t h w`` -> its 4 t - 3 frames ``b 3 n H W``, about -1..1, 9 and then 8 at a time.

        The release only uses odd t (13 -> 9 + 5 x 8 = 49). For an even t the last latent frame is repeated to complete
        its pair, and the extra frames are dropped.

        Raises:
            InputError: (immediately, not at the first chunk) wrong channels, no frames, or NaN or infinite values.
        """
        channels = self.latent_channels
        if latent.ndim != 5 or latent.shape[1] != channels or 0 in latent.shape:
            raise InputError(
                f"the latent to decode has shape {list(latent.shape)}, expected [batch, {channels}, frames, height, "
                "width], none of them 0. Decode latents of a CogVideoX model."
            )
        _require_finite(latent, "the latent to decode")
        return self._decode_chunks(self._placed(latent))

    def decode(self, latent: Tensor) -> Tensor:
        """Unscaled latent ``b c t h w`` -> all its frames ``b 3 (4 t - 3) H W``, about -1..1; as `decode_chunks`."""
        return torch.cat(list(self.decode_chunks(latent)), dim=2)

    def _decode_chunks(self, latent: Tensor) -> Iterator[Tensor]:
        frames = 4 * latent.shape[2] - 3
        if latent.shape[2] % 2 == 0:
            latent = torch.cat((latent, latent[:, :, -1:]), dim=2)
        caches = ReadOnce()
        for start, stop in chunk_spans(latent.shape[2]):
            chunk, left = self.autoencoder.decoder(latent[:, :, start:stop], conv_cache=caches)
            caches = ReadOnce(left if stop < latent.shape[2] else {})
            del left
            yield chunk[:, :, :frames].contiguous()
            frames -= chunk.shape[2]
            del chunk

    def _placed(self, tensor: Tensor) -> Tensor:
        weight = self.autoencoder.decoder.conv_in.conv.weight
        order = CHANNELS_LAST if is_channels_last(weight) else torch.contiguous_format
        return tensor.to(device=weight.device, dtype=weight.dtype).contiguous(memory_format=order)


def posterior(moments: Tensor, noise: Tensor | None = None) -> Tensor:
    """Concatenated mean and log-variance ``b (2 c) t h w`` -> unscaled latent ``b c t h w``: the mean, or with `noise`
    a sample.

    Raises:
        InputError: noise of the wrong shape.
    """
    mean, log_variance = moments.chunk(2, dim=1)
    if noise is None:
        return mean
    if noise.shape != mean.shape:
        raise InputError(f"latent noise has shape {list(noise.shape)}, expected {list(mean.shape)}.")
    return mean + torch.exp(0.5 * log_variance.clamp(*LOG_VARIANCE)) * noise.to(mean)


class ReadOnce(dict):
    """A nested dictionary of each causal convolution's last input frames. `get` also removes the entry.

    diffusers' decoder reads each entry once, with `get`. Removing it then lets it be freed while the decoder produces
    the next chunk's cache. All entries together take 2.8 GB at full size.
    """

    def get(self, name: str, default: object = None) -> object:
        value = self.pop(name, default)
        return ReadOnce(value) if isinstance(value, dict) else value


def chunk_spans(frames: int) -> list[tuple[int, int]]:
    """Latent frames decoded per call, `start .. stop-1`, for an odd number of them: 0-2, 3-4, 5-6 and so on."""
    if frames < 1 or frames % 2 == 0:
        raise ValueError(f"chunks are made of an odd number of latent frames, got {frames}")
    bounds = [0, *range(3, frames, 2), frames]
    return list(zip(bounds[:-1], bounds[1:], strict=True))


def build_vae(config: VaeConfig, *, device: torch.device | str = "meta", dtype: torch.dtype | None = None) -> VideoVae:
    """Builds the VAE with uninitialised weights; on the meta device, without memory for them.

    Raises:
        InputError: diffusers is not installed.
    """
    network = require_class("diffusers", "AutoencoderKLCogVideoX", "diffusers", "the video VAE")
    autoencoder = without_storage(
        network,
        device=device,
        block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block,
        latent_channels=config.latent_channels,
        norm_num_groups=config.norm_groups,
    )
    replace_spatial_norms(autoencoder.decoder)
    replace_causal_convs(autoencoder)
    replace_group_norms(autoencoder)
    replace_resampling(autoencoder)
    return VideoVae(autoencoder).to(dtype=dtype).requires_grad_(False).eval()


def load_vae(
    tensors: Mapping[str, Tensor],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    label: str = "VAE",
) -> VideoVae:
    """Loads the VAE from a checkpoint's tensors (official or diffusers names). Reads a mapped file tensor by tensor.

    dtype: None keeps the stored one. label: names the file in errors.

    Raises:
        InputError: not this kind of VAE; a tensor missing, unknown or misshapen; diffusers is not installed.
    """
    try:
        tensors = in_diffusers_names(tensors)
        config = VaeConfig.from_shapes({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    except InputError as error:
        raise InputError(f"{label}: {error}") from error
    vae = build_vae(config)
    fill(vae.autoencoder, tensors, device=device, dtype=dtype, label=label)
    if torch.device(device).type == "cuda":
        channels_last(vae)
    return vae


def channels_last(vae: nn.Module) -> None:
    """Stores kernels channels-last, cuDNN's preferred memory format, which all activations then follow
    (`memory_order.py`). Some cuDNN versions (9.8 to 9.14) support 16-bit 3D convolutions only in this format, and
    torch's fallback without cuDNN is slow and needs gigabytes."""
    orders = {nn.Conv2d: torch.channels_last, nn.Conv3d: CHANNELS_LAST}
    for layer in vae.modules():
        for kind, order in orders.items():
            if isinstance(layer, kind):
                layer.weight.data = layer.weight.data.contiguous(memory_format=order)


def _require_finite(values: Tensor, what: str) -> None:
    if not torch.isfinite(values).all():
        raise InputError(f"{what}: some values are not finite (NaN or infinite). Find the step that produced them.")
