"""Host memory pinned for a CUDA device, so that copies run at full bus speed and in parallel with the computation."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

RESERVE = 2 * 2**30  # bytes of free host memory that pinning leaves, because pinned memory cannot be swapped
MEMORY = Path("/proc/meminfo")

log = logging.getLogger(__name__)


class Pinning:
    """Pins host memory until `close`. Pins it in place, because torch rounds its own pinned allocations up to powers of
    two, which wastes up to half."""

    def __init__(self, device: torch.device):
        self._device, self._library = device, torch.cuda.cudart()
        self._pinned: list[Tensor] = []
        self._is_full = False

    def pin(self, memory: Tensor) -> None:
        """Pins a dense tensor's memory. If too little host memory is free, pins nothing from then on, and copies are
        only slower."""
        if self._is_full:
            return
        free = free_host_bytes()
        if free is not None and free < RESERVE + memory.nbytes:
            self._stop(f"{free / 1e9:.1f} GB of host memory are free")
            return
        with torch.cuda.device(self._device):  # not in another GPU's context
            failed = int(self._library.cudaHostRegister(memory.data_ptr(), memory.nbytes, 0))
        if not failed:
            self._pinned.append(memory)
            return
        self._stop("the driver refuses")
        with suppress(RuntimeError):  # clears CUDA's last error, which the next kernel would raise
            torch.zeros(1, device=self._device).add_(1)

    def close(self) -> None:
        """Waits for the device's copies, then releases everything."""
        torch.cuda.synchronize(self._device)
        for memory in self._pinned:
            self._library.cudaHostUnregister(memory.data_ptr())
        self._pinned.clear()

    def _stop(self, reason: str) -> None:
        self._is_full = True
        pinned = sum(memory.nbytes for memory in self._pinned)
        log.warning(
            "no more host memory is pinned (%s; %.1f GB are): copies to the GPU will be slower", reason, pinned / 1e9
        )


def free_host_bytes() -> int | None:
    """Bytes of host memory that can be allocated without swapping; None if the system does not report it."""
    try:
        lines = MEMORY.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable")), None)
