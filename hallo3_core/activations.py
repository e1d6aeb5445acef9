"""What the denoiser needs of a device's memory beside its weights, and what is free there."""

from __future__ import annotations

import torch

from .config import Grid, TransformerConfig

AUDIO_TOKENS = 32  # a latent frame, of the released projector


def activation_bytes(config: TransformerConfig, grid: Grid, samples: int, dtype: torch.dtype) -> int:
    """Bytes that are alive at once while `samples` of a clip on `grid` are evaluated in `dtype`.

    In a block: both streams, joint queries, keys and values, the same rotated (in float32 on the way), attention's
    result; in the MLP four widths twice: about 20 widths a token at the most. Beside it, for all layers, the keys and
    values of portrait and sound, which are held once by themselves and once put together for the batch.
    """
    block = 20 * (grid.tokens + config.text_tokens) * config.hidden
    held = 2 * config.layers * 2 * (grid.tokens_per_frame + grid.frames * AUDIO_TOKENS) * config.hidden
    return samples * (block + held) * dtype.itemsize


def free_bytes(device: torch.device | str) -> int | None:
    """What torch could still take of a CUDA device, or has taken and does not use; None where that cannot be told."""
    device = torch.device(device)
    if device.type != "cuda":
        return None
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused
