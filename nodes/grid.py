"""Guidance grid node: compares many guidance scales side by side before a long film is made with one of them."""

from __future__ import annotations

import math
from itertools import product

import torch
from torch import Tensor

from ..hallo3_core.clips import FRAMES_PER_CLIP
from ..hallo3_core.errors import InputError
from ..hallo3_core.film.contact_sheet import contact_sheet
from ..hallo3_core.sampling.guidance import LARGEST_SCALE, Guidance, Scales, branch_weights
from . import inputs
from .images import image_of
from .inputs import settings_of
from .words import counted

MAX_CELLS = 36
MAX_FRAMES = 4  # shown per cell


def scales_of(text: str, name: str) -> list[float]:
    """Parses a list of scales such as "1, 3.5, 6", without duplicates, in order. `name` is the widget's, for messages.

    Raises:
        InputError: an entry is not a valid scale, or the list is empty.
    """
    return _numbers(
        text, name, lambda value: 0 <= value <= LARGEST_SCALE, f"numbers from 0 to {LARGEST_SCALE:g}", "1, 3.5, 6"
    )


def frames_of(text: str) -> list[int]:
    """Parses the frames of a clip to show, from a list such as "12, 36".

    Raises:
        InputError: an entry is not a frame of a clip, or the list is empty or too long.
    """
    last = FRAMES_PER_CLIP - 1
    allowed = f"whole numbers from 0 to {last}, the clip's last frame"
    found = _numbers(text, "frames", lambda value: value == int(value) and 0 <= value <= last, allowed, "12, 36")
    if len(found) > MAX_FRAMES:
        raise InputError(f"frames is {text!r}: {len(found)} frames, at most {MAX_FRAMES} are shown of a clip.")
    return [int(value) for value in found]


def _numbers(text: str, name: str, allows, allowed: str, example: str) -> list[float]:
    values = []
    for part in text.replace(";", ",").split(","):
        try:
            value = float(part)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and allows(value)):
            raise InputError(
                f"{name} is {text!r}: {part.strip()!r} is not allowed, expected {allowed}, such as {example!r}."
            )
        if value not in values:
            values.append(value)
    return values


def cells_of(audio: list[float], text: list[float], reference: list[float]) -> list[Scales]:
    """All combinations of the scales, sheet by sheet and row by row.

    Raises:
        InputError: more than MAX_CELLS combinations.
    """
    count = len(audio) * len(text) * len(reference)
    if count > MAX_CELLS:
        raise InputError(
            f"{len(audio)} x {len(text)} x {len(reference)} scales are {count} cells: at most {MAX_CELLS}. Shorten a "
            "list; audio_cfgs matter most."
        )
    return [Scales(r, a, t) for r, a, t in product(reference, audio, text)]


def sheets(cells: list[Tensor], audio: list[float], text: list[float], reference: list[float]) -> Tensor:
    """One contact sheet per reference scale, ``n 3 H W``: audio scales down, text scales across."""
    rows = [cells[i : i + len(text)] for i in range(0, len(cells), len(text))]
    return torch.stack(
        [
            contact_sheet(
                rows[i * len(audio) : (i + 1) * len(audio)],
                [f"audio {a:g}" for a in audio],
                [f"text {t:g}" for t in text],
                f"reference {r:g}",
            )
            for i, r in enumerate(reference)
        ]
    )


def _list_of_scales(default: str, what: str) -> tuple[str, dict]:
    tooltip = f"The {what} to try, with commas between: each 0 to 20. Cost: a cell for each combination, at most 36."
    return ("STRING", {"default": default, "tooltip": tooltip})


class Hallo3GuidanceGrid:
    """Samples a clip with many scales and shows them as contact sheets."""

    CATEGORY = "Hallo3/sampling"
    DESCRIPTION = (
        "Samples the same clip with every combination of the scales, with few steps, and shows a frame of each with "
        "its scales: audio down, text across, a sheet for each reference scale. A cell costs as much as a clip of so "
        "many steps; portrait, sound and text are prepared once."
    )
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("sheets",)
    OUTPUT_TOOLTIPS = ("One labelled contact sheet for each reference scale: for Preview Image or Save Image.",)
    FUNCTION = "execute"
    SEARCH_ALIASES = ["hallo", "xy plot", "contact sheet", "compare cfg"]

    @classmethod
    def INPUT_TYPES(cls):
        steps = "Steps a cell: 12 show what a scale does; the video itself wants more. Cost: time grows with it."
        frames = "Frames of the clip to show, 0 to 48, side by side: at most 4, with commas between."
        return {
            "required": {
                **inputs.CLIP,
                "vae": inputs.at_cost(inputs.VAE, "decodes a whole clip for each cell."),
                "steps": ("INT", {**inputs.STEPS[1], "default": 12, "tooltip": steps}),
                "audio_cfgs": _list_of_scales("1, 3.5, 6", "values of audio_cfg"),
                "text_cfgs": _list_of_scales("1, 3.5", "values of text_cfg"),
                "reference_cfgs": _list_of_scales("1", "values of reference_cfg"),
                "sampler": inputs.SAMPLER,
                "frames": ("STRING", {"default": "24", "tooltip": frames}),
            },
            "optional": {"motion": inputs.MOTION},
            "hidden": {"node_id": "UNIQUE_ID"},
        }

    def execute(
        self,
        model,
        text,
        vae,
        audio,
        face,
        reference,
        clip_index,
        seed,
        steps,
        audio_cfgs,
        text_cfgs,
        reference_cfgs,
        sampler,
        frames,
        motion=None,
        node_id=None,
    ):
        from .host import grid, progress, sampling

        lists = [
            scales_of(audio_cfgs, "audio_cfgs"),
            scales_of(text_cfgs, "text_cfgs"),
            scales_of(reference_cfgs, "reference_cfgs"),
        ]
        cells, shown = cells_of(*lists), frames_of(frames)
        # needs everything that the other cells need, plus the null
        hardest = max(cells, key=lambda scales: scales.reference != 1)
        settings = settings_of(steps, sampler, Guidance(hardest))
        clips = sampling.prepare_sampler(model, text, vae, audio, face, reference, settings, seed)
        bar = grid.CellBar(clips, len(cells), node_id, decodes=True)
        found = list(grid.sample_cells(clips, clip_index, motion, cells, shown, bar))
        calls = steps * sum(len(branch_weights(scales)) for scales in cells) - clips.saved.calls
        progress.show_text(f"{counted(len(cells), 'cell')}, {counted(calls, 'model call')}", node_id)
        return (image_of(sheets(found, *lists)),)


NODES = {"Hallo3GuidanceGrid": (Hallo3GuidanceGrid, "Hallo3 Guidance Grid")}
