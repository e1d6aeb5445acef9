"""Training: configurations, clips, starts and folders."""

from __future__ import annotations

import json
import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors.torch import save_file

from hallo3_core.film.locking import try_lock
from hallo3_core.film.writer import FilmWriter
from hallo3_core.release.layout import VAE_FILE, Release
from hallo3_core.weights.reading import read_tensors

from . import Case, Place, case

BOX = [4, 2, 40, 28]


def training(place: Place, changes: Sequence[str] = (), text: str | None = None, **values: object) -> Case:
    """`train` with a small configuration, of which some values are others."""
    path = place.folder / "run.yaml"
    usual = {
        "mode": "speech",
        "release": str(place.release),
        "output": str(place.folder / "out"),
        "batch": 2,
        "device": "cpu",
        "precision": "fp32",
        "stop": {"steps": 1},
        "data": {"folder": str(place.folder / "clips"), "size": [32, 48], "windows": 1, "references": 1},
    }
    path.write_text(text if text is not None else yaml.safe_dump(usual | values))
    words = [word for change in changes for word in ("--set", change)]
    return Case(command=["train", path, *words], frames=None)


def clips(place: Place, frames: int = 56, sound: float | None = None, fps: int = 25, **changes: object) -> Path:
    """A folder of one clip of the portrait's colours, with so many seconds of sound, and its list."""
    folder = place.folder / "clips"
    folder.mkdir()
    pictures = torch.arange(frames * 32 * 48 * 3).reshape(frames, 32, 48, 3).remainder(251).to(torch.uint8)
    with FilmWriter(folder / "a.mp4", 32, 48, fps=fps) as film:
        film.write(pictures)
    samples = int((sound or frames / 25) * 16_000)
    with wave.open(str(folder / "a.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes((9000 * np.sin(np.arange(samples) / 12)).astype("<i2").tobytes())
    line = {"film": "a.mp4", "sound": "a.wav", "caption": "A person.", "face_box": BOX, "consent": "own"} | changes
    (folder / "clips.jsonl").write_text(json.dumps(line) + "\n")
    return folder


def original(place: Place, face: object) -> Path:
    """The original's list with this as the face's embedding."""
    folder = clips(place)
    torch.save(face, folder / "face.pt")
    torch.save(torch.zeros(56, 3, 24), folder / "audio.pt")
    (folder / "boxes.json").write_text(json.dumps([[0.1, 0.1, 0.9, 0.9]] * 56))
    entry = {
        "video_path": "a.mp4",
        "face_emb_path": "face.pt",
        "vocals_emb_base_all": "audio.pt",
        "bbox": "boxes.json",
        "caption": "A person.",
    }
    (folder / "list.json").write_text(json.dumps([entry]))
    return folder / "list.json"


def listed(path: Path, **changes: object) -> dict[str, object]:
    """The section data for that list."""
    return {"folder": str(path), "size": [32, 48], "windows": 1, "references": 1} | changes


# Configurations

for name, values in {
    "unknown key": {"batchsize": 4},
    "unknown key in a section": {"stop": {"step": 100}},
    "a word for a number": {"batch": "many"},
    "a number for a section": {"data": 7},
    "an unknown mode": {"mode": "speach"},
    "a share above 1": {"chances": {"drop_text": 2}},
    "a rate of 0": {"rates": {"peak": 0}},
    "a micro-batch that does not divide the batch": {"memory": {"micro_batch": 3}},
    "no steps": {"stop": {"steps": 0}},
    "a size of no multiple of 16": {"data": {"size": [100, 150]}},
    "no seconds": {"stop": {"seconds": 0}},
    "betas above 1": {"updating": {"betas": [1, 2]}},
    "a negative number of held-out videos": {"data": {"size": [32, 48], "held_out": -1}},
    "no folder of clips": {"data": {"size": [32, 48]}},
    "a mouth weight below 1": {"data": {"mouth_weight": 0.5}},
    "a LoRA of rank 0": {"mode": "lora", "lora": {"rank": 0}},
    "a LoRA of no groups": {"mode": "lora", "lora": {"groups": []}},
    "a LoRA of an unknown group": {"mode": "lora", "lora": {"groups": ["voice"]}},
    "unknown way to read sound": {"conditioning": {"audio": "both"}},
    "three motion frames": {"conditioning": {"motion_frames": 3}},
}.items():

    @case(f"training: {name}")
    def changed_value(place: Place, values=values):
        return training(place, **values)


@case("training: no release")
def no_release(place):
    clips(place)
    return training(place, release=None)


@case("training: --set without =")
def set_nothing(place):
    return training(place, ["batch"])


@case("training: --set to what is not YAML")
def set_odd(place):
    return training(place, ["stop.steps=[1"])


@case("training: a run that diverges")
def diverges(place):
    path = original(place, torch.ones(512))
    rates = {"peak": 1e30, "warmup_steps": 0, "slow_steps": 0}
    return training(place, data=listed(path), rates=rates, stop={"steps": 3})


@case("training: not YAML")
def no_yaml(place):
    return training(place, text="mode: [speech")


@case("training: no configuration")
def no_configuration(place):
    return Case(command=["train", place.folder / "none.yaml"], frames=None)


@case("training: --fit of 10 MB")
def fit_too_small(place):
    small = {"hidden": 64, "heads": 4, "layers": 2, "time": 16, "face_width": 16}
    usual = training(place, mode="identity", network=small)
    return Case(command=[*usual.command, "--fit", "0.01", "--dry-run"], frames=None)


# Clips


@case("training: a folder without a list")
def no_list(place):
    (place.folder / "clips").mkdir()
    return training(place)


@case("training: a list of nothing")
def empty_list(place):
    (clips(place) / "clips.jsonl").write_text("\n")
    return training(place)


@case("training: a line that is not JSON")
def no_json(place):
    (clips(place) / "clips.jsonl").write_text("a.mp4\n")
    return training(place)


@case("training: a video that is missing")
def film_missing(place):
    clips(place, film="b.mp4")
    return training(place)


@case("training: a clip without a face box, and without a face")
def no_box(place):
    clips(place, face_box=None)
    return training(place)


@case("training: a face box of three numbers")
def odd_box(place):
    clips(place, face_box=[1, 2, 3])
    return training(place)


@case("training: a mouth weight without mouth boxes")
def no_mouth_box(place):
    folder = clips(place)
    return training(place, data=listed(folder, mouth_weight=5))


@case("training: a mouth box of three numbers")
def odd_mouth_box(place):
    clips(place, mouth_box=[1, 2, 3])
    return training(place)


@case("training: a clip of 40 frames")
def short_clip(place):
    clips(place, frames=40)
    return training(place)


@case("training: sound shorter than the video")
def short_sound(place):
    path = original(place, torch.ones(512))
    torch.save(torch.zeros(40, 3, 24), path.parent / "audio.pt")
    return training(place, data=listed(path))


@case("training: an unknown key of a clip")
def unknown_key(place):
    clips(place, audio="a.wav")
    return training(place)


@case("training: a caption of null")
def null_caption(place):
    clips(place, caption=None)
    return training(place)


@case("training: a list in latin-1")
def latin_1(place):
    (clips(place, caption="cafe") / "clips.jsonl").write_bytes('{"caption": "café"}\n'.encode("latin-1"))
    return training(place)


@case("training: a face box in shares of the picture")
def box_in_shares(place):
    clips(place, face_box=[0.1, 0.1, 0.9, 0.9])
    return training(place)


@case("training: a face box outside the picture")
def box_outside(place):
    clips(place, face_box=[400, 300, 500, 400])
    return training(place)


@case("training: boxes in pixels in the original's list")
def boxes_in_pixels(place):
    path = original(place, torch.ones(512))
    (path.parent / "boxes.json").write_text(json.dumps([BOX] * 56))
    return training(place, data=listed(path))


@case("training: a video that is held out and trained on")
def held_out_twice(place):
    folder = clips(place)
    listing = folder / "clips.jsonl"
    listing.write_text(listing.read_text() * 2)
    return training(place, data=listed(folder, held_out=1))


@case("training: a video of another rate, looked at with --check")
def other_rate(place):
    clips(place, frames=70, fps=30)
    usual = training(place)
    return Case(command=[*usual.command, "--check"], frames=None)


@case("training: an embedding of NaN")
def no_numbers(place):
    path = original(place, torch.full((512,), float("nan")))
    return training(place, data=listed(path))


@case("training: an array that would run code")
def runs_code(place):
    class Runs:
        def __reduce__(self):
            return (Path.touch, (place.folder / "ran",))

    path = original(place, Runs())
    usual = training(place, data=listed(path))

    def treated() -> None:
        assert not (place.folder / "ran").exists()

    return Case(command=usual.command, frames=None, treated=treated)


@case("training: all videos held out")
def all_held_out(place):
    path = original(place, torch.ones(512))
    return training(place, data=listed(path, held_out=1))


# Starts


def in_diffusers_names(place: Place, **changes: tuple[int, ...] | None) -> Case:
    """A transformer of toy size in diffusers' names, of which some tensors have other shapes, or are missing."""
    clips(place)
    shapes = {
        "patch_embed.proj.weight": (32, 32, 2, 2),
        "patch_embed.pos_embedding": (1, 226 + 13 * 6, 32),
        "patch_embed.text_proj.weight": (32, 12),
        "proj_out.weight": (64, 32),
        "transformer_blocks.0.attn1.to_q.weight": (32, 32),
        "transformer_blocks.0.attn1.norm_q.weight": (16,),
        "transformer_blocks.0.ff.net.0.proj.weight": (128, 32),
        "time_embedding.linear_1.weight": (16, 32),
    } | changes
    tensors = {name: torch.zeros(shape) for name, shape in shapes.items()}
    start = place.folder / "diffusion_pytorch_model.safetensors"
    save_file(tensors, start)
    return training(place, mode="identity", start=str(start))


@case("training: from CogVideoX in diffusers' names that makes videos from text")
def from_text_to_video(place):
    return in_diffusers_names(place, **{"patch_embed.proj.weight": (32, 16, 2, 2)})


@case("training: from CogVideoX in diffusers' names without its last tensors")
def from_half_a_cogvideox(place):
    return in_diffusers_names(place)


@case("training: from a folder without a transformer")
def from_a_folder(place):
    clips(place)
    return training(place, mode="identity", start=str(place.folder / "clips"))


@case("training: from a VAE")
def from_a_vae(place):
    clips(place)
    return training(place, start=str(place.release / VAE_FILE))


@case("training: audio from what has audio modules")
def from_finished(place):
    path = original(place, torch.ones(512))
    return training(place, mode="audio", data=listed(path))


@case("training: speech from what has no audio modules")
def from_base(place):
    tensors = read_tensors(Release(place.release).transformer_file)
    start = place.folder / "base.pt"
    torch.save({n: t.clone() for n, t in tensors.items() if "audio" not in n}, start)
    path = original(place, torch.ones(512))
    return training(place, start=str(start), data=listed(path))


@case("training: how sound is read, of a network that reads none")
def no_sound(place):
    path = original(place, torch.ones(512))
    return training(place, mode="speech", data=listed(path), conditioning={"audio": "none"})


@case("training: a face read in another way than the start reads it")
def other_face(place):
    path = original(place, torch.ones(512))
    return training(place, data=listed(path), conditioning={"face": "norm"})


# Folders


@case("training: an output folder that takes no files")
def unwritable(place):
    clips(place)
    return training(place, output="/proc/training")


@case("training: a cache folder that takes no files")
def unwritable_cache(place):
    path = original(place, torch.ones(512))
    return training(place, data=listed(path, cache="/proc/cache"))


@case("training: where another run writes")
def two_writers(place):
    clips(place)
    output = place.folder / "out"
    output.mkdir()
    lock = try_lock(output / "lock")
    usual = training(place)
    return Case(command=usual.command, frames=None, treated=lock.release)


def checkpoint(place: Place, **changes: str) -> Case:
    """A run of one step, whose checkpoint then says that it belongs to another."""
    path = original(place, torch.ones(512))
    folder = place.folder / "out" / "checkpoints" / "step-00000001"
    folder.mkdir(parents=True)
    info = {"step": 1, "files": {}, "mode": "speech", "seed": "0", "batch": "2"} | changes
    (folder / "whole.json").write_text(json.dumps(info))
    return training(place, data=listed(path))


@case("training: a checkpoint of another start")
def other_start(place):
    return checkpoint(place, start="another")


@case("training: a checkpoint of another seed")
def other_seed(place):
    return checkpoint(place, seed="1")
