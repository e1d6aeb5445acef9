"""Command-line options that affect the film, shared by `animate` and `batch`."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from ..pipeline.choices import FP8
from .presets import DEFAULT, PRESETS, settle

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
FACE_MASKS = ("detector", "mediapipe")
FRAMINGS = ("auto", "crop", "pad", "native")


def add_film_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that animate and batch share."""
    add = parser.add_argument
    add("--models", type=Path, required=True, help="the release's folder")
    add("--seed", type=seed, default=0, help="same seed, same video (default 0)")
    add("--preset", choices=PRESETS, default=DEFAULT, help="quality for speed: sets the options marked with * below")
    add("--steps", type=int, help="*1 to 1000; time grows with it (default 50)")
    add("--audio-cfg", type=float, default=3.5, help="how much the lips follow the sound (default 3.5)")
    add("--text-cfg", type=float, default=3.5, help="how much the scene follows the prompt (default 3.5)")
    add("--reference-cfg", type=float, default=1.0, help="how much the person follows the portrait (default 1)")
    add("--guidance-start", type=float, metavar="SHARE", help="*guidance begins at this share of the steps (default 0)")
    add("--guidance-stop", type=float, metavar="SHARE", help="*and ends at this one: fewer model calls (default 1)")
    add("--size", type=size, metavar="HxW", help="height x width, multiples of 16 (default: the trained size, 480x720)")
    framing = (
        "*auto: square portraits are padded, others cropped; native: square ones make a square video, a third less"
    )
    add("--framing", choices=FRAMINGS, help=framing)
    add("--face", default="largest", help="largest, leftmost, rightmost, a number from left to right, or whole")
    add(
        "--face-mask",
        choices=FACE_MASKS,
        default=FACE_MASKS[0],
        help="the face's oval: estimated, or found by MediaPipe",
    )
    add(
        "--audio-track", type=track, metavar="N", help="which of several sound tracks, from 1 (default: the file's own)"
    )
    add("--vocals", action="store_true", help="separate the voice from music first (needs audio-separator)")
    add("--sampler", help="*sde-dpmpp-2m (the original's), dpmpp-2m or ddim (no noise added)")
    add("--cache", type=float, metavar="THRESHOLD", help="*skip steps that change x0 by less, such as 0.05 (default 0)")
    add("--lora", type=lora, action="append", default=[], metavar="FILE[:STRENGTH]", help="a CogVideoX-5B-I2V LoRA")
    add("--color-hold", type=float, default=0.0, help="colour held to the portrait's over all clips: 0 off, 1 fully")
    add("--seam-fade", type=int, default=0, metavar="FRAMES", help="each clip fades in over so many: 0 off, up to 24")
    add("--device", default="auto", help="cpu, cuda, mps, ... (default: cuda where there is one)")
    add("--dtype", choices=("auto", *DTYPES), default="auto", help="auto: bf16 on a GPU, fp32 on a CPU")
    add("--metadata", type=tag, action="append", default=[], metavar="NAME=TEXT", help="kept in the video's file")
    add(
        "--no-ai-notice",
        action="store_true",
        help="leave out the AI-generated mark (see docs/errors.md)",
    )
    keeping = parser.add_mutually_exclusive_group()
    keeping.add_argument("--keep-work", action="store_true", help="finished clips stay on disk when the video is whole")
    keeping.add_argument(
        "--no-resume", action="store_true", help="keep no finished clips: a stopped run starts from the beginning"
    )
    add("--compile", action="store_true", help="torch.compile: slow first steps, faster ones after them")
    add("--sequential", action="store_true", help="the model calls of a step run one after another: half the memory")
    add("--stream", action="store_true", help="weights stay in host memory; the device holds two blocks at a time")
    add(
        "--fp8",
        choices=FP8,
        help="matrices in fp8, half the memory; products: fp8 matmuls too, slower and lossier",
    )
    add("--attention", default="auto", metavar="KERNEL", help="auto: torch picks the fastest exact one; sage: lossy")


def seed(text: str) -> int:
    from ..sampling.noise import MAX_SEED

    if not text.isdecimal() or int(text) > MAX_SEED:
        raise argparse.ArgumentTypeError(f"seed {text!r}: use a whole number from 0 to {MAX_SEED}")
    return int(text)


def track(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"sound track {text!r}: use a whole number from 1")
    return int(text)


def size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(f"size {text!r}: use height x width, such as 480x720")
    return int(height), int(width)


def lora(text: str) -> tuple[Path, float]:
    path, colon, strength = text.rpartition(":")
    try:
        file, value = (Path(path), float(strength)) if colon else (Path(text), 1.0)
    except ValueError:
        return Path(text), 1.0  # the colon belongs to the path
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r}: strength {value}, expected a number such as 1")
    return file, value


def tag(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (equals and name.isidentifier()):
        raise argparse.ArgumentTypeError(f"metadata {text!r}: use NAME=TEXT, such as title=Greeting")
    return name, value


def film_options(args: argparse.Namespace):
    """Converts parsed arguments to `options.Options`."""
    import torch

    from ..pipeline.options import Options, Settings
    from ..runtime.devices import automatic_dtype, choose_device
    from ..sampling.guidance import Guidance, Scales

    args = settle(args)
    device = choose_device(args.device)
    scales = Scales(args.reference_cfg, args.audio_cfg, args.text_cfg)
    guidance = Guidance(scales, args.guidance_start, args.guidance_stop)
    return Options(
        settings=Settings(args.steps, guidance, args.sampler, batched=not args.sequential, cache=args.cache),
        seed=args.seed,
        size=args.size,
        framing=args.framing,
        face=args.face,
        face_mask=args.face_mask,
        audio_track=args.audio_track,
        vocals=args.vocals,
        loras=tuple(args.lora),
        color_hold=args.color_hold,
        seam_fade=args.seam_fade,
        metadata=dict(args.metadata),
        ai_notice=not args.no_ai_notice,
        device=device,
        dtype=automatic_dtype(device) if args.dtype == "auto" else getattr(torch, DTYPES[args.dtype]),
        compile=args.compile,
        attention=args.attention,
        fp8=args.fp8,
        stream=args.stream and device != "cpu",  # on a CPU the weights are in host memory anyway
    )


def keeping_of(args: argparse.Namespace):
    """How long to keep finished clips, as `work_folder.Keeping`."""
    from ..film.work_folder import Keeping

    return Keeping.NEVER if args.no_resume else Keeping.ALWAYS if args.keep_work else Keeping.UNTIL_WHOLE
