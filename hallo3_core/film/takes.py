"""The takes of a film: its finished clips under one set of inputs. Each take has a folder in the film's work folder.

So a changed setting begins another take, and the clips of the earlier ones stay. A take's manifest lists its inputs and
its clips, with the hashes of their files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .fingerprint import ABOUT, Inputs, differences
from .work_folder import CLIP_FILES, MANIFEST, gigabytes

FORMAT = 1
NAME = 12  # hexadecimal digits of a take's folder


@dataclass(frozen=True)
class Take:
    """A folder of finished clips, what they were made from, and the manifest's record of each."""

    folder: Path
    inputs: Inputs
    clips: dict

    @property
    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.folder.glob(CLIP_FILES))


def all_takes(work: Path) -> list[Take]:
    """The takes in a work folder that have clips. Earlier versions kept one take in the work folder itself."""
    folders = [work, *sorted(path for path in work.iterdir() if path.is_dir())]
    found = [(folder, read_manifest(folder / MANIFEST)) for folder in folders]
    return [
        Take(folder, content["inputs"], content["clips"]) for folder, content in found if content and content["clips"]
    ]


def folder_for(work: Path, inputs: Inputs, takes: Sequence[Take]) -> Path:
    """The folder of these inputs: the take's that was made from them, or a new one, named by them.

    Values that may differ in their last bits are left out of the name; if they do differ, a number is added to it.
    """
    for take in takes:
        if not differences(take.inputs, inputs):
            return take.folder
    exact = {name: value for name, value in inputs.items() if not value.startswith(ABOUT)}
    name = hashlib.sha256(json.dumps(exact, sort_keys=True).encode(errors="surrogatepass")).hexdigest()[:NAME]
    taken = {take.folder.name for take in takes}
    numbered = (f"{name}_{number}" if number else name for number in range(len(taken) + 1))
    return work / next(each for each in numbered if each not in taken)


def about_others(inputs: Inputs, others: Sequence[Take], work: Path) -> str:
    """Says what differs from the take that is most alike, and where the clips of all `others` are; empty without
    any."""
    if not others:
        return ""
    changed = min((differences(take.inputs, inputs) for take in others), key=lambda text: text.count("; "))
    clips, size = sum(len(take.clips) for take in others), gigabytes(sum(take.bytes for take in others))
    finished = f"{clips} clips that were finished with other settings stay"
    if clips == 1:
        finished = "clip that was finished with other settings stays"
    where = others[0].folder if len(others) == 1 else work
    return (
        f"starting afresh: {changed}. The {finished} in {where} ({size}): a run with those settings continues there. "
        "Delete the folder if you do not need it."
    )


def encode_manifest(inputs: Inputs, clips: dict) -> bytes:
    content = {"format": FORMAT, "inputs": inputs, "clips": clips}
    return json.dumps({**content, "hash": _hash(content)}, indent=1).encode()


def read_manifest(path: Path) -> dict | None:
    """A valid manifest, or an empty one if there is none; None if it is damaged."""
    try:
        content = json.loads(path.read_bytes())
        if content.pop("hash") == _hash(content) and content["format"] == FORMAT:
            return content
    except FileNotFoundError:
        return {"inputs": {}, "clips": {}}
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError):
        pass
    return None


def _hash(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
