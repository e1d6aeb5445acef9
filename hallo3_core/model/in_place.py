"""Operations that write over their input where no gradient is wanted, and make a new tensor where one is.

The one home of this choice: inference saves the memory of its largest tensors, and autograd, layer checkpointing and
FSDP see tensors that nobody changes. Which of the two it is follows from `torch.is_grad_enabled()` alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .positions import PIECES, Rotary, rotate_, rotated


def gelu(x: Tensor) -> Tensor:
    """GELU in its tanh form."""
    if torch.is_grad_enabled():
        return F.gelu(x, approximate="tanh")
    return torch.ops.aten.gelu_(x, approximate="tanh")


def normed_and_rotated(norm: nn.LayerNorm, x: Tensor, rotary: Rotary, count: int) -> Tensor:
    """``... h n d``: each head's norm, then the last `count` tokens rotated as `rotate_last` does.

    torch's CUDA kernel gives each row a block of threads, which at heads of 64 is most of them idle: a sixth of a
    step's time. In half precision there, both are computed in float32, some heads at a time, and rounded once.
    """
    wants_plain = torch.is_grad_enabled() or torch.compiler.is_compiling()
    if wants_plain or not x.is_cuda or x.dtype.itemsize >= 4 or type(norm) is not nn.LayerNorm:
        return rotate_last(norm(x), rotary, count)
    return normed_and_rotated_wide(norm, x, rotary, count)


def normed_and_rotated_wide(norm: nn.LayerNorm, x: Tensor, rotary: Rotary, count: int) -> Tensor:
    """As `normed_and_rotated`, of half precision, in float32; no copy of `x` is made."""
    width, dtype = x.shape[-1], torch.float32
    mean = x.sum(dim=-1, keepdim=True, dtype=dtype) / width  # both widen as they read
    square = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=dtype).square_() / width
    inverse = (square - mean.square()).clamp_(min=0).add_(norm.eps).rsqrt_()
    shift, weight, bias = -mean * inverse, norm.weight.to(dtype), norm.bias.to(dtype)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    pieces = (y.chunk(PIECES, dim=-3) for y in (x, inverse, shift, out))
    for part, own_inverse, own_shift, own_out in zip(*pieces, strict=True):
        wide = torch.addcmul(own_shift, part, own_inverse)
        torch.addcmul(bias, wide, weight, out=wide)
        rotate_(wide[..., -count:, :], rotary)
        own_out.copy_(wide)
    return out


def rotate_last(x: Tensor, rotary: Rotary, count: int) -> Tensor:
    """``... n d``: the last `count` tokens, which are the video's, rotated; the text's before them stay."""
    if torch.is_grad_enabled():
        before, video = x[..., :-count, :], x[..., -count:, :]
        return torch.cat((before, rotated(video, rotary)), dim=-2)
    rotate_(x[..., -count:, :], rotary)
    return x
