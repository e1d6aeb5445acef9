"""Layer checkpointing: in training, a block keeps its inputs alone and is computed a second time for its gradients."""

from __future__ import annotations

from functools import partial

from torch.utils.checkpoint import checkpoint

from ..model.trunk import Trunk


def checkpoint_blocks(network: Trunk) -> None:
    """Have each block of the network computed again in the backward pass; gradients are equal, bit for bit.

    FSDP is to shard the blocks afterwards: it gathers a block's weights around its forward, this one's included.
    """
    for block in network.blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
