"""The processes that torchrun starts for one film: joining, rank 0's word to the others, and one end for all.

Whichever process fails first says why; the others notice, say nothing and end too.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from ..errors import InputError
from ..runtime.fallback import is_out_of_memory
from .groups import Group, PartnerLost, talking

START = timedelta(minutes=5)  # until all processes are there
PATIENCE = timedelta(minutes=30)  # the longest wait for another one that lives: loading, encoding, writing
LAST_WORDS = 5.0  # seconds, until the reason of a process that is gone has come
FAILED = "hallo3/failed"


def is_launched() -> bool:
    """Whether torchrun, or what sets the same variables, started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1 and {"RANK", "MASTER_ADDR", "MASTER_PORT"} <= set(os.environ)


def take_card(device: str) -> None:
    """Make the card of torchrun's LOCAL_RANK the one that "cuda" means; nothing for other devices, or without cards.

    Raises:
        InputError: more processes on this machine than cards.
    """
    local, cards = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if device not in ("auto", "cuda") or "LOCAL_RANK" not in os.environ or not cards:
        return
    if local >= cards:
        raise InputError(
            f"process {local + 1} of this machine has no card: torch sees {cards}. Start no more than that."
        )
    torch.cuda.set_device(local)


class Team:
    """All processes of a film, as guidance branches x strips of the picture: neighbours share a picture.

    `strips`: the processes that share this one's picture; `branches`: those with the same strip of other branches.
    Made by every process, inside `join`.

    Raises:
        InputError: a device that several processes cannot share a film on.
    """

    def __init__(self, store: dist.Store, device: str, branches: int):
        self.rank, self.size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        with talking():
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

    def tell(self, message: Any) -> None:
        """Rank 0's word to all others; tensors in it are on the CPU.

        Raises:
            PartnerLost: another process is gone.
        """
        with talking():
            dist.broadcast_object_list([message], src=0, device=torch.device("cpu"))

    def hear(self) -> Any:
        """The next word of rank 0, None when the film is done.

        Raises:
            PartnerLost: rank 0 is gone.
        """
        box = [None]
        with talking():
            dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]


def branch_groups(processes: int, branches: int) -> int:
    """Into how many groups the processes part to evaluate branches side by side, which costs next to no talk: as many
    as divide both. Each group shares the picture of its branches."""
    return math.gcd(processes, branches)


Meet = Callable[[str, int], Team | None]  # device and number of branches -> the team; None: this process is alone


@contextlib.contextmanager
def join() -> Iterator[Meet]:
    """Be one of the processes that torchrun started, for as long as one film takes; alone where it started none.

    Raises:
        InputError: as inside, if this process failed first; or the others did not come, or are gone without a word.
        SystemExit: another one failed, and has said why.
    """
    if not is_launched():
        yield lambda device, branches: None
        return
    rank, size = int(os.environ["RANK"]), os.environ["WORLD_SIZE"]
    try:
        store, *_ = next(dist.rendezvous("env://", timeout=START))  # the first failure is noted in it
    except RuntimeError as error:
        raise InputError(f"process {rank} of {size} found no others within {START}: start all of them") from error
    logging.getLogger("hallo3_core").setLevel(logging.ERROR if rank else logging.NOTSET)  # rank 0 warns for all
    team = None

    def meet(device: str, branches: int) -> Team:
        nonlocal team
        team = Team(store, device, branches)
        return team

    try:
        yield meet
        if team.leads:
            team.tell(None)
        dist.destroy_process_group()
    except SystemExit:
        raise
    except BaseException as error:
        if not is_first(store, rank, error):
            raise SystemExit(1) from error
        if isinstance(error, PartnerLost):
            raise InputError(
                "another process of this film is gone without a word: ended from outside, or out of memory? Start all "
                "of them again; finished clips are kept."
            ) from error
        if is_out_of_memory(error):
            raise InputError(
                f"process {rank} of {size}: out of memory ({str(error).splitlines()[0]}). Close other programs that "
                "use its device, choose a smaller size, or give --sequential or --stream."
            ) from error
        error.add_note(f"in process {rank} of {size}")
        raise


def backend_of(device: str) -> str:
    """Messages go by gloo over the CPU; tensors by the backend of their device.

    Raises:
        InputError: a device that several processes cannot share a film on.
    """
    kind, _, number = device.partition(":")
    if kind == "cpu":
        return "gloo"
    if kind != "cuda" or number:
        raise InputError(f"--device {device}: several processes share a film on cuda (each its own card) or cpu")
    if not dist.is_nccl_available():
        raise InputError("several cards need NCCL, which this torch does not have. Use torch for Linux with CUDA.")
    return "cpu:gloo,cuda:nccl"


def is_first(store: dist.Store, rank: int, error: BaseException) -> bool:
    """Note that this process failed; whether none had before. A partner's loss gives way to the partner's reason."""
    name = str(rank)
    try:
        if isinstance(error, PartnerLost):
            _wait_for_reason(store)
        return store.compare_set(FAILED, "", name).decode() == name
    except dist.DistNetworkError:  # without torchrun's own, the store was rank 0's and went with it: it has spoken
        return False


def _wait_for_reason(store: dist.Store) -> None:
    end = time.monotonic() + LAST_WORDS
    with contextlib.suppress(KeyboardInterrupt):  # torchrun asks the others to end as soon as one is gone
        while not store.check([FAILED]) and time.monotonic() < end:
            time.sleep(0.1)
