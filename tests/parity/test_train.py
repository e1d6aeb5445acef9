"""A step of training equals the recordings: both phases, every case, every recorded tensor.

`HALLO3_GOLDEN_TRAIN_DIR` names the folder; the small copy under `tests/data/golden_train` is the default. Its networks
are those of `tests/data/golden`, so it has no weights of its own.
"""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from hallo3_core.film.fingerprint import digest
from hallo3_core.model.config import AudioProjectorConfig, FaceProjectorConfig, Grid, TransformerConfig
from hallo3_core.model.hallo3 import Hallo3
from hallo3_core.train import geometry, optimiser
from hallo3_core.train.batch import Batch, frame_moments
from hallo3_core.train.draw import Chances, draw, spoil_motion
from hallo3_core.train.draws import Recorded
from hallo3_core.train.networks import official_names
from hallo3_core.train.step import step
from hallo3_core.train.step import table as alphas
from hallo3_core.train.trainable import RULES, decays, trainable, transformer_shapes
from hallo3_core.vae.autoencoder import VaeConfig, build_vae
from hallo3_core.weights import names
from hallo3_core.weights.parts import load, sort_official
from hallo3_core.weights.vae_names import in_diffusers_names
from tests.parity.golden import DIRECTORY as INFERENCE
from tests.parity.golden import Recording, Table

FOLDER = Path(os.environ.get("HALLO3_GOLDEN_TRAIN_DIR") or Path(__file__).parents[1] / "data" / "golden_train")
PHASES = {1: "identity", 2: "audio"}
RATE = 1e-3  # of the recorded updates


def read_json(name: str) -> dict:
    packed = FOLDER / f"{name}.gz"
    return json.loads(gzip.decompress(packed.read_bytes()) if packed.exists() else (FOLDER / name).read_bytes())


CONFIG = read_json("config.json")
CASES = [(phase, case) for phase in PHASES for case in CONFIG["phases"][f"phase{phase}"]["cases"]]


@pytest.fixture(autouse=True)
def _inference():
    """Gradients are wanted here."""


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    if (FOLDER / "train_weights.safetensors").exists():
        return Recording("train_weights", FOLDER).weights()
    files = {"denoiser": "model.diffusion_model.", "refnet": "ref_model.diffusion_model.", "vae": "first_stage_model."}
    return {
        prefix + name: tensor
        for file, prefix in files.items()
        for name, tensor in Recording(f"{file}_tiny_weights", INFERENCE).weights().items()
    }


@pytest.fixture(scope="module")
def vae(weights):
    c = CONFIG
    channels = tuple(c["vae_ch"] * m for m in c["vae_mult"])
    vae = build_vae(VaeConfig(channels, c["vae_res"]), device="cpu")
    encoder = in_diffusers_names(
        {n.removeprefix("first_stage_model."): t for n, t in weights.items() if ".encoder." in f".{n}"}
    )
    encoder = {n: t for n, t in encoder.items() if n.startswith("encoder.")}
    left = vae.autoencoder.load_state_dict(encoder, strict=False)
    assert not left.unexpected_keys and all(name.startswith("decoder") for name in left.missing_keys)
    compute, found = vae.moments, {}

    def moments(pixels: torch.Tensor) -> torch.Tensor:
        """Once for equal pixels: most cases share their clip."""
        key = digest(pixels)
        if key not in found:
            found[key] = compute(pixels)
        return found[key].clone()

    vae.moments = moments
    return vae


@pytest.fixture(scope="module")
def films():
    recording = Recording("train_data", FOLDER)
    return {key: recording[key] for key in recording.keys}


def build(weights, phase: int) -> Hallo3:
    kept = {n: t.clone() for n, t in weights.items() if "freqs" in n or not (phase == 1 and "audio" in n)}
    parts = sort_official(kept)
    assert not parts.unknown
    found = [load(parts, part, dtype=torch.float32) for part in (names.DENOISER, names.REFERENCE_NET)]
    found.append(load(parts, names.FACE_PROJECTOR, dtype=torch.float32))
    found += [load(parts, names.AUDIO_PROJECTOR, dtype=torch.float32)] if phase == 2 else []
    return Hallo3(*found)


