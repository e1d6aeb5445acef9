"""Real faces, where they are there: networks and photographs as `./dev faces` fetches them, and footage of one's own.

HALLO3_FOOTAGE names a folder of portraits and talking videos, HALLO3_LANDMARKER MediaPipe's landmark file, for which
the package mediapipe has to be installed.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hallo3_core.inputs.face import FaceAnalyser, load_face_analyser
from hallo3_core.inputs.face_landmarks import LANDMARKER

from . import fetch


@pytest.fixture(scope="session")
def photographs() -> Path:
    if not fetch.is_complete():
        pytest.skip("no real face networks: ./dev faces fetches them")
    return fetch.folder()


@pytest.fixture(scope="session")
def analyser(photographs) -> FaceAnalyser:
    return load_face_analyser(photographs)


@pytest.fixture(scope="session")
def with_landmarks(photographs, tmp_path_factory) -> FaceAnalyser:
    """The same networks in a folder that has the landmark file too, as the release's."""
    pytest.importorskip("mediapipe")
    file = Path(os.environ.get("HALLO3_LANDMARKER") or photographs / "face_landmarker.task")
    if not file.is_file():
        pytest.skip("no landmark file: HALLO3_LANDMARKER names it")
    place = tmp_path_factory.mktemp("face") / "models"
    place.mkdir()
    for path in photographs.glob("*.onnx"):
        (place / path.name).symlink_to(path)
    (place / LANDMARKER).symlink_to(file)
    return load_face_analyser(place)


@pytest.fixture(scope="session")
def footage() -> Path:
    place = os.environ.get("HALLO3_FOOTAGE")
    if not place:
        pytest.skip("no footage: HALLO3_FOOTAGE names a folder of portraits and talking videos")
    return Path(place)
