"""Blocks that are on the device only while they compute: weights stay in host memory, one block ahead is copied.

The device holds two blocks at a time, whatever the model's size: the one that computes, and the next, which is copied
beside it. Nothing else changes, so the results are those of a resident model, bit for bit.

A block's weights are packed into one piece of host memory, pinned where the device is CUDA, and copied in one go to one
of two places on the device; the block's parameters are views of that place for as long as it is lent. A block that is
not lent has no values at all (its parameters are on the meta device), so that using one by mistake fails.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

ALIGNMENT = 256  # bytes; what CUDA's own allocations have
PLACES = 2

log = logging.getLogger(__name__)


@contextmanager
def streamed(network: nn.Module, device: torch.device | str, blocks: str = "blocks") -> Iterator[nn.Module]:
    """The network on the device, but for the list of blocks of that name, which are lent to it one by one.

    It comes from the CPU, and is of no use afterwards.
    """
    owner, _, leaf = blocks.rpartition(".")
    parent, own = network.get_submodule(owner), network.get_submodule(blocks)
    setattr(parent, leaf, nn.ModuleList())
    network.to(device)
    stream = StreamedBlocks(own, device)
    setattr(parent, leaf, stream)
    try:
        yield network
    finally:
        stream.close()


class Lane(Protocol):
    """How packed weights travel to the device."""

    def hold(self, packed: Tensor) -> None:
        """Make a piece of host memory fit to be sent."""

    def send(self, place: Tensor, packed: Tensor) -> None:
        """Begin to copy, when all that was asked of the device so far is done; one copy at a time."""

    def arrived(self) -> None:
        """Have the device wait for the copy that was begun last."""

    def close(self) -> None:
        """Wait for the copy that was begun last, and let go of what is held."""


class PlainLane:
    """Copies at once."""

    def hold(self, packed: Tensor) -> None:
        pass

    def send(self, place: Tensor, packed: Tensor) -> None:
        place.copy_(packed)

    def arrived(self) -> None:
        pass

    def close(self) -> None:
        pass


class CudaLane:
    """Copies from pinned memory on a stream of its own, beside the computation."""

    def __init__(self, device: torch.device):
        self._device, self._stream = device, torch.cuda.Stream(device)
        self._library, self._pinned, self._can_pin = torch.cuda.cudart(), [], True

    def hold(self, packed: Tensor) -> None:
        """Pinned where it lies: torch's own pinned memory comes in powers of two, which wastes up to half."""
        if not self._can_pin:
            return
        with torch.cuda.device(self._device):  # not in the memory of another card
            failed = int(self._library.cudaHostRegister(packed.data_ptr(), packed.nbytes, 0))
        if not failed:
            self._pinned.append(packed)
            return
        self._can_pin = False
        log.warning("host memory cannot be pinned (any more): streaming will be slower")
        with suppress(RuntimeError):  # CUDA keeps its last error for the next kernel to raise
            torch.zeros(1, device=self._device).add_(1)

    def send(self, place: Tensor, packed: Tensor) -> None:
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            place.copy_(packed, non_blocking=True)

    def arrived(self) -> None:
        torch.cuda.current_stream(self._device).wait_stream(self._stream)

    def close(self) -> None:
        self._stream.synchronize()
        for packed in self._pinned:
            self._library.cudaHostUnregister(packed.data_ptr())
        self._pinned.clear()


class Piece(NamedTuple):
    """Where a parameter lies in its block's packed weights."""

    name: str
    start: int
    stop: int
    dtype: torch.dtype
    shape: torch.Size

    def of(self, packed: Tensor) -> Tensor:
        return packed[self.start : self.stop].view(self.dtype).view(self.shape)


class StreamedBlocks(nn.Module):
    """Takes the place of a list of blocks: each is lent to the device when it is reached, in a loop or by its number.

    The block after it, in a ring, is copied meanwhile; the block before it is given back. Hence a block that was taken
    has to be used before the next one is. The blocks are no submodules: moving the model leaves them where they are.
    `places` is all that the device holds of them.
    """

    def __init__(self, blocks: Sequence[nn.Module], device: torch.device | str, lane: Lane | None = None):
        super().__init__()
        device = torch.device(device)
        self._lane = lane or (CudaLane(device) if device.type == "cuda" else PlainLane())
        self._blocks = tuple(blocks)
        self._pieces, self._packed = [], []
        for block in self._blocks:
            pieces, packed = pack(block)
            _withdraw(block, pieces)
            self._pieces.append(pieces)
            self._packed.append(packed)
            self._lane.hold(packed)
        size = max(packed.nbytes for packed in self._packed)
        self.places = [torch.empty(size, dtype=torch.uint8, device=device) for _ in range(min(PLACES, len(blocks)))]
        self._held: list[int | None] = [None] * len(self.places)  # whose weights a place has, or will have
        self._lent: int | None = None

    def __len__(self) -> int:
        return len(self._blocks)

    def __getitem__(self, index: int) -> nn.Module:
        return self._lend(range(len(self))[index])

    def __iter__(self) -> Iterator[nn.Module]:
        return (self._lend(index) for index in range(len(self)))

    def close(self) -> None:
        """Give everything back, on the device and in host memory."""
        self._give_back()
        self._lane.close()
        self.places, self._packed, self._held = [], [], []

    def _lend(self, index: int) -> nn.Module:
        if index == self._lent:
            return self._blocks[index]
        self._give_back()
        if index not in self._held:  # not the one that was expected, or the very first
            self._send(index, place=0)
        self._lane.arrived()
        place = self._held.index(index)
        _lay(self._blocks[index], self._pieces[index], self.places[place])
        self._lent = index
        following = (index + 1) % len(self)
        if following not in self._held:
            self._send(following, place=1 - place)
        return self._blocks[index]

    def _give_back(self) -> None:
        if self._lent is not None:
            _withdraw(self._blocks[self._lent], self._pieces[self._lent])
            self._lent = None

    def _send(self, index: int, place: int) -> None:
        self._held[place] = index
        packed = self._packed[index]
        self._lane.send(self.places[place][: packed.nbytes], packed)


def pack(block: nn.Module) -> tuple[list[Piece], Tensor]:
    """A block's parameters one after another in one tensor of bytes on the CPU, and where each lies."""
    pieces, stop = [], 0
    for name, parameter in block.named_parameters():
        start = -(-stop // ALIGNMENT) * ALIGNMENT
        stop = start + parameter.nbytes
        pieces.append(Piece(name, start, stop, parameter.dtype, parameter.shape))
    packed = torch.empty(stop, dtype=torch.uint8)
    for piece in pieces:
        piece.of(packed).copy_(block.get_parameter(piece.name))
    return pieces, packed


def _lay(block: nn.Module, pieces: Sequence[Piece], place: Tensor) -> None:
    """The block's parameters become views of `place`."""
    for piece in pieces:
        _set(block, piece.name, piece.of(place))


def _withdraw(block: nn.Module, pieces: Sequence[Piece]) -> None:
    """The block's parameters lose their values."""
    for piece in pieces:
        _set(block, piece.name, torch.empty(piece.shape, dtype=piece.dtype, device="meta"))


def _set(block: nn.Module, name: str, value: Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(block.get_submodule(owner), leaf, nn.Parameter(value, requires_grad=False))
