"""Loader nodes and their base, one per network: the host reruns everything downstream of a loader that changed."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import Parameter, Signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..hallo3_core.inputs.face import PROVIDERS, load_face_analyser
from ..hallo3_core.runtime.devices import check_torch
from . import types

if TYPE_CHECKING:
    from .host.sources import Source

AUTO = "auto: one release in models/hallo3 for all loaders, real weights before a toy's."
ALIASES = ["hallo", "load"]
DTYPES = ["auto", "bf16", "fp16", "fp8", "int8"]
DTYPE_TOOLTIP = "auto follows the file and the device. fp8 and int8 lose a little quality, int8 less than fp8."
MATMUL_TOOLTIP = (
    "fp8 matmul also multiplies in fp8, on GPUs that can (NVIDIA since Ada), and loses more; int8 matmul multiplies in "
    "int8 (NVIDIA since Turing)."
)
DTYPE_COST = "fp8 and int8 halve the memory of the large matrices. Changing it loads the file again."
MATMUL_COST = (
    "fp8 matmul is no faster: on an H100, the only GPU measured, a step took 22 % longer than in bf16. The speed of "
    "int8 matmul was not measured."
)
WEIGHT_DTYPE = (DTYPES, {"default": "auto", "tooltip": f"{DTYPE_TOOLTIP} Cost: {DTYPE_COST}"})
DENOISER_DTYPE = (
    [*DTYPES, "fp8 matmul", "int8 matmul"],
    {"default": "auto", "tooltip": f"{DTYPE_TOOLTIP} {MATMUL_TOOLTIP} Cost: {DTYPE_COST} {MATMUL_COST}"},
)


def _source(what: str) -> Source:
    """The files that a loader offers, by what it loads."""
    from .host.sources import SOURCES

    return SOURCES[what]


class Loader:
    """A node with a dropdown of files. It never hides from the page, takes names that are not in the list, since
    `find` has the better message, and runs again when its file changes.

    SOURCE: what it reads, a key of `host.sources.SOURCES`; FILE: the name of its dropdown.
    """

    SOURCE: ClassVar[str]
    FILE: ClassVar[str]
    CATEGORY = "Hallo3/loaders"
    FUNCTION = "execute"

    def __init_subclass__(cls):
        cls.VALIDATE_INPUTS = _accepts_any(cls.FILE)

    @classmethod
    def source(cls) -> Source:
        return _source(cls.SOURCE)

    @classmethod
    def dropdown(cls, tooltip: str, cost: str) -> tuple[Sequence[str], dict]:
        source = cls.source()
        meaning = f"{tooltip} {AUTO}" if source.has_auto else tooltip
        return (source.offered(), {"tooltip": f"{meaning} Cost: {cost}"})

    @classmethod
    def find(cls, name: str) -> Path:
        """The file or folder of an entry.

        Raises:
            InputError: as `Source.find`, or torch is too old.
        """
        check_torch()
        return cls.source().find(name)

    @classmethod
    def IS_CHANGED(cls, **inputs: Any) -> str:
        return cls.source().fingerprint(inputs.get(cls.FILE))


def _accepts_any(name: str) -> classmethod:
    """A VALIDATE_INPUTS for the input `name` alone: the host reads from the signature for which inputs it leaves out
    its own check, and does that for all inputs where the signature has `**`."""

    def validate(cls, **values: Any) -> bool:
        return True

    kind = Parameter.POSITIONAL_OR_KEYWORD
    validate.__signature__ = Signature([Parameter("cls", kind), Parameter(name, kind)])
    return classmethod(validate)


class Hallo3ModelLoader(Loader):
    """Loads the denoiser with its projectors."""

    SOURCE, FILE = "denoiser", "denoiser"
    DESCRIPTION = (
        "Loads Hallo3's denoiser, from the official release or a converted file, with the two small projectors for "
        "sound and face that belong to it."
    )
    RETURN_TYPES = ("MODEL",)
    RETURN_NAMES = ("model",)
    OUTPUT_TOOLTIPS = ("The denoiser: LoRA, compile and EasyCache nodes work on it.",)
    SEARCH_ALIASES = ALIASES

    @classmethod
    def INPUT_TYPES(cls):
        tooltip = "A release in models/hallo3, its file mp_rank_00_model_states.pt, or hallo3_denoiser.safetensors."
        cost = "changing it samples again; voice, face and portrait are kept."
        return {"required": {"denoiser": cls.dropdown(tooltip, cost), "weight_dtype": DENOISER_DTYPE}}

    def execute(self, denoiser, weight_dtype):
        from .host import model

        return (model.load_model(str(self.find(denoiser)), weight_dtype),)


class Hallo3ReferenceNetLoader(Loader):
    """Loads the identity reference network."""

    SOURCE, FILE = "reference network", "reference_net"
    DESCRIPTION = "Loads the identity reference network, which looks at the portrait once; it is not needed afterwards."
    RETURN_TYPES = (types.REFERENCE_NET,)
    RETURN_NAMES = ("reference_net",)
    OUTPUT_TOOLTIPS = ("For Hallo3 Reference.",)
    SEARCH_ALIASES = ALIASES

    @classmethod
    def INPUT_TYPES(cls):
        tooltip = "The release or file that the denoiser comes from, or hallo3_reference_net.safetensors."
        net = cls.dropdown(tooltip, "changing it prepares the portrait and samples again.")
        return {"required": {"reference_net": net, "weight_dtype": WEIGHT_DTYPE}}

    def execute(self, reference_net, weight_dtype):
        from .host import networks

        return (networks.load_reference_net(self.find(reference_net), weight_dtype),)


class Hallo3LoraLoader(Loader):
    """Applies a LoRA made for CogVideoX-5B-I2V or trained with this project."""

    SOURCE, FILE = "LoRA", "lora"
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
    SEARCH_ALIASES = ["hallo", "lora", "cogvideox"]

    @classmethod
    def INPUT_TYPES(cls):
        from . import inputs

        strength = {
            "default": 1.0,
            "min": -4.0,
            "max": 4.0,
            "step": 0.05,
            "tooltip": "How strongly it acts: 1 as trained, 0 not at all, negative the other way; 0.6 to 1 is usual.",
        }
        reference_net = {"tooltip": "Only for a LoRA of a face that was trained here: it changes this network too."}
        cost = "only the LoRA's file is read; the denoiser's is not read again."
        return {
            "required": {
                "model": inputs.MODEL,
                "lora": cls.dropdown("A file in models/loras or models/hallo3.", cost),
                "strength": ("FLOAT", strength),
            },
            "optional": {"reference_net": (types.REFERENCE_NET, reference_net)},
        }

    def execute(self, model, lora, strength, reference_net=None):
        from .host.lora import with_lora

        return with_lora(model, reference_net, self.find(lora), strength)


class Hallo3VAELoader(Loader):
    """Loads the video VAE, which decodes as the original does."""

    SOURCE, FILE = "VAE", "vae_name"
    DESCRIPTION = (
        "Loads CogVideoX's video VAE, from the release's 3d-vae.pt, a converted file or one in diffusers naming. It "
        "decodes as the original does, which core's loader of the same file does not."
    )
    RETURN_TYPES = ("VAE",)
    RETURN_NAMES = ("vae",)
    OUTPUT_TOOLTIPS = ("Works in core's VAEEncode and VAEDecode, tiled ones included.",)
    SEARCH_ALIASES = [*ALIASES, "cogvideox"]

    @classmethod
    def INPUT_TYPES(cls):
        tooltip = "A release in models/hallo3, or a CogVideoX VAE in models/vae."
        cost = "changing it prepares the portrait and samples again."
        return {"required": {"vae_name": cls.dropdown(tooltip, cost)}}

    def execute(self, vae_name):
        from .host import vae

        return (vae.load_host_vae(self.find(vae_name)),)


class Hallo3TextEncoderLoader(Loader):
    """Loads T5's encoder as a CLIP."""

    SOURCE, FILE = "text encoder", "text_encoder"
    DESCRIPTION = (
        "Loads T5-XXL's encoder for core's CLIPTextEncode, as the original uses it: 226 tokens without mask, brackets "
        "are read as brackets. Core's CLIPLoader of type cogvideox serves as well."
    )
    RETURN_TYPES = ("CLIP",)
    RETURN_NAMES = ("clip",)
    OUTPUT_TOOLTIPS = ("For CLIPTextEncode. Prompts beyond 225 tokens are cut, and CLIPTextEncode says so.",)
    SEARCH_ALIASES = [*ALIASES, "t5", "clip"]

    @classmethod
    def INPUT_TYPES(cls):
        tooltip = "The release's T5 folder, another T5 v1.1 folder, or a file such as t5xxl_fp16.safetensors."
        cost = "runs once for each prompt; an fp8 file takes half the memory."
        return {"required": {"text_encoder": cls.dropdown(tooltip, cost)}}

    def execute(self, text_encoder):
        from .host import clip

        return (clip.load_clip(self.find(text_encoder)),)


