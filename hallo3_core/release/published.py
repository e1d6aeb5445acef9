"""The official release as it is published: its parts, files, sizes and licences."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from ..inputs.face import DETECTOR, RECOGNISER
from ..inputs.face_landmarks import LANDMARKER
from .layout import (
    FACE_FOLDER,
    TEXT_FOLDER,
    TRANSFORMER_FILE,
    TRANSFORMER_FOLDER,
    VAE_FILE,
    VOCALS_FILE,
    WAV2VEC_FOLDER,
)

REPOSITORY = "fudan-generative-ai/hallo3"
TAG = "1"  # of the released transformers; `hallo3/latest` says the same


@dataclass(frozen=True)
class Part:
    """Files of the release that belong together. `bytes` is approximate; exact sizes come from the hub.

    needed: required file names; also: patterns of files that are fetched too if they exist.
    """

    name: str
    purpose: str
    bytes: int
    licence: str
    needed: tuple[str, ...]
    also: tuple[str, ...] = ()

    def takes(self, file: str) -> bool:
        return file in self.needed or any(fnmatchcase(file, pattern) for pattern in self.also)


PARTS = (
    Part(
        "transformers",
        "denoiser, reference network, projectors",
        29_100_000_000,  # 14.55 G parameters, two bytes each
        "CogVideoX licence, derived weights; code MIT",
        (f"{TRANSFORMER_FOLDER}/{TAG}/{TRANSFORMER_FILE}",),
        (f"{TRANSFORMER_FOLDER}/latest",),
    ),
    Part("vae", "frames to latents and back", 862_000_000, "CogVideoX licence", (VAE_FILE,)),
    Part(
        "text",
        "T5 v1.1 XXL encoder: the prompt",
        9_530_000_000,  # 4.76 G parameters, two bytes each
        "Apache-2.0",
        (f"{TEXT_FOLDER}/config.json", f"{TEXT_FOLDER}/spiece.model"),
        (f"{TEXT_FOLDER}/*.json", f"{TEXT_FOLDER}/*.safetensors"),
    ),
    Part(
        "wav2vec",
        "wav2vec2-base-960h: speech features",
        378_000_000,
        "Apache-2.0",
        (f"{WAV2VEC_FOLDER}/config.json", f"{WAV2VEC_FOLDER}/model.safetensors"),
        (f"{WAV2VEC_FOLDER}/*.json",),
    ),
    Part(
        "face",
        "InsightFace: face detection and identity",
        282_000_000,
        "non-commercial research only",
        (f"{FACE_FOLDER}/{DETECTOR}", f"{FACE_FOLDER}/{RECOGNISER}"),
        (f"{FACE_FOLDER}/{LANDMARKER}",),  # for masks by MediaPipe
    ),
    Part(
        "vocals",
        "optional: voice apart from music",
        66_800_000,
        "not stated, UVR community model",
        (VOCALS_FILE,),
        ("audio_separator/*.json",),  # the separator library's model lists, if the release has them
    ),
)
