"""The model folders as users have them: whatever is in them, the page lists the loaders, and names are found."""

from __future__ import annotations

import errno
import os
import shutil
import unicodedata
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

TINY = "hallo3/tiny/"
LORA = {
    f"transformer.transformer_blocks.0.attn1.to_v.lora_{letter}.weight": torch.zeros(*shape)
    for letter, shape in (("A", (4, 64)), ("B", (64, 4)))
}


@pytest.fixture
def own(models) -> Path:
    """A folder in models/hallo3 that is gone after the test."""
    folder = models / "hallo3" / "mine"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def source(pack):
    return lambda what: pack("nodes.host.sources").SOURCES[what]


def listing(pack) -> dict[str, list[str]]:
    """What each loader offers, as the page gets it."""
    loaders = {**pack("nodes.loaders").NODES, **pack("nodes.vocals").NODES}
    return {key: list(node.INPUT_TYPES()["required"][node.FILE][0]) for key, (node, _) in loaders.items()}


def check_listed(pack) -> None:
    offered = listing(pack)
    assert len(offered) == 8
    for key in offered.keys() - {"Hallo3LoraLoader", "Hallo3SeparateVocals"}:
        assert TINY in offered[key], key


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE, errno.ENOENT, errno.ETIMEDOUT, errno.EPERM])
@pytest.mark.parametrize("call", ["scandir", "stat"])
def test_a_folder_that_cannot_be_read_hides_nothing(pack, own, monkeypatch, call, code):
    """lost+found, a share without permission, a network disk that is gone, a folder that vanishes as it is listed."""
    original = getattr(os, call)

    def failing(path=".", **options):
        if "mine" in str(path):
            raise OSError(code, os.strerror(code), str(path))
        return original(path, **options)

    monkeypatch.setattr(os, call, failing)
    check_listed(pack)


def test_a_host_that_cannot_list_its_folders_hides_nothing(pack, models, monkeypatch):
    save_file(LORA, models / "loras" / "style.safetensors")

    def vanished(kind):
        raise FileNotFoundError(errno.ENOENT, "gone", kind)

    monkeypatch.setattr(pack("nodes.host.files").folder_paths, "get_filename_list", vanished)
    try:
        check_listed(pack)
        assert "style.safetensors" in listing(pack)["Hallo3LoraLoader"]
    finally:
        (models / "loras" / "style.safetensors").unlink()


@pytest.mark.parametrize("error", [PermissionError(13, "no"), OSError(5, "i/o"), RecursionError(), MemoryError()])
def test_a_file_that_cannot_be_read_is_offered_and_hides_nothing(pack, own, monkeypatch, error):
    def unreadable(path):
        raise error

    contents = pack("nodes.host.contents")
    save_file(LORA, own / "own.safetensors")
    monkeypatch.setattr(contents, "identify_file", unreadable)
    contents._identified.cache_clear()
    try:
        check_listed(pack)
        assert "hallo3/mine/own.safetensors" in listing(pack)["Hallo3LoraLoader"]
    finally:
        contents._identified.cache_clear()


def test_links_odd_names_and_depth_hide_nothing(pack, own):
    (own / "nowhere").symlink_to(own / "none")
    (own / "itself").symlink_to(own / "itself")
    (own / "up").symlink_to(own.parent)
    (own / "broken.safetensors").symlink_to(own / "none.safetensors")
    (own / os.fsdecode(b"caf\xe9")).mkdir()
    save_file(LORA, own / os.fsdecode(b"caf\xe9") / os.fsdecode(b"na\xefve.safetensors"))
    deep = own
    for _ in range(40):
        deep = deep / "deeper"
    deep.mkdir(parents=True)
    check_listed(pack)
    offered = listing(pack)["Hallo3LoraLoader"]
    assert [name for name in offered if "mine" in name] == [r"hallo3/mine/caf\xe9/na\xefve.safetensors"]
    assert all(name.encode() for names in listing(pack).values() for name in names)  # the page reads UTF-8
    found = pack("nodes.host.sources").SOURCES["LoRA"].find(r"hallo3/mine/caf\xe9/na\xefve.safetensors")
    assert os.fsencode(found).endswith(b"caf\xe9/na\xefve.safetensors")


def test_a_walk_ends_where_links_have_no_end(pack, tmp_path, monkeypatch):
    listing = pack("nodes.host.listing")
    for name in "abcdefgh":
        (tmp_path / name).mkdir()
    for name in "abcdefgh":
        for other in "abcdefgh":
            (tmp_path / name / f"to_{other}").symlink_to(tmp_path / other)
    (tmp_path / "file").touch()
    monkeypatch.setattr(listing, "ENTRIES", 1000)
    assert next(listing.files_below(tmp_path)) == tmp_path / "file"  # the nearest comes first
    assert list(listing.files_below(tmp_path)) == [tmp_path / "file"]


def test_linked_folders_are_offered_as_in_the_host_s_folders(pack, own, models, source, tmp_path):
    save_file(LORA, tmp_path / "style.safetensors")
    (own / "far").symlink_to(tmp_path)
    (models / "hallo3" / "linked").symlink_to(models / "hallo3" / "tiny")
    try:
        assert source("LoRA").find("hallo3/mine/far/style.safetensors").samefile(tmp_path / "style.safetensors")
        for key, offered in listing(pack).items():
            assert ("hallo3/linked/" in offered) == (TINY in offered), key
    finally:
        (models / "hallo3" / "linked").unlink()


@pytest.mark.parametrize(
    "name", ["hallo3\\mine\\Übung.safetensors", unicodedata.normalize("NFD", "hallo3/mine/Übung.safetensors")]
)
def test_names_of_other_systems_are_found(pack, own, source, name):
    save_file(LORA, own / "Übung.safetensors")
    assert source("LoRA").find(name) == own / "Übung.safetensors"
    assert source("LoRA").find(name.upper()) == own / "Übung.safetensors"


