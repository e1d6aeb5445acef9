"""Nodes that load: one for each network, since the host runs again all that hangs on a loader that changed."""

from __future__ import annotations

from pathlib import Path

from ..hallo3_core.inputs.face import PROVIDERS, load_face_analyser
from ..hallo3_core.release.layout import FACE_FOLDER, TEXT_FOLDER, WAV2VEC_FOLDER
from . import types

CATEGORY = "Hallo3/loaders"
ALIASES = ["hallo", "load"]
WEIGHT_DTYPE = (
    ["auto", "bf16", "fp16", "fp8"],
    {
        "default": "auto",
        "tooltip": "auto keeps what the file and the device suggest; fp8 halves the memory of the large matrices for a "
        "small loss. Changing it loads the file again.",
    },
)


def _dropdown(found: dict[str, Path], tooltip: str) -> tuple[list[str], dict]:
    from .host import files

    return (files.names(found), {"tooltip": tooltip})


def _engine_files() -> dict[str, Path]:
    from .host import files

    return files.tensor_files("diffusion_models", "checkpoints") | files.releases()


def _vae_files() -> dict[str, Path]:
    from .host import files

    return files.tensor_files("vae") | files.releases()


def _text_files() -> dict[str, Path]:
    from .host import files

    inside = _inside_releases(TEXT_FOLDER)
    return files.tensor_files("text_encoders") | files.folders_with("config.json", "text_encoders") | inside


def _wav2vec_files() -> dict[str, Path]:
    from .host import files

    inside = _inside_releases(WAV2VEC_FOLDER)
    return files.tensor_files("audio_encoders") | files.folders_with("config.json", "audio_encoders") | inside


def _face_folders() -> dict[str, Path]:
    from .host import files

    return files.face_folders() | _inside_releases(FACE_FOLDER)


def _inside_releases(folder: str) -> dict[str, Path]:
    """What lies in a release's subfolder, by the release's name."""
    from .host import files

    return {name: path / folder for name, path in files.releases().items() if (path / folder).is_dir()}


class Hallo3ModelLoader:
    """The denoiser with its projectors."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Loads Hallo3's denoiser, from the official release or a converted file, with the two small projectors for "
        "sound and face that belong to it."
    )
    RETURN_TYPES = ("MODEL",)
    RETURN_NAMES = ("model",)
    OUTPUT_TOOLTIPS = ("The denoiser: LoRA, compile and EasyCache nodes work on it.",)
    FUNCTION = "execute"
    SEARCH_ALIASES = ALIASES

    @classmethod
    def INPUT_TYPES(cls):
        tooltip = "A release in models/hallo3, its file mp_rank_00_model_states.pt, or hallo3_denoiser.safetensors."
        return {"required": {"denoiser": _dropdown(_engine_files(), tooltip), "weight_dtype": WEIGHT_DTYPE}}

    def execute(self, denoiser, weight_dtype):
        from .host import files, model

        path = files.find(denoiser, _engine_files(), "denoiser", "models/diffusion_models")
        return (model.load_model(str(path), weight_dtype),)


class Hallo3ReferenceNetLoader:
    """The identity reference network."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Loads the identity reference network, which looks at the portrait once; it is not needed afterwards."
    RETURN_TYPES = (types.REFERENCE_NET,)
    RETURN_NAMES = ("reference_net",)
    OUTPUT_TOOLTIPS = ("For Hallo3 Reference.",)
    FUNCTION = "execute"
    SEARCH_ALIASES = ALIASES

    @classmethod
    def INPUT_TYPES(cls):
        tooltip = "The release or file that the denoiser comes from, or hallo3_reference_net.safetensors."
        return {"required": {"reference_net": _dropdown(_engine_files(), tooltip), "weight_dtype": WEIGHT_DTYPE}}

    def execute(self, reference_net, weight_dtype):
        from .host import files, networks

        path = files.find(reference_net, _engine_files(), "reference network", "models/diffusion_models")
        return (networks.load_reference_net(path, weight_dtype),)


