"""Reading tensor files: mapped, never copied whole, and nothing in them is ever run."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError

WRAPPERS = ("module", "state_dict")  # keys under which training programs keep the tensors


def read_tensors(path: Path | str) -> dict[str, Tensor]:
    """All tensors of a `.pt` or `.safetensors` file by name, mapped from disk; which of both is told by its content.

    Raises:
        InputError: no such file, neither format, damaged, without tensors, or a pickle that wants to run code.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file" if not path.exists() else f"{path}: is a folder, expected a file")
    with path.open("rb") as file:
        start = file.read(9)
    if start.startswith(b"PK"):
        return _read_pickled(path)
    if len(start) == 9 and start[8:] == b"{":
        return _read_safetensors(path)
    raise InputError(f"{path}: neither a safetensors file nor a torch checkpoint")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise InputError(f"{path}: damaged safetensors file ({error})") from error


def _read_pickled(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[-1] if "Unsupported" not in str(error) else _refused(str(error))
        raise InputError(f"{path}: refused, its pickle is not plain tensors ({reason})") from error
    except (RuntimeError, OSError, EOFError, KeyError, ValueError) as error:
        raise InputError(f"{path}: damaged checkpoint ({str(error).splitlines()[0]})") from error
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not tensors:
        raise InputError(f"{path}: holds no tensors")
    return tensors


def _refused(message: str) -> str:
    """The line of torch's refusal that names what the pickle asked for."""
    lines = [line.strip() for line in message.splitlines() if "nsupported" in line]
    return lines[0] if lines else "unsupported content"