@pytest.mark.parametrize("name", ["hallo3\\tiny\\", "hallo3/tiny", "hallo3\\tiny", "Hallo3/Tiny/"])
def test_a_release_is_found_as_any_system_spells_it(source, models, caplog, name):
    for what in ("denoiser", "VAE"):
        assert source(what).find(name) == models / "hallo3" / "tiny"
    assert not caplog.text


def test_a_name_that_could_be_two_files_is_not_guessed(pack, own, source):
    for name in ("a.safetensors", "A.safetensors"):
        save_file(LORA, own / name)
    if os.path.samefile(own / "a.safetensors", own / "A.safetensors"):
        pytest.skip("this disk ignores case")
    assert source("LoRA").find("hallo3/mine/A.safetensors") == own / "A.safetensors"
    (own / "b\\c.safetensors").write_bytes((own / "a.safetensors").read_bytes())
    (own / "b").mkdir()
    save_file(LORA, own / "b" / "c.safetensors")
    assert source("LoRA").find("hallo3/mine/b\\c.safetensors") == own / "b\\c.safetensors"  # its own name counts first
    with pytest.raises(pack("hallo3_core.errors").InputError, match="is not there"):
        source("LoRA").find("HALLO3/mine/a.safetensors")


@pytest.mark.parametrize("name", [None, 3, ["4", 0], {}])
def test_what_is_no_name_is_refused(pack, source, name):
    with pytest.raises(pack("hallo3_core.errors").InputError, match="expected a file's name, got"):
        source("VAE").find(name)


def test_a_file_that_may_not_be_read_is_refused_with_its_name(pack, own, source, monkeypatch):
    save_file(LORA, own / "own.safetensors")
    original = open

    def forbidden(path, *args, **options):
        if str(path).endswith("own.safetensors"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return original(path, *args, **options)

    monkeypatch.setattr("builtins.open", forbidden)
    with pytest.raises(
        pack("hallo3_core.errors").InputError, match="own.safetensors cannot be read .Permission denied"
    ):
        source("LoRA").find("hallo3/mine/own.safetensors")


# A file replaced under its name ---------------------------------------------------------------------------------


def changed(pack, key: str, name, **others) -> str:
    node = pack().NODE_CLASS_MAPPINGS[key]
    return node.IS_CHANGED(**{node.FILE: name, **others})


@pytest.fixture
def release(models, own):
    """A copy of the toy release whose files are links until they are replaced."""
    return shutil.copytree(models / "hallo3" / "tiny", own, copy_function=os.link, dirs_exist_ok=True)


def replace(path: Path, content: bytes | None = None) -> None:
    """Other contents under a name: of the same size, if none is given."""
    content = path.read_bytes()[::-1] if content is None else content
    path.unlink()
    path.write_bytes(content)


LOADERS = {
    "Hallo3ModelLoader": "hallo3/1/mp_rank_00_model_states.pt",
    "Hallo3ReferenceNetLoader": "hallo3/1/mp_rank_00_model_states.pt",
    "Hallo3VAELoader": "cogvideox-5b-i2v-sat/vae/3d-vae.pt",
    "Hallo3TextEncoderLoader": "t5-v1_1-xxl/model-00002-of-00002.safetensors",
    "Hallo3Wav2VecLoader": "wav2vec/wav2vec2-base-960h/model.safetensors",
    "Hallo3FaceAnalysisLoader": "face_analysis/models/glintr100.onnx",
}


@pytest.mark.parametrize("replaced", sorted(set(LOADERS.values())))
def test_a_loader_runs_again_when_its_own_file_was_replaced_and_only_then(pack, release, replaced):
    before = {key: changed(pack, key, "hallo3/mine/") for key in LOADERS}
    assert {key: changed(pack, key, "hallo3/mine/") for key in LOADERS} == before
    replace(release / replaced)
    for key, file in LOADERS.items():
        assert (changed(pack, key, "hallo3/mine/") != before[key]) == (file == replaced), key


def test_a_lora_and_what_lies_beside_it_count(pack, own):
    name = "hallo3/mine/style.safetensors"
    save_file(LORA, own / "style.safetensors")
    before = changed(pack, "Hallo3LoraLoader", name, model=None, strength=1.0)
    (own / "other.safetensors").touch()
    assert changed(pack, "Hallo3LoraLoader", name, model=None, strength=0.5) == before
    (own / "adapter_config.json").write_text("{}")
    beside = changed(pack, "Hallo3LoraLoader", name)
    replace(own / "style.safetensors")
    assert len({before, beside, changed(pack, "Hallo3LoraLoader", name)}) == 3


def test_auto_runs_again_when_it_takes_another_release(pack, models):
    before = {key: changed(pack, key, "auto") for key in LOADERS}
    shutil.copytree(models / "hallo3" / "tiny", models / "hallo3" / "release", copy_function=os.link)
    try:
        assert all(changed(pack, key, "auto") != old for key, old in before.items())
    finally:
        shutil.rmtree(models / "hallo3" / "release")
    assert {key: changed(pack, key, "auto") for key in LOADERS} == before


@pytest.mark.parametrize("name", ["gone.safetensors", None, ["4", 0], "\0", "hallo3/../x", "x" * 5000])
def test_looking_for_a_change_never_fails(pack, name):
    for key in (*LOADERS, "Hallo3LoraLoader"):
        assert changed(pack, key, name) == changed(pack, key, name)
    assert pack().NODE_CLASS_MAPPINGS["Hallo3LoraLoader"].IS_CHANGED() == "none found"
