"""Devices: which one to use, what it can do, and how much memory it has."""

from __future__ import annotations

import logging
import os
import re

import torch

from ..errors import InputError
from .environment import number

LOWEST_TORCH = (2, 7)  # as requirements.txt says, which `./dev lowest` runs
AMPERE = 8  # first compute capability with bfloat16 matrix units

log = logging.getLogger(__name__)


def check_torch(version: str = torch.__version__) -> None:
    """Checks that this torch is supported.

    Raises:
        InputError: it is too old.
    """
    if tuple(int(digits) for digits in re.findall(r"\d+", version)[:2]) < LOWEST_TORCH:
        needed = ".".join(map(str, LOWEST_TORCH))
        raise InputError(
            f"PyTorch {version} is too old: {needed} or newer is needed, as for ComfyUI itself. Update it as PyTorch's "
            "page or ComfyUI's says for your GPU."
        )


def choose_device(name: str) -> str:
    """The device with this name; "auto" selects a GPU if there is one.

    Raises:
        InputError: a device that torch does not know or this machine does not have, or a torch that is too old.
    """
    check_torch()
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).item()  # "meta" has no values
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"--device {name}: not available here ({str(error).splitlines()[0]})") from error
    return name


def automatic_dtype(device: torch.device | str) -> torch.dtype:
    """The default dtype: bfloat16 as in the release, float16 on GPUs that lack it, float32 on a CPU."""
    if torch.device(device).type == "cpu":
        return torch.float32
    return torch.bfloat16 if multiplies_bfloat16(device) else torch.float16


def check_dtype(dtype: torch.dtype, device: torch.device | str) -> None:
    """Raises InputError for a GPU that cannot compute in this dtype, instead of failing at its first kernel."""
    if dtype == torch.bfloat16 and not multiplies_bfloat16(device):
        raise InputError(
            f"--dtype bf16: {device} is older than NVIDIA's RTX 30 series and cannot compute in it: choose fp16"
        )


def multiplies_bfloat16(device: torch.device | str) -> bool:
    """Whether the device computes in bfloat16; torch's own test also accepts GPUs that only store it."""
    device = torch.device(device)
    if device.type != "cuda" or torch.version.hip:
        return True
    return torch.cuda.get_device_properties(device).major >= AMPERE


def free_bytes(device: torch.device | str) -> int | None:
    """Bytes that torch can still allocate on a CUDA device, including its unused cache; None on other devices."""
    device = torch.device(device)
    if device.type != "cuda":
        return None
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def all_bytes(device: torch.device | str) -> int:
    """Total bytes of a CUDA device, or of this machine divided by torchrun's processes on it; 0 if unknown."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:
        here = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return here // number("LOCAL_WORLD_SIZE", 1)
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return 0


def stay_in_gpu_memory(device: torch.device | str) -> None:
    """On Windows, limits torch to the GPU memory that is free now, so that it raises when memory runs out. NVIDIA's
    driver would otherwise continue silently in host memory, many times slower."""
    device = torch.device(device)
    if os.name != "nt" or device.type != "cuda":
        return
    index = torch.cuda.current_device() if device.index is None else device.index
    free, total = torch.cuda.mem_get_info(index)
    share = min(1.0, (free + torch.cuda.memory_reserved(index)) / total)
    torch.cuda.set_per_process_memory_fraction(share, index)


def free_cached_memory() -> None:
    """Returns torch's unused cached memory to the device."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()
