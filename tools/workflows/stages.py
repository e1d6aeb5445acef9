"""The stages that the workflows share, named as in the paper, with the files that they read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hallo3_core.release.download import PARTS, REPOSITORY
from hallo3_core.release.layout import (
    FACE_FOLDER,
    TEXT_FOLDER,
    TRANSFORMER_FILE,
    TRANSFORMER_FOLDER,
    VAE_FILE,
    WAV2VEC_FOLDER,
)

from .drawing import LANE, Dot, Node, Output, Stage, unwrapped

HUB = f"https://huggingface.co/{REPOSITORY}"
SIZES = {part.name: f"{part.bytes / 1e9:.2g} GB" for part in PARTS}
MODELS = f"""
## Models
**python hallo3.py download ../../models/hallo3/release**, run in this pack's folder, gets all of them (40 GB). The
loaders' **auto** finds a release in **models/hallo3**, whatever its name.

| read by | files of [{REPOSITORY}]({HUB}) | size |
| --- | --- | --- |
| Model, Reference Net | [{TRANSFORMER_FILE}]({HUB}/tree/main/{TRANSFORMER_FOLDER}/1) | {SIZES["transformers"]} |
| VAE | [3d-vae.pt]({HUB}/resolve/main/{VAE_FILE}) | {SIZES["vae"]} |
| Text Encoder | [{TEXT_FOLDER}]({HUB}/tree/main/{TEXT_FOLDER}) | {SIZES["text"]} |
| Wav2Vec | [wav2vec2-base-960h]({HUB}/tree/main/{WAV2VEC_FOLDER}) | {SIZES["wav2vec"]} |
| Face Analysis | [face_analysis]({HUB}/tree/main/{FACE_FOLDER}) | {SIZES["face"]} |
"""
AUTO = "auto"  # the loaders' choice: the release in models/hallo3
RELEASE = "hallo3/release/"  # the loaders' entry for the official release in models/hallo3/release

# What the sample portrait shows, in words that the toy release knows too, and no more of them than it reads.
TALKS = "A fair person with bobbed brown hair and blue eyes in a teal shirt is talking."
PROMPT = f"{TALKS} Blue waves stand still behind."
LIVELY = f"{TALKS} Blue waves roll behind."

GUIDE, TOUCH = "#432", "#232"  # colours of notes, and of nodes for the user to change
WHO, HEARD, SAID, MADE, SHOWN = "#8a5a83", "#3f789e", "#4b7d5c", "#a1683c", "#5f6b7a"  # colours of the stages' frames
GIVEN = "#7a7a4a"
DARK = "#323"  # of blocks

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

Slots = Sequence[tuple[Node, str]]


def links(folder: str, *files: str) -> list[dict[str, str]]:
    """Download links of release files, with their location in the models folder."""
    names = [f"{folder}/{file}" if folder else file for file in files]
    return [{"name": f"release/{name}", "url": f"{HUB}/resolve/main/{name}", "directory": "hallo3"} for name in names]


def note(text: str, width: int = 280, title: str = "Note") -> Node:
    return Node("MarkdownNote", {"text": unwrapped(text)}, width, title=title, colour=GUIDE)


def models(width: int = 320) -> Node:
    return note(MODELS, width, "Models")


@dataclass(eq=False)
class Part:
    """A stage with its outputs, and its open inputs and widgets, by name."""

    stage: Stage
    gives: dict[str, Output | Dot]
    takes: dict[str, Slots]

    def __getitem__(self, name: str) -> Output | Dot:
        return self.gives[name]


def given(*, microphone: bool = True, recorded: bool = False) -> Part:
    """Portrait and recording; the samples come first. A microphone stands by, or with `recorded` is the recording."""
    picture = Node("Hallo3Portrait", {}, 226, colour=TOUCH, at=LANE)
    spoken = Node("RecordAudio", {}, 274, title="or the microphone, in Voice's place", bypassed=not recorded)
    if recorded:
        spoken.title, spoken.at, voice = None, LANE, [spoken]
    else:
        heard = Node("Hallo3Voice", {}, 274 if microphone else 226, colour=TOUCH, at=LANE)
        voice = [heard, spoken] if microphone else [heard]
    over = Dot(picture["image"])
    away = Dot(over)
    stage = Stage("Your portrait and your voice", [[picture], [over], voice, [away]], GIVEN)
    return Part(stage, {"image": away, "audio": voice[0]["AUDIO" if recorded else "audio"]}, {})


def moving(*, lora: bool = False) -> Part:
    """The video transformer; with `lora`, behind a bypassed LoRA loader."""
    inputs = {"denoiser": AUTO, "weight_dtype": AUTO}
    loader = Node("Hallo3ModelLoader", inputs, 280, models=links("", *TRANSFORMER_FILES))
    takes = {"denoiser": [(loader, "denoiser")], "weight_dtype": [(loader, "weight_dtype")]}
    style = Node("Hallo3LoraLoader", {"model": loader["model"]}, 320, bypassed=True)
    stage = Stage("Models: the video transformer", [[loader], [style]] if lora else [[loader]], MADE)
    return Part(stage, {"model": (style if lora else loader)["model"]}, takes)


def said(text: str = PROMPT) -> Part:
    """Encodes the prompt."""
    loader = Node("Hallo3TextEncoderLoader", {"text_encoder": AUTO}, models=links(TEXT_FOLDER, *TEXT_FILES))
    words = prompt(loader["clip"], text)
    takes = {"text": [(words, "text")], "text_encoder": [(loader, "text_encoder")]}
    stage = Stage("Text: what the scene shows", [[loader], [words]], SAID)
    return Part(stage, {"text": words["CONDITIONING"], "clip": loader["clip"]}, takes)


def prompt(clip: Output | Dot, text: str, title: str | None = None, width: int = 400) -> Node:
    return Node("CLIPTextEncode", {"clip": clip, "text": text}, width, title=title, colour=TOUCH)


def heard() -> Part:
    """Encodes the recording."""
    loader = Node("Hallo3Wav2VecLoader", {"wav2vec": AUTO}, models=links(WAV2VEC_FOLDER, *WAV2VEC_FILES))
    features = Node("Hallo3AudioEncode", {"wav2vec": loader["wav2vec"]}, 320)
    takes = {"audio": [(features, "audio")], "wav2vec": [(loader, "wav2vec")]}
    return Part(
        Stage("Speech: what the mouth follows", [[loader], [features]], HEARD), {"audio": features["audio"]}, takes
    )


def seen() -> Part:
    """Finds the face, and looks at the portrait once."""
    analysis = {"face_analysis": AUTO}
    analysis = Node("Hallo3FaceAnalysisLoader", analysis, models=links(FACE_FOLDER, *FACE_FILES))
    inputs = {"reference_net": AUTO, "weight_dtype": AUTO}
    net = Node("Hallo3ReferenceNetLoader", inputs, models=links("", *TRANSFORMER_FILES), at=340)
    vae = Node("Hallo3VAELoader", {"vae_name": AUTO}, models=links("", VAE_FILE), at=480)
    face = Node("Hallo3FaceEmbed", {"face_analysis": analysis["face_analysis"]}, 300)
    inputs = {"mask": face["mask"], "vae": vae["vae"], "reference_net": net["reference_net"]}
    reference = Node("Hallo3Reference", inputs, 300, at=340)
    takes = {
        "image": [(face, "image"), (reference, "image")],
        "width": [(reference, "width")],
        "height": [(reference, "height")],
        "framing": [(reference, "framing")],
        "which_face": [(face, "which_face")],
        "when_no_face": [(face, "when_no_face")],
        "face_analysis": [(analysis, "face_analysis")],
        "reference_net": [(net, "reference_net")],
        "vae": [(vae, "vae_name")],
        "weight_dtype": [(net, "weight_dtype")],
    }
    gives = {
        "vae": vae["vae"],
        "face": face["face"],
        "reference": reference["reference"],
        "marked": face["marked"],
        "framed": reference["framed"],
    }
    return Part(Stage("Identity: who the video shows", [[analysis, net, vae], [face], [reference]], WHO), gives, takes)


def lane(outputs: Iterable[Output | Dot], at: int) -> list[Dot]:
    """Dots for links from these outputs, one below the other."""
    return [Dot(output, at=at + LANE * i) for i, output in enumerate(outputs)]


def create(images: Output, sound: Output | Dot) -> Node:
    return Node("CreateVideo", {"images": images, "audio": sound, "fps": 25.0}, 210)


def save(video: Output, name: str, width: int = 340, height: int = 400) -> Node:
    return Node("SaveVideo", {"video": video, "filename_prefix": f"hallo3/{name}"}, width, height)
