"""Loader nodes, one per network: the host reruns everything downstream of a loader that changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..hallo3_core.inputs.face import PROVIDERS, load_face_analyser
from ..hallo3_core.release.layout import FACE_FOLDER, TEXT_FOLDER, WAV2VEC_FOLDER
from ..hallo3_core.weights import names
from ..hallo3_core.weights.kinds import FACE_DETECTOR, LORA, WAV2VEC
from ..hallo3_core.weights.parts import TEXT, VAE
from . import types

if TYPE_CHECKING:
    from .host.sources import Source

CATEGORY = "Hallo3/loaders"
ALIASES = ["hallo", "load"]
AUTO = "auto: the release in models/hallo3, else the first that fits."
DTYPES = ["auto", "bf16", "fp16", "fp8"]
DTYPE_TOOLTIP = (
    "auto keeps what the file and the device suggest; fp8 halves the memory of the large matrices for a small loss. "
    "Changing it loads the file again."
)
FP8_MATMUL_TOOLTIP = (
    "fp8 matmul also multiplies in fp8, on GPUs that can (NVIDIA since Ada), with a larger loss. It is no faster: "
    "on an H100, the only GPU measured, a step took 22 % longer than in bf16."
)
WEIGHT_DTYPE = (DTYPES, {"default": "auto", "tooltip": DTYPE_TOOLTIP})
DENOISER_DTYPE = (
    [*DTYPES, "fp8 matmul"],
    {"default": "auto", "tooltip": f"{DTYPE_TOOLTIP} {FP8_MATMUL_TOOLTIP}"},
)


def _source(what: str) -> Source:
    """The files that a loader offers, by what it loads."""
    from .host import files
    from .host.sources import Source

    def transformers() -> dict[str, Path]:
        return files.tensor_files("diffusion_models", "checkpoints") | files.releases()

    def vaes() -> dict[str, Path]:
        return files.tensor_files("vae") | files.releases()

    def inside(folder: str, kind: str) -> dict[str, Path]:
        within = {name: path / folder for name, path in files.releases().items() if (path / folder).is_dir()}
        return files.tensor_files(kind) | files.folders_with("config.json", kind) | within

    def faces() -> dict[str, Path]:
        within = {name: path / FACE_FOLDER for name, path in files.releases().items()}
        return files.face_folders() | {name: path for name, path in within.items() if path.is_dir()}

    sources = {
        "denoiser": ("models/diffusion_models", names.DENOISER, transformers),
        "reference network": ("models/diffusion_models", names.REFERENCE_NET, transformers),
        "LoRA": ("models/loras", LORA, lambda: files.tensor_files("loras"), False),
        "VAE": ("models/vae", VAE, vaes),
        "text encoder": ("models/text_encoders", TEXT, lambda: inside(TEXT_FOLDER, "text_encoders")),
        "wav2vec2": ("models/audio_encoders", WAV2VEC, lambda: inside(WAV2VEC_FOLDER, "audio_encoders")),
        "face models": ("models/insightface/models", FACE_DETECTOR, faces),
    }
    return Source(what, *sources[what])


def _dropdown(what: str, tooltip: str) -> tuple[Sequence[str], dict]:
    return (_source(what).offered(), {"tooltip": tooltip})


class Hallo3ModelLoader:
    """Loads the denoiser with its projectors."""

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
        return {"required": {"denoiser": _dropdown("denoiser", f"{tooltip} {AUTO}"), "weight_dtype": DENOISER_DTYPE}}

    @classmethod
    def VALIDATE_INPUTS(cls, denoiser):
        return True  # `execute` reports a missing file with a clear message

    def execute(self, denoiser, weight_dtype):
        from .host import model

        return (model.load_model(str(_source("denoiser").find(denoiser)), weight_dtype),)


class Hallo3ReferenceNetLoader:
    """Loads the identity reference network."""

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
        net = _dropdown("reference network", f"{tooltip} {AUTO}")
        return {"required": {"reference_net": net, "weight_dtype": WEIGHT_DTYPE}}

    @classmethod
    def VALIDATE_INPUTS(cls, reference_net):
        return True  # `execute` reports a missing file with a clear message

    def execute(self, reference_net, weight_dtype):
        from .host import networks

        return (networks.load_reference_net(_source("reference network").find(reference_net), weight_dtype),)


class Hallo3LoraLoader:
    """Applies a LoRA made for CogVideoX-5B-I2V or trained with this project."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Adds a LoRA made for CogVideoX-5B-I2V, in diffusers or kohya naming, which core's loader ignores. One "
        "that touches nothing is refused."
    )
    RETURN_TYPES = ("MODEL", types.REFERENCE_NET)
    RETURN_NAMES = ("model", "reference_net")
    OUTPUT_TOOLTIPS = (
        "The model with the LoRA; several may follow each other.",
        "The reference network with its part of the LoRA, if one is connected: for Hallo3 Reference.",
    )
    FUNCTION = "execute"
    SEARCH_ALIASES = ["hallo", "lora", "cogvideox"]

    @classmethod
    def INPUT_TYPES(cls):
        from . import inputs

        strength = {"default": 1.0, "min": -4.0, "max": 4.0, "step": 0.05, "tooltip": "1 as trained, 0 without it."}
        reference_net = {"tooltip": "Only for a LoRA of a face that was trained here: it changes this network too."}
        return {
            "required": {
                "model": inputs.MODEL,
                "lora": _dropdown("LoRA", "A file in models/loras."),
                "strength": ("FLOAT", strength),
            },
            "optional": {"reference_net": (types.REFERENCE_NET, reference_net)},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, lora):
        return True  # `execute` reports a missing file with a clear message

    def execute(self, model, lora, strength, reference_net=None):
        from .host.lora import with_lora

        return with_lora(model, reference_net, _source("LoRA").find(lora), strength)


