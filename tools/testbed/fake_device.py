"""A fake device: tensors with a size and a device but no values; memory, operations and waits are counted.

    with FakeDevice() as fake:
        x = torch.empty(1, 17776, 3072, dtype=torch.bfloat16, device=fake.device)

torch's fake tensors run the same code as on a GPU, at full size and in seconds, and reject operations on tensors of two
devices. Memory counts every tensor on the device from the operation that makes it until it is freed, rounded up to 512
bytes as in torch's CUDA allocator. It excludes the kernels' workspace, fragmentation in the allocator, and CUDA's own
memory; times are not known.
"""

from __future__ import annotations

import weakref
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from .measuring import FAKE

NAME = FAKE
PIECE = 512  # bytes
aten = torch.ops.aten


class FakeDevice(TorchDispatchMode):
    """A context manager. `torch.fake` provides what the benchmarks use of `torch.cuda`.

    held, peak: current bytes, and the most since `reset`. Also since `reset`: operations, two per multiply-add; waits,
    how often the host read a value or a tensor from the device (every value is 1, so that checks pass).
    """

    def __init__(self):
        super().__init__()
        self.held = self.peak = self.waits = self.operations = 0
        self._pieces: dict[int, int] = {}
        self._opened = ExitStack()

    @property
    def device(self) -> torch.device:
        return torch.device(NAME)

    def reset(self) -> None:
        self.peak, self.waits, self.operations = self.held, 0, 0

    def __enter__(self) -> FakeDevice:
        _register()
        opened = self._opened
        opened.enter_context(torch.no_grad())
        opened.enter_context(patch.object(nn.Module, "_apply", _apply))
        opened.enter_context(patch.object(torch, NAME, _answers(self)))
        opened.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._opened.close()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            self.waits += args[0].device.type == NAME
            return 1
        result = function(*args, **(kwargs or {}))
        if count := flop_registry.get(function._overloadpacket):
            self.operations += count(*args, **(kwargs or {}), out_val=result)
        tensors = result if isinstance(result, (tuple, list)) else (result,)
        for tensor in tensors:
            if isinstance(tensor, Tensor):
                self._see(tensor)
        if function in (aten._to_copy.default, aten.copy_.default) and result.device.type == "cpu":
            source = args[1] if function is aten.copy_.default else args[0]
            self.waits += source.device.type == NAME
        return result

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if tensor.device.type != NAME or storage._cdata in self._pieces:
            return
        size = -(-storage.nbytes() // PIECE) * PIECE
        self._pieces[storage._cdata] = size
        self.held += size
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._free, storage._cdata)

    def _free(self, storage: int) -> None:
        self.held -= self._pieces.pop(storage)


def flash_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The denoiser's attention function as computed on a GPU, without a score matrix."""
    return aten._scaled_dot_product_flash_attention(q, k, v, 0.0, False, False)[0]


def _answers(fake: FakeDevice | None) -> SimpleNamespace:
    """The `torch.fake` module. It reports itself as unavailable, so that torch does not put values on it."""
    return SimpleNamespace(
        is_available=lambda: False,
        is_initialized=lambda: False,
        _is_in_bad_fork=lambda: False,
        manual_seed_all=lambda seed: None,
        synchronize=lambda device=None: None,
        reset_peak_memory_stats=lambda device=None: fake.reset(),
        max_memory_allocated=lambda device=None: fake.peak,
        counted=lambda: {"TFLOP": round(fake.operations / 1e12, 3), "waits": fake.waits},
        get_device_name=lambda device=None: "fake device",
    )


def _register() -> None:
    """Registers the device with torch, once per process."""
    from torch.utils import backend_registration

    class Hook(torch._C._acc.PrivateUse1Hooks):
        def is_available(self) -> bool:
            return False

        def has_primary_context(self, device: int) -> bool:
            return True

        def is_built(self) -> bool:
            return True

    if not hasattr(torch, NAME):
        # Autograd starts a thread for each device at the first backward pass, and a process with such threads cannot
        # fork runs that train. Here the CPU is still the only device.
        with torch.inference_mode(False), torch.enable_grad():
            torch.ones(1, requires_grad=True).sum().backward()
        backend_registration._setup_privateuseone_for_python_backend(NAME, _answers(None), Hook())


def _apply(self: nn.Module, change, recurse: bool = True) -> nn.Module:
    """Replaces torch's method, which moves a module by swapping its tensors' data and fails for fake tensors."""
    for module in self.modules() if recurse else (self,):
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(change(parameter), requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = change(buffer)
    return self
