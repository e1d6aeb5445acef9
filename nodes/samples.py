"""Portrait and voice from files: the user's, by the dropdowns with an upload button, or the project's samples."""

from __future__ import annotations

from ..hallo3_core.inputs.image import read_image
from ..hallo3_core.inputs.recording import read_recording
from ..hallo3_core.inputs.samples import copy_samples
from ..hallo3_core.inputs.sound_file import LONGEST
from .audio import audio_of, portion
from .images import image_of
from .words import FIND


class Hallo3Portrait:
    """Reads the portrait from a picture file, or the sample."""

    CATEGORY = "Hallo3/inputs"
    DESCRIPTION = (
        "The picture of the person who will talk: upload your own, or take the sample, a drawn portrait. Reads PNG, "
        "JPEG, WebP and more; transparent parts become black."
    )
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("image",)
    OUTPUT_TOOLTIPS = ("The portrait, for Hallo3 Face Embed and Hallo3 Reference.",)
    FUNCTION = "execute"
    SEARCH_ALIASES = [*FIND, "load image", "sample", "photo", "face"]

    @classmethod
    def INPUT_TYPES(cls):
        from .host import samples

        image = {
            "image_upload": True,
            "tooltip": "One whole face, seen from the front; 512 pixels or more. The first entry is the sample.",
        }
        return {"required": {"image": (samples.choices(samples.SAMPLE_PORTRAIT, ["image"]), image)}}

    @classmethod
    def VALIDATE_INPUTS(cls, image):
        from .host import samples

        return samples.fault_of(image)

    @classmethod
    def IS_CHANGED(cls, image):
        from .host import samples

        return samples.fingerprint(image)

    def execute(self, image):
        from .host import samples

        return (image_of(read_image(samples.path_of(image))[None]),)


class Hallo3Voice:
    """Reads the recording, or a part of it, from a file, or the sample."""

    CATEGORY = "Hallo3/inputs"
    DESCRIPTION = (
        "The recording that the person will speak, or a part of it: upload your own, or take the sample, 3.6 s of "
        "synthesised speech. Reads any sound file, and the sound of a video. The video gets its length."
    )
    RETURN_TYPES = ("AUDIO",)
    RETURN_NAMES = ("audio",)
    OUTPUT_TOOLTIPS = ("The recording, for Hallo3 Audio Encode and the finished video.",)
    FUNCTION = "execute"
    SEARCH_ALIASES = [*FIND, "load audio", "speech", "recording", "trim", "sample"]

    @classmethod
    def INPUT_TYPES(cls):
        from .host import samples

        seconds = {"default": 0.0, "min": 0.0, "max": LONGEST, "step": 0.1, "round": 0.001}
        audio = {
            "audio_upload": True,
            "tooltip": "One clear voice, without music. The first entry is the sample.",
        }
        start = {**seconds, "tooltip": "Where to begin in the recording, in seconds; 0 is its beginning."}
        length = {
            **seconds,
            "tooltip": "How many seconds of it to use; 0 is all to its end. Cost: time grows with it; try 2 s first.",
        }
        return {
            "required": {
                "audio": (samples.choices(samples.SAMPLE_VOICE, ["audio", "video"]), audio),
                "start": ("FLOAT", start),
                "length": ("FLOAT", length),
            },
            "hidden": {"node_id": "UNIQUE_ID"},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, audio):
        from .host import samples

        return samples.fault_of(audio)

    @classmethod
    def IS_CHANGED(cls, audio, **others):
        from .host import samples

        return samples.fingerprint(audio)

    def execute(self, audio, start, length, node_id=None):
        from .host import progress, samples

        whole = read_recording(samples.path_of(audio))
        part = portion(whole, start, length)
        if part is not whole:
            progress.show_text(f"{start:g} to {start + part.seconds:g} s of {whole.seconds:.2f} s", node_id)
        return (audio_of(part),)


class Hallo3SampleInputs:
    """Passes on the user's portrait and recording, or the project's samples.

    Kept for saved workflows: another voice has the portrait prepared again too, which Hallo3Portrait and Hallo3Voice
    avoid.
    """

    CATEGORY = "Hallo3/inputs"
    DEPRECATED = True
    DESCRIPTION = (
        "For workflows that have it; Hallo3 Portrait and Hallo3 Voice replace it. Passes on your portrait and your "
        "recording. What is not connected, or comes from a bypassed node, is replaced by a sample: a drawn portrait "
        "and 3.6 s of synthesised speech, which it also puts into ComfyUI's input folder as hallo3_portrait.jpg and "
        "hallo3_speech.flac. Files that are there stay as they are."
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


NODES = {
    "Hallo3Portrait": (Hallo3Portrait, "Hallo3 Portrait"),
    "Hallo3Voice": (Hallo3Voice, "Hallo3 Voice"),
    "Hallo3SampleInputs": (Hallo3SampleInputs, "Hallo3 Sample Inputs"),
}
