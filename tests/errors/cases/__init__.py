"""The cases of docs/errors.md: each has a builder that makes the input and says what must hold for the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

FRAMES = 5  # of a film of the usual recording


@dataclass(frozen=True)
class Place:
    """Where a case is built, and the usual inputs, of which it replaces some."""

    folder: Path
    portrait: Path
    speech: Path  # 0.2 s
    release: Path

    @property
    def output(self) -> Path:
        return self.folder / "film.mp4"

    def words(self, changes: Mapping[str, object]) -> list[str]:
        """The command line's words for a small film; a change of value None leaves the option out."""
        usual = {
            "--image": self.portrait,
            "--audio": self.speech,
            "--prompt": "A person talks.",
            "--models": self.release,
            "--output": self.output,
            "--size": "16x16",
            "--steps": "1",
            "--device": "cpu",
        }
        merged = {name: value for name, value in (usual | dict(changes)).items() if value is not None}
        return [str(word) for name, value in merged.items() for word in ([name] if value == "" else [name, value])]


@dataclass(frozen=True)
class Case:
    """An input, and what must hold for the result."""

    options: Mapping[str, object] = field(default_factory=dict)  # changes to the usual ones of `animate`
    command: list[object] | None = None  # in place of `animate` with its options
    read: Callable[[], object] | None = None  # instead of a command: the reader, if it decides what the command does
    treated: Callable[[], None] | None = None  # asserts that an accepted input was treated as the table says
    frames: int | None = FRAMES  # of the film; None: no film at the usual place
    kept: bool = True  # a refusal leaves the film that was there


CASES: dict[str, Callable[[Place], Case]] = {}


def case(name: str) -> Callable:
    """Register the builder of a row, named `input: case`."""

    def register(build: Callable[[Place], Case]) -> Callable[[Place], Case]:
        assert name not in CASES, f"{name} is built twice"
        CASES[name] = build
        return build

    return register


from . import faces, models, options, pictures, places, sounds, training  # noqa: E402, F401  (they register themselves)
