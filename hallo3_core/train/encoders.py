"""The frozen encoders of training: frames, captions, audio and faces to the step's inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from ..inputs.audio import Wav2Vec, convolve, encode_features, load_wav2vec, padded_signal
from ..inputs.face import Face, FaceAnalyser, load_face_analyser
from ..inputs.recording import Recording, check_recording, to_mono
from ..inputs.text import load_text_encoder
from ..release.layout import VAE_FILE, Release
from ..vae.autoencoder import VideoVae
from .film import FilmError
from .stored import Digests


@dataclass(frozen=True)
class Encoders:
    """vae; text: a caption -> ``m w``; audio: a recording -> ``n l d``, 25 per second; faces: those in a frame ``3 h
    w``, uint8, largest first. Encoders that the mode does not use may be None. identity: one hash per network, equal
    for equal weights."""

    vae: VideoVae
    text: Callable[[str], Tensor]
    audio: Callable[[Recording], Tensor] | None = None
    faces: Callable[[Tensor], Sequence[Face]] | None = None
    identity: tuple[tuple[str, str], ...] = ()

    def identity_of(self, kind: str) -> str:
        return dict(self.identity).get(kind, "")


def release_encoders(
    release: Release,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    text_tokens: int,
    digests: Digests | None = None,
) -> Encoders:
    """The encoders of a release; all except the VAE are loaded on first use. They are identified by their files'
    content, so a copy of a release is the same.

    Raises:
        InputError: a folder or file of the release is missing.
    """

    @cache
    def text_encoder():
        return load_text_encoder(release.text_folder, tokens=text_tokens, device=device, dtype=dtype)

    @cache
    def wav2vec():
        return load_wav2vec(release.wav2vec_folder, device=device)

    @cache
    def analyser():
        return load_face_analyser(release.face_folder)

    @torch.no_grad()
    def text(caption: str) -> Tensor:
        return text_encoder().encode(caption)[0]

    vae_file = release.folder / VAE_FILE
    files = {
        "vae": [vae_file] if vae_file.exists() else release.transformer_files,
        "text": _files(release.text_folder),
        "audio": _files(release.wav2vec_folder),
        "face": _files(release.face_folder),
    }
    digests = digests or Digests(None)
    identity = tuple((kind, " ".join(f"{p.name} {digests.of(p)}" for p in found)) for kind, found in files.items())
    return Encoders(
        vae=release.vae(device=device, dtype=dtype),
        text=text,
        audio=lambda recording: audio_features(recording, wav2vec()),
        faces=lambda frame: faces_in(frame, analyser()),
        identity=(*identity, ("dtype", f"{dtype} {text_tokens}")),
    )


def faces_in(frame: Tensor, analyser: FaceAnalyser) -> list[Face]:
    """The faces of a film's frame ``3 h w``, uint8, found as in a portrait, largest first."""
    return analyser.analyse(frame / 255)


@torch.no_grad()
def audio_features(recording: Recording, wav2vec: Wav2Vec) -> Tensor:
    """wav2vec2 features of a whole recording: ``n l d``, 25 per second. Training pads nothing."""
    recording = check_recording(recording)
    waveform = to_mono(recording)
    signal = padded_signal(waveform)[: len(waveform)]
    hidden = encode_features(convolve(wav2vec.model, signal), recording.frames, wav2vec)
    if not torch.isfinite(hidden).all():
        raise FilmError(f"{recording.name}: wav2vec2 gives NaN or infinite values.")
    return hidden


def _files(folder) -> list:
    return sorted(path for path in folder.rglob("*") if path.is_file())
