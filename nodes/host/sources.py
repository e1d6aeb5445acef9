"""Files that a loader offers, the one that "auto" takes, and the error if there is none.

"auto" takes all parts from one release: that of the denoiser which it would load, a real one before a toy.
"""

from __future__ import annotations

import logging
import os
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...hallo3_core.errors import InputError, Missing
from ...hallo3_core.release.layout import FACE_FOLDER, TEXT_FOLDER, TOY_NOTICE, WAV2VEC_FOLDER
from ...hallo3_core.weights import names
from ...hallo3_core.weights.kinds import FACE_DETECTOR, LORA, WAV2VEC
from ...hallo3_core.weights.parts import TEXT, VAE
from . import contents, files
from .messages import say

AUTO = "auto"
NOTHING = "none found"  # the host would reject an empty dropdown without a reason
USUAL = f"{files.OWN_KIND}/release/"  # the documented location of the official release
REAL, SMALL, TOY = range(3)  # weights of a real size; of a toy's size; said to be a toy's by the folder they are in

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Offer:
    """What an offered name stands for: a file or folder, and the release that it is part of, if any."""

    path: Path
    release: Path | None = None

    def grade(self, part: str) -> int:
        """REAL, SMALL or TOY."""
        if self.release is not None and os.path.isfile(self.release / TOY_NOTICE):
            return TOY
        return SMALL if contents.is_small(self.path, part) else REAL


@dataclass(frozen=True)
class Home:
    """Where "auto" takes everything from: the release, or the folder of the file, that it loads the denoiser from."""

    name: str
    entry: Offer
    grade: int

    def has(self, entry: Offer) -> bool:
        own = self.entry.release or self.entry.path.parent
        return entry.release == own or (entry.release is None and own in entry.path.parents)


@dataclass(frozen=True)
class Source:
    """The files of one loader.

    what, where: for messages, such as "denoiser" and "models/diffusion_models"; part: the part that a file must hold,
    named as in `weights.kinds.LABELS`, or "" to accept all entries; loose: files by offered name that are no part of a
    release; inside: the part's folder in a release, "." for the release itself, or "" if it has none; download: the
    part's name in `release.published.PARTS`, or ""; has_auto: whether "auto" is offered.
    """

    what: str
    where: str
    part: str
    loose: Callable[[], dict[str, Path]]
    inside: str = ""
    download: str = ""
    has_auto: bool = True

    def offered(self) -> Sequence[str]:
        """Entries of the dropdown: files that may fit. Files known to hold something else are left out."""
        found = self.entries()
        names = sorted(n for n, e in found.items() if not self.part or not contents.cannot_hold(e.path, self.part))
        return [AUTO, *names] if self.has_auto else names or [NOTHING]

    def find(self, name: str) -> Path:
        """Returns the file of an entry. The spelling of another system counts: `sub\\x.safetensors`, or letters that it
        composes differently. "auto" takes the part from the release that it takes everything from, else the first
        file that fits. A missing folder's name, as in workflows from another machine, counts as "auto".

        Raises:
            Missing: no file fits.
            InputError: the named file does not exist (any more), or cannot be read.
        """
        found = self.entries()
        chosen = self._choose(name, found)
        path = found[chosen].path
        if self.has_auto and _spelt(chosen) != _spelt(name):
            self._announce(name, chosen, found[chosen])
        if error := contents.unreadable(path, self.part):
            raise InputError(
                f"{self.what}: {error.filename} cannot be read ({error.strerror}). Check its permissions and its disk."
            )
        return path

    def lacks(self, name: str) -> bool:
        """Whether nothing that can be downloaded is there for an entry."""
        try:
            self._choose(name, self.entries())
        except Missing:
            return True
        except InputError:
            return False
        return False

    def fingerprint(self, name: str) -> str:
        """A text that changes when `find` would return another file, or the same one with other contents."""
        found = self.entries()
        try:
            return contents.fingerprint(found[self._choose(name, found)].path, self.part)
        except InputError:
            return NOTHING

    def entries(self) -> dict[str, Offer]:
        """All candidates by offered name."""
        found = {name: Offer(path) for name, path in self.loose().items()}
        for name, folder in files.releases().items() if self.inside else ():
            path = folder / self.inside
            if path != folder and os.path.isdir(path) or path == folder and self._is_in(folder):
                found[name] = Offer(path, folder)
        return found

    def best(self, found: Mapping[str, Offer], home: Home | None) -> str | None:
        """The entry that "auto" takes: of the release where the denoiser is from, else the first that fits. Toy weights
        never go with real ones."""
        fits = {n: e for n, e in found.items() if not self.part or contents.holds(e.path, self.part)}
        grades = {name: entry.grade(self.part) for name, entry in fits.items()}
        if home is not None and home.grade == REAL:
            fits = {name: entry for name, entry in fits.items() if grades[name] == REAL or home.has(entry)}

        def rank(name: str) -> tuple:
            entry = fits[name]
            apart = home is not None and not home.has(entry)
            unlike = home is not None and (home.grade == REAL) != (grades[name] == REAL)
            return apart, unlike, grades[name], _gaps(entry), name != USUAL, not name.endswith("/"), name

        return min(fits, key=rank, default=None)

    def _choose(self, name: str, found: Mapping[str, Offer]) -> str:
        if not isinstance(name, str):
            raise InputError(f"{self.what}: expected a file's name, got {type(name).__name__}. Choose it in the list.")
        if name in found:
            return name
        alike = [other for other in found if _spelt(other) == _spelt(name)]
        if len(alike) == 1:
            return alike[0]
        if self.has_auto and (name == AUTO or name.endswith(("/", "\\"))):
            if best := self.best(found, home()):
                return best
        elif name not in (NOTHING, ""):
            raise InputError(f"{self.what}: {name!r} is not there: {self._advice()}")
        kind = Missing if self.download else InputError
        raise kind(f"{self.what}: {NOTHING}: {self._advice()}")

    def _announce(self, name: str, chosen: str, entry: Offer) -> None:
        """Says on the node what "auto" took; what the workflow named instead is a warning, unless all workflows do."""
        if name not in (AUTO, USUAL):
            log.warning("%s is not there: took %s", name, chosen)
        toy = " (toy weights)" if entry.grade(self.part) != REAL else ""
        say(f"auto: {chosen}{toy}")

    def _is_in(self, release: Path) -> bool:
        """Whether a release's own files may hold the part."""
        return files.has_transformers(release) or (self.part == VAE and contents.holds(release, VAE))

    def _advice(self) -> str:
        return f"put the file into {self.where} or models/{files.OWN_KIND}, and refresh the page (R)."