class Run:
    """The networks of a phase, and what the recording holds of a step with them, computed here."""

    def __init__(self, weights, phase: int, vae, films):
        self.phase, self.vae, self.films = phase, vae, films
        self.networks = build(weights, phase)
        self.recording = Recording(f"train_phase{phase}", FOLDER)
        self.listed = read_json("trainable_tiny.json")[f"phase{phase}"]["names"]
        self.parameters: dict[str, torch.nn.Parameter] = {}
        official = official_names(self.networks)
        for name, parameter in self.networks.named_parameters():
            parameter.requires_grad_(RULES[PHASES[phase]].trains(official[name]))
            if parameter.requires_grad:
                self.parameters[official[name]] = parameter
        self.frozen = {n: weights[n] for n, of in self.listed.items() if not of["gradient"]}
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.optimiser = optimiser.make_optimiser(
            list(self.parameters.values()), [p.shape for p in self.parameters.values()], optimiser.Updating()
        )

    def value(self, case: str, key: str):
        """A draw: the case's own, or that of `all`."""
        return self.recording[key if (key := f"{case}.{key}") in self.recording else key.replace(case, "all", 1)]

    def batch(self, case: str) -> tuple[Batch, dict]:
        film = "film_" + CONFIG["phases"][f"phase{self.phase}"]["cases"][case]["film"]
        frames, size = self.films[f"{film}.frames_uint8"], (8 * CONFIG["latent_h"], 8 * CONFIG["latent_w"])
        start, chosen = (int(self.value(case, f"draw.{key}")) for key in ("start", "ref_index"))
        clip = frames[start : start + CONFIG["frames"]]
        if f"{film}.boxes" in self.films:
            clip, portrait = geometry.resized(clip, size), geometry.resized(frames[chosen : chosen + 1], size)
            masked = geometry.boxed(frames[chosen], self.films[f"{film}.boxes"][chosen], size)
        else:
            clip, portrait = geometry.squared(clip, size), geometry.squared(frames[chosen : chosen + 1], size)
            masked = geometry.masked(frames[chosen], self.films[f"{film}.mask_uint8"], size)
        clip, portrait, masked = (geometry.to_pixels(x) for x in (clip, portrait, masked[None]))
        audio = None
        if self.phase == 2:
            features = self.films[f"{film}.audio_features"]
            audio = torch.stack([features[i - 2 : i + 3] for i in range(start, start + len(clip))])[None]
        recorded = {
            "in.video_first_two_frames": clip[None, :2],
            "in.video_checksum": torch.stack((clip.double().sum(), clip.double().square().sum())),
            "in.ref_image": portrait[None],
            "in.masked_reference": masked[None],
            "in.face_emb": self.films[f"{film}.face_emb"][None],
            "in.audio_windows": audio,
        }
        with torch.no_grad():
            batch = Batch(
                clip=self.vae.moments(clip.transpose(0, 1)[None]),
                motion=clip[:2].transpose(0, 1)[None],
                portrait=portrait,
                masked=frame_moments(self.vae, masked),
                text=self.value(case, "in.text"),
                face=recorded["in.face_emb"],
                audio=audio,
            )
        return batch, recorded

    def draws(self, case: str) -> Recorded:
        keys = {key.split(".draw.")[1] for key in self.recording.keys if ".draw." in key}
        return Recorded({key: self.value(case, f"draw.{key}") for key in keys})

    def values(self, case: str) -> dict[str, torch.Tensor]:
        """Everything that is recorded of a case, by the name after the case's."""
        batch, found = self.batch(case)
        draws = self.draws(case)
        never = Chances(drop_audio=0, drop_concat=0, drop_reference=0, drop_text=0)
        whole, drawn = (draw(batch, self.vae, draws, chances) for chances in (never, Chances()))
        self.optimiser.zero_grad()
        result = step(self.networks, drawn)
        result.loss.mean().backward()
        velocity = result.velocity.transpose(1, 2)
        signal, sigma = result.a.view(-1, 1, 1, 1, 1), (1 - result.a**2).sqrt().view(-1, 1, 1, 1, 1)
        found |= {
            "mid.ref_latent": whole.reference[:, :, None],
            "mid.concat_latent": whole.concat[:, :, :1],
            "mid.video_latent": whole.clip,
            "mid.motion_pixels": spoil_motion(batch.motion, draws, Chances()),
            "net.x": result.noisy.transpose(1, 2),
            "net.a": result.a,
            "net.timestep": drawn.timesteps,
            "out.velocity": velocity,
            "out.x0_prediction": (signal * result.noisy - sigma * result.velocity).transpose(1, 2),
            "out.loss": result.loss,
            "loss_weight": 1 / (1 - result.a**2),
        }
        with torch.no_grad():
            for n, features in enumerate(self.networks.reference_net(drawn.reference, drawn.text)):
                found[f"bank.{n}"] = features
        gradients = self.of_listed({n: p.grad.clone() for n, p in self.parameters.items()})
        found |= {f"grad.{name}": gradient for name, gradient in gradients.items()}
        found["grad_norms"] = torch.stack([gradient.norm() for gradient in gradients.values()])
        found["grad_samples"] = samples(gradients)
        found["grad_total_norm"] = torch.nn.utils.get_total_norm(gradients.values())[None]
        return found

    def update(self, number: int, rate: float) -> dict[str, torch.Tensor]:
        """One update with the gradients at hand, and what is recorded of it."""
        gradients = [p.grad for p in self.parameters.values()]
        norm = optimiser.total_norm(gradients)
        optimiser.clip_(gradients, norm, 0.1)
        optimiser.set_rate(self.optimiser, rate)
        self.optimiser.step()
        decay = optimiser.average_decay(number, 0.9999)
        optimiser.update_average(list(self.average.values()), list(self.parameters.values()), decay)
        values, average = self.of_listed(self.parameters, self.frozen), self.of_listed(self.average, self.frozen)
        found = {f"param.{n}": value for n, value in values.items()} | {f"ema.{n}": e for n, e in average.items()}
        factor = min(1, 0.1 / (norm.item() + 1e-6))
        return found | {
            "clip": torch.tensor([norm, factor, decay]),
            "param_samples": samples(values),
            "ema_samples": samples(average),
        }

    def of_listed(self, values, missing=None) -> dict[str, torch.Tensor]:
        """In the list's order; what gets no gradient is no part of our networks."""
        assert values.keys() == {name for name, of in self.listed.items() if of["gradient"]}
        return {
            n: values[n] if n in values else (missing or {}).get(n, torch.zeros(of["shape"]))
            for n, of in self.listed.items()
        }


