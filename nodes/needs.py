"""All that the running workflow lacks, files and packages, told together with the command that gets it.

The host stops at the first node that fails, so a node that names only what it lacks itself costs a run for each.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from shutil import which
from typing import Any

from ..hallo3_core.errors import REQUIRED, InputError, Missing, own_command
from ..hallo3_core.inputs.face_runtime import PROVIDERS, install_commands, is_there, missing_packages
from ..hallo3_core.inputs.vocals import PACKAGE
from ..hallo3_core.release.published import PARTS
from ..hallo3_core.toy import packed
from . import loaders, vocals
from .loaders import Loader
from .words import listed, size_of

LOADERS: dict[str, type[Loader]] = {key: node for key, (node, _) in (loaders.NODES | vocals.NODES).items()}
FACES, VOCALS = "Hallo3FaceAnalysisLoader", "Hallo3SeparateVocals"
EVERYTHING = {part.name for part in PARTS}
OPTIONAL = {"vocals"}  # few workflows need it
USUAL = tuple((key, {node.FILE: "auto"}) for key, node in LOADERS.items() if key not in ("Hallo3LoraLoader", VOCALS))


@dataclass
class Needs:
    """What is not there. parts, places: what is loaded -> its name in `release.published.PARTS`, and its folder;
    packages: module -> what pip calls it; programs: names."""

    parts: dict[str, str] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)
    programs: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        return len(self.parts) + len(self.packages) + len(self.programs)


@contextmanager
def told_together(key: str, inputs: Mapping[str, Any]) -> Iterator[None]:
    """Completes the message of a node that lacks something by all that the workflow lacks. `key` and `inputs` are the
    node's.

    Raises:
        InputError: with the complete message.
    """
    try:
        yield
    except Missing as error:
        needs = find_needs(key, inputs)
        if error.package and error.package not in needs.packages.values():
            needs.packages[error.package] = error.package
        raise InputError(describe(needs) if needs.parts or needs.count > 1 else str(error)) from error


def find_needs(key: str, inputs: Mapping[str, Any]) -> Needs:
    """What a node lacks and, with it, the running workflow; if the host does not tell which that is, every video."""
    from .host.graph import running_nodes

    needs = Needs(packages={module: package for module, package in REQUIRED.items() if not is_there(module)})
    used = [(key, inputs), *(running_nodes() or USUAL)]
    for other, its in sorted(used, key=lambda node: list(LOADERS).index(node[0]) if node[0] in LOADERS else 0):
        if other in LOADERS:
            _add_file(needs, LOADERS[other], its)
        if other == FACES:
            provider = its.get("provider")
            needs.packages |= missing_packages(provider if provider in PROVIDERS else "CPU")
        if other == VOCALS:
            needs.packages |= {} if is_there("audio_separator") else {"audio_separator": PACKAGE}
            needs.programs = [] if which("ffmpeg") else ["ffmpeg"]
    return needs


def _add_file(needs: Needs, loader: type[Loader], inputs: Mapping[str, Any]) -> None:
    source, name = loader.source(), inputs.get(loader.FILE)
    if source.download and isinstance(name, str) and source.lacks(name):
        needs.parts[source.what], needs.places[source.what] = source.download, source.where


def describe(needs: Needs) -> str:
    """The message: what is missing, the command or two to choose from that get it, and what to do then."""
    packages = list(needs.packages.values())
    lines = [f"none found: {listed(list(needs.parts))}."] if needs.parts else []
    lines += [f"missing: the package{'s' if len(packages) > 1 else ''} {listed(packages)}."] if packages else []
    lines += [f"missing: the program {name}, to be installed as its makers say." for name in needs.programs]
    for choice, steps in _choices(needs) if needs.parts or packages else ():
        lines += [choice, _together(steps)]
    after = "restart ComfyUI" if packages or needs.programs else "refresh the page (R)"
    where = f"{next(iter(needs.places.values()))} or models/hallo3" if len(needs.places) == 1 else "models/hallo3"
    own = f" Files that you have already go into {where}: see docs/files.md." if needs.parts else ""
    return "\n".join([*lines, f"Then {after} and press Run.{own}"])


def _choices(needs: Needs) -> Iterator[tuple[str, list[str]]]:
    """What the user may get, with the commands."""
    from .host.sources import REAL, home

    installs, parts, found = install_commands(needs.packages), set(needs.parts.values()), home()
    if not parts:
        yield "To install, run in a terminal:", installs
        return
    is_new = parts != OPTIONAL and (found is None or found.grade != REAL)
    fetched = EVERYTHING if is_new else parts  # parts of the release do not go with a toy's
    what = "the official release" if fetched == EVERYTHING else "the missing part of the official release"
    yield f"To get {what} ({size_of(_bytes(fetched))}), run in a terminal:", [*installs, _download(fetched)]
    if is_new and packed.is_packed():
        optional = parts & OPTIONAL
        size = size_of(packed.BYTES + _bytes(optional))
        toy = own_command("tiny", str(_new_folder("toy")))
        extra = [_download(optional)] if optional else []
        yield f"Or toy weights, which know drawn people only ({size}):", [*installs, toy, *extra]


def _bytes(parts: Collection[str]) -> int:
    return sum(part.bytes for part in PARTS if part.name in parts)


def _download(parts: Collection[str]) -> str:
    names = [] if parts == EVERYTHING else ["--parts", *(part.name for part in PARTS if part.name in parts)]
    return own_command("download", str(_own_folder() / "release"), *names)


def _own_folder() -> Path:
    from .host.files import own_folder

    return own_folder()


def _new_folder(name: str) -> Path:
    """A folder in ours that is not there yet: the toy is written into no other."""
    folder, number = _own_folder() / name, 1
    while folder.exists():
        number += 1
        folder = folder.with_name(f"{name}-{number}")
    return folder


def _together(steps: Sequence[str]) -> str:
    """One command of several. Windows' shells have no sign in common for "and then", but all take lines."""
    return ("\n" if os.name == "nt" else " && ").join(steps)
