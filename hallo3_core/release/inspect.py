"""Reports what a file, a folder or a list of tensors holds, what is missing, and whether this pack can use it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError
from ..weights import names
from ..weights.disk import size_text
from ..weights.kinds import FACE_DETECTOR, FACE_RECOGNISER, LABELS, TRANSFORMER_PARTS, WAV2VEC, Kind, identify
from ..weights.mapping import LARGEST_COUNT, MOST_DIMENSIONS, is_count
from ..weights.parts import TEXT, TEXT_PREFIX, VAE, VAE_PREFIX, Parts, sort_tensors
from ..weights.reading import Entry, Format, format_of, read_tensors
from ..weights.torch_pickle import DTYPES
from .detect import IdentifiedFile, find_files
from .expected import fit

FILM_PARTS = (*TRANSFORMER_PARTS, VAE, TEXT, WAV2VEC, FACE_DETECTOR, FACE_RECOGNISER)  # needed to make a film
STRICT_PARTS = (*TRANSFORMER_PARTS, VAE)  # networks that are filled by name and accept no extra tensors
SMALL = 1 << 29  # bytes: values of files up to this size are checked by default
SLICE = 1 << 22  # values checked at once
MANIFEST_LIMIT = 64 << 20  # bytes
SHOWN = 8  # names of a long list shown in the text; the JSON has all


@dataclass(frozen=True)
class PartReport:
    tensors: int
    parameters: int
    bytes: int


@dataclass
class FileReport:
    """One file, or the shards of one model. `missing` and `unknown` name tensors; `unused` also gives reasons."""

    path: str
    kind: str
    detail: str
    advice: str
    bytes: int
    tensors: int
    dtypes: dict[str, int]
    parts: dict[str, PartReport] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    unused: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def usable(self) -> bool:
        """Whether the pack can use the file: it holds at least one part, and all its parts are complete."""
        return bool(self.parts) and not self.missing and not self.faults


@dataclass
class Report:
    """The report on everything found at a path.

    is_release: the folder has one of the two transformers, so it should hold all that a film needs;
    lacking: the needed parts that no usable file holds.
    """

    path: str
    files: list[FileReport]
    is_release: bool = False
    lacking: list[str] = field(default_factory=list)

    @property
    def usable(self) -> bool:
        """Whether the pack can use what was found.

        A release must have all that a film needs. Otherwise, at least one file must hold parts of the model, and all
        such files must be usable.
        """
        if self.is_release:
            return not self.lacking
        relevant = [file for file in self.files if file.parts or file.faults]
        return bool(relevant) and all(file.usable for file in relevant)

    def text(self) -> str:
        return report_text(self)

    def as_json(self) -> str:
        """The whole report as JSON."""
        content = asdict(self) | {"usable": self.usable}
        for entry, file in zip(content["files"], self.files, strict=True):
            entry["usable"] = file.usable
        return json.dumps(content, indent=1)


def inspect(path: Path | str, values: bool | None = None) -> Report:
    """Inspects a model file, a folder, or a JSON list of tensors (`{"tensors": {name: {"shape", "dtype"}}}`).

    `values`: check for NaN and infinity, which reads every byte; None: in small files only.

    Raises:
        InputError: no such path, a folder without model files, or a malformed list of tensors.
    """
    path = Path(path)
    manifest = None if path.is_dir() or format_of(path) is not Format.TEXT else _manifest(path)
    if manifest is not None:
        return Report(str(path), [_manifest_report(path, manifest)])
    places = find_files(path)
    if not places:
        raise InputError(f"{path}: no model file in this folder (looked for safetensors, torch and ONNX files)")
    files = [_file_report(place, path, values) for place in places]
    is_release = path.is_dir() and any(file.parts.keys() & {names.DENOISER, names.REFERENCE_NET} for file in files)
    held = {part for file in files if file.usable for part in file.parts}
    return Report(str(path), files, is_release, [part for part in FILM_PARTS if is_release and part not in held])


def report_text(report: Report) -> str:
    """The report as a readable table."""
    width = max(len(file.path) for file in report.files)
    kinds = max(len(file.kind) for file in report.files)
    lines = [f"{'file':<{width}}  {'what it is':<{kinds}}  {'tensors':>7}  {'size':>9}  usable  types"]
    for file in report.files:
        types = ", ".join(f"{dtype} {count}" for dtype, count in file.dtypes.items())
        size, usable = size_text(file.bytes), "yes" if file.usable else "no"
        lines.append(f"{file.path:<{width}}  {file.kind:<{kinds}}  {file.tensors:>7}  {size:>9}  {usable:<6}  {types}")
    for file in report.files:
        lines += ["", f"{file.path}: {file.detail}", *(f"  {line}" for line in _details(file))]
    lines.append("")
    for part in report.lacking:
        lines.append(f"missing for a video: {LABELS[part]}")
    lines.append(f"{report.path}: this pack can{'' if report.usable else 'not'} use it")
    return "\n".join(lines)


def _details(file: FileReport) -> list[str]:
    lines = [
        f"{part.replace('_', ' '):<16} {r.tensors:>5} tensors  {r.parameters:>14,} parameters  {size_text(r.bytes):>9}"
        for part, r in file.parts.items()
        if r.tensors
    ]
    lines += [f"fault: {fault}" for fault in file.faults]
    lines += _listed("missing", file.missing) + _listed("unknown", file.unknown)
    for reason in dict.fromkeys(file.unused.values()):
        lines.append(f"never used ({reason}):")
        lines += [f"  {name}" for name, why in file.unused.items() if why == reason]
    lines += [f"warning: {warning}" for warning in file.warnings]
    return lines + ([file.advice] if file.advice and not file.usable else [])


def _listed(what: str, found: list[str]) -> list[str]:
    more = f" and {len(found) - SHOWN:,} more" if len(found) > SHOWN else ""
    return [f"{what}: {', '.join(found[:SHOWN])}{more}"] if found else []


def _file_report(place: IdentifiedFile, root: Path, values: bool | None) -> FileReport:
    shown = str(place.path.relative_to(root)) if place.path != root else place.path.name
    size = sum(file.stat().st_size for file in place.files)
    report = _summary(shown, place, size)
    if not place.header:
        return report
    tensors: dict[str, Tensor] = {}
    for file in place.files:
        tensors |= read_tensors(file)
    _account(report, tensors)
    if values or (values is None and size <= SMALL):
        report.warnings += _not_finite(tensors)
    return report


def _manifest_report(path: Path, header: Mapping[str, Entry]) -> FileReport:
    place = IdentifiedFile(path, identify(header), header, (path,))
    report = _summary(path.name, place, sum(entry.bytes for entry in header.values()))
    report.detail += " (a list of its tensors, without values)"
    _account(report, {n: torch.empty(e.shape, dtype=e.dtype, device="meta") for n, e in header.items()})
    return report


def _summary(shown: str, place: IdentifiedFile, size: int) -> FileReport:
    found, header = place.found, place.header
    dtypes = Counter(str(entry.dtype).removeprefix("torch.") for entry in header.values())
    report = FileReport(shown, found.kind.value, found.detail, found.advice, size, len(header), dict(dtypes))
    report.parts = {part: PartReport(0, 0, 0) for part in found.parts}
    if found.kind is Kind.BROKEN:
        report.faults, report.detail = [found.detail], "cannot be used"
    return report


def _account(report: FileReport, tensors: Mapping[str, Tensor]) -> None:
    """Accounts for every tensor of a usable file: it belongs to a part, is not needed for a reason, or is unknown."""
    if not report.parts:
        return
    try:
        _sort(report, tensors)
    except InputError as error:
        report.faults.append(str(error))
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        report.faults.append(f"its shapes fit no network ({(str(error) or type(error).__name__).splitlines()[0]})")


def _sort(report: FileReport, tensors: Mapping[str, Tensor]) -> None:
    kind = Kind(report.kind)
    if kind in (Kind.TRANSFORMERS, Kind.DENOISER, Kind.REFERENCE_NET, Kind.PROJECTORS):
        parts = sort_tensors(tensors)
        report.unused |= parts.unused
        report.unknown += parts.unknown
        if kind is Kind.TRANSFORMERS:
            report.missing += [f"the whole {p.replace('_', ' ')}" for p in TRANSFORMER_PARTS if p not in parts.tensors]
    else:
        parts = Parts({part: dict(tensors) for part in report.parts})
    prefixes = {VAE: VAE_PREFIX, TEXT: TEXT_PREFIX} if kind is Kind.TRANSFORMERS else {}
    for part, own in parts.tensors.items():
        prefix = prefixes.get(part, f"{part}." if kind in (Kind.TRANSFORMERS, Kind.PROJECTORS) else "")
        try:
            result = fit(part, own)
        except InputError as error:
            report.faults.append(str(error))
            continue
        report.missing += [prefix + name for name in result.missing]
        report.faults += [prefix + line for line in result.misshapen]
        if result.unknown and part in STRICT_PARTS:
            report.faults.append(f"{len(result.unknown)} tensors have no place in the {part.replace('_', ' ')}")
        report.unknown += [prefix + name for name in result.unknown]
        report.unused |= {prefix + name: why for name, why in result.unused.items()}
        kept = [tensor for name, tensor in own.items() if name not in result.unused]
        parameters = sum(tensor.numel() for tensor in kept)
        report.parts[part] = PartReport(len(kept), parameters, sum(t.numel() * t.itemsize for t in kept))


def _not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """A warning if any value is NaN or infinite. Checks one slice at a time to avoid large copies."""
    spoilt = []
    for name, tensor in tensors.items():
        flat = tensor.reshape(-1) if tensor.is_floating_point() else tensor.new_empty(0)
        if not all(torch.isfinite(flat[i : i + SLICE].float()).all() for i in range(0, len(flat), SLICE)):
            spoilt.append(name)
    more = ", ..." if len(spoilt) > 1 else ""
    return [f"{len(spoilt)} tensors hold NaN or infinity ({spoilt[0]}{more})"] if spoilt else []


def _manifest(path: Path) -> dict[str, Entry] | None:
    """The list of tensors in a JSON file; None if the file holds some other JSON."""
    if path.stat().st_size > MANIFEST_LIMIT:
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    tensors = content.get("tensors") if isinstance(content, dict) else None
    if not isinstance(tensors, dict):
        return None
    return {name: _entry(path, name, listed) for name, listed in tensors.items()}


def _entry(path: Path, name: str, listed: object) -> Entry:
    shape, dtype = (listed.get("shape"), listed.get("dtype")) if isinstance(listed, dict) else (None, None)
    are_counts = isinstance(shape, list) and len(shape) <= MOST_DIMENSIONS and all(map(is_count, shape))
    if not are_counts or prod(n for n in shape if n) >= LARGEST_COUNT:
        raise InputError(f"{path}: {name[:80]!a} has no shape that is a list of counts")
    if f"torch.{dtype}" not in DTYPES:
        raise InputError(f"{path}: {name[:80]!a} has dtype {str(dtype)[:20]!a}, expected one such as bfloat16")
    return Entry(tuple(shape), DTYPES[f"torch.{dtype}"])
