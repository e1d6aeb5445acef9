"""Device memory that networks need besides their weights.

The factors are counted at the released sizes (`tools/testbed/fake_device.py`, held by `tests/test_full_size.py`),
plus a margin for the kernels' own workspace, which cannot be counted.
"""

from __future__ import annotations

import torch

from ..model.config import Grid, TransformerConfig
from ..model.modulation import PER_BLOCK, PER_HEAD

AUDIO_TOKENS = 32  # per latent frame, of the released projector
# live activations per token of a block, in units of `hidden`, in the MLP and in attention: 8 counted, plus margin
BLOCK = 9
VAE_CHANNELS = 128  # of the finest level, of the released VAE


def activation_bytes(config: TransformerConfig, grid: Grid, samples: int, dtype: torch.dtype) -> int:
    """Bytes alive at once while the denoiser runs on `samples` of a clip of size `grid` in `dtype`.

    The activations of one block, and for all layers the keys and values of the portrait and of each sample's audio.
    """
    block = BLOCK * samples * (grid.tokens + config.text_tokens) * config.hidden
    portrait, sound = grid.tokens_per_frame, samples * grid.frames * AUDIO_TOKENS
    held = 2 * config.layers * (portrait + sound) * config.hidden
    return (block + held) * dtype.itemsize


def run_bytes(
    config: TransformerConfig, grid: Grid, portraits: int, sounds: int, steps: int, dtype: torch.dtype
) -> int:
    """Bytes that a run keeps beyond a single model call (`activation_bytes`): keys and values of additional portraits
    and audio, namely the nulls, the modulation of all steps, and the learned positions."""
    further = (portraits - 1) * grid.tokens_per_frame + (sounds - 1) * grid.frames * AUDIO_TOKENS
    modulation = steps * (PER_BLOCK * config.layers + PER_HEAD)
    widths = 2 * config.layers * further + modulation + grid.tokens + config.text_tokens
    return widths * config.hidden * dtype.itemsize


def reference_bytes(config: TransformerConfig, grid: Grid, samples: int, dtype: torch.dtype) -> int:
    """Bytes that the reference network needs for `samples` pictures of size `grid`: one block's activations, and its
    result, the features of all layers."""
    widths = BLOCK * (grid.tokens + config.text_tokens) + config.layers * grid.tokens
    return samples * widths * config.hidden * dtype.itemsize


def encode_bytes(frames: int, height: int, width: int, dtype: torch.dtype) -> int:
    """Bytes that the VAE needs to encode this many frames of this size in one call."""
    return (46 + 9 * frames) * _finest_frame(height, width, dtype) // 2


def decode_bytes(frames: int, height: int, width: int, dtype: torch.dtype) -> int:
    """Bytes that the VAE needs to decode this many latent frames to this size: a chunk of up to 9 frames, and the
    convolutions' caches for the next one."""
    return (50 if frames == 1 else 102) * _finest_frame(height, width, dtype)


def _finest_frame(height: int, width: int, dtype: torch.dtype) -> int:
    """Bytes of one frame at the VAE's finest level."""
    return VAE_CHANNELS * height * width * dtype.itemsize
