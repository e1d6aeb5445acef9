"""Makes the trained toy release from scratch: draws the world, trains the networks one by one, packs them.

Every stage has a folder and is done once (see `stages.py`): the same call resumes an earlier one. The caller passes in
the function that trains the transformers, which is the project's own training.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ..inputs.face import DETECTOR, RECOGNISER
from ..release.layout import FACE_FOLDER, TEXT_FOLDER, WAV2VEC_FOLDER
from .card import card
from .learning.footage import DrawnFootage, draw_footage
from .learning.train_text import train_text
from .learning.train_vae import measure_tensors, train_vae
from .learning.train_wav2vec import draw_voices, measure_wav2vec, train_wav2vec, write_wav2vec
from .learnt_release import NOTICE, pack, write_vae
from .packed import FILES, TRANSFORMERS, VAE
from .packing import unpack_tensors
from .sizes import LEARNT, Sizes
from .stages import Stages
from .world.films import HELD_OUT, TRAINING

log = logging.getLogger(__name__)

FRAMES = 105  # per drawn film: room for four clips that start in the middle of speech
CARD = "README.md"


@dataclass(frozen=True)
class ToyPlan:
    """Amounts of data and training. Seconds count training only, on the device of the plan."""

    films: int
    held_out: int
    vae_seconds: float
    wav2vec_seconds: float
    text_seconds: float
    base_seconds: float
    identity_seconds: float
    audio_seconds: float
    lesson_seconds: float
    seed: int = 0

    @classmethod
    def of(cls, device: str) -> ToyPlan:
        """The plan for a device: minutes on a GPU, under four hours on two cores."""
        if torch.device(device).type == "cuda":
            return cls(1400, 16, 150, 20, 12, 90, 60, 120, 180)
        return cls(600, 8, 3600, 480, 120, 1200, 900, 600, 4200)

    def changed(self, **seconds: float | None) -> ToyPlan:
        """The plan with every value that is not None replaced."""
        return replace(self, **{name: value for name, value in seconds.items() if value is not None})

    @classmethod
    def names(cls) -> list[str]:
        return [each.name for each in fields(cls)]


def recipes(plan: ToyPlan, sizes: Sizes) -> dict[str, dict[str, Any]]:
    """Each stage's recipe, in order."""
    phases = {name: getattr(plan, f"{name}_seconds") for name in ("base", "identity", "audio", "lesson")}
    return {
        "films": {"films": plan.films, "held_out": plan.held_out, "frames": FRAMES},
        "vae": {"seconds": plan.vae_seconds, "channels": sizes.vae, "seed": plan.seed},
        "wav2vec2": {"seconds": plan.wav2vec_seconds, "seed": plan.seed},
        "text": {"seconds": plan.text_seconds, "seed": plan.seed},
        "faces": {"seed": plan.seed},
        "release": {"sizes": asdict(sizes)},
        "transformers": {"seconds": phases, "seed": plan.seed},
    }


@dataclass(frozen=True)
class TransformersWork:
    """Arguments of the transformers' training: a release with all other networks, the films, and the output folder."""

    release: Path
    footage: DrawnFootage
    place: Path
    plan: ToyPlan
    sizes: Sizes
    device: str


# Writes the transformers into the release; returns measurements.
TrainTransformers = Callable[[TransformersWork], dict[str, Any]]
TrainFaces = Callable[[Path, str, int], object]  # folder, device, seed: writes detector and recogniser


