"""Sample inputs node: the project's own portrait and recording, for a first try."""

from __future__ import annotations

from ..hallo3_core.inputs.image import read_image
from ..hallo3_core.inputs.recording import read_recording
from ..hallo3_core.inputs.samples import copy_samples
from .audio import audio_of
from .images import image_of


class Hallo3SampleInputs:
    """Passes on the user's portrait and recording, or the project's samples."""

    CATEGORY = "Hallo3/inputs"
    DESCRIPTION = (
        "Hands on your portrait and your recording. What is not connected, or comes from a bypassed node, is replaced "
        "by a sample: a drawn portrait and 3.6 s of synthesised speech, which it also puts into ComfyUI's input "
        "folder as hallo3_portrait.jpg and hallo3_speech.flac. Files that are there stay as they are."
    )
    RETURN_TYPES = ("IMAGE", "AUDIO")
    RETURN_NAMES = ("image", "audio")
    OUTPUT_TOOLTIPS = ("The portrait; the sample is 720x480.", "The recording.")
    FUNCTION = "execute"
    OUTPUT_NODE = True
    SEARCH_ALIASES = ["hallo", "example", "demo", "test image"]

    @classmethod
    def INPUT_TYPES(cls):
        image = {"tooltip": "Your portrait, from Load Image. Leave it open, or bypass that node, for the sample."}
        audio = {"tooltip": "Your recording, from Load Audio. Leave it open, or bypass that node, for the sample."}
        return {"required": {}, "optional": {"image": ("IMAGE", image), "audio": ("AUDIO", audio)}}

    def execute(self, image=None, audio=None):
        from .host import samples

        if image is not None and audio is not None:
            return {"ui": {"images": []}, "result": (image, audio)}
        portrait, speech = copy_samples(samples.input_folder())
        shown = samples.shown(portrait) if image is None else {"images": []}
        own = image_of(read_image(portrait)[None]) if image is None else image
        return {"ui": shown, "result": (own, audio_of(read_recording(speech)) if audio is None else audio)}


NODES = {"Hallo3SampleInputs": (Hallo3SampleInputs, "Hallo3 Sample Inputs")}
