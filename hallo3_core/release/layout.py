"""Layout of the official release's folder, with lazy loading of its networks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from ..errors import InputError
from ..model.attention import Attention, scaled_dot_product
from ..weights import fp8
from ..weights.parts import VAE, Parts, load, read_parts
from ..weights.reading import read_tensors
from ..weights.shards import files_of, model_file

VAE_FILE = "cogvideox-5b-i2v-sat/vae/3d-vae.pt"
TEXT_FOLDER = "t5-v1_1-xxl"
WAV2VEC_FOLDER = "wav2vec/wav2vec2-base-960h"
VOCALS_FILE = "audio_separator/Kim_Vocal_2.onnx"
FACE_FOLDER = "face_analysis/models"
TRANSFORMER_FOLDER = "hallo3"
TRANSFORMER_FILE = "mp_rank_00_model_states.pt"
CONVERTED_FILES = "hallo3_*.safetensors"
TOY_NOTICE = "TOY_WEIGHTS.txt"  # in a toy release: says that it is one


class Release:
    """The networks of one release folder. Files are memory-mapped; tensors are read when a network is requested."""

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise InputError(
                f"{self.folder}: no such folder; --models names the release's folder, which holds {TRANSFORMER_FOLDER}/"
            )
        self._transformers: Parts | None = None

    @property
    def transformer_file(self) -> Path:
        """The transformer file: `<folder>/hallo3/<tag>/...`, where the text file `latest` holds the tag.

        Raises:
            InputError: no tag, or no such file.
        """
        tag_file = self._path(f"{TRANSFORMER_FOLDER}/latest")
        tag = tag_file.read_text(encoding="utf-8-sig", errors="replace").strip()
        if not tag or Path(tag).name != tag:
            raise InputError(f"{tag_file}: expected the name of a folder beside it, such as 1, found {tag[:40]!r}")
        return self._path(f"{TRANSFORMER_FOLDER}/{tag}/{TRANSFORMER_FILE}")

    def network(
        self,
        part: str,
        *,
        attention: Attention = scaled_dot_product,
        in_fp8: bool = False,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> nn.Module:
        """Denoiser, reference network, audio or face projector, by the names in `names.py`.

        in_fp8: round the blocks' matrices, unless they are in fp8 already.
        """
        parts = self.transformers()
        if in_fp8 and part in parts.tensors:
            parts = replace(parts, tensors={part: fp8.rounded(parts.tensors[part])})
        return load(parts, part, attention=attention, device=device, dtype=dtype, label=self.label)

    def network_bytes(self, part: str, *, dtype: torch.dtype, in_fp8: bool = False) -> int:
        """Bytes that the weights of `network` take, without reading them."""
        return sum(
            tensor.numel() * (1 if tensor.itemsize == 1 or (in_fp8 and fp8.is_rounded(name)) else dtype.itemsize)
            for name, tensor in self.transformers().tensors.get(part, {}).items()
        )

    def vae(self, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> nn.Module:
        """The VAE, from its own file, or from the copy inside the transformer file if its own file is missing."""
        from ..vae.autoencoder import load_vae

        path = self.folder / VAE_FILE
        if path.exists():
            return load_vae(read_tensors(path), device=device, dtype=dtype, label=str(path))
        if VAE in self.transformers().tensors:
            return load_vae(self.transformers().tensors[VAE], device=device, dtype=dtype, label=self.label)
        raise InputError(f"{path}: missing, and {self.label} holds no VAE either")

    def transformers(self) -> Parts:
        """The tensors of the transformer file, or of the files that `convert` made from it, sorted by part."""
        if self._transformers is None:
            parts = Parts()  # published only when complete: another thread may call this meanwhile
            for path in self.transformer_files:
                parts.add(read_parts(path))
            self._transformers = parts
        return self._transformers

    def files(self) -> list[Path]:
        """Every file that a network is read from, without opening any.

        Raises:
            InputError: a folder or file of the release is missing.
        """
        vae = self.folder / VAE_FILE
        folders = (self.text_folder, self.wav2vec_folder, self.face_folder)
        inside = (path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file())
        transformers = (shard for path in self.transformer_files for shard in files_of(path))
        return [*transformers, *([vae] if vae.exists() else []), *inside]

    @property
    def transformer_files(self) -> list[Path]:
        """The official transformer file, or the converted files if they exist and the official `latest` is missing."""
        converted = sorted({model_file(path) for path in self.folder.glob(CONVERTED_FILES)})
        if converted and not (self.folder / TRANSFORMER_FOLDER / "latest").exists():
            return converted
        return [self.transformer_file]

    @property
    def label(self) -> str:
        """The transformer file's name in messages."""
        files = self.transformer_files
        return str(files[0] if len(files) == 1 else self.folder / CONVERTED_FILES)

    @property
    def text_folder(self) -> Path:
        return self._path(TEXT_FOLDER)

    @property
    def wav2vec_folder(self) -> Path:
        return self._path(WAV2VEC_FOLDER)

    @property
    def face_folder(self) -> Path:
        return self._path(FACE_FOLDER)

    @property
    def vocals_file(self) -> Path:
        """The model that separates the voice from music, needed only for `--vocals`."""
        return self._path(VOCALS_FILE)

    def _path(self, relative: str) -> Path:
        path = self.folder / relative
        if not path.exists():
            raise InputError(f"{path}: missing from the release folder (see the README's table of files)")
        return path
