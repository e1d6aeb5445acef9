"""Falling back to a smaller mode when memory runs out."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

import torch

from ..errors import InputError
from .devices import free_cached_memory

log = logging.getLogger(__name__)
Mode, Result = TypeVar("Mode"), TypeVar("Result")

_OUT_OF_MEMORY = (
    *("out of memory", "can't allocate memory", "not enough memory"),  # MPS, CPU and drivers
    # cuBLAS; cuDNN, which tries all its engines and then reports only this
    *("status_alloc_failed", "unable to find an engine"),
)


class Fallbacks(Generic[Mode]):
    """Modes of the same work, from the fastest to the one that needs least memory. If memory runs out in one mode, the
    next is tried and stays in use.

        latent = fallbacks.run(lambda mode: sample(mode, ...))
    """

    def __init__(self, what: str, modes: Mapping[str, Mode], report: Callable[[str], None] = lambda text: None):
        """what: names the work in messages, such as "sampling". modes: by name, such as "in tiles"."""
        self._what, self._modes, self._report = what, list(modes.items()), report

    def run(self, attempt: Callable[[Mode], Result]) -> Result:
        """Returns the result of the first mode that fits in memory.

        Raises:
            InputError: memory ran out in all modes.
        """
        while True:
            try:
                return attempt(self._modes[0][1])
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                (name, _), *others = self._modes
                if not others:
                    raise InputError(
                        f"out of memory while {self._what} {name}, the smallest mode. Finished clips are kept. Close "
                        "other programs that use the device, choose a smaller size, or weights in fp8, and start again."
                    ) from error
            # The exception is freed by now, and with it everything its traceback referenced.
            self._modes = others
            free_memory()
            text = f"out of memory while {self._what} {name}: trying again {others[0][0]}"
            log.warning(text)
            self._report(text)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error means that memory ran out, on any device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _OUT_OF_MEMORY)


def free_memory() -> None:
    """Frees the memory left over from a failed attempt."""
    gc.collect()
    free_cached_memory()
