"""The stages that the workflows share, named as the paper names them, with the files that they read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hallo3_core.release.download import REPOSITORY
from hallo3_core.release.layout import FACE_FOLDER, TEXT_FOLDER, VAE_FILE, WAV2VEC_FOLDER

from .drawing import Dot, Node, Output, Stage

RELEASE = "hallo3/release/"  # what the loaders offer for the official release in models/hallo3/release
PORTRAIT, SPEECH = "hallo3_portrait.jpg", "hallo3_speech.flac"  # in ComfyUI's input folder
PROMPT = "A person sits in a quiet room and talks to the camera, in soft daylight, with small natural head movements."

GUIDE, TOUCH = "#432", "#232"  # notes; what a user is to change
WHO, HEARD, SAID, MADE, SHOWN = "#8a5a83", "#3f789e", "#4b7d5c", "#a1683c", "#5f6b7a"  # the stages' frames

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
    """Where files of the release are, and where in the models folder they belong."""
    names = [f"{folder}/{file}" if folder else file for file in files]
    url = f"https://huggingface.co/{REPOSITORY}/resolve/main"
    return [{"name": f"release/{name}", "url": f"{url}/{name}", "directory": "hallo3"} for name in names]


def note(text: str, width: int = 280, height: int = 150, title: str = "Note") -> Node:
    return Node("MarkdownNote", {"text": text.strip()}, width, height, title, colour=GUIDE)


@dataclass(eq=False)
class Part:
    """A stage with what it hands on, by name."""

    stage: Stage
    gives: dict[str, Output | Dot]

    def __getitem__(self, name: str) -> Output | Dot:
        return self.gives[name]


def video_transformer(words: str, weight_dtype: str = "auto", lora: bool = False) -> Part:
    """The model; with `lora`, through a LoRA's loader that is bypassed."""
    inputs = {"denoiser": RELEASE, "weight_dtype": weight_dtype}
    loader = Node("Hallo3ModelLoader", inputs, 280 if lora else 320, models=links("", *TRANSFORMER_FILES))
    words = note(words, 280 if lora else 608, 190 if lora else 122, "Models")
    columns = [[words], [loader]]
    if lora:
        loader, inputs = Node("Hallo3LoraLoader", {"model": loader["model"]}, 320, bypassed=True), {}
        columns.append([loader])
    return Part(Stage("Models: the video transformer", columns, MADE), {"model": loader["model"]})


def text_encoder() -> Node:
    return Node("Hallo3TextEncoderLoader", {"text_encoder": RELEASE}, models=links(TEXT_FOLDER, *TEXT_FILES))


def prompt(loader: Node, text: str, title: str | None = None, height: int = 150) -> Node:
    return Node("CLIPTextEncode", {"clip": loader["clip"], "text": text}, 320, height, title, colour=TOUCH)


def said(words: str, text: str = PROMPT) -> Part:
    """The sentence, ready for sampling."""
    loader = text_encoder()
    sentence = prompt(loader, text)
    stage = Stage("Text: what the scene shows", [[note(words)], [loader], [sentence]], SAID)
    return Part(stage, {"text": sentence["CONDITIONING"]})


def heard() -> Part:
    """The recording, ready for sampling, and as it came."""
    sound = Node("LoadAudio", {"audio": SPEECH}, colour=TOUCH, drop=104)
    loader = Node("Hallo3Wav2VecLoader", {"wav2vec": RELEASE}, models=links(WAV2VEC_FOLDER, *WAV2VEC_FILES))
    features = Node("Hallo3AudioEncode", {"audio": sound["AUDIO"], "wav2vec": loader["wav2vec"]}, 320, drop=60)
    stage = Stage("Speech: what the mouth follows", [[sound], [loader], [features]], HEARD)
    return Part(stage, {"audio": features["audio"], "sound": sound["AUDIO"]})


