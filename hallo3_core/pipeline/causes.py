"""The likely cause of NaN or infinite values in a latent."""

from __future__ import annotations

import torch

from ..errors import own_command
from ..sampling.guidance import Guidance, Scales

STRONG = 8.0  # a guidance scale beyond this is a likely cause; 3.5 is usual


def likely_cause(dtype: torch.dtype, guidance: Guidance, with_lora: bool) -> str:
    """The most likely cause of NaN or infinite values, and what to do about it."""
    scales = [guidance.scales] if isinstance(guidance.scales, Scales) else guidance.scales
    if dtype == torch.float16:
        return "fp16 ends at 65504, which this model's values may pass: compute in bf16 or fp32."
    if with_lora:
        return "Perhaps the LoRA is too strong or damaged: lower its strength, or leave it out."
    if any(abs(scale) > STRONG for each in scales for scale in each):
        return f"A guidance scale is far beyond the usual 3.5: choose less than {STRONG:g}."
    return (
        f"Perhaps weights are damaged, which this does not always see: {own_command('inspect', 'FOLDER')}. Convert or "
        "download them again. An unstable GPU (overclocked, too hot) does this too."
    )
