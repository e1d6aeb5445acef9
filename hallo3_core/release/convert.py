"""Converts the official release to four safetensors files with our names, in little memory: bf16, fp16, fp32, fp8 or
int8.

A source file is memory-mapped, and mapped again after every gigabyte to free the pages already read, so memory use does
not grow with the file. Files are written completely or not at all. Existing files from the same source are kept.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from .. import __version__
from ..errors import InputError
from ..film.output import check_apart
from ..model.conditioning import METADATA
from ..model.config import AudioProjectorConfig, FaceProjectorConfig, TransformerConfig
from ..weights import int8, names
from ..weights.disk import free_bytes, size_text
from ..weights.fp8 import FLOAT8, MARK, SCALE, is_rounded, largest_magnitude, mark, quantise
from ..weights.parts import VAE, Parts, build, fill, sort_tensors
from ..weights.reading import read_metadata
from ..weights.shards import files_of, read_model
from ..weights.vae_names import in_diffusers_names
from ..weights.writing import CHECKSUM, NewTensor, write_streamed
from .layout import VAE_FILE, Release
from .lora.file import LoraFile
from .lora.merging import Changes, Merge, changes_of, merge_text

DTYPES = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "fp8": torch.bfloat16,
    "int8": torch.bfloat16,
}  # of tensors that are not rounded to 8 bits
EIGHT_BITS = ("fp8", "int8")
FILES = {
    "hallo3_denoiser.safetensors": (names.DENOISER,),
    "hallo3_reference_net.safetensors": (names.REFERENCE_NET,),
    "hallo3_projectors.safetensors": (names.AUDIO_PROJECTOR, names.FACE_PROJECTOR),
    "hallo3_vae.safetensors": (VAE,),
}
PROJECTORS = FILES["hallo3_projectors.safetensors"]
CONFIGS = {
    names.DENOISER: TransformerConfig,
    names.REFERENCE_NET: TransformerConfig,
    names.AUDIO_PROJECTOR: AudioProjectorConfig,
    names.FACE_PROJECTOR: FaceProjectorConfig,
}
VAE_MARK = "decoder.conv_in.conv.weight"  # in either naming
LICENCE = "Derived from CogVideoX-5B-I2V: the CogVideoX licence binds these weights. Hallo3's own code is MIT."
CONVERTER = f"hallo3 {__version__}"
SLICE_BYTES = 64 << 20  # of one tensor, read at a time
MAPPING_BYTES = 1 << 30  # read before a file is mapped again
NOTHING = Changes()
SPARE_BYTES = 64 << 20  # left free on the disk

Progress = Callable[[int, int, str], None]  # bytes done, total bytes, the file being written
Sorted = Mapping[str, Mapping[str, Tensor]]  # part -> name -> tensor

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Converted:
    """A file to be written: its tensors (part, name in the part) in order, and its metadata."""

    path: Path
    source: Path
    tensors: tuple[tuple[str, str], ...]
    entries: tuple[NewTensor, ...]
    metadata: dict[str, str]
    changes: Mapping[str, Changes] = field(default_factory=dict)  # by LoRAs, for each part

    @property
    def bytes(self) -> int:
        return sum(entry.bytes for entry in self.entries)

    def is_done(self) -> bool:
        """Whether the file exists, complete and with the same metadata (source, dtype, LoRAs).

        Raises:
            InputError: a file of this name exists and is damaged or not a conversion.
        """
        if not self.path.exists():
            return False
        found = read_metadata(self.path)
        if "converter" not in found:
            raise InputError(
                f"{self.path}: already exists and was not written by convert; choose another folder or move it"
            )
        found.pop(CHECKSUM, None)
        return found == self.metadata


def convert(
    source: Path | str,
    target: Path | str,
    dtype: str = "bf16",
    *,
    merges: Sequence[Merge] = (),
    progress: Progress | None = None,
    free: Callable[[Path], int | None] = free_bytes,
) -> list[Path]:
    """Converts a release folder, its transformer file or its VAE file; returns the files in `target`, new and kept.

    `dtype` is bf16, fp16, fp32, fp8 or int8 (these two: the blocks' matrices, the rest in bf16). `merges` are LoRAs
    to merge into the weights. `free` returns the free bytes at a folder.

    Raises:
        InputError: the source is unsuitable or incomplete, the disk is too full, a weight overflows fp16, another file
            has a name needed in `target`, or a written file fails verification.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r}: expected one of {', '.join(DTYPES)}")
    files = plan_conversion(Path(source), Path(target), dtype, merges)
    sources = [file for path in _source_files(Path(source)) for file in files_of(path)]
    check_apart([file.path for file in files], sources)
    to_do = [file for file in files if not file.is_done()]
    total = sum(file.bytes for file in to_do)
    _check_room(Path(target), total, dtype, free)
    done = 0
    for file in to_do:
        log.info("writing %s (%s)", file.path, size_text(file.bytes))

        def on_bytes(count: int, name: str = file.path.name) -> None:
            nonlocal done
            done += count
            if progress:
                progress(done, total, name)

        write_streamed(file.path, file.entries, _pieces(file, dtype), file.metadata, on_bytes)
    return [file.path for file in files]


