"""The node that makes a whole film, all clips, in constant memory."""

from __future__ import annotations

from ..hallo3_core.clips import FPS
from . import inputs
from .inputs import guidance_of, settings_of
from .words import FIND, counted

COLOR_HOLD = (
    "FLOAT",
    {
        "default": 0.0,
        "min": 0.0,
        "max": 1.0,
        "step": 0.05,
        "tooltip": "Holds each clip's colour and contrast to the portrait's, so that a long video does not drift: 0 is "
        "off, 0.5 gentle, 1 all the way. Cost: little beside sampling.",
    },
)

RESUME_KEY = (
    "STRING",
    {
        "default": "",
        "tooltip": "A name for this video. With one, finished clips are kept in output/hallo3_resume until the video "
        "is whole, and after Cancel or a crash the next run continues with them. Empty: off. Cost: at most "
        "about 37 MB of disk a clip at 720x480.",
    },
)


class Hallo3LongVideo:
    """Makes a film as long as its recording."""

    CATEGORY = "Hallo3/sampling"
    DESCRIPTION = (
        "Makes the whole video: samples clip after clip, each from the end of the one before, and writes it with its "
        "sound to a file in the temp folder, so memory does not grow with its length. It costs steps x model calls a "
        "clip, a clip for each 1.88 seconds. Save it with Save Video; Get Video Components gives the frames."
    )
    RETURN_TYPES = ("VIDEO",)
    RETURN_NAMES = ("film",)
    OUTPUT_TOOLTIPS = ("The video with its sound, 25 frames a second, H.264. It is temporary: save it.",)
    FUNCTION = "execute"
    SEARCH_ALIASES = [*FIND, "audio to video", "portrait animation"]

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                **inputs.PREPARED,
                "vae": inputs.at_cost(inputs.VAE, "encodes 3 frames and decodes 49 for each clip."),
                "audio": inputs.at_cost(inputs.AUDIO, "one clip for each 1.88 s of sound."),
                "seed": inputs.SEED,
                "steps": inputs.STEPS,
                **inputs.SCALES,
                "sampler": inputs.SAMPLER,
            },
            "optional": {
                "color_hold": COLOR_HOLD,
                **inputs.GUIDED_PART,
                "resume_key": RESUME_KEY,
                "seam_fade": inputs.SEAM_FADE,
            },
            "hidden": {"node_id": "UNIQUE_ID"},
        }

    @classmethod
    def IS_CHANGED(cls, node_id=None, **widgets):
        from .host import videos

        return videos.losses(node_id)

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
        seam_fade=0,
        node_id=None,
    ):
        from .host import film, progress, sampling, videos

        guidance = guidance_of(audio_cfg, text_cfg, reference_cfg, guidance_start, guidance_stop)
        settings = settings_of(steps, sampler, guidance)
        clips = sampling.prepare_sampler(model, text, vae, audio, face, reference, settings, seed)
        bar = progress.StepBar(clips, clips.count, node_id, decodes=True)
        path = film.write_film(clips, color_hold, bar, resume_key, seam_fade)
        _, _, height, width = reference.framing.keep
        made = f"{audio.frames / FPS:.2f} s, {counted(audio.frames, 'frame')} of {width}x{height}"
        calls = sampling.cost(settings, clips.count, clips.saved.calls)
        progress.show_text(f"{made}, {counted(clips.count, 'clip')}: {calls}", node_id)
        return (videos.video_of(path, node_id),)


NODES = {"Hallo3LongVideo": (Hallo3LongVideo, "Hallo3 Long Video")}
