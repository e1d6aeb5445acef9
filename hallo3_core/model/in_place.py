"""Operations that write over their input where no gradient is wanted, and make a new tensor where one is.

The one home of this choice: inference saves the memory of its largest tensors, and autograd, layer checkpointing and
FSDP see tensors that nobody changes. Which of the two it is follows from `torch.is_grad_enabled()` alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .positions import Rotary, rotate_, rotated


def gelu(x: Tensor) -> Tensor:
    """GELU in its tanh form."""
    if torch.is_grad_enabled():
        return F.gelu(x, approximate="tanh")
    return torch.ops.aten.gelu_(x, approximate="tanh")


def rotate_last(x: Tensor, rotary: Rotary, count: int) -> Tensor:
    """``... n d``: the last `count` tokens, which are the video's, rotated; the text's before them stay."""
    if torch.is_grad_enabled():
        before, video = x[..., :-count, :], x[..., -count:, :]
        return torch.cat((before, rotated(video, rotary)), dim=-2)
    rotate_(x[..., -count:, :], rotary)
    return x