def heard_apart() -> Part:
    """The recording with its voice parted from the music: the voice is what the mouth follows."""
    sound = Node("LoadAudio", {"audio": SPEECH}, colour=TOUCH, drop=30)
    model = f"{RELEASE}audio_separator/Kim_Vocal_2.onnx"
    over = Dot(sound["AUDIO"])  # past the nodes that part it
    inputs = {"audio": sound["AUDIO"], "model": model}
    parted = Node("Hallo3SeparateVocals", inputs, models=links("audio_separator", *VOCAL_FILES), drop=10)
    loader = Node("Hallo3Wav2VecLoader", {"wav2vec": RELEASE}, models=links(WAV2VEC_FOLDER, *WAV2VEC_FILES))
    features = Node("Hallo3AudioEncode", {"audio": parted["vocals"], "wav2vec": loader["wav2vec"]}, 320, drop=40)
    voice = Node("PreviewAudio", {"audio": parted["vocals"]}, 320, title="The voice")
    rest = Node("PreviewAudio", {"audio": parted["rest"]}, 320, title="The rest")
    stage = Stage("Speech: what the mouth follows", [[sound], [over, parted, loader], [features, voice, rest]], HEARD)
    return Part(stage, {"audio": features["audio"], "sound": over})


def seen(words: str, weight_dtype: str = "auto", looks: bool = False) -> Part:
    """The portrait, ready for sampling; with `looks`, the marked face is shown in place of the words."""
    picture = Node("LoadImage", {"image": PORTRAIT}, colour=TOUCH, drop=90)
    analysis = Node("Hallo3FaceAnalysisLoader", {"face_analysis": RELEASE}, models=links(FACE_FOLDER, *FACE_FILES))
    vae = Node("Hallo3VAELoader", {"vae_name": RELEASE}, models=links("", VAE_FILE))
    inputs = {"reference_net": RELEASE, "weight_dtype": weight_dtype}
    net = Node("Hallo3ReferenceNetLoader", inputs, models=links("", *TRANSFORMER_FILES))
    face = Node("Hallo3FaceEmbed", {"image": picture["IMAGE"], "face_analysis": analysis["face_analysis"]}, drop=90)
    inputs = {"image": picture["IMAGE"], "mask": face["mask"], "vae": vae["vae"], "reference_net": net["reference_net"]}
    reference = Node("Hallo3Reference", inputs, 320, drop=284)
    shown = note(words, 320, 120)
    if looks:
        shown = Node("PreviewImage", {"images": face["marked"]}, 320, 300, "Is it the right face?")
    columns = [[picture, analysis], [vae, face, net], [reference, shown]]
    gives = {
        "vae": vae["vae"],
        "face": face["face"],
        "marked": face["marked"],
        "reference": reference["reference"],
        "framed": reference["framed"],
    }
    return Part(Stage("Identity: who the film shows", columns, WHO), gives)


@dataclass(eq=False)
class Scene:
    """All that a film is made from: the left half of most workflows."""

    stages: list[Stage]
    gives: dict[str, Output | Dot]

    def __getitem__(self, name: str) -> Output | Dot:
        return self.gives[name]

    @property
    def conditions(self) -> dict[str, Output | Dot]:
        """What a sampler is linked to."""
        return {name: self[name] for name in ("model", "text", "vae", "audio", "face", "reference")}


def scene(*parts: Part) -> Scene:
    return Scene([part.stage for part in parts], {name: value for part in parts for name, value in part.gives.items()})


def lane(outputs: Iterable[Output | Dot], drop: int = 0) -> list[Dot]:
    """Dots for links from these, one below the other."""
    return [Dot(output, 0 if i else drop) for i, output in enumerate(outputs)]


def samples() -> Node:
    """The project's own portrait and speech, for who has none: bypassed until it is wanted."""
    return Node("Hallo3SampleInputs", width=380, height=260, title="No inputs yet? Ctrl+B, Run, R", bypassed=True)


def create(images: Output, sound: Output | Dot) -> Node:
    return Node("CreateVideo", {"images": images, "audio": sound, "fps": 25.0})


def save(video: Output, name: str, height: int = 420) -> Node:
    return Node("SaveVideo", {"video": video, "filename_prefix": f"hallo3/{name}"}, 420, height)
