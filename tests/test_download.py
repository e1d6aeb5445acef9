"""Download from a fake hub: only the needed files, complete, resumable; failures give a one-line error."""

from __future__ import annotations

import hashlib
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from hallo3_core.errors import InputError
from hallo3_core.release.download import PARTS, REPOSITORY, download, plan, plan_text
from hallo3_core.release.layout import Release
from hallo3_core.weights.disk import size_text

UNUSED = {"README.md": b"read me", "wav2vec/wav2vec2-base-960h/pytorch_model.bin": b"the same weights as a pickle"}


def release_files() -> dict[str, bytes]:
    """Contents of the hub: all needed files, some downloaded along with them, and some unneeded ones."""
    needed = {name: f"the bytes of {name}".encode() * 50 for part in PARTS for name in part.needed}
    shards = {f"t5-v1_1-xxl/model-0000{i}-of-00002.safetensors": bytes([i]) * 300 for i in (1, 2)}
    return {**needed, **shards, "t5-v1_1-xxl/model.safetensors.index.json": b"{}", **UNUSED}


@dataclass
class FakeHub:
    """The two huggingface_hub calls that are used, backed by a dictionary."""

    files: dict[str, bytes] = field(default_factory=release_files)
    fetched: list[str] = field(default_factory=list)
    fail_at: str | None = None
    damage: str | None = None

    def model_info(self, repo_id: str, *, files_metadata: bool):
        assert repo_id == REPOSITORY and files_metadata
        siblings = [
            SimpleNamespace(
                rfilename=name,
                size=len(content),
                lfs=SimpleNamespace(sha256=hashlib.sha256(content).hexdigest()) if len(content) > 100 else None,
            )
            for name, content in self.files.items()
        ]
        return SimpleNamespace(sha="abc", siblings=siblings)

    def hf_hub_download(self, repo_id: str, filename: str, *, revision: str, local_dir: str) -> str:
        assert repo_id == REPOSITORY and revision == "abc"
        if filename == self.fail_at:
            raise ConnectionError("Name or service not known\nand twenty lines more")
        content = self.files[filename]
        path = Path(local_dir) / filename
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content[::-1] if filename == self.damage else content)
        self.fetched.append(filename)
        return str(path)


class Offline(FakeHub):
    def model_info(self, repo_id: str, *, files_metadata: bool):
        raise OSError("[Errno -3] Temporary failure in name resolution")


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*arguments, **keywords):
        raise AssertionError("no network was asked for")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)


def on_disk(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_everything_needed_and_nothing_else(tmp_path):
    hub = FakeHub()
    found = download(tmp_path, hub=hub)
    expected = {name: content for name, content in hub.files.items() if name not in UNUSED}
    assert on_disk(tmp_path) == {**expected, "hallo3/latest": b"1"}
    assert sorted(found) == sorted(tmp_path / name for name in expected)


def test_what_is_fetched_is_where_the_release_is_looked_for(tmp_path):
    download(tmp_path, hub=FakeHub())
    release = Release(tmp_path)
    assert release.transformer_file.is_file()
    assert all(folder.is_dir() for folder in (release.text_folder, release.wav2vec_folder, release.face_folder))


@pytest.mark.parametrize("part", [part.name for part in PARTS])
def test_a_part_alone(tmp_path, part):
    download(tmp_path, [part], hub=FakeHub())
    (chosen,) = plan([part])
    assert {name for name in on_disk(tmp_path) if name != "hallo3/latest"} == {
        name for name in release_files() if chosen.takes(name)
    }


def test_a_second_run_fetches_what_the_first_did_not(tmp_path):
    hub = FakeHub(fail_at="t5-v1_1-xxl/spiece.model")
    with pytest.raises(InputError, match="What was downloaded so far is kept") as error:
        download(tmp_path, hub=hub)
    assert "\n" not in str(error.value)
    assert hub.fetched
    first, hub.fetched, hub.fail_at = list(hub.fetched), [], None
    download(tmp_path, hub=hub)
    assert not set(first) & set(hub.fetched)
    assert set(first) | set(hub.fetched) == release_files().keys() - UNUSED.keys()


def test_progress_ends_at_the_whole(tmp_path):
    news = []
    download(tmp_path, hub=FakeHub(), progress=lambda *args: news.append(args))
    done, totals = [n[0] for n in news], {n[1] for n in news}
    assert done == sorted(done) and totals == {done[-1]}
    assert done[-1] == sum(len(content) for name, content in release_files().items() if name not in UNUSED)


def test_damage_is_found_in_new_files_and_in_old_ones(tmp_path):
    name = PARTS[1].needed[0]
    with pytest.raises(InputError, match="checksum"):
        download(tmp_path / "new", ["vae"], hub=FakeHub(damage=name))
    download(tmp_path / "old", ["vae"], hub=FakeHub())
    content = bytearray((tmp_path / "old" / name).read_bytes())
    content[7] ^= 1
    (tmp_path / "old" / name).write_bytes(content)
    with pytest.raises(InputError, match="checksum"):
        download(tmp_path / "old", ["vae"], hub=FakeHub())


def test_no_network_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"cannot reach huggingface\.co .*name resolution") as error:
        download(tmp_path / "new", hub=Offline())
    assert "\n" not in str(error.value)
    assert not (tmp_path / "new").exists()


def test_without_the_package_the_error_has_the_install_command(tmp_path, no_network):
    with pytest.raises(InputError, match="pip install huggingface_hub"):
        download(tmp_path)


def test_a_full_disk_is_reported_before_anything_is_downloaded(tmp_path):
    hub = FakeHub()
    with pytest.raises(InputError, match="1.00 kB free"):
        download(tmp_path, hub=hub, free=lambda folder: 1000)
    assert not hub.fetched


def test_a_changed_release_is_reported(tmp_path):
    files = release_files()
    del files[PARTS[0].needed[0]]
    with pytest.raises(InputError, match="mp_rank_00_model_states.pt"):
        download(tmp_path, hub=FakeHub(files))
    download(tmp_path, ["vae"], hub=FakeHub(files))


def test_the_plan_needs_no_network_and_names_sizes_licences_and_room(tmp_path, no_network):
    text = plan_text(folder=tmp_path / "not" / "there")
    for part in PARTS:
        assert part.name in text and part.licence in text and size_text(part.bytes) in text
    assert "free" in text and "together" in text
    assert len(plan_text(["vae"]).splitlines()) == 3
    with pytest.raises(InputError, match="'model': expected some of transformers, vae"):
        plan(["model"])
