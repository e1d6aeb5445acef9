"""Streaming blocks: weights stay in host memory, and each block is copied to the device just before it computes.

The device holds two blocks at a time, whatever the model's size: one computes while the next one is copied. Nothing
else changes, so results are bit-for-bit identical to those of a resident model.

A block's weights are packed into one region of host memory, pinned for CUDA, and copied in one transfer into one of two
slots on the device. While the block is loaded, its parameters are views of that slot. The parameters of a block that is
not loaded are on the meta device, so using it by mistake fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from .pinning import Pinning

ALIGNMENT = 256  # bytes, as CUDA's own allocations have
SLOTS = 2


@contextmanager
def streamed(network: nn.Module, device: torch.device | str, blocks: str = "blocks") -> Iterator[nn.Module]:
    """Moves a network from the CPU to the device, except for the list `blocks`, which is streamed.

    The network cannot be used after the context ends.
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


class Transfer(Protocol):
    """Copies packed weights to the device."""

    def prepare(self, packed: Tensor) -> None:
        """Prepares host memory for copying, such as by pinning it."""

    def start(self, slot: Tensor, packed: Tensor) -> None:
        """Starts a copy once all work queued on the device so far is done; one copy at a time."""

    def wait(self) -> None:
        """Makes the device wait for the last copy."""

    def close(self) -> None:
        """Waits for the last copy and releases everything."""


class PlainTransfer:
    """Copies synchronously."""

    def prepare(self, packed: Tensor) -> None:
        pass

    def start(self, slot: Tensor, packed: Tensor) -> None:
        slot.copy_(packed)

    def wait(self) -> None:
        pass

    def close(self) -> None:
        pass


class CudaTransfer:
    """Copies from pinned memory on its own stream, in parallel with the computation."""

    def __init__(self, device: torch.device):
        self._device, self._stream = device, torch.cuda.Stream(device)
        self._pinning = Pinning(device)

    def prepare(self, packed: Tensor) -> None:
        self._pinning.pin(packed)

    def start(self, slot: Tensor, packed: Tensor) -> None:
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            slot.copy_(packed, non_blocking=True)

    def wait(self) -> None:
        torch.cuda.current_stream(self._device).wait_stream(self._stream)

    def close(self) -> None:
        self._stream.synchronize()
        self._pinning.close()


class PackedParameter(NamedTuple):
    """Location of a parameter in its block's packed weights."""

    name: str
    start: int
    stop: int
    dtype: torch.dtype
    shape: torch.Size

    def of(self, packed: Tensor) -> Tensor:
        return packed[self.start : self.stop].view(self.dtype).view(self.shape)


class StreamedBlocks(nn.Module):
    """Replaces a list of blocks: each is loaded onto the device when it is accessed, by iteration or by index.

    Loading a block offloads the previous one and starts copying the next one; the first block follows the last. So use
    each block before accessing the next. The blocks are not submodules: moving the model does not move them. `slots` is
    all the device memory that they use.
    """

    def __init__(self, blocks: Sequence[nn.Module], device: torch.device | str, transfer: Transfer | None = None):
        super().__init__()
        device = torch.device(device)
        self._transfer = transfer or (CudaTransfer(device) if device.type == "cuda" else PlainTransfer())
        self._blocks = tuple(blocks)
        self._layouts, self._packed = [], []
        for block in self._blocks:
            parameters, packed = pack(block)
            _withdraw(block, parameters)
            self._layouts.append(parameters)
            self._packed.append(packed)
            self._transfer.prepare(packed)
        size = max(packed.nbytes for packed in self._packed)
        self.slots = [torch.empty(size, dtype=torch.uint8, device=device) for _ in range(min(SLOTS, len(blocks)))]
        # For each slot, the index of the block whose weights it holds or is about to hold.
        self._slot_blocks: list[int | None] = [None] * len(self.slots)
        self._loaded: int | None = None

    def __len__(self) -> int:
        return len(self._blocks)

    def __getitem__(self, index: int) -> nn.Module:
        return self._load(range(len(self))[index])

    def __iter__(self) -> Iterator[nn.Module]:
        return (self._load(index) for index in range(len(self)))

    def close(self) -> None:
        """Releases everything, on the device and in host memory."""
        self._offload()
        self._transfer.close()
        self.slots, self._packed, self._slot_blocks = [], [], []

    def _load(self, index: int) -> nn.Module:
        if index == self._loaded:
            return self._blocks[index]
        self._offload()
        if index not in self._slot_blocks:  # the first access, or out of order
            self._copy(index, slot=0)
        self._transfer.wait()
        slot = self._slot_blocks.index(index)
        _point(self._blocks[index], self._layouts[index], self.slots[slot])
        self._loaded = index
        following = (index + 1) % len(self)
        if following not in self._slot_blocks:
            self._copy(following, slot=1 - slot)
        return self._blocks[index]

    def _offload(self) -> None:
        if self._loaded is not None:
            _withdraw(self._blocks[self._loaded], self._layouts[self._loaded])
            self._loaded = None

    def _copy(self, index: int, slot: int) -> None:
        self._slot_blocks[slot] = index
        packed = self._packed[index]
        self._transfer.start(self.slots[slot][: packed.nbytes], packed)


def pack(block: nn.Module) -> tuple[list[PackedParameter], Tensor]:
    """Packs a block's parameters into one tensor of bytes on the CPU; also returns where each lies."""
    parameters, stop = [], 0
    for name, parameter in block.named_parameters():
        start = -(-stop // ALIGNMENT) * ALIGNMENT
        stop = start + parameter.nbytes
        parameters.append(PackedParameter(name, start, stop, parameter.dtype, parameter.shape))
    packed = torch.empty(stop, dtype=torch.uint8)
    for parameter in parameters:
        parameter.of(packed).copy_(block.get_parameter(parameter.name))
    return parameters, packed


def _point(block: nn.Module, parameters: Sequence[PackedParameter], slot: Tensor) -> None:
    """Makes the block's parameters views of `slot`."""
    for parameter in parameters:
        _set(block, parameter.name, parameter.of(slot))


def _withdraw(block: nn.Module, parameters: Sequence[PackedParameter]) -> None:
    """Moves the block's parameters to the meta device."""
    for parameter in parameters:
        _set(block, parameter.name, torch.empty(parameter.shape, dtype=parameter.dtype, device="meta"))


def _set(block: nn.Module, name: str, value: Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(block.get_submodule(owner), leaf, nn.Parameter(value, requires_grad=False))
