"""Inputs that several nodes share, so that names and tooltips agree everywhere."""

from __future__ import annotations

from ..hallo3_core.film.seam import LONGEST_FADE
from ..hallo3_core.pipeline.options import Settings
from ..hallo3_core.sampling.guidance import LARGEST_SCALE, Guidance, Scales
from ..hallo3_core.sampling.noise import MAX_SEED
from ..hallo3_core.sampling.sampler import SAMPLERS
from . import types


def at_cost(entry: tuple, cost: str) -> tuple:
    """An input whose tooltip ends with what it costs; its help page has that in a column of its own."""
    kind, options = entry
    return (kind, {**options, "tooltip": f"{options['tooltip']} Cost: {cost}"})


MODEL = (
    "MODEL",
    {"tooltip": "The Hallo3 denoiser, from Hallo3 Model Loader; LoRA and compile nodes may stand between."},
)
TEXT = (
    "CONDITIONING",
    {"tooltip": "What the video shows, from CLIPTextEncode. One sentence is enough: 225 tokens are read."},
)
VAE = ("VAE", {"tooltip": "CogVideoX's VAE: Hallo3 VAE Loader decodes as the original; core's loader works too."})
AUDIO = (
    types.AUDIO,
    {"display_name": types.SHOWN[types.AUDIO], "tooltip": "The whole recording's features, from Hallo3 Audio Encode."},
)
FACE = (types.FACE, {"tooltip": "The face's embedding, from Hallo3 Face Embed."})
REFERENCE = (types.REFERENCE, {"tooltip": "The portrait and its reference features, from Hallo3 Reference."})
MOTION = (
    types.MOTION,
    {"tooltip": "The end of the clip before, from Hallo3 Motion Frames. Leave it open for the first clip."},
)
CLIP_INDEX = (
    "INT",
    {
        "default": 0,
        "min": 0,
        "max": 100000,
        "tooltip": "Which clip of the video, counted from 0, 1.88 s each: it picks the sound.",
    },
)
SEAM_FADE = (
    "INT",
    {
        "default": 0,
        "min": 0,
        "max": LONGEST_FADE,
        "tooltip": "Fades each clip in from the end of the one before, over this many frames, so that a long video "
        "does not jump where clips meet: 0 is off, as the original; 8 to 12 hides most of it.",
    },
)
SEED = (
    "INT",
    {
        "default": 0,
        "min": 0,
        "max": MAX_SEED,
        "control_after_generate": True,
        "tooltip": "The same seed and settings give the same video, here and on the command line.",
    },
)
STEPS = (
    "INT",
    {
        "default": 50,
        "min": 1,
        "max": 1000,
        "tooltip": "Steps a clip: 50 as the original, 20 to 30 for a quick look. Cost: time grows with it.",
    },
)
SAMPLER = (
    list(SAMPLERS),
    {
        "default": SAMPLERS[0],
        "tooltip": "The original's is sde-dpmpp-2m. dpmpp-2m and ddim add no noise on the way: fine with few steps. "
        "Cost: the same for all three.",
    },
)


def _scale(default: float, what: str, cost: str) -> tuple[str, dict]:
    options = {
        "default": default,
        "min": 0.0,
        "max": LARGEST_SCALE,
        "step": 0.1,
        "round": 0.01,
        "tooltip": f"{what} Cost: {cost}",
    }
    return ("FLOAT", options)


AUDIO_CFG = _scale(
    3.5,
    "How closely mouth and head follow the sound: 1 is plain, 3.5 as the original, beyond 6 it exaggerates.",
    "2 model calls a step if it equals text_cfg and reference_cfg is 1.",
)
TEXT_CFG = _scale(
    3.5,
    "How closely the video follows the prompt: 1 is plain, 3.5 as the original.",
    "one more model call a step if it differs from audio_cfg.",
)
REFERENCE_CFG = _scale(
    1.0,
    "How closely the person follows the portrait: 1 as the original; 1.2 to 2 holds the likeness harder.",
    "one more model call a step if it is neither 1 nor audio_cfg.",
)
GUIDANCE_START = (
    "FLOAT",
    {
        "default": 0.0,
        "min": 0.0,
        "max": 1.0,
        "step": 0.05,
        "advanced": True,
        "tooltip": "Share of the steps after which guidance begins. Cost: each step before it is 1 model call.",
    },
)
GUIDANCE_STOP = (
    "FLOAT",
    {
        "default": 1.0,
        "min": 0.0,
        "max": 1.0,
        "step": 0.05,
        "advanced": True,
        "tooltip": "Share of the steps at which guidance ends. Cost: each step after it is 1 model call; 0.8 saves a "
        "fifth of guidance's cost, with little loss.",
    },
)

ENCODING_VAE = at_cost(VAE, "encodes 3 frames for each clip.")
PREPARED = {"model": MODEL, "text": TEXT, "vae": ENCODING_VAE, "audio": AUDIO, "face": FACE, "reference": REFERENCE}
CLIP = {**PREPARED, "clip_index": CLIP_INDEX, "seed": SEED}
SCALES = {"audio_cfg": AUDIO_CFG, "text_cfg": TEXT_CFG, "reference_cfg": REFERENCE_CFG}
GUIDED_PART = {"guidance_start": GUIDANCE_START, "guidance_stop": GUIDANCE_STOP}


def guidance_of(audio_cfg: float, text_cfg: float, reference_cfg: float, start: float, stop: float) -> Guidance:
    """Converts the widgets' values to the core's guidance."""
    return Guidance(Scales(reference=reference_cfg, audio=audio_cfg, text=text_cfg), start, stop)


def settings_of(steps: int, sampler: str, guidance: Guidance) -> Settings:
    """Converts the widgets' values to the core's settings."""
    return Settings(steps=steps, guidance=guidance, sampler=sampler)