def plan_conversion(source: Path, target: Path, dtype: str, merges: Sequence[Merge] = ()) -> list[Converted]:
    """Lists the files to write, with all their entries, before any value is read.

    Raises:
        InputError: the source holds no part of the model, a part is incomplete, or weights are already in 8 bits.
    """
    origin: dict[str, Path] = {}
    parts: dict[str, Mapping[str, Tensor]] = {}
    for path in _source_files(source):  # the VAE's own file comes last, so it overrides a copy
        for part, tensors in _checked(_read_sorted(path), path).items():
            origin[part], parts[part] = path, tensors
    planned, loras = [], [(LoraFile.open(path), strength) for path, strength in merges]
    for name, held in FILES.items():
        present = {part: parts[part] for part in held if part in parts}
        if present:
            file = _plan_file(target / name, present, origin[next(iter(present))], dtype)
            planned.append(_with_changes(file, present, parts, loras, merge_text(merges)) if merges else file)
    if not planned:
        raise InputError(f"{source}: holds neither denoiser, reference network, projectors nor VAE")
    missing = sorted(set().union(*FILES.values()) - parts.keys())
    if missing:
        log.warning("%s has no %s", source, " and no ".join(part.replace("_", " ") for part in missing))
    return planned


def _source_files(source: Path) -> list[Path]:
    if not source.is_dir():
        return [source]
    vae = source / VAE_FILE
    return [Release(source).transformer_file, *([vae] if vae.exists() else [])]


def _read_sorted(path: Path) -> Parts:
    """A file's tensors by part, in our names and, for the VAE, diffusers'."""
    tensors = read_model(path)
    if VAE_MARK in tensors:  # the VAE's own file
        return Parts({VAE: in_diffusers_names(tensors)})
    parts = sort_tensors(tensors)
    if VAE in parts.tensors:
        parts.tensors[VAE] = in_diffusers_names(parts.tensors[VAE])
    return parts


def _checked(parts: Parts, path: Path) -> Sorted:
    """Checks that each part is complete and has the right shapes, without reading values, and returns the parts.

    Raises:
        InputError: a part is incomplete or already in 8 bits.
    """
    if parts.unknown:
        log.warning("%s: %d unknown tensors left out (%s, ...)", path, len(parts.unknown), parts.unknown[0])
    for part in CONFIGS.keys() & parts.tensors.keys():
        own, label = parts.tensors[part], f"{path}, {part.replace('_', ' ')}"
        for dtype, form in ((FLOAT8, "fp8"), (torch.int8, "int8")):
            if any(tensor.dtype == dtype for tensor in own.values()):
                raise InputError(f"{label}: in {form} already; convert the original release")
        fill(build(parts, part), own, label=label)
    return parts.tensors


def _plan_file(path: Path, parts: Sorted, source: Path, dtype: str) -> Converted:
    tensors, entries = [], []
    for part, own in parts.items():
        for name, tensor in own.items():
            tensors.append((part, name))
            entries += _entries(_written_name(part, name), tuple(tensor.shape), dtype)
    status = source.stat()
    metadata = {
        "format": "pt",
        "converter": CONVERTER,
        "parts": ",".join(parts),
        "dtype": dtype,
        "config": json.dumps({part: _config(part, own) for part, own in parts.items() if part in CONFIGS}),
        "source": source.name,
        "source_size": str(status.st_size),
        "source_modified": str(status.st_mtime_ns),
        "licence": LICENCE,
        **(_conditioning(source) if names.DENOISER in parts else {}),
    }
    return Converted(path, source, tuple(tensors), tuple(entries), metadata)


def _with_changes(
    file: Converted, present: Sorted, parts: Sorted, loras: Sequence[tuple[LoraFile, float]], merged: str
) -> Converted:
    """Adds the LoRAs' changes to a file; LoRAs do not change the VAE.

    Raises:
        InputError: a LoRA does not fit, or the source has no denoiser to match its names with.
    """
    networks = present.keys() & CONFIGS.keys()
    if not networks:
        return file
    if names.DENOISER not in parts:
        raise InputError(f"{file.source}: holds no denoiser, which a LoRA is merged into. Convert the release's file.")
    shapes = {name: tuple(tensor.shape) for name, tensor in parts[names.DENOISER].items()}
    config = TransformerConfig.from_shapes(shapes)
    changes = {part: changes_of(loras, part, present[part], config) for part in networks}
    return replace(file, changes=changes, metadata=file.metadata | {"merged": merged})


