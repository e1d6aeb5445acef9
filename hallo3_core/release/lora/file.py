"""A LoRA file, opened once for everything that is asked of it.

LoRAs made for CogVideoX change only the denoiser. Those from this project's own training may also change the reference
network and the projectors: their keys begin with the network's name, followed by our name of the layer
(`reference_net.blocks.0.self_attention.qkv.lora_A.weight`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ...model.config import Shape, TransformerConfig
from ...weights.reading import read_file
from .alphas import settings_beside
from .base import warn_of_other_base
from .keys import PART_PREFIXES, part_of
from .matching import LoraPatches, match_lora, match_pairs
from .patch import Target


class LoraFile:
    """A file's tensors, which are mapped, not read, and its metadata, with the settings that PEFT saved beside it."""

    def __init__(self, path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]):
        self.path, self._tensors, self._metadata = path, tensors, metadata
        self._of_denoiser: dict[TransformerConfig, LoraPatches] = {}

    @classmethod
    def open(cls, path: Path | str) -> LoraFile:
        """Maps the file.

        Raises:
            InputError: no such file, or damaged.
        """
        path = Path(path)
        tensors, metadata = read_file(path)
        return cls(path, tensors, metadata | settings_beside(path))

    def changes(self, part: str) -> bool:
        """Whether the file has changes to a network, by its name in `weights/names.py`."""
        return any(part_of(key) == part for key in self._tensors)

    def of_denoiser(self, config: TransformerConfig) -> LoraPatches:
        """The changes to a denoiser of these sizes; matched at the first call.

        Raises:
            InputError: made for another model, or of a type that cannot be applied.
        """
        if config not in self._of_denoiser:
            about = dict(label=str(self.path), metadata=self._metadata)
            self._of_denoiser[config] = match_lora(self._tensors, config, **about)
        return self._of_denoiser[config]

    def of_part(self, part: str, shapes: Mapping[str, Shape]) -> LoraPatches:
        """The changes to the network `part`, whose parameters have these shapes; no patches if the file has none.

        Raises:
            InputError: made for a network of another size.
        """
        prefix = next(prefix for prefix, own in PART_PREFIXES.items() if own == part)
        tensors = {key.removeprefix(prefix): tensor for key, tensor in self._tensors.items() if part_of(key) == part}
        weights = {name: shape for name, shape in shapes.items() if name.endswith(".weight")}
        targets = {name.removesuffix(".weight"): (Target(name, 0, shape[0]),) for name, shape in weights.items()}
        return match_pairs(tensors, targets, weights, label=str(self.path), metadata=self._metadata)

    def warn_of_other_base(self, tensors: Mapping[str, Tensor]) -> None:
        """Logs a warning if the LoRA was trained on other weights than these tensors of a denoiser (our names)."""
        warn_of_other_base(str(self.path), self._metadata, tensors)