def train_toy_release(
    folder: Path,
    out: Path,
    train_faces: TrainFaces,
    train_transformers: TrainTransformers,
    *,
    device: str = "cpu",
    plan: ToyPlan | None = None,
    sizes: Sizes = LEARNT,
    on_line: Callable[[str], None] = log.info,
) -> Path:
    """Trains and packs everything into `out`; `folder` holds the stages. Returns `out`.

    Raises:
        InputError: a package is missing, or a folder cannot be written.
    """
    plan = plan or ToyPlan.of(device)
    stages, recipe_of = Stages(folder, on_line), recipes(plan, sizes)
    size = (sizes.height, sizes.width)
    processes = os.cpu_count() or 1
    place = dict(device=device, on_line=on_line)

    def films(target: Path) -> dict:
        draw_footage(TRAINING[: plan.films], FRAMES, size, processes).save(target / "training")
        draw_footage(HELD_OUT[: plan.held_out], FRAMES, size, processes).save(target / "held_out")
        return {"films": plan.films, "held out": plan.held_out}

    drawn = stages("films", recipe_of["films"], films)
    footage, held_out = DrawnFootage.load(drawn / "training"), DrawnFootage.load(drawn / "held_out")

    def vae(target: Path) -> dict:
        state = target / "state.safetensors"
        tensors = train_vae(
            footage, sizes.vae_config, seconds=plan.vae_seconds, state=state, held_out=held_out, seed=plan.seed, **place
        )
        save_file({name: tensor.half() for name, tensor in tensors.items()}, str(target / VAE))
        state.unlink(missing_ok=True)
        return measure_tensors(tensors, held_out, device, len(held_out))

    trained_vae = stages("vae", recipe_of["vae"], vae)

    def wav2vec(target: Path) -> dict:
        voices = [draw_voices(TRAINING[:400]), draw_voices(TRAINING[400:500], 3)]
        tensors, head = train_wav2vec(voices, sizes, seconds=plan.wav2vec_seconds, seed=plan.seed, **place)
        return measure_wav2vec(write_wav2vec(target / "folder", tensors, sizes), head, draw_voices(HELD_OUT[:20], 2))

    trained_wav2vec = stages("wav2vec2", recipe_of["wav2vec2"], wav2vec)

    def text(target: Path) -> dict:
        return train_text(target / "folder", sizes, seconds=plan.text_seconds, seed=plan.seed, **place)

    trained_text = stages("text", recipe_of["text"], text)

    def face_models(target: Path) -> None:
        train_faces(target, device, plan.seed)

    faces = stages("faces", recipe_of["faces"], face_models)

    def assemble(target: Path) -> None:
        """Writes the release without its transformer file."""
        release = target / "release"
        release.mkdir(exist_ok=True)
        (release / "TOY_WEIGHTS.txt").write_text(NOTICE)
        write_vae(release, {name: tensor.float() for name, tensor in load_file(trained_vae / VAE).items()})
        for source, name in ((trained_wav2vec / "folder", WAV2VEC_FOLDER), (trained_text / "folder", TEXT_FOLDER)):
            _linked(source, release / name)
        for name in (DETECTOR, RECOGNISER):
            _copied(faces / name, release / FACE_FOLDER / name)

    release = stages("release", recipe_of["release"], assemble) / "release"
    stages(
        "transformers",
        recipe_of["transformers"],
        lambda target: train_transformers(TransformersWork(release, footage, target, plan, sizes, device)),
    )
    pack(release, out)
    (out / CARD).write_text(describe(stages, out, held_out, device), encoding="utf-8")
    return out


def describe(stages: Stages, out: Path, held_out: DrawnFootage, device: str) -> str:
    """The data card's text: how each network was trained, the effect of packing, and the files' hashes."""
    vae = unpack_tensors(load_file(out / VAE))
    transformers = unpack_tensors(load_file(out / TRANSFORMERS))
    packed = {
        "VAE, parameters": sum(tensor.numel() for tensor in vae.values()),
        "transformers and projectors, parameters": sum(tensor.numel() for tensor in transformers.values()),
        "VAE": measure_tensors(vae, held_out, device, min(4, len(held_out))),
    }
    contents = {name: (out / name).read_bytes() for name in FILES}
    files = {name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in contents.items()}
    machine = torch.cuda.get_device_name() if torch.device(device).type == "cuda" else "a CPU"
    return card(stages.records, packed, files, f"{machine}, PyTorch {torch.__version__}")


def _copied(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())


def _linked(source: Path, target: Path) -> None:
    for file in source.iterdir():
        _copied(file, target / file.name)
