"""Which files a loader offers, which one "auto" takes, and what is said when there is none."""

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
NOTHING = "none found"  # an empty dropdown would be refused without a word of why
USUAL = f"{OWN_KIND}/release/"  # where the documentation puts the official release

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """The files of one loader.

    what, where: for messages, such as "denoiser" and "models/diffusion_models"; part: what a file has to hold, by the
    names in `weights.kinds.LABELS`, "" where the entries are all of that kind; entries: all files that may, by the name
    on offer; has_auto: whether "auto" chooses.
    """

    what: str
    where: str
    part: str
    entries: Callable[[], dict[str, Path]]
    has_auto: bool = True

    def offered(self) -> Sequence[str]:
        """The entries of the dropdown: what may fit. A file that is known to hold something else is left out."""
        names = sorted(n for n, path in self.entries().items() if not self.part or not cannot_hold(path, self.part))
        return [AUTO, *names] if self.has_auto else names or [NOTHING]

    def find(self, name: str) -> Path:
        """The file of an entry. "auto" takes the release in its usual place, else the first that fits; so does the name
        of a folder that is not there, as workflows have it that were made elsewhere.

        Raises:
            InputError: there is none, or not that one (any more).
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
        command = own_command("download", str(Path(folder_paths.models_dir) / OWN_KIND / "release"))
        return (
            f"{self.what}: none found. To download the official release (40 GB), run `{command}`. Or {self._advice()}"
        )

    def _advice(self) -> str:
        return f"put the file into {self.where} or models/{OWN_KIND}, and refresh the page (R)."


def _rank(name: str) -> tuple[bool, bool, str]:
    return name != USUAL, not name.endswith("/"), name