def home() -> Home | None:
    """Where "auto" takes everything from; None if there is no denoiser."""
    source = SOURCES["denoiser"]
    found = source.entries()
    name = source.best(found, None)
    return None if name is None else Home(name, found[name], found[name].grade(source.part))


def _gaps(entry: Offer) -> int:
    """How many parts of a whole release are not there."""
    return sum(entry.release is None or not os.path.exists(entry.release / place) for place in files.NEEDED)


def _spelt(name: str) -> str:
    """A name as any system spells it: separators, composed letters and case differ."""
    return unicodedata.normalize("NFC", name.replace("\\", "/")).casefold().rstrip("/")


def _transformers() -> dict[str, Path]:
    return files.tensor_files("diffusion_models", "checkpoints")


def _texts() -> dict[str, Path]:
    return files.tensor_files("text_encoders") | files.folders_with("config.json", "text_encoders")


def _wav2vecs() -> dict[str, Path]:
    return files.tensor_files("audio_encoders") | files.folders_with("config.json", "audio_encoders")


SOURCES = {
    source.what: source
    for source in (
        Source("denoiser", "models/diffusion_models", names.DENOISER, _transformers, ".", "transformers"),
        Source("reference network", "models/diffusion_models", names.REFERENCE_NET, _transformers, ".", "transformers"),
        Source("LoRA", "models/loras", LORA, lambda: files.tensor_files("loras"), has_auto=False),
        Source("VAE", "models/vae", VAE, lambda: files.tensor_files("vae"), ".", "vae"),
        Source("text encoder", "models/text_encoders", TEXT, _texts, TEXT_FOLDER, "text"),
        Source("wav2vec2", "models/audio_encoders", WAV2VEC, _wav2vecs, WAV2VEC_FOLDER, "wav2vec"),
        Source("face models", "models/insightface/models", FACE_DETECTOR, files.face_folders, FACE_FOLDER, "face"),
        Source("vocal separation model", f"models/{files.VOCALS_KIND}", "", files.separators, download="vocals"),
    )
}
