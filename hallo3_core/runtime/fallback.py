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
Way, Result = TypeVar("Way"), TypeVar("Result")

_OUT_OF_MEMORY = (
    *("out of memory", "can't allocate memory", "not enough memory"),  # of MPS, CPU and drivers
    *("status_alloc_failed", "unable to find an engine"),  # cuBLAS; cuDNN, which tries others and then says only this
)


class Ways(Generic[Way]):
    """Ways to do the same, from fast to small. Where memory runs out the next one is tried, said in words, and the one
    before is not tried again.

        latent = ways.first(lambda way: sample(way, ...))
    """

    def __init__(self, what: str, ways: Mapping[str, Way], tell: Callable[[str], None] = lambda text: None):
        """what: for the messages, such as "sampling"; ways by their names, such as "in tiles"."""
        self._what, self._ways, self._tell = what, list(ways.items()), tell

    def first(self, attempt: Callable[[Way], Result]) -> Result:
        """The result of the first way that memory suffices for.

        Raises:
            InputError: it suffices for none.
        """
        while True:
            try:
                return attempt(self._ways[0][1])
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                (name, _), *others = self._ways
                if not others:
                    raise InputError(
                        f"out of memory while {self._what} {name}, the smallest way. Finished clips are kept. Close "
                        "other programs that use the device, choose a smaller size, or weights in fp8, and start again."
                    ) from error
            # Here the exception is gone, and with it all that its traceback held.
            self._ways = others
            free_memory()
            text = f"out of memory while {self._what} {name}: once more, {others[0][0]}"
            log.warning(text)
            self._tell(text)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory, of whatever device, ran out."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _OUT_OF_MEMORY)


def free_memory() -> None:
    """Let go of what a failed attempt left, and give it back."""
    gc.collect()
    free_cached_memory()