class Hallo3LoraLoader:
    """A LoRA made for CogVideoX-5B-I2V."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Adds a LoRA made for CogVideoX-5B-I2V, in diffusers or kohya naming, which core's loader passes over. One "
        "that touches nothing is refused."
    )
    RETURN_TYPES = ("MODEL",)
    RETURN_NAMES = ("model",)
    OUTPUT_TOOLTIPS = ("The model with the LoRA; several may follow each other.",)
    FUNCTION = "execute"
    SEARCH_ALIASES = ["hallo", "lora", "cogvideox"]

    @classmethod
    def INPUT_TYPES(cls):
        from . import inputs
        from .host import files

        strength = {"default": 1.0, "min": -4.0, "max": 4.0, "step": 0.05, "tooltip": "1 as trained, 0 without it."}
        return {
            "required": {
                "model": inputs.MODEL,
                "lora": _dropdown(files.tensor_files("loras"), "A file in models/loras."),
                "strength": ("FLOAT", strength),
            }
        }

    def execute(self, model, lora, strength):
        from .host import files
        from .host.lora import with_lora

        return (with_lora(model, files.find(lora, files.tensor_files("loras"), "LoRA", "models/loras"), strength),)


class Hallo3VAELoader:
    """The video VAE, decoding as the original does."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Loads CogVideoX's video VAE, from the release's 3d-vae.pt, a converted file or one in diffusers naming. It "
        "decodes as the original does, which core's loader of the same file does not."
    )
    RETURN_TYPES = ("VAE",)
    RETURN_NAMES = ("vae",)
    OUTPUT_TOOLTIPS = ("Works in core's VAEEncode and VAEDecode, tiled ones included.",)
    FUNCTION = "execute"
    SEARCH_ALIASES = [*ALIASES, "cogvideox"]

    @classmethod
    def INPUT_TYPES(cls):
        tooltip = "A release in models/hallo3, or a CogVideoX VAE in models/vae."
        return {"required": {"vae_name": _dropdown(_vae_files(), tooltip)}}

    def execute(self, vae_name):
        from .host import files, vae

        return (vae.load_host_vae(files.find(vae_name, _vae_files(), "VAE", "models/vae")),)


class Hallo3TextEncoderLoader:
    """T5's encoder as a CLIP."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Loads T5-XXL's encoder for core's CLIPTextEncode, as the original uses it: 226 tokens without mask, brackets "
        "are read as brackets. Core's CLIPLoader of type cogvideox serves as well."
    )
    RETURN_TYPES = ("CLIP",)
    RETURN_NAMES = ("clip",)
    OUTPUT_TOOLTIPS = ("For CLIPTextEncode. Prompts beyond 225 tokens are cut, with a warning in the log.",)
    FUNCTION = "execute"
    SEARCH_ALIASES = [*ALIASES, "t5", "clip"]

    @classmethod
    def INPUT_TYPES(cls):
        tooltip = "The release's T5 folder, another T5 v1.1 folder, or a file such as t5xxl_fp16.safetensors."
        return {"required": {"text_encoder": _dropdown(_text_files(), tooltip)}}

    def execute(self, text_encoder):
        from .host import clip, files

        return (clip.load_clip(files.find(text_encoder, _text_files(), "text encoder", "models/text_encoders")),)


class Hallo3Wav2VecLoader:
    """wav2vec2, which hears the recording."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Loads wav2vec2-base-960h, which turns the recording into what the mouth follows."
    RETURN_TYPES = (types.WAV2VEC,)
    RETURN_NAMES = ("wav2vec",)
    OUTPUT_TOOLTIPS = ("For Hallo3 Audio Encode.",)
    FUNCTION = "execute"
    SEARCH_ALIASES = [*ALIASES, "audio"]

    @classmethod
    def INPUT_TYPES(cls):
        tooltip = "The release, or a folder with config.json in models/audio_encoders."
        return {"required": {"wav2vec": _dropdown(_wav2vec_files(), tooltip)}}

    def execute(self, wav2vec):
        from .host import files, networks

        path = files.find(wav2vec, _wav2vec_files(), "wav2vec2", "models/audio_encoders")
        return (networks.load_wav2vec_network(path),)


class Hallo3FaceAnalysisLoader:
    """The face detector and recogniser."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Loads InsightFace's detector and recogniser (their licence: non-commercial research only)."
    RETURN_TYPES = (types.FACE_ANALYSIS,)
    RETURN_NAMES = ("face_analysis",)
    OUTPUT_TOOLTIPS = ("For Hallo3 Face Embed.",)
    FUNCTION = "execute"
    SEARCH_ALIASES = [*ALIASES, "insightface", "arcface"]

    @classmethod
    def INPUT_TYPES(cls):
        tooltip = "The release, or a pack in models/insightface/models. Hallo3 was trained with glintr100.onnx."
        provider = {"default": "CPU", "tooltip": "Where to run it; the face is looked for once a film, so CPU is fine."}
        return {
            "required": {"face_analysis": _dropdown(_face_folders(), tooltip), "provider": (list(PROVIDERS), provider)}
        }

    def execute(self, face_analysis, provider):
        from .host import files

        folder = files.find(face_analysis, _face_folders(), "face models", "models/insightface/models")
        return (load_face_analyser(folder, provider),)


NODES = {
    "Hallo3ModelLoader": (Hallo3ModelLoader, "Hallo3 Model Loader"),
    "Hallo3ReferenceNetLoader": (Hallo3ReferenceNetLoader, "Hallo3 Reference Net Loader"),
    "Hallo3LoraLoader": (Hallo3LoraLoader, "Hallo3 LoRA Loader"),
    "Hallo3VAELoader": (Hallo3VAELoader, "Hallo3 VAE Loader"),
    "Hallo3TextEncoderLoader": (Hallo3TextEncoderLoader, "Hallo3 Text Encoder Loader"),
    "Hallo3Wav2VecLoader": (Hallo3Wav2VecLoader, "Hallo3 Wav2Vec Loader"),
    "Hallo3FaceAnalysisLoader": (Hallo3FaceAnalysisLoader, "Hallo3 Face Analysis Loader"),
}
