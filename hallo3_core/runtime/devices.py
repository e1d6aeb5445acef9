"""What this machine has to compute on: which device, what it can, and how much memory it has."""

from __future__ import annotations

import logging
import os

import torch

from ..errors import InputError

AMPERE = 8  # the first compute capability whose units multiply bfloat16

log = logging.getLogger(__name__)


def choose_device(name: str) -> str:
    """The device to compute on.

    Raises:
        InputError: a device that torch does not know or this machine does not have.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).item()  # "meta" has no values
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"--device {name}: not available here ({str(error).splitlines()[0]})") from error
    return name


def automatic_dtype(device: torch.device | str) -> torch.dtype:
    """What to compute in where nothing was asked for: the released weights' bfloat16, if the device can."""
    if torch.device(device).type == "cpu":
        return torch.float32
    return torch.bfloat16 if multiplies_bfloat16(device) else torch.float16


def check_dtype(dtype: torch.dtype, device: torch.device | str) -> None:
    """Raises InputError for a card that cannot compute in this dtype, which it would only say at its first kernel."""
    if dtype == torch.bfloat16 and not multiplies_bfloat16(device):
        raise InputError(
            f"--dtype bf16: {device} is older than NVIDIA's RTX 30 series and cannot compute in it: choose fp16"
        )


def multiplies_bfloat16(device: torch.device | str) -> bool:
    """Whether it computes in bfloat16; torch itself also counts cards that only store it."""
    device = torch.device(device)
    if device.type != "cuda" or torch.version.hip:
        return True
    return torch.cuda.get_device_properties(device).major >= AMPERE


def free_bytes(device: torch.device | str) -> int | None:
    """What torch could still take of a CUDA device, or has taken and does not use; None where that cannot be told."""
    device = torch.device(device)
    if device.type != "cuda":
        return None
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def all_bytes(device: torch.device | str) -> int:
    """Bytes in all, of a CUDA device, or of this machine for each of torchrun's processes on it; 0 where that cannot be
    told."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:
        here = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return here // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return 0


def stay_on_the_card(device: torch.device | str) -> None:
    """On Windows: have torch say that memory ran out, for NVIDIA's driver would go on in the host's memory without a
    word, many times slower. What other programs have of the card now is left to them."""
    device = torch.device(device)
    if os.name != "nt" or device.type != "cuda":
        return
    index = torch.cuda.current_device() if device.index is None else device.index
    free, total = torch.cuda.mem_get_info(index)
    share = min(1.0, (free + torch.cuda.memory_reserved(index)) / total)
    torch.cuda.set_per_process_memory_fraction(share, index)


def free_cached_memory() -> None:
    """Give back what torch keeps of memory that is not in use."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()