def _config(part: str, tensors: Mapping[str, Tensor]) -> dict:
    """The network's sizes, from its shapes. Written to the metadata for other programs; nothing here reads them."""
    sizes = asdict(CONFIGS[part].from_shapes({name: tuple(tensor.shape) for name, tensor in tensors.items()}))
    sizes.pop("conditioning", None)
    return sizes


def _conditioning(source: Path) -> dict[str, str]:
    """The metadata on how the denoiser reads its conditions, if that differs from the release."""
    return {name: value for name, value in read_metadata(source).items() if name == METADATA}


def _written_name(part: str, name: str) -> str:
    return f"{part}.{name}" if part in PROJECTORS else name


def _entries(name: str, shape: tuple[int, ...], dtype: str) -> list[NewTensor]:
    """The file's entries for one tensor: the tensor itself, or the three tensors of its form in 8 bits."""
    if dtype not in EIGHT_BITS or not is_rounded(name):
        return [NewTensor(name, DTYPES[dtype], shape)]
    layer = name.removesuffix("weight")
    if dtype == "int8":
        rows, columns = shape
        length = len(int8.mark(int8.group_of(columns)))
        return [
            NewTensor(name, torch.int8, shape),
            NewTensor(layer + SCALE, torch.float32, (rows, 1)),
            NewTensor(layer + MARK, torch.uint8, (length,)),
        ]
    return [
        NewTensor(name, FLOAT8, shape),
        NewTensor(layer + SCALE, torch.float32, ()),
        NewTensor(layer + MARK, torch.uint8, tuple(mark().shape)),
    ]


def _pieces(file: Converted, dtype: str) -> Iterator[Tensor]:
    """Yields the values of a file's tensors in order, with at most `MAPPING_BYTES` and one slice in memory."""
    mapped: Sorted | None = None
    read = 0
    for part, name in file.tensors:
        begin, rows, scales = 0, 1, []
        form = dtype if dtype in EIGHT_BITS and is_rounded(_written_name(part, name)) else ""
        while begin < rows:
            if mapped is None or read >= MAPPING_BYTES:
                mapped, read = None, 0  # free first: two mappings would take twice the memory
                mapped = _read_sorted(file.source).tensors
            tensor = mapped[part][name]
            tensor = tensor if tensor.ndim else tensor[None]
            changes = file.changes.get(part, NOTHING)
            whole = form == "fp8" or changes.needs_whole(name)
            rows = len(tensor)
            end = rows if whole else begin + max(1, SLICE_BYTES * rows // max(1, tensor.nbytes))
            piece = tensor[begin:end]
            read += piece.nbytes
            label = f"{file.source}: {name}"
            if changes.touches(name):
                piece = changes.apply(name, piece, begin)
            columns = piece.shape[-1]
            if form:
                values, scale = (quantise if form == "fp8" else int8.quantise)(piece, label)
                scales.append(scale)
            else:
                values = _cast(piece, DTYPES[dtype], label)
            del tensor, piece
            yield values
            begin = end
        if form:
            yield torch.cat(scales) if form == "int8" else scales[0]
            yield int8.mark(int8.group_of(columns)) if form == "int8" else mark()


def _cast(values: Tensor, dtype: torch.dtype, label: str) -> Tensor:
    """A copy in `dtype`. NaN and infinity are kept, with a warning.

    Raises:
        InputError: a finite value overflows `dtype`.
    """
    cast = values.to(dtype, copy=True)
    if not torch.isfinite(largest_magnitude(cast)):
        largest = largest_magnitude(values).item()
        if math.isfinite(largest):
            raise InputError(f"{label} holds {largest:.3g}, more than {dtype} can: convert to bf16")
        log.warning("%s holds NaN or infinity", label)
    return cast


def _check_room(folder: Path, needed: int, dtype: str, free: Callable[[Path], int | None]) -> None:
    found = free(folder)
    if needed and found is not None and found < needed + SPARE_BYTES:
        room = f"{size_text(needed)} to write, {size_text(found)} free"
        hint = "" if dtype in EIGHT_BITS else ", or fp8 or int8, which take less"
        raise InputError(f"{folder}: {room}. Free some, or choose another folder{hint}.")
