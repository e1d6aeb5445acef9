"""Counts the tensors that autograd saves for the backward pass, by running networks on the meta device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..clips import LATENT_FRAMES
from ..model.blocks import LayerConditions
from ..model.hallo3 import Hallo3
from ..vae.autoencoder import PIXELS
from ..weights import names
from .config import TrainingConfig
from .networks import parts


class Kept(NamedTuple):
    """Bytes: in total, with only the inputs of blocks, and most in one block."""

    total: int
    boundaries: int
    largest: int


def kept_for_backward(config: TrainingConfig, networks: Hallo3) -> Kept:
    """What autograd saves in a forward pass of networks on the meta device, for a batch of the configuration."""
    samples = config.memory.micro_batch or config.batch
    sizes, dtype = networks.denoiser.config, networks.denoiser.patch_embed.weight.dtype
    height, width = (side // PIXELS for side in config.data.size)
    has = dict(parts(networks))

    def empty(*shape: int) -> Tensor:
        return torch.empty(samples, *shape, device="meta", dtype=dtype)

    kept: dict[int, tuple[int, object]] = {}
    own = {p.untyped_storage()._cdata for p in networks.parameters()}
    now: list[object] = [None]
    inputs: dict[object, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept.setdefault(storage._cdata, (storage.nbytes(), now[0]))
            alive.append(storage)  # so that its id is not reused
        return tensor

    def enters(block: nn.Module, arguments: tuple) -> None:
        now[0] = block
        conditions = [each for a in arguments if isinstance(a, LayerConditions) for each in a]
        inputs[block] = sum(a.nbytes for a in (*arguments, *conditions) if isinstance(a, Tensor))

    alive: list[object] = []
    blocks = [b for part in (names.DENOISER, names.REFERENCE_NET) if part in has for b in has[part].blocks]
    handles = [b.register_forward_pre_hook(enters) for b in blocks]
    handles += [b.register_forward_hook(lambda *_: now.__setitem__(0, None)) for b in blocks]
    audio_config = getattr(networks.audio_projector, "proj1", None)
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        networks(
            empty(sizes.channels, LATENT_FRAMES, height, width),
            empty(sizes.channels, LATENT_FRAMES, height, width),
            torch.zeros(samples, device="meta"),
            empty(sizes.text_tokens, sizes.text_width),
            portrait=empty(sizes.channels, height, width) if names.REFERENCE_NET in has else None,
            face=empty(networks.face_projector.proj.in_features) if names.FACE_PROJECTOR in has else None,
            audio=empty(4 * LATENT_FRAMES - 3, 1, 1, audio_config.in_features) if audio_config else None,
        )
    for handle in handles:
        handle.remove()
    by_block: dict[object, int] = {}
    for size, block in kept.values():
        by_block[block] = by_block.get(block, 0) + size
    outside = by_block.pop(None, 0)
    total = outside + sum(by_block.values())
    graph = [block for block in blocks if by_block.get(block)]
    return Kept(total, outside + sum(inputs[block] for block in graph), max(by_block.values(), default=0))


def flash_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """An attention kernel that does not save the score matrix, like those of GPUs."""
    return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]
