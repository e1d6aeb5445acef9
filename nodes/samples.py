"""The project's own portrait and recording, for a first try without looking for any."""

from __future__ import annotations

from ..hallo3_core.inputs.image import read_image
from ..hallo3_core.inputs.recording import read_recording
from ..hallo3_core.inputs.samples import copy_samples
from .audio import audio_of
from .images import image_of


class Hallo3SampleInputs:
    """A drawn portrait and synthesised speech."""

    CATEGORY = "Hallo3/inputs"
    DESCRIPTION = (
        "Gives a drawn portrait and 3.58 s of synthesised speech, and puts both into ComfyUI's input folder, as "
        "hallo3_portrait.jpg and hallo3_speech.flac, where the example workflows look for them. Files that are there "
        "stay as they are."
    )
    RETURN_TYPES = ("IMAGE", "AUDIO")
    RETURN_NAMES = ("image", "audio")
    OUTPUT_TOOLTIPS = ("The portrait, 480x480: instead of LoadImage.", "The recording: instead of LoadAudio.")
    FUNCTION = "execute"
    OUTPUT_NODE = True
    SEARCH_ALIASES = ["hallo", "example", "demo", "test image"]

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def execute(self):
        from .host import samples

        portrait, speech = copy_samples(samples.input_folder())
        outputs = (image_of(read_image(portrait)[None]), audio_of(read_recording(speech)))
        return {"ui": samples.shown(portrait), "result": outputs}


NODES = {"Hallo3SampleInputs": (Hallo3SampleInputs, "Hallo3 Sample Inputs")}
