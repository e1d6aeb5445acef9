"""The host's attention, as it was started (PyTorch, xformers, sage, flash), behind the engine's function."""

from __future__ import annotations

from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor


def host_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """``b h n d`` each -> ``b h n d``"""
    return optimized_attention(q, k, v, q.shape[1], skip_reshape=True, skip_output_reshape=True)
