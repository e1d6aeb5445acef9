"""Distributed training: this process's rank, sharding of networks, and collective operations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError, require
from ..model.hallo3 import Hallo3
from ..runtime.devices import choose_device
from ..runtime.environment import number


@dataclass(frozen=True)
class Processes:
    """This process, `rank` of `count`, and its device."""

    rank: int
    count: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def part(self, batch: int) -> slice:
        """This process's slice of a step's batch."""
        each = batch // self.count
        return slice(self.rank * each, (self.rank + 1) * each)

    def pieces(self, batch: int, micro: int | None) -> Iterator[slice]:
        """This process's slice in pieces of at most `micro` samples."""
        part = self.part(batch)
        size = micro or part.stop - part.start
        for start in range(part.start, part.stop, size):
            yield slice(start, min(start + size, part.stop))

    def summed(self, tensor: Tensor) -> Tensor:
        """The sum over all processes (all-reduce)."""
        if self.count > 1:
            torch.distributed.all_reduce(tensor)
        return tensor

    def agree(self, wish: bool) -> bool:
        """Whether `wish` is true in any process."""
        return bool(self.summed(torch.tensor(float(wish), device=self.device))) if self.count > 1 else wish

    def wait(self) -> None:
        if self.count > 1:
            torch.distributed.barrier()


def join(device: str, batch: int) -> Processes:
    """Joins the processes that `accelerate launch` or `torchrun` started; a single process if neither did.

    Raises:
        InputError: the batch cannot be divided among them, or accelerate is not installed.
    """
    count = number("WORLD_SIZE", 1)
    if count == 1:
        return Processes(0, 1, torch.device(choose_device(device)))
    if batch % count:
        raise InputError(f"batch is {batch}, which {count} processes cannot share: choose a multiple of {count}.")
    accelerate = require("accelerate", "accelerate", "training in several processes")
    state = accelerate.PartialState(cpu=choose_device(device) == "cpu")
    return Processes(state.process_index, state.num_processes, state.device)


def shard(networks: Hallo3, processes: Processes) -> None:
    """FSDP: every block gathers its weights for its forward and backward pass, and keeps only its shard otherwise."""
    if processes.count == 1:
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(processes.device.type, (processes.count,))
    policy = dict(mesh=mesh, mp_policy=MixedPrecisionPolicy(reduce_dtype=torch.float32))
    for network in (networks.denoiser, networks.reference_net):
        for block in network.blocks if network is not None else ():
            fully_shard(block, **policy)
    fully_shard(networks, **policy)
    for method in ("conditions", "velocity"):  # previews call these; training calls forward
        register_fsdp_forward_method(networks, method)