class Hallo3Wav2VecLoader(Loader):
    """Loads wav2vec2, which encodes the recording."""

    SOURCE, FILE = "wav2vec2", "wav2vec"
    DESCRIPTION = "Loads wav2vec2-base-960h, which turns the recording into what the mouth follows."
    RETURN_TYPES = (types.WAV2VEC,)
    RETURN_NAMES = ("wav2vec",)
    OUTPUT_TOOLTIPS = ("For Hallo3 Audio Encode.",)
    SEARCH_ALIASES = [*ALIASES, "audio"]

    @classmethod
    def INPUT_TYPES(cls):
        tooltip = "The release, or a folder with config.json in models/audio_encoders."
        cost = "runs once for each recording; small beside the denoiser."
        return {"required": {"wav2vec": cls.dropdown(tooltip, cost)}}

    def execute(self, wav2vec):
        from .host import networks

        return (networks.load_wav2vec_network(self.find(wav2vec)),)


class Hallo3FaceAnalysisLoader(Loader):
    """Loads the face detector and recogniser."""

    SOURCE, FILE = "face models", "face_analysis"
    DESCRIPTION = "Loads InsightFace's detector and recogniser (their licence: non-commercial research only)."
    RETURN_TYPES = (types.FACE_ANALYSIS,)
    RETURN_NAMES = ("face_analysis",)
    OUTPUT_TOOLTIPS = ("For Hallo3 Face Embed.",)
    SEARCH_ALIASES = [*ALIASES, "insightface", "arcface"]

    @classmethod
    def INPUT_TYPES(cls):
        tooltip = "The release, or a pack in models/insightface/models. Hallo3 was trained with glintr100.onnx."
        provider = {
            "default": "CPU",
            "tooltip": "Where to run it. Cost: the face is looked for once for each portrait, so CPU is fine.",
        }
        return {
            "required": {
                "face_analysis": cls.dropdown(tooltip, "small; runs once for each portrait."),
                "provider": (list(PROVIDERS), provider),
            }
        }

    def execute(self, face_analysis, provider):
        return (load_face_analyser(self.find(face_analysis), provider),)


NODES = {
    "Hallo3ModelLoader": (Hallo3ModelLoader, "Hallo3 Model Loader"),
    "Hallo3ReferenceNetLoader": (Hallo3ReferenceNetLoader, "Hallo3 Reference Net Loader"),
    "Hallo3LoraLoader": (Hallo3LoraLoader, "Hallo3 LoRA Loader"),
    "Hallo3VAELoader": (Hallo3VAELoader, "Hallo3 VAE Loader"),
    "Hallo3TextEncoderLoader": (Hallo3TextEncoderLoader, "Hallo3 Text Encoder Loader"),
    "Hallo3Wav2VecLoader": (Hallo3Wav2VecLoader, "Hallo3 Wav2Vec Loader"),
    "Hallo3FaceAnalysisLoader": (Hallo3FaceAnalysisLoader, "Hallo3 Face Analysis Loader"),
}
