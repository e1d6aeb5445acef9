"""Operations that overwrite their input without gradients, and return a new tensor with gradients.

Only this module makes that choice, by `torch.is_grad_enabled()`. Inference saves the memory of its largest tensors,
while autograd, layer checkpointing and FSDP never see a tensor modified in place.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .positions import PIECES, Rotary, rotate_, rotated


def gelu(x: Tensor) -> Tensor:
    """GELU, tanh approximation."""
    if torch.is_grad_enabled():
        return F.gelu(x, approximate="tanh")
    return torch.ops.aten.gelu_(x, approximate="tanh")


def normed_and_rotated(norm: nn.LayerNorm, x: Tensor, rotary: Rotary, count: int) -> Tensor:
    """``... h n d``: applies the norm to each head, then rotates the last `count` tokens as `rotate_last` does.

    torch's CUDA kernel for layer norm uses one thread block per row. With heads of 64 most threads are idle, which took
    a sixth of a step's time. So in half precision on CUDA, both operations run in float32, some heads at a time, and
    round once.
    """
    wants_plain = torch.is_grad_enabled() or torch.compiler.is_compiling()
    if wants_plain or not x.is_cuda or x.dtype.itemsize >= 4 or type(norm) is not nn.LayerNorm:
        return rotate_last(norm(x), rotary, count)
    return normed_and_rotated_wide(norm, x, rotary, count)


def normed_and_rotated_wide(norm: nn.LayerNorm, x: Tensor, rotary: Rotary, count: int) -> Tensor:
    """`normed_and_rotated` for half precision, computed in float32 without a full float32 copy of `x`."""
    width, dtype = x.shape[-1], torch.float32
    mean = x.sum(dim=-1, keepdim=True, dtype=dtype) / width  # both convert to float32 as they read
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
    """``... n d``: rotates the last `count` tokens, the video's; the text tokens before them are unchanged."""
    if torch.is_grad_enabled():
        before, video = x[..., :-count, :], x[..., -count:, :]
        return torch.cat((before, rotated(video, rotary)), dim=-2)
    rotate_(x[..., -count:, :], rotary)
    return x
