"""Where Hallo3 Long Video's file goes: what is wrong with the place is seen before the first step."""

from __future__ import annotations

import importlib
from collections import namedtuple
from pathlib import Path

import pytest

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def never_sampled(pack, monkeypatch):
    def sample(self, clip, *rest):
        raise AssertionError("sampling began")

    monkeypatch.setattr(pack("nodes.host.sampling").ClipSampler, "sample", sample)


@pytest.mark.parametrize("key", ["", "on a full disk"])
def test_a_full_temp_disk_is_seen_before_the_first_step(pack, film, never_sampled, monkeypatch, key):
    """With a resume key too: finished clips lie elsewhere."""
    temp = importlib.import_module("folder_paths").get_temp_directory()

    def usage(path) -> Usage:
        return Usage(10**12, 0, 50 if str(path) == temp else 10**12)

    monkeypatch.setattr("shutil.disk_usage", usage)
    expected = "Hallo3 Long Video: the video takes about .* Make room, or start ComfyUI with --temp-directory"
    with pytest.raises(pack("hallo3_core.errors").InputError, match=expected):
        film(resume_key=key)


def test_a_temp_folder_that_takes_no_files_is_named(pack, film, never_sampled, monkeypatch, tmp_path):
    """As a read-only disk: a file is where the folder should be, which holds for root too."""
    (tmp_path / "temp").touch()
    monkeypatch.setattr(
        importlib.import_module("folder_paths"), "get_temp_directory", lambda: str(Path(tmp_path, "temp"))
    )
    expected = r"ComfyUI's temp folder .* cannot be written to .* or start ComfyUI with --temp-directory FOLDER"
    with pytest.raises(pack("hallo3_core.errors").InputError, match=expected):
        film()
