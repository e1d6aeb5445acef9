"""Whatever goes wrong: no half film under the final name, no finished clip lost, and a clean next start."""

from __future__ import annotations

import random
import shutil
import signal

import pytest

from hallo3_core.film.writer import read_film

OLD = b"an older film"
STAGES = {  # where an exception is raised -> clips that are finished by then
    "read_scene": 0,
    "film_inputs": 0,
    "encode_prompt": 0,
    "encode_recording": 0,
    "project_audio": 0,
    "encode_portrait": 0,
    "load_denoiser": 0,
    "prepare_run": 0,
    "Conductor.concat_latent 2": 1,
    "sample_clip 3": 2,
    "decode_whole 2": 1,
    "to_uint8 3": 2,
    "ClipStore.save 2": 1,
    "FilmWriter.write 2": 3,  # in the background, so it is reported after the next clip
    "FilmWriter.close": 3,
    "WorkFolder.clear 2": 3,  # of a film that is whole
}
HOMES = {
    "ClipStore": "film.clip_store",
    "WorkFolder": "film.work_folder",
    "encode_recording": "pipeline.encoding",
    "project_audio": "pipeline.encoding",
    "load_denoiser": "pipeline.networks",
    "encode_prompt": "pipeline.encoding",
    "encode_portrait": "pipeline.encoding",
    "Conductor": "pipeline.clip",
    "to_uint8": "pipeline.clip",
    "decode_whole": "pipeline.decoding_fallbacks",
}


def at(name: str, call: int = 1) -> dict:
    """Where a fault is put."""
    module = HOMES.get(name.split(".")[0], "animate")
    return {"target": f"hallo3_core.{module}:{name}", "call": call}


def check(stage, kept: int) -> None:
    """What a run that failed leaves: the older film, and a work folder where clips were finished."""
    assert stage.output.read_bytes() == OLD
    assert stage.kept() == kept
    assert stage.left() == [".film.mp4.work"] * bool(kept) + ["film.mp4"]


def finish(stage, whole, *options) -> str:
    """The next run makes the film; what it said."""
    code, said = stage.make(*options)
    assert code == 0, said
    assert stage.film() == whole.film
    return said


