"""The processes that torchrun starts for one film: joining, rank 0's messages, and a common end.

The first process that fails says why; the others notice and end silently.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from ..errors import InputError
from ..runtime.environment import has, number
from ..runtime.fallback import is_out_of_memory
from .groups import Group, PartnerLost, connection_errors

START = timedelta(minutes=5)  # until all processes have joined
PATIENCE = timedelta(minutes=30)  # longest wait for a living process, which may be loading, encoding or writing
LAST_WORDS = 5.0  # seconds to wait for the reason of a process that ended
FAILED = "hallo3/failed"


def is_launched() -> bool:
    """Whether torchrun, or something that sets the same variables, started this process as one of several."""
    return number("WORLD_SIZE", 1) > 1 and has("RANK", "MASTER_ADDR", "MASTER_PORT")


def take_gpu(device: str) -> None:
    """Makes "cuda" mean the GPU of torchrun's LOCAL_RANK; does nothing for other devices or without GPUs.

    Raises:
        InputError: more processes on this machine than GPUs.
    """
    local, gpus = number("LOCAL_RANK", 0), torch.cuda.device_count()
    if device not in ("auto", "cuda") or not has("LOCAL_RANK") or not gpus:
        return
    if local >= gpus:
        raise InputError(f"process {local + 1} of this machine has no GPU: torch sees {gpus}. Start at most that many.")
    torch.cuda.set_device(local)


class Team:
    """All processes of a film, arranged as guidance branches x strips of the picture; neighbours share a picture.

    `strips`: the processes that share this one's picture; `branches`: those with the same strip of other branches.
    Created by every process, inside `join`.

    Raises:
        InputError: a device that several processes cannot share a film on.
    """

    def __init__(self, store: dist.Store, device: str, branches: int):
        self.rank, self.size = number("RANK", 0), number("WORLD_SIZE", 1)
        with connection_errors():
            dist.init_process_group(
                backend_of(device), store=store, rank=self.rank, world_size=self.size, timeout=PATIENCE
            )
        apart = branch_groups(self.size, branches)
        width = self.size // apart
        strips = [Group(range(first, first + width)) for first in range(0, self.size, width)]
        across = [Group(range(first, self.size, width)) for first in range(width)]
        self.strips, self.branches = strips[self.rank // width], across[self.rank % width]

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def send(self, message: Any) -> None:
        """Sends a message from rank 0 to all others; its tensors are on the CPU.

        Raises:
            PartnerLost: another process is gone.
        """
        with connection_errors():
            dist.broadcast_object_list([message], src=0, device=torch.device("cpu"))

    def receive(self) -> Any:
        """Receives the next message of rank 0, None when the film is done.

        Raises:
            PartnerLost: rank 0 is gone.
        """
        box = [None]
        with connection_errors():
            dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]


def branch_groups(processes: int, branches: int) -> int:
    """The number of groups that compute branches in parallel, which needs little communication: the largest number that
    divides both. Each group shares the picture of its branches."""
    return math.gcd(processes, branches)


Meet = Callable[[str, int], Team | None]  # device and number of branches -> the team; None: this process is alone


@contextlib.contextmanager
def join() -> Iterator[Meet]:
    """Joins the processes that torchrun started for one film; without torchrun this process is alone.

    Raises:
        InputError: this process failed first, or the others did not join or ended without a reason.
        SystemExit: another one failed, and has said why.
    """
    if not is_launched():
        yield lambda device, branches: None
        return
    rank, size = number("RANK", 0), number("WORLD_SIZE", 1)
    try:
        store, *_ = next(dist.rendezvous("env://", timeout=START))  # it records the first failure
    except RuntimeError as error:
        raise InputError(
            f"process {rank} of {size} did not reach the others within {START}: start all of them"
        ) from error
    logging.getLogger("hallo3_core").setLevel(logging.ERROR if rank else logging.NOTSET)  # rank 0 warns for all
    team = None

    def meet(device: str, branches: int) -> Team:
        nonlocal team
        team = Team(store, device, branches)
        return team

    try:
        yield meet
        if team.leads:
            team.send(None)
        dist.destroy_process_group()
    except SystemExit:
        raise
    except BaseException as error:
        if not is_first(store, rank, error):
            raise SystemExit(1) from error
        if isinstance(error, PartnerLost):
            raise InputError(
                "another process of this video ended without a message: killed, or out of memory? Start all of them "
                "again; finished clips are kept."
            ) from error
        if is_out_of_memory(error):
            raise InputError(
                f"process {rank} of {size}: out of memory ({str(error).splitlines()[0]}). Close other programs that "
                "use its device, choose a smaller size, or add --sequential or --stream."
            ) from error
        error.add_note(f"in process {rank} of {size}")
        raise


def backend_of(device: str) -> str:
    """Messages travel by gloo over the CPU, tensors by the backend of their device.

    Raises:
        InputError: a device that several processes cannot share a film on.
    """
    kind, _, number = device.partition(":")
    if kind == "cpu":
        return "gloo"
    if kind != "cuda" or number:
        raise InputError(f"--device {device}: several processes share a video on cuda (one GPU each) or cpu")
    if not dist.is_nccl_available():
        raise InputError("several GPUs need NCCL, which this torch lacks. Use a torch build for Linux with CUDA.")
    return "cpu:gloo,cuda:nccl"


def is_first(store: dist.Store, rank: int, error: BaseException) -> bool:
    """Records that this process failed; returns whether it is the first. After losing a partner, waits for its
    reason."""
    name = str(rank)
    try:
        if isinstance(error, PartnerLost):
            _wait_for_reason(store)
        return store.compare_set(FAILED, "", name).decode() == name
    except dist.DistNetworkError:  # the store was rank 0's and ended with it: rank 0 has reported
        return False


def _wait_for_reason(store: dist.Store) -> None:
    end = time.monotonic() + LAST_WORDS
    with contextlib.suppress(KeyboardInterrupt):  # torchrun interrupts the others as soon as one ends
        while not store.check([FAILED]) and time.monotonic() < end:
            time.sleep(0.1)