class Hallo3VAELoader:
    """Loads the video VAE, which decodes as the original does."""

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
        return {"required": {"vae_name": _dropdown("VAE", f"{tooltip} {AUTO}")}}

    @classmethod
    def VALIDATE_INPUTS(cls, vae_name):
        return True  # `execute` reports a missing file with a clear message

    def execute(self, vae_name):
        from .host import vae

        return (vae.load_host_vae(_source("VAE").find(vae_name)),)


class Hallo3TextEncoderLoader:
    """Loads T5's encoder as a CLIP."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Loads T5-XXL's encoder for core's CLIPTextEncode, as the original uses it: 226 tokens without mask, brackets "
        "are read as brackets. Core's CLIPLoader of type cogvideox serves as well."
    )
    RETURN_TYPES = ("CLIP",)
    RETURN_NAMES = ("clip",)
    OUTPUT_TOOLTIPS = ("For CLIPTextEncode. Prompts beyond 225 tokens are cut, and CLIPTextEncode says so.",)
    FUNCTION = "execute"
    SEARCH_ALIASES = [*ALIASES, "t5", "clip"]

    @classmethod
    def INPUT_TYPES(cls):
        tooltip = "The release's T5 folder, another T5 v1.1 folder, or a file such as t5xxl_fp16.safetensors."
        return {"required": {"text_encoder": _dropdown("text encoder", f"{tooltip} {AUTO}")}}

    @classmethod
    def VALIDATE_INPUTS(cls, text_encoder):
        return True  # `execute` reports a missing file with a clear message

    def execute(self, text_encoder):
        from .host import clip

        return (clip.load_clip(_source("text encoder").find(text_encoder)),)


class Hallo3Wav2VecLoader:
    """Loads wav2vec2, which encodes the recording."""

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
        return {"required": {"wav2vec": _dropdown("wav2vec2", f"{tooltip} {AUTO}")}}

    @classmethod
    def VALIDATE_INPUTS(cls, wav2vec):
        return True  # `execute` reports a missing file with a clear message

    def execute(self, wav2vec):
        from .host import networks

        return (networks.load_wav2vec_network(_source("wav2vec2").find(wav2vec)),)


class Hallo3FaceAnalysisLoader:
    """Loads the face detector and recogniser."""

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
        provider = {
            "default": "CPU",
            "tooltip": "Where to run it; the face is looked for once a video, so CPU is fine.",
        }
        return {
            "required": {
                "face_analysis": _dropdown("face models", f"{tooltip} {AUTO}"),
                "provider": (list(PROVIDERS), provider),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, face_analysis):
        return True  # `execute` reports a missing file with a clear message

    def execute(self, face_analysis, provider):
        return (load_face_analyser(_source("face models").find(face_analysis), provider),)


NODES = {
    "Hallo3ModelLoader": (Hallo3ModelLoader, "Hallo3 Model Loader"),
    "Hallo3ReferenceNetLoader": (Hallo3ReferenceNetLoader, "Hallo3 Reference Net Loader"),
    "Hallo3LoraLoader": (Hallo3LoraLoader, "Hallo3 LoRA Loader"),
    "Hallo3VAELoader": (Hallo3VAELoader, "Hallo3 VAE Loader"),
    "Hallo3TextEncoderLoader": (Hallo3TextEncoderLoader, "Hallo3 Text Encoder Loader"),
    "Hallo3Wav2VecLoader": (Hallo3Wav2VecLoader, "Hallo3 Wav2Vec Loader"),
    "Hallo3FaceAnalysisLoader": (Hallo3FaceAnalysisLoader, "Hallo3 Face Analysis Loader"),
}
