"""One process or several: who this is, how networks are shared out among all, and what they must agree on."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError, require
from ..model.hallo3 import Hallo3
from ..runtime.devices import choose_device


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
        """Which samples of a step's batch are this process's."""
        each = batch // self.count
        return slice(self.rank * each, (self.rank + 1) * each)

    def summed(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, on each."""
        if self.count > 1:
            torch.distributed.all_reduce(tensor)
        return tensor

    def agree(self, wish: bool) -> bool:
        """Whether any process wishes it."""
        return bool(self.summed(torch.tensor(float(wish), device=self.device))) if self.count > 1 else wish

    def wait(self) -> None:
        if self.count > 1:
            torch.distributed.barrier()


def join(device: str, batch: int) -> Processes:
    """This process among those that `accelerate launch` or `torchrun` started; alone if neither did.

    Raises:
        InputError: the batch can't be shared out among them; accelerate is not installed.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Processes(0, 1, torch.device(choose_device(device)))
    if batch % count:
        raise InputError(f"batch is {batch}, which {count} processes cannot share: choose a multiple of {count}.")
    accelerate = require("accelerate", "accelerate", "training in several processes")
    state = accelerate.PartialState(cpu=choose_device(device) == "cpu")
    return Processes(state.process_index, state.num_processes, state.device)


def shard(networks: Hallo3, processes: Processes) -> None:
    """FSDP: every block gathers its weights around its forward and backward, and holds its share at other times."""
    if processes.count == 1:
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(processes.device.type, (processes.count,))
    policy = dict(mesh=mesh, mp_policy=MixedPrecisionPolicy(reduce_dtype=torch.float32))
    for network in (networks.denoiser, networks.reference_net):
        for block in network.blocks if network is not None else ():
            fully_shard(block, **policy)
    fully_shard(networks, **policy)
