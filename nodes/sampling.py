"""Sampling nodes: one clip as in the original, and the parts for ComfyUI's SamplerCustomAdvanced."""

from __future__ import annotations

from ..hallo3_core.pipeline.options import Settings
from ..hallo3_core.sampling.schedule import make_schedule
from . import inputs
from .inputs import guidance_of, settings_of
from .words import FIND

CATEGORY = "Hallo3/sampling"


class Hallo3SampleClip:
    """Samples one clip's latent with the core's own solver."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Samples one clip of 49 frames (1.96 seconds) as the original does. Decode it with VAEDecode; for the next "
        "clip give its last frames back through Hallo3 Motion Frames and raise clip_index."
    )
    RETURN_TYPES = ("LATENT",)
    RETURN_NAMES = ("clip",)
    OUTPUT_TOOLTIPS = ("The clip's latent: 13 latent frames, 49 frames once decoded.",)
    FUNCTION = "execute"
    SEARCH_ALIASES = [*FIND, "audio to video"]

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {**inputs.CLIP, "steps": inputs.STEPS, **inputs.SCALES, "sampler": inputs.SAMPLER},
            "optional": {"motion": inputs.MOTION, **inputs.GUIDED_PART},
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
        audio_cfg,
        text_cfg,
        reference_cfg,
        sampler,
        motion=None,
        guidance_start=0.0,
        guidance_stop=1.0,
        node_id=None,
    ):
        from .host import progress, sampling

        guidance = guidance_of(audio_cfg, text_cfg, reference_cfg, guidance_start, guidance_stop)
        settings = settings_of(steps, sampler, guidance)
        clips = sampling.prepare_sampler(model, text, vae, audio, face, reference, settings, seed)
        bar = progress.StepBar(clips, node_id=node_id)
        latent = clips.sample(clip_index, motion, bar.callback())
        progress.show_text(sampling.cost(settings, saved=clips.saved.calls), node_id)
        return ({"samples": latent},)


class Hallo3Guider:
    """Guidance with three scales, for ComfyUI's samplers."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Everything that a clip is conditioned on, and the three scales, for core's SamplerCustomAdvanced, with an "
        "empty latent of the clip's size. The sigmas come from Hallo3 Scheduler."
    )
    RETURN_TYPES = ("GUIDER", "LATENT")
    RETURN_NAMES = ("guider", "empty_clip")
    OUTPUT_TOOLTIPS = (
        "For SamplerCustomAdvanced. EasyCache works; LazyCache and context windows do not.",
        "An empty latent of the clip's size and length, for SamplerCustomAdvanced's latent_image.",
    )
    FUNCTION = "execute"
    SEARCH_ALIASES = ["hallo", "cfg", "guidance"]

    @classmethod
    def INPUT_TYPES(cls):
        seed = (
            "Which pixels of the motion frames are dropped, as in training. The starting noise is RandomNoise's: give "
            "both the same seed."
        )
        return {
            "required": {**inputs.CLIP, "seed": ("INT", {**inputs.SEED[1], "tooltip": seed}), **inputs.SCALES},
            "optional": {"motion": inputs.MOTION, **inputs.GUIDED_PART},
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
        audio_cfg,
        text_cfg,
        reference_cfg,
        motion=None,
        guidance_start=0.0,
        guidance_stop=1.0,
    ):
        from .host import sampling

        guidance = guidance_of(audio_cfg, text_cfg, reference_cfg, guidance_start, guidance_stop)
        settings = Settings(guidance=guidance)
        clips = sampling.prepare_sampler(model, text, vae, audio, face, reference, settings, seed)
        guider = clips.guider(clip_index, motion)
        return (guider, {"samples": guider.empty_latent})


class Hallo3Scheduler:
    """The original's noise levels, for ComfyUI's samplers."""

    CATEGORY = CATEGORY
    DESCRIPTION = "The original's noise levels, from pure noise on, for core's SamplerCustomAdvanced."
    RETURN_TYPES = ("SIGMAS",)
    RETURN_NAMES = ("sigmas",)
    OUTPUT_TOOLTIPS = ("Noise levels as core counts them; the first is pure noise.",)
    FUNCTION = "execute"
    SEARCH_ALIASES = ["hallo", "sigmas", "schedule"]

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "steps": inputs.STEPS,
                "part": (
                    "FLOAT",
                    {
                        "default": 1.0,
                        "min": 0.01,
                        "max": 1.0,
                        "step": 0.01,
                        "tooltip": "Share of the steps to take, counted from the end: 1 starts from noise, a lower "
                        "value changes an existing clip only partly (KSampler calls it denoise). Cost: time grows with "
                        "it.",
                    },
                ),
            }
        }

    def execute(self, steps, part):
        from .host import solver

        return (solver.last_part(solver.sigmas_of(make_schedule(steps)), part),)


NODES = {
    "Hallo3SampleClip": (Hallo3SampleClip, "Hallo3 Sample Clip"),
    "Hallo3Guider": (Hallo3Guider, "Hallo3 Guider"),
    "Hallo3Scheduler": (Hallo3Scheduler, "Hallo3 Scheduler"),
}