@pytest.mark.parametrize("place", STAGES)
def test_an_exception_at_any_stage(stage, whole, place):
    name, _, call = place.partition(" ")
    stage.output.write_bytes(OLD)
    code, said = stage.make(faults=[{"kind": "fail", **at(name, int(call or 1))}])
    assert code == 71, said
    if place == "WorkFolder.clear 2":
        assert stage.film() == whole.film and stage.kept() == 3
    else:
        check(stage, STAGES[place])
    finish(stage, whole)
    assert stage.left() == ["film.mp4"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals(stage, whole, number, code):
    stage.output.write_bytes(OLD)
    found, said = stage.make(faults=[{"kind": "interrupt", **at("sample_clip", 2), "number": number}])
    assert found == code and said.splitlines()[-1] == "interrupted"
    check(stage, 1)
    finish(stage, whole)


@pytest.mark.parametrize("room", [0, 30_000, 60_000, 90_000])
def test_a_full_disk_while_clips_are_kept(stage, whole, room):
    """A clip's frames are about 37 kB here, its motion frames 6 kB."""
    stage.output.write_bytes(OLD)
    code, said = stage.make(faults=[{"kind": "fill_disk", "size": room}])
    assert code == 2 and "could not be kept (No space left on device)" in said and "Traceback" not in said
    kept = stage.kept()
    check(stage, kept)
    assert not list(stage.folder.rglob("*.part*"))
    finish(stage, whole)
    assert stage.left() == ["film.mp4"]


def test_a_full_disk_while_the_film_is_written(stage, whole):
    stage.output.write_bytes(OLD)
    code, said = stage.make(faults=[{"kind": "limit_file_size", "size": 40_000}])
    assert code == 2 and "error: " in said and "Traceback" not in said
    check(stage, stage.kept())
    finish(stage, whole)


@pytest.mark.parametrize("what", ["film.part.mp4", "manifest.json", "clip_00000.mkv", ""])
def test_files_are_removed_while_it_runs(stage, two_clips, whole, what):
    """The unfinished film, files of clips, or the whole work folder."""
    in_take = what.startswith(("clip", "manifest"))
    path = str(stage.work / two_clips.take.name / what if in_take else stage.work / what)
    code, said = stage.make(faults=[{"kind": "remove", **at("sample_clip", 3), "path": path}])
    assert code in (0, 2) and "Traceback" not in said
    assert stage.output.exists() == (code == 0)
    finish(stage, whole)
    assert stage.left() == ["film.mp4"]


def flipped(content: bytes, place: float) -> bytes:
    index = min(int(len(content) * place), len(content) - 1)
    return content[:index] + bytes([content[index] ^ 0x10]) + content[index + 1 :]


@pytest.fixture(scope="module")
def two_clips(forge, whole, tmp_path_factory):
    """A film that stopped in its third clip."""
    from .conftest import Set

    stage = Set(forge, tmp_path_factory.mktemp("stopped"), whole.words)
    code, said = stage.make(faults=[{"kind": "fail", **at("sample_clip", 3)}])
    assert (code, stage.kept()) == (71, 2), said
    return stage


@pytest.mark.parametrize("place", [0.0, 0.3, 0.999])
@pytest.mark.parametrize("name", ["clip_00000.mkv", "clip_00001.mkv", "clip_00000.safetensors", "manifest.json"])
def test_a_flipped_byte_is_found(stage, two_clips, whole, name, place):
    shutil.copytree(two_clips.work, stage.work)
    path = stage.take / name
    place = min(0.999, place + random.Random(f"{name} {place}").random() * 0.3)
    path.write_bytes(flipped(path.read_bytes(), place))
    said = finish(stage, whole)
    assert "damaged" in said


def test_an_untouched_work_folder_is_used(stage, two_clips, whole):
    shutil.copytree(two_clips.work, stage.work)
    said = finish(stage, whole)
    assert "2 finished clips are there" in said and "damaged" not in said


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--seed", "6"), "seed was 5, is 6"),
        (("--prompt", "Another sentence."), "prompt was 'A person talks.', is 'Another sentence.'"),
        (("--audio-cfg", "2"), "scales was Scales(reference=1.0, audio=3.5"),
        (("--sampler", "ddim"), "sampler was 'sde-dpmpp-2m', is 'ddim'"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_another_film_starts_afresh_says_why_and_leaves_the_clips(stage, two_clips, whole, options, reason):
    shutil.copytree(two_clips.work, stage.work)
    code, said = stage.make(*options)
    assert code == 0 and f"starting afresh: {reason}" in said and str(stage.take) in said
    assert stage.film() != whole.film and stage.kept() == 2
    resumed = stage.film()
    assert stage.make(*options)[0] == 0 and stage.film() == resumed
    said = finish(stage, whole)
    assert "2 finished clips are there" in said and "starting afresh" not in said
    assert stage.left() == ["film.mp4"]


def test_how_it_is_computed_may_change(stage, two_clips, whole):
    """One model call after another makes the same film: falling back to it must not lose finished clips."""
    shutil.copytree(two_clips.work, stage.work)
    code, said = stage.make("--sequential")
    assert code == 0 and "2 finished clips are there" in said


def test_clips_are_kept_on_request(stage, whole):
    finish(stage, whole, "--keep-work")
    assert stage.kept() == 3
    stage.output.unlink()
    said = finish(stage, whole)
    assert "3 finished clips" in said and "loading the denoiser" not in said
    assert stage.left() == ["film.mp4"]


def test_no_clips_are_kept_on_request(stage, whole):
    code, _ = stage.make("--no-resume", faults=[{"kind": "kill", **at("sample_clip", 3)}])
    assert code == -signal.SIGKILL and stage.kept() == 0
    assert not list(stage.work.rglob("clip_*"))
    finish(stage, whole, "--no-resume")
    assert stage.left() == ["film.mp4"]


def test_a_second_run_is_refused_while_the_first_lives(stage, whole):
    first = stage.start(faults=[{"kind": "stop", **at("sample_clip")}])
    assert first.wait_until_stopped(), first.said
    code, said = stage.make()
    assert code == 2 and "another run is making it" in said
    first.kill(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    finish(stage, whole)


@pytest.mark.parametrize(
    ("times", "mode"),
    [(1, "with one model call after another"), (2, "with one model call after another and blocks streamed")],
)
def test_out_of_memory_while_sampling_tries_a_smaller_mode(stage, whole, times, mode):
    code, said = stage.make(faults=[{"kind": "run_out_of_memory", **at("sample_clip", 2), "times": times}])
    assert code == 0, said
    assert "out of memory while sampling with the model calls of a step in one batch: trying again with one" in said
    assert f"trying again {mode}" in said
    assert (read_film(stage.output)[0].int() - whole.frames.int()).abs().max() <= 2  # last bits, and the encoder's eye


def test_out_of_memory_in_the_smallest_mode_keeps_the_clips(stage, whole):
    code, said = stage.make(faults=[{"kind": "run_out_of_memory", **at("sample_clip", 2), "times": 3}])
    assert code == 2 and "the smallest mode. Finished clips are kept" in said and "Traceback" not in said
    assert stage.kept() == 1
    finish(stage, whole)


def test_out_of_memory_while_decoding_decodes_in_tiles(stage, whole):
    code, said = stage.make(faults=[{"kind": "run_out_of_memory", **at("decode_whole", 2), "times": 1}])
    assert code == 0 and "out of memory while decoding whole: trying again in tiles" in said
    assert stage.film() == whole.film  # a picture this small is one tile


def test_values_that_are_not_finite_stop_the_run_and_are_named(stage, whole):
    faults = [{"kind": "spoil", "target": "hallo3_core.pipeline.clip:clean_from_velocity", "call": 4}]
    code, said = stage.make(faults=faults)
    assert code == 2 and "error: clip 2 of 3, step 2 of 2: the latent holds values that are NaN" in said
    assert "Perhaps weights are damaged" in said
    assert stage.kept() == 1
    finish(stage, whole)
