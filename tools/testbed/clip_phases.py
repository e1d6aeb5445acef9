"""The phases of a clip of the released length, with random weights: what each takes on a device, or on the fake one."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace

import torch

from hallo3_core.inputs.image import plan_framing
from hallo3_core.inputs.portrait import prepare_portrait
from hallo3_core.model.attention import Attention, scaled_dot_product
from hallo3_core.pipeline.clip import concat_latent, sample_clip
from hallo3_core.pipeline.conditions import ClipCalls, prepare_run
from hallo3_core.pipeline.options import Settings
from hallo3_core.runtime.compiling import compile_blocks
from hallo3_core.runtime.streaming import streamed
from hallo3_core.sampling.noise import SeededNoise
from hallo3_core.vae.latents import decode

from .measuring import FAKE, Phases
from .presets import Preset, build_denoiser, build_projectors, build_reference_net, build_vae, draw_inputs

RESIDENT, FP8, STREAMED = WEIGHTS = ("resident", "fp8", "streamed")


def measure(
    sizes: Preset,
    settings: Settings,
    device: str,
    dtype: torch.dtype,
    *,
    weights: str = RESIDENT,
    compiled: bool = False,
) -> dict[str, dict]:
    """Measures seconds and peak memory of every phase of a film's first clip."""
    phase, opened = Phases(device), ExitStack()
    start = "cpu" if weights == STREAMED else device
    attention = counted_attention() if device == FAKE else scaled_dot_product
    grid = sizes.denoiser.grid
    height, width = 16 * grid.rows, 16 * grid.columns
    picture = torch.rand(1, 3, height, width).to(device, dtype)
    framing, mask = plan_framing(height, width, height, width, "auto"), torch.ones(height, width).to(picture)
    vae = build_vae(sizes, device, dtype)
    reference_net = build_reference_net(sizes, start, dtype, attention)
    with ExitStack() as loaded:
        if weights == STREAMED:
            loaded.enter_context(streamed(reference_net, device))
        portrait = phase("portrait", lambda: prepare_portrait(picture, mask, framing, vae, reference_net))
    reference_net.to("meta")
    inputs = draw_inputs(sizes, device, dtype)
    audio, face = build_projectors(sizes, device, dtype)
    tokens = phase("sound and face", lambda: (audio(inputs.audio).cpu(), face(inputs.face)))
    for leaving in (audio, face):
        leaving.to("meta")
    denoiser = build_denoiser(sizes, start, dtype, in_fp8=weights == FP8, attention=attention)
    noise, text, inputs = SeededNoise(0, 0), inputs.text, None
    with opened:
        if weights == STREAMED:
            opened.enter_context(streamed(denoiser, device))
        run = phase(
            "what is constant",
            lambda: prepare_run(
                denoiser,
                portrait,
                settings,
                text=text,
                face_tokens=tokens[1],
                null_audio_tokens=tokens[0].flip(1),
                dtype=dtype,
            ),
        )
        portrait = replace(portrait, bank=())
        for leaving in (denoiser.modulation, denoiser.head_modulation, denoiser.text_embed):
            leaving.to("meta")
        concat = phase("encode", lambda: concat_latent(vae, portrait.pixels, None, noise))

        def steps() -> torch.Tensor:
            return sample_clip(ClipCalls(denoiser, run, concat, tokens[0]), run.settings, concat, noise)

        if compiled:
            compile_blocks(denoiser)
            phase("first steps", steps)
        latent = phase("steps", steps)
        phase("decode", lambda: sum(len(frames) for frames in decode(vae, latent.to(dtype))))
    found = phase.found
    if device != FAKE:
        found["steps"]["seconds_per_step"] = round(found["steps"]["seconds"] / settings.steps, 4)
    return found


def counted_attention() -> Attention:
    from .fake_device import flash_attention

    return flash_attention


def computing(device: str) -> AbstractContextManager:
    """The context to compute in; on the fake device, one without values."""
    if device != FAKE:
        return torch.inference_mode()
    from .fake_device import FakeDevice

    return FakeDevice()
