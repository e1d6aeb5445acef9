"""The film as a whole, from the first clip to the last, in constant memory."""

from __future__ import annotations

from . import inputs
from .inputs import guidance_of, settings_of

COLOR_HOLD = (
    "FLOAT",
    {
        "default": 0.0,
        "min": 0.0,
        "max": 1.0,
        "step": 0.05,
        "tooltip": "Holds each clip's colour and contrast to the portrait's, so that a long film does not drift: 0 is "
        "off, 0.5 gentle, 1 all the way. Cheap beside sampling.",
    },
)

RESUME_KEY = (
    "STRING",
    {
        "default": "",
        "tooltip": "A name for this film. With one, finished clips are kept in output/hallo3_resume until the film is "
        "whole, and after Cancel or a crash the next run goes on with them. Empty: off.",
    },
)


class Hallo3LongVideo:
    """A talking film as long as its recording."""

    CATEGORY = "Hallo3/sampling"
    DESCRIPTION = (
        "Makes the whole film: samples clip after clip, each from the end of the one before, and writes it with its "
        "sound to a file in the temp folder, so memory does not grow with its length. It costs steps x evaluations a "
        "clip, a clip for each 1.88 seconds. Save it with Save Video; Get Video Components gives the frames."
    )
    RETURN_TYPES = ("VIDEO",)
    RETURN_NAMES = ("film",)
    OUTPUT_TOOLTIPS = ("The film with its sound, 25 frames a second, H.264. It is temporary: save it.",)
    FUNCTION = "execute"
    SEARCH_ALIASES = ["hallo", "talking head", "lip sync", "audio to video", "portrait animation"]

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                **inputs.PREPARED,
                "seed": inputs.SEED,
                "steps": inputs.STEPS,
                **inputs.SCALES,
                "sampler": inputs.SAMPLER,
            },
            "optional": {"color_hold": COLOR_HOLD, **inputs.GUIDED_PART, "resume_key": RESUME_KEY},
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
        seed,
        steps,
        audio_cfg,
        text_cfg,
        reference_cfg,
        sampler,
        color_hold=0.0,
        guidance_start=0.0,
        guidance_stop=1.0,
        resume_key="",
        node_id=None,
    ):
        from .host import film, progress, sampling

        guidance = guidance_of(audio_cfg, text_cfg, reference_cfg, guidance_start, guidance_stop)
        settings = settings_of(steps, sampler, guidance)
        clips = sampling.prepare_sampler(model, text, vae, audio, face, reference, settings, seed)
        bar = progress.StepBar(clips, audio.clips, node_id)
        path = film.write_film(clips, color_hold, bar, resume_key)
        progress.show_text(f"{audio.frames} frames, {audio.clips} clips: each {sampling.cost(settings)}", node_id)
        return (film.video_of(path),)


NODES = {"Hallo3LongVideo": (Hallo3LongVideo, "Hallo3 Long Video")}
