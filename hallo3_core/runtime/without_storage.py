"""Builds other packages' networks on the meta device: no memory for their weights, and no random ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

T = TypeVar("T", bound=nn.Module)


def without_storage(network: Callable[..., T], *args, device: torch.device | str = "meta", **kwargs) -> T:
    """`network(*args, **kwargs)` with all its parameters on the meta device (or on `device`, as it initialises them).

    The class is an argument, so its package is imported before torch's device context begins. Inside one, torch before
    2.9 cannot import its own compiler, which transformers and diffusers do: they would be left half imported.
    """
    drawn = torch.device(device).type != "meta"  # initialising draws random numbers, which nothing uses on meta
    with torch.random.fork_rng(devices=[], enabled=not drawn), torch.device(device):
        return network(*args, **kwargs)
