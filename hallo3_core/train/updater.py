"""The trained parameters: float32 masters of the networks' weights, with their optimiser and moving average."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .optimiser import Updating, average_decay, clip_, make_optimiser, set_rate, total_norm, update_average

try:
    from torch.distributed.tensor import DTensor
except ImportError:  # torch built without distributed support
    DTensor = ()

PIECE = 2**27  # elements


class Updater:
    """`collect` accumulates gradients after each micro-batch; `update` clips them, steps and averages.

    If parameters are sharded, masters, moments and average are those of this process's shard. `summed` sums a tensor
    over processes.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        updating: Updating,
        kind: str = "adamw",
        summed: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    ):
        self.names, self.updating, self._summed = list(parameters), updating, summed
        self._working = list(parameters.values())
        local = [_local(p.detach()) for p in self._working]
        self._is_wide = all(p.dtype == torch.float32 for p in local)
        self.masters = local if self._is_wide else [p.float() for p in local]
        self.average = [p.clone() for p in self.masters] if updating.average else None
        self.optimiser = make_optimiser(self.masters, [p.shape for p in self._working], updating, kind)
        self.updates = 0
        self._gradients: list[Tensor] = []
        self._pieces = list(_in_pieces(self._working))
        self._places = {id(p): n for n, p in enumerate(self._working)}

    def collect(self) -> None:
        """Adds the networks' gradients to the accumulated ones, in float32, and clears them."""
        is_first = not self._gradients
        for part in self._pieces:
            found = [_local(torch.zeros_like(p) if p.grad is None else p.grad) for p in part]
            for parameter in part:
                parameter.grad = None
            if not is_first:
                at = self._places[id(part[0])]
                torch._foreach_add_(self._gradients[at : at + len(part)], found)
            elif self._is_wide:
                self._gradients += found
            else:
                wide = [torch.empty_like(gradient, dtype=torch.float32) for gradient in found]
                torch._foreach_copy_(wide, found)
                self._gradients += wide

    def norm_of(self, names: set[str]) -> Tensor:
        """Norm of the accumulated gradients of these parameters."""
        return total_norm([g for n, g in zip(self.names, self._gradients, strict=True) if n in names], self._summed)

    @torch.no_grad()
    def update(self, rate: float) -> float:
        """Steps with the accumulated gradients; returns their norm before clipping. If it is NaN or infinite, nothing
        changes."""
        norm = total_norm(self._gradients, self._summed)
        if not norm.isfinite():
            self._gradients = []
            return float(norm)
        clip_(self._gradients, norm, self.updating.clip)
        for master, gradient in zip(self.masters, self._gradients, strict=True):
            master.grad = gradient
        set_rate(self.optimiser, rate)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self._gradients = []
        self.updates += 1
        if self.average is not None:
            update_average(self.average, self.masters, average_decay(self.updates, self.updating.average))
        self.write()
        return float(norm)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Puts the average into the networks for the block, if there is one: what would be written."""
        if self.average is None:
            yield
            return
        kept = [_local(p.detach()).clone() for p in self._working] if self._is_wide else self.masters
        try:
            self.write(self.average)
            yield
        finally:
            torch._foreach_copy_([_local(p.detach()) for p in self._working], kept)

    @torch.no_grad()
    def write(self, values: list[Tensor] | None = None) -> None:
        """Writes the masters, or other values, into the networks."""
        values = self.masters if values is None else values
        if values is not self.masters or not self._is_wide:
            torch._foreach_copy_([_local(p.detach()) for p in self._working], values)

    def state(self) -> dict[str, Tensor]:
        """The state to resume from, by name; that of the shard if parameters are sharded."""
        found = {f"master.{n}": m for n, m in zip(self.names, self.masters, strict=True)}
        if self.average is not None:
            found |= {f"average.{n}": e for n, e in zip(self.names, self.average, strict=True)}
        for name, master in zip(self.names, self.masters, strict=True):
            for key, value in self.optimiser.state.get(master, {}).items():
                found[f"optimiser.{key}.{name}"] = value if isinstance(value, Tensor) else torch.tensor(value)
        return {name: self._whole(name, value) for name, value in found.items()}

    def prepare_state(self) -> dict[str, Tensor]:
        """`state` with every tensor allocated, to load into: an optimiser has no state before its first step."""
        updates, kept = self.updates, [m.clone() for m in self.masters]
        if not self.optimiser.state:
            for master in self.masters:
                master.grad = torch.zeros_like(master)
            set_rate(self.optimiser, 0.0)
            self.optimiser.step()
            self.optimiser.zero_grad()
            torch._foreach_copy_(self.masters, kept)
        self.updates = updates
        return self.state()

    def take_numbers(self, state: Mapping[str, Tensor]) -> None:
        """Takes the numbers of a loaded `prepare_state`, whose tensors were loaded in place: bitsandbytes counts
        its steps in plain numbers."""
        for name, master in zip(self.names, self.masters, strict=True):
            own = self.optimiser.state[master]
            for key, value in list(own.items()):
                if not isinstance(value, Tensor):
                    own[key] = type(value)(state[f"optimiser.{key}.{name}"])

    def named_values(self, averaged: bool) -> dict[str, Tensor]:
        """The unsharded trained parameters, or their average, on the CPU."""
        values = self.average if averaged and self.average is not None else self.masters
        return {n: _whole_cpu(self._whole(f"master.{n}", value)) for n, value in zip(self.names, values, strict=True)}

    def _whole(self, name: str, value: Tensor) -> Tensor:
        """Wraps a shard as a DTensor, for saving."""
        kind, _, rest = name.partition(".")
        parameter = self._working[self.names.index(rest if kind != "optimiser" else rest.partition(".")[2])]
        if not isinstance(parameter, DTensor) or value.ndim == 0:
            return value
        return DTensor.from_local(
            value, parameter.device_mesh, parameter.placements, shape=parameter.shape, stride=parameter.stride()
        )


def _in_pieces(parameters: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Groups neighbouring parameters to about `PIECE` elements. Gradients are converted group by group, so that the
    half-precision and float32 copies never all exist at once."""
    piece, size = [], 0
    for parameter in parameters:
        piece.append(parameter)
        size += parameter.numel()
        if size >= PIECE:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if DTensor and isinstance(tensor, DTensor) else tensor


def _whole_cpu(tensor: Tensor) -> Tensor:
    return (tensor.full_tensor() if DTensor and isinstance(tensor, DTensor) else tensor).detach().cpu()
