"""The parameters that train: float32 masters beside what the networks compute with, their optimiser and average."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from .optimiser import Updating, average_decay, clip_, make_optimiser, set_rate, total_norm, update_average

try:
    from torch.distributed.tensor import DTensor
except ImportError:  # a build of torch without its distributed part
    DTensor = ()

PIECE = 2**27  # numbers


class Updater:
    """Gradients come in with `collect`, once a micro-batch; `update` clips them, steps and averages.

    Where parameters are sharded, masters, moments and average are those of this process's shard. `summed` adds a
    tensor up over processes.
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
        """Add the networks' gradients to those at hand, in float32, and clear them."""
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
        """Of the gradients at hand whose parameters bear these names."""
        return total_norm([g for n, g in zip(self.names, self._gradients, strict=True) if n in names], self._summed)

    @torch.no_grad()
    def update(self, rate: float) -> Tensor:
        """One step with the gradients at hand; returns their norm before the clip."""
        norm = total_norm(self._gradients, self._summed)
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
        return norm

    @torch.no_grad()
    def write(self, values: list[Tensor] | None = None) -> None:
        """Put the masters, or other values in their place, into the networks."""
        values = self.masters if values is None else values
        if values is not self.masters or not self._is_wide:
            torch._foreach_copy_([_local(p.detach()) for p in self._working], values)

    def state(self) -> dict[str, Tensor]:
        """All that a run goes on from, by name; of a shard where parameters are sharded."""
        found = {f"master.{n}": m for n, m in zip(self.names, self.masters, strict=True)}
        if self.average is not None:
            found |= {f"average.{n}": e for n, e in zip(self.names, self.average, strict=True)}
        for name, master in zip(self.names, self.masters, strict=True):
            for key, value in self.optimiser.state.get(master, {}).items():
                found[f"optimiser.{key}.{name}"] = value
        return {name: self._whole(name, value) for name, value in found.items()}

    def prepare_state(self) -> dict[str, Tensor]:
        """`state` with every tensor in place, to be read into: an optimiser has none before its first step."""
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

    def named_values(self, averaged: bool) -> dict[str, Tensor]:
        """The trained parameters, or their average, whole, on the CPU."""
        values = self.average if averaged and self.average is not None else self.masters
        return {n: _whole_cpu(self._whole(f"master.{n}", value)) for n, value in zip(self.names, values, strict=True)}

    def _whole(self, name: str, value: Tensor) -> Tensor:
        """A shard as a part of the whole tensor, for whoever saves it."""
        kind, _, rest = name.partition(".")
        parameter = self._working[self.names.index(rest if kind != "optimiser" else rest.partition(".")[2])]
        if not isinstance(parameter, DTensor) or value.ndim == 0:
            return value
        return DTensor.from_local(
            value, parameter.device_mesh, parameter.placements, shape=parameter.shape, stride=parameter.stride()
        )


def _in_pieces(parameters: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Runs of neighbours of about `PIECE` numbers: gradients are widened one run after another, so that those in half
    precision are not all there beside those in float32."""
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
