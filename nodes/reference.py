"""The portrait, framed as the film and looked at by the reference network."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..hallo3_core.inputs.image import GRID, LARGEST_SIDE, MODES, plan_framing
from ..hallo3_core.inputs.portrait import Portrait, prepare_portrait
from . import inputs, types
from .images import face_mask_of, image_of, portrait_of


def make_reference(
    image: Tensor, mask: Tensor, vae: Any, reference_net: types.Network, height: int, width: int, mode: str
) -> Portrait:
    """An IMAGE and its face MASK to what sampling needs of them, on the CPU, the bank of the null included.

    Raises:
        InputError: picture, mask, size, framing or VAE that cannot serve, all told before the networks run.
    """
    from .host.networks import run_reference_net
    from .host.vae import CoreVae

    picture = portrait_of(image)
    rows, columns = picture.shape[-2:]
    return prepare_portrait(
        picture,
        face_mask_of(mask, rows, columns),
        plan_framing(rows, columns, height, width, mode),
        CoreVae(vae),
        lambda latent: run_reference_net(reference_net, latent),
        with_null=True,
    )


def framed_image(portrait: Portrait) -> Tensor:
    """The portrait as it begins the film, IMAGE ``1 H W 3``."""
    return image_of(((portrait.pixels + 1) / 2).clamp(0, 1))


class Hallo3Reference:
    """Who the film shows."""

    CATEGORY = "Hallo3/inputs"
    DESCRIPTION = (
        "Frames the portrait as the film and runs the reference network on its face, once per portrait: sampling "
        "again with another prompt, seed or scale does not repeat it."
    )
    RETURN_TYPES = (types.REFERENCE, "IMAGE")
    RETURN_NAMES = ("reference", "framed")
    OUTPUT_TOOLTIPS = (
        "For sampling: the framed portrait and its reference features.",
        "The portrait at the film's size, as the film begins; black bars are cut off the finished film.",
    )
    FUNCTION = "execute"
    SEARCH_ALIASES = ["hallo", "portrait", "identity"]

    @classmethod
    def INPUT_TYPES(cls):
        mask = (
            "1 where the face may be seen, as Hallo3 Face Embed gives it. A mask painted in the mask editor serves; "
            "LoadImage's own mask of a cut-out picture is 1 where it is transparent, so invert it first."
        )
        size = {"min": GRID, "max": LARGEST_SIDE, "step": GRID}
        advice = "Time and memory grow with the area, faster than it. The model was trained on 720x480 alone."
        framing = {
            "default": MODES[0],
            "tooltip": "crop fills the frame, pad shows all of the portrait; auto pads square ones, as the original.",
        }
        return {
            "required": {
                "image": ("IMAGE", {"tooltip": "The portrait that the face was found in, unscaled."}),
                "mask": ("MASK", {"tooltip": mask}),
                "vae": inputs.VAE,
                "reference_net": (types.REFERENCE_NET, {"tooltip": "From Hallo3 Reference Net Loader."}),
                "width": ("INT", {**size, "default": 720, "tooltip": f"Of the film, in pixels. {advice}"}),
                "height": ("INT", {**size, "default": 480, "tooltip": f"Of the film, in pixels. {advice}"}),
                "framing": (list(MODES), framing),
            }
        }

    def execute(self, image, mask, vae, reference_net, width, height, framing):
        portrait = make_reference(image, mask, vae, reference_net, height, width, framing)
        return (portrait, framed_image(portrait).to(image.device))


NODES = {"Hallo3Reference": (Hallo3Reference, "Hallo3 Reference")}