def samples(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """16 entries of each, evenly over its flat values."""
    return torch.stack([t.flatten()[np.linspace(0, t.numel() - 1, 16).astype(int)] for t in tensors.values()])


def check(table: Table, recording: Recording, start: str, found: dict[str, torch.Tensor]) -> int:
    """Compare every recorded tensor whose name starts so; each must have been computed."""
    compared = 0
    for key in sorted(recording.keys):
        whole, _, thinned = key.partition(".every")
        name = whole.removeprefix(f"{start}.")
        if whole.startswith(f"{start}.") and not name.startswith(("draw.", "first_lr.", "in.text")):
            assert name in found, f"{key} is recorded, but not computed here"
            if key.endswith("timestep"):
                table.exactly(recording, key, found[name])
            else:
                table.meets_relative(recording, whole, found[name])
            compared += 1
    return compared


@pytest.fixture
def run(weights, vae, films, request):
    return Run(weights, request.param, vae, films)


@pytest.mark.parametrize(("run", "case"), [c for c in CASES if c[1] != "step2"], indirect=["run"])
def test_step(run, case, table):
    assert check(table, run.recording, case, run.values(case)) >= 10


@pytest.mark.parametrize("run", PHASES, indirect=True)
def test_updates(run, table):
    """Two steps, each with its update: the second builds on the first."""
    run.values("all")
    check(table, run.recording, "step1", run.update(1, RATE))
    found = run.values("step2")
    check(table, run.recording, "step2", found | run.update(2, RATE))


@pytest.mark.parametrize("run", PHASES, indirect=True)
def test_first_update_at_its_real_rate(run, table):
    run.values("all")
    rates = read_json("lr_curve.json")
    found = run.update(1, optimiser.Rates().at(1, 30_000))
    assert optimiser.Rates().at(1, 30_000) == pytest.approx(rates["1"], rel=1e-12)
    check(table, run.recording, "step1.first_lr", found)


@pytest.mark.parametrize(
    ("run", "start", "altered"),
    [
        (1, "all", "all.out.loss"),
        (1, "all", "all.draw.motion_noise"),
        (1, "all", "all.grad_samples"),
        (2, "all", "all.draw.timestep"),
        (2, "drop_audio", "drop_audio.draw.audio_drop_uniform"),
    ],
    indirect=["run"],
)
def test_an_altered_value_is_seen(run, start, altered):
    """One value of one recorded tensor, moved by a tenth of its size (an index by one, a drop to the other side)."""
    true = type(run.recording).__getitem__

    class Altered(type(run.recording)):
        def __getitem__(self, key):
            tensor = true(self, key)
            if key.partition(".every")[0] == altered:
                flat = tensor.flatten().clone()
                at = flat.abs().argmax()
                flat[at] += 1 if not tensor.is_floating_point() or "uniform" in key else 0.1 * flat[at]
                tensor = flat.view(tensor.shape)
            return tensor

    run.recording.__class__ = Altered
    with pytest.raises(AssertionError):
        check(Table(), run.recording, start, run.values(start))


def test_alphas(table):
    table.meets(Recording("train_alpha_table", FOLDER), "a", alphas(torch.device("cpu")))


def test_rates():
    recorded = read_json("lr_curve.json")
    assert len(recorded) >= 12
    for step_number, rate in recorded.items():
        assert optimiser.Rates().at(int(step_number), 30_000) == pytest.approx(rate, rel=1e-9)


@pytest.mark.parametrize("phase", PHASES)
def test_trainable_names(weights, phase):
    """Of the recorded networks, and of the released sizes."""
    shapes = {n: tuple(t.shape) for n, t in weights.items() if not (phase == 1 and "audio" in n)}
    same_list(trainable(shapes, RULES[PHASES[phase]]), read_json("trainable_tiny.json")[f"phase{phase}"])
    audio = AUDIO if phase == 2 else None
    shapes = transformer_shapes(released(audio=phase == 2), FaceProjectorConfig(512, 4, 1024), audio)
    recorded = read_json("trainable_full_size.json")[f"phase{phase}"]
    found = same_list(trainable(shapes, RULES[PHASES[phase]]), recorded)
    assert found.count == {1: 4_232_284_160, 2: 2_236_127_744}[phase]
    assert found.without_gradient_count == recorded["never_gets_a_gradient"]


AUDIO = AudioProjectorConfig(inputs=5 * 12 * 768, inner=512, tokens=32, width=768)


def released(audio: bool) -> TransformerConfig:
    return TransformerConfig(
        hidden=3072,
        heads=48,
        layers=42,
        mlp=12288,
        time=512,
        text_width=4096,
        text_tokens=226,
        grid=Grid(13, 30, 45),
        channels=16,
        patch=2,
        face=1024,
        audio=768 if audio else None,
    )


def same_list(found, recorded):
    assert found.count == recorded["count"]
    assert {n: list(s) for n, s in found.shapes.items()} == {n: of["shape"] for n, of in recorded["names"].items()}
    assert {n for n, s in found.shapes.items() if decays(s)} == {
        n for n, of in recorded["names"].items() if of["weight_decay"]
    }
    assert set(found.without_gradient) == {n for n, of in recorded["names"].items() if not of["gradient"]}
    return found
