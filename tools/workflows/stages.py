"""The stages that the workflows share, named as in the paper, with the files that they read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hallo3_core.release.download import REPOSITORY
from hallo3_core.release.layout import FACE_FOLDER, TEXT_FOLDER, VAE_FILE, WAV2VEC_FOLDER

from .drawing import LANE, TITLE, Dot, Node, Output, Stage, unwrapped

MODELS = """
The official release (40 GB) belongs in **models/hallo3/release** of ComfyUI: run **python hallo3.py download FOLDER**
in this pack's folder. The loaders' **auto** finds it, also under another name or converted.
"""
SLOT = TITLE + 14  # distance from a node's top to its first input
AUTO = "auto"  # the loaders' choice: the release in models/hallo3
RELEASE = "hallo3/release/"  # the loaders' entry for the official release in models/hallo3/release
PORTRAIT, SPEECH = "hallo3_portrait.jpg", "hallo3_speech.flac"  # in ComfyUI's input folder
PROMPT = "A person sits in a quiet room and talks to the camera, in soft daylight, with small natural head movements."

GUIDE, TOUCH = "#432", "#232"  # colours of notes, and of nodes for the user to change
WHO, HEARD, SAID, MADE, SHOWN = "#8a5a83", "#3f789e", "#4b7d5c", "#a1683c", "#5f6b7a"  # colours of the stages' frames
GIVEN = "#7a7a4a"

TRANSFORMER_FILES = ("hallo3/1/mp_rank_00_model_states.pt", "hallo3/latest")
TEXT_FILES = (
    "added_tokens.json",
    "config.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer_config.json",
)
WAV2VEC_FILES = ("config.json", "model.safetensors", "preprocessor_config.json")
FACE_FILES = ("scrfd_10g_bnkps.onnx", "glintr100.onnx")
VOCAL_FILES = ("Kim_Vocal_2.onnx", "download_checks.json", "mdx_model_data.json", "vr_model_data.json")


def links(folder: str, *files: str) -> list[dict[str, str]]:
    """Download links of release files, with their location in the models folder."""
    names = [f"{folder}/{file}" if folder else file for file in files]
    url = f"https://huggingface.co/{REPOSITORY}/resolve/main"
    return [{"name": f"release/{name}", "url": f"{url}/{name}", "directory": "hallo3"} for name in names]


def note(text: str, width: int = 280, title: str = "Note") -> Node:
    return Node("MarkdownNote", {"text": unwrapped(text)}, width, title=title, colour=GUIDE)


@dataclass(eq=False)
class Part:
    """A stage with its outputs by name."""

    stage: Stage
    gives: dict[str, Output | Dot]

    def __getitem__(self, name: str) -> Output | Dot:
        return self.gives[name]


def given() -> Part:
    """Portrait and recording: the samples, unless the user enables the bypassed loaders."""
    picture = Node("LoadImage", {"image": PORTRAIT}, 250, title="Load Image: your portrait", bypassed=True)
    sound = Node("LoadAudio", {"audio": SPEECH}, 250, title="Load Audio: your voice", bypassed=True)
    inputs = {"image": picture["IMAGE"], "audio": sound["AUDIO"]}
    inputs = Node("Hallo3SampleInputs", inputs, 230, colour=TOUCH)
    stage = Stage("Inputs: yours, or the samples", [[picture, sound], [inputs]], GIVEN)
    return Part(stage, {"image": inputs["image"], "sound": inputs["audio"]})


def video_transformer(weight_dtype: str = "auto", lora: bool = False) -> Part:
    """The model; with `lora`, behind a bypassed LoRA loader."""
    inputs = {"denoiser": AUTO, "weight_dtype": weight_dtype}
    loader = Node("Hallo3ModelLoader", inputs, 280, models=links("", *TRANSFORMER_FILES))
    columns = [[note(MODELS, 280 if lora else 600, "Models")], [loader]]
    if lora:
        loader = Node("Hallo3LoraLoader", {"model": loader["model"]}, 280, bypassed=True)
        columns.append([loader])
    stage = Stage("Models: the video transformer", columns, MADE, at_right=True)
    return Part(stage, {"model": loader["model"]})


def text_encoder() -> Node:
    return Node("Hallo3TextEncoderLoader", {"text_encoder": AUTO}, models=links(TEXT_FOLDER, *TEXT_FILES))


def prompt(loader: Node, text: str, title: str | None = None, height: int = 120) -> Node:
    return Node("CLIPTextEncode", {"clip": loader["clip"], "text": text}, 480, height, title, colour=TOUCH)


def said(text: str = PROMPT) -> Part:
    """Encodes the prompt for sampling."""
    loader = text_encoder()
    words = prompt(loader, text)
    stage = Stage("Text: what the scene shows", [[loader], [words]], SAID)
    return Part(stage, {"text": words["CONDITIONING"]})


def heard(sound: Output) -> Part:
    """Encodes the recording for sampling. Its link runs above the loader."""
    over = Dot(sound, at=SLOT)
    loader = Node("Hallo3Wav2VecLoader", {"wav2vec": AUTO}, models=links(WAV2VEC_FOLDER, *WAV2VEC_FILES), at=SLOT + 14)
    features = Node("Hallo3AudioEncode", {"audio": over, "wav2vec": loader["wav2vec"]}, 320)
    stage = Stage("Speech: what the mouth follows", [[over], [loader], [features]], HEARD)
    return Part(stage, {"audio": features["audio"]})


def heard_apart(sound: Output) -> Part:
    """Separates the voice from the music and encodes the voice, which the mouth follows."""
    over = Dot(sound, at=SLOT)
    inputs = {"audio": over, "model": AUTO}
    parted = Node("Hallo3SeparateVocals", inputs, models=links("audio_separator", *VOCAL_FILES))
    files = links(WAV2VEC_FOLDER, *WAV2VEC_FILES)
    loader = Node("Hallo3Wav2VecLoader", {"wav2vec": AUTO}, models=files, drop=100)  # room for what the node above says
    features = Node("Hallo3AudioEncode", {"audio": parted["vocals"], "wav2vec": loader["wav2vec"]}, 320)
    voice = Node("PreviewAudio", {"audio": parted["vocals"]}, 320, title="The voice")
    rest = Node("PreviewAudio", {"audio": parted["rest"]}, 320, title="The rest")
    columns = [[over], [parted, loader], [features, voice, rest]]
    return Part(Stage("Speech: what the mouth follows", columns, HEARD), {"audio": features["audio"]})


def seen(picture: Output, weight_dtype: str = "auto") -> Part:
    """Prepares the portrait for sampling. Its links run above the nodes, the VAE's below Hallo3 Reference and up."""
    top = 36
    left, high = Dot(picture, at=top + SLOT), Dot(picture, at=16)
    over = Dot(high, at=16)
    analysis = {"face_analysis": AUTO}
    analysis = Node("Hallo3FaceAnalysisLoader", analysis, models=links(FACE_FOLDER, *FACE_FILES), at=top + SLOT + 14)
    inputs = {"reference_net": AUTO, "weight_dtype": weight_dtype}
    net = Node("Hallo3ReferenceNetLoader", inputs, models=links("", *TRANSFORMER_FILES), at=295)
    face = Node("Hallo3FaceEmbed", {"image": left, "face_analysis": analysis["face_analysis"]}, at=top)
    vae = Node("Hallo3VAELoader", {"vae_name": AUTO}, models=links("", VAE_FILE), at=360)
    inputs = {"image": over, "mask": face["mask"], "vae": vae["vae"], "reference_net": net["reference_net"]}
    reference = Node("Hallo3Reference", inputs, 300, at=235)
    marked, corner = Dot(face["marked"], at=190), Dot(vae["vae"], at=560)
    below = Dot(corner, at=560)
    up = Dot(below, at=16)
    columns = [[high, left], [analysis, net], [face, vae], [over, corner], [reference], [marked, below, up]]
    gives = {
        "vae": up,
        "face": face["face"],
        "marked": marked,
        "reference": reference["reference"],
        "framed": reference["framed"],
    }
    return Part(Stage("Identity: who the video shows", columns, WHO), gives)


@dataclass(eq=False)
class Scene:
    """All inputs of a video: the left half of the workflows."""

    stages: list[Stage]
    gives: dict[str, Output | Dot]

    def __getitem__(self, name: str) -> Output | Dot:
        return self.gives[name]

    @property
    def conditions(self) -> dict[str, Output | Dot]:
        """The inputs of a sampler."""
        return {name: self[name] for name in ("model", "text", "vae", "audio", "face", "reference")}


def scene(*parts: Part) -> Scene:
    return Scene([part.stage for part in parts], {name: value for part in parts for name, value in part.gives.items()})


def lane(outputs: Iterable[Output | Dot], at: int) -> list[Dot]:
    """Dots for links from these outputs, one below the other."""
    return [Dot(output, at=at + LANE * i) for i, output in enumerate(outputs)]


def create(images: Output, sound: Output | Dot) -> Node:
    return Node("CreateVideo", {"images": images, "audio": sound, "fps": 25.0}, 210)


def save(video: Output, name: str, height: int = 380) -> Node:
    return Node("SaveVideo", {"video": video, "filename_prefix": f"hallo3/{name}"}, 360, height)
