"""Files that a loader offers, the one that "auto" takes, and the error if there is none."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import folder_paths

from ...hallo3_core.errors import InputError, own_command
from .contents import cannot_hold, holds
from .files import OWN_KIND
from .messages import say

AUTO = "auto"
NOTHING = "none found"  # the host would reject an empty dropdown without a reason
USUAL = f"{OWN_KIND}/release/"  # the documented location of the official release

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """The files of one loader.

    what, where: for messages, such as "denoiser" and "models/diffusion_models"; part: the part that a file must hold,
    named as in `weights.kinds.LABELS`, or "" to accept all entries; entries: all candidate files by offered name;
    has_auto: whether "auto" is offered.
    """

    what: str
    where: str
    part: str
    entries: Callable[[], dict[str, Path]]
    has_auto: bool = True

    def offered(self) -> Sequence[str]:
        """Entries of the dropdown: files that may fit. Files known to hold something else are left out."""
        names = sorted(n for n, path in self.entries().items() if not self.part or not cannot_hold(path, self.part))
        return [AUTO, *names] if self.has_auto else names or [NOTHING]

    def find(self, name: str) -> Path:
        """Returns the file of an entry. "auto" takes the release in its usual place, else the first file that fits. A
        missing folder's name, as in workflows from another machine, counts as "auto".

        Raises:
            InputError: no file fits, or the named file does not exist (any more).
        """
        entries = self.entries()
        if name in entries:
            return entries[name]
        if not self.has_auto or not (name == AUTO or name.endswith("/")):
            if name in (NOTHING, ""):
                raise InputError(self._nothing())
            raise InputError(f"{self.what}: {name!r} is not there: {self._advice()}")
        fits = sorted((n for n, path in entries.items() if not self.part or holds(path, self.part)), key=_rank)
        if not fits:
            raise InputError(self._nothing())
        if name != AUTO:
            log.warning("%s is not there: took %s", name, fits[0])
        elif len(fits) > 1:
            say(f"took {fits[0]}, one of {len(fits)} that fit")
        return entries[fits[0]]

    def _nothing(self) -> str:
        folder = Path(folder_paths.models_dir) / OWN_KIND
        download, tiny = own_command("download", str(folder / "release")), own_command("tiny", str(folder / "toy"))
        toy = f"To try the nodes without it, run `{tiny}` (11 MB). " if self.part else ""
        return (
            f"{self.what}: none found. To download the official release (40 GB), run `{download}`. {toy}"
            f"Or {self._advice()}"
        )

    def _advice(self) -> str:
        return f"put the file into {self.where} or models/{OWN_KIND}, and refresh the page (R)."


def _rank(name: str) -> tuple[bool, bool, str]:
    return name != USUAL, not name.endswith("/"), name
