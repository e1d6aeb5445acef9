"""Processes that exchange tensors of any size, by one collective: all-to-all."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

Shape = Sequence[int]


class PartnerLost(RuntimeError):
    """Another process ended or its connection broke while this one was waiting for it."""


def shares(count: int, parts: int) -> list[int]:
    """Divides `count` among `parts` as evenly as possible; the first ones get one more."""
    return [count // parts + (part < count % parts) for part in range(parts)]


def start_of(sizes: Sequence[int], part: int) -> int:
    """Where a part starts in the whole."""
    return sum(sizes[:part])


class Group:
    """Some of the processes, in a fixed order. Every process must create all groups in the same order.

    Raises (exchange, gather):
        PartnerLost: another process is gone.
    """

    def __init__(self, ranks: Sequence[int]):
        self.size = len(ranks)
        self._handle = dist.new_group(list(ranks))
        self.rank = ranks.index(dist.get_rank()) if dist.get_rank() in ranks else None

    def exchange(self, parcels: Sequence[Sequence[Tensor]], shapes: Sequence[Sequence[Shape]]) -> list[list[Tensor]]:
        """Sends parcel i to process i and receives tensors of shapes[i] from it. All have one dtype."""
        sent = [sum(tensor.numel() for tensor in parcel) for parcel in parcels]
        sizes = [[math.prod(shape) for shape in parcel] for parcel in shapes]
        outgoing = torch.cat([tensor.flatten() for parcel in parcels for tensor in parcel])
        incoming = outgoing.new_empty(sum(map(sum, sizes)))
        with connection_errors():
            dist.all_to_all_single(incoming, outgoing, list(map(sum, sizes)), sent, group=self._handle)
        tensors = iter(incoming.split([size for parcel in sizes for size in parcel]))
        return [[next(tensors).view(tuple(shape)) for shape in parcel] for parcel in shapes]

    def gather(self, x: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
        """All processes' tensors joined along `dim`, where process i has `sizes[i]`; other dimensions are equal."""
        if self.size == 1:
            return x
        shapes = [[[*x.shape[:dim], size, *x.shape[dim + 1 :]]] for size in sizes]
        return torch.cat([part for (part,) in self.exchange([[x]] * self.size, shapes)], dim=dim)


@contextmanager
def connection_errors() -> Iterator[None]:
    """Turns torch's errors of a broken connection into PartnerLost."""
    try:
        yield
    except RuntimeError as error:
        raise PartnerLost(str(error).splitlines()[0]) from error
