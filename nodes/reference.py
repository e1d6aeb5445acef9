"""Reference node: frames the portrait and runs the reference network on it."""

from __future__ import annotations

import logging
from typing import Any

from torch import Tensor

from ..hallo3_core.inputs.image import GRID, LARGEST_SIDE, MODES, Framing, plan_framing
from ..hallo3_core.inputs.portrait import Portrait, prepare_portrait
from . import inputs, types
from .images import face_mask_of, image_of, portrait_of
from .words import FIND

log = logging.getLogger(__name__)


def make_reference(image: Tensor, mask: Tensor, vae: Any, reference_net: types.Network, plan: Framing) -> Portrait:
    """Prepares an IMAGE and its face MASK for sampling, on the CPU, including the null's bank.

    Raises:
        InputError: an unusable picture, mask or VAE, reported before the networks run.
    """
    from .host.networks import run_reference_net
    from .host.vae import CoreVae

    return prepare_portrait(
        portrait_of(image),
        face_mask_of(mask, *plan.image),
        plan,
        CoreVae(vae),
        lambda latent: run_reference_net(reference_net, latent),
        with_null=True,
    )


def size_of(height: int, width: int, trained: tuple[int, int]) -> tuple[int, int]:
    """Returns the video's height and width. 0 for both is the trained size; 0 for one keeps the trained proportions."""
    rows, columns = trained
    if not height and not width:
        return trained
    return height or _on_grid(width * rows / columns), width or _on_grid(height * columns / rows)


def _on_grid(side: float) -> int:
    return max(GRID, round(side / GRID) * GRID)


def framing_of(image: Tensor, height: int, width: int, mode: str, reference_net: types.Network) -> Framing:
    """Plans the crop or padding of the portrait to the video's size, in which 0 is the trained size. Warns about sizes
    the model was not trained on.

    Raises:
        InputError: an unusable picture, size or framing.
    """
    grid = reference_net.module.config.grid
    trained = (grid.rows * GRID, grid.columns * GRID)
    height, width = size_of(height, width, trained)
    plan = plan_framing(*portrait_of(image).shape[-2:], height, width, mode)
    if plan.size != trained:
        log.warning(
            "%dx%d: the model was trained on %dx%d alone; other sizes work, with weaker results",
            width,
            height,
            *trained[::-1],
        )
    return plan


def framed_image(portrait: Portrait) -> Tensor:
    """The framed portrait with which the film begins, IMAGE ``1 H W 3``."""
    return image_of(((portrait.pixels + 1) / 2).clamp(0, 1))


def summary(plan: Framing) -> str:
    """Tells the user the size of the resulting video, without the bars of a padded portrait."""
    (rows, columns), (_, _, height, width) = plan.size, plan.keep
    if plan.size == (height, width):
        return f"the video will be {width}x{height}"
    return (
        f"the video will be {width}x{height}: the portrait is padded to {columns}x{rows}, and the bars are cut off. "
        "framing crop fills the frame"
    )


class Hallo3Reference:
    """Prepares the identity of the film from the portrait."""

    CATEGORY = "Hallo3/inputs"
    DESCRIPTION = (
        "Frames the portrait as the video and runs the reference network on its face, once per portrait: sampling "
        "again with another prompt, seed or scale does not repeat it."
    )
    RETURN_TYPES = (types.REFERENCE, "IMAGE")
    RETURN_NAMES = ("reference", "framed")
    OUTPUT_TOOLTIPS = (
        "For sampling: the framed portrait and its reference features.",
        "The portrait at the video's size, as the video begins; black bars are cut off the finished video.",
    )
    FUNCTION = "execute"
    SEARCH_ALIASES = [*FIND, "portrait", "identity"]

    @classmethod
    def INPUT_TYPES(cls):
        mask = (
            "1 where the face may be seen, as Hallo3 Face Embed gives it. A mask painted in the mask editor serves; "
            "LoadImage's own mask of a cut-out picture is 1 where it is transparent, so invert it first."
        )
        net = "From Hallo3 Reference Net Loader. Cost: runs twice for each portrait."
        size = {"default": 0, "min": 0, "max": LARGEST_SIDE, "step": GRID}
        native = (
            "of the video, in pixels. 0: the size that the model was trained on, 720x480 for the released weights. "
            "Another size may look worse. Cost: time and memory grow faster than the area."
        )
        framing = {
            "default": MODES[0],
            "tooltip": "crop fills the frame, pad shows all of the portrait and cuts the bars off the video; auto pads "
            "square ones, as the original: in 720x480 they make a video of 480x480.",
        }
        return {
            "required": {
                "image": ("IMAGE", {"tooltip": "The portrait that the face was found in, unscaled."}),
                "mask": ("MASK", {"tooltip": mask}),
                "vae": inputs.at_cost(inputs.VAE, "encodes one picture."),
                "reference_net": (types.REFERENCE_NET, {"tooltip": net}),
                "width": ("INT", {**size, "tooltip": f"Width {native}"}),
                "height": ("INT", {**size, "tooltip": f"Height {native}"}),
                "framing": (list(MODES), framing),
            },
            "hidden": {"node_id": "UNIQUE_ID"},
        }

    def execute(self, image, mask, vae, reference_net, width, height, framing, node_id=None):
        from .host import progress

        plan = framing_of(image, height, width, framing, reference_net)
        progress.show_text(summary(plan), node_id)
        portrait = make_reference(image, mask, vae, reference_net, plan)
        return (portrait, framed_image(portrait).to(image.device))


NODES = {"Hallo3Reference": (Hallo3Reference, "Hallo3 Reference")}
