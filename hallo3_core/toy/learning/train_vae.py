"""Trains the toy VAE on drawn films: pictures first, then clips encoded and decoded as in inference.

Phases by share of the time: pictures, then clips of 9 frames, both with the linear code as teacher and as the decoder's
input; clips of 9 end to end; clips of 17, whose second half is decoded with the caches of the first, as every later
pair of latent frames of a film is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from ...clips import FRAMES_PER_CLIP, MOTION_FRAMES
from ...vae.autoencoder import LATENT_SCALE, LOG_VARIANCE, VaeConfig, VideoVae, load_vae
from ...weights.reading import read_metadata, read_tensors
from ...weights.vae_names import to_original
from .budget import Budget, rate
from .footage import DrawnFootage
from .linear_code import LinearCode, fit
from .trainable_vae import hold_past, trainable_vae

log = logging.getLogger(__name__)

PICTURES, TAUGHT, PAIRS = 0.18, 0.36, 0.82  # ends of pictures, of the teacher, and start of clips of 17
SIZE = 1 / LATENT_SCALE  # the latent's RMS, so that the networks, which see 0.7 of it, get about 1
MOUTH_WEIGHT = 6.0  # of a pixel around the mouth; others have 1
CODE_NOISE = 0.07  # added to the decoder's input, on top of the posterior's
KL, LEVEL, ANCHOR = 1e-4, 0.05, 0.05  # weights of the losses other than the pixels'
REPORT_EVERY = 0.1  # share of the time
STATE_EVERY = 60.0  # seconds between saved states
ADAM = ("step", "exp_avg", "exp_avg_sq")  # what the optimizer keeps of a parameter


@dataclass(frozen=True)
class Recipe:
    """Settings per machine: pictures per step (fewer clips, by their length) and the peak learning rate."""

    pictures: int
    rate: float

    @classmethod
    def of(cls, device: torch.device | str) -> Recipe:
        return cls(72, 1.5e-3) if torch.device(device).type == "cuda" else cls(6, 1e-3)


class VaeBatches:
    """Draws training batches from footage kept on the device as uint8."""

    def __init__(self, footage: DrawnFootage, device: torch.device | str, seed: int):
        self.frames = torch.from_numpy(np.array(footage.frames)).to(device)
        mouths, self.faces = torch.from_numpy(np.array(footage.boxes)).unbind(1)
        self.weights = mouth_weights(mouths, self.frames.shape[2:4]).to(device)
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, count: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
        """Clips ``b 3 t H W`` in -1..1, the pixels' weights ``b 1 1 H W``, and the films' indices; half of all
        batches are mirrored."""
        films = self._integers(len(self.frames), count)
        start = self._integers(self.frames.shape[1] - length + 1, count)
        times = start[:, None] + torch.arange(length)
        place = self.frames.device
        x = self.frames[films.to(place)[:, None], times.to(place)].permute(0, 4, 1, 2, 3).float() / 127.5 - 1
        weights = self.weights[films.to(place)]
        if self._integers(2, 1).item():
            x, weights = x.flip(-1), weights.flip(-1)
            films = -1 - films  # negative: mirrored
        return x, weights, films

    def masked(self, pictures: Tensor, films: Tensor) -> Tensor:
        """Blackens every second picture ``b 3 1 H W`` outside a box around the face, as references are encoded."""
        pictures = pictures.clone()
        for n, film in enumerate(films.tolist()):
            if n % 2:
                continue
            left, top, right, bottom = self.faces[film if film >= 0 else -1 - film].tolist()
            if film < 0:
                left, right = pictures.shape[-1] - right, pictures.shape[-1] - left
            grow = float(torch.rand((), generator=self._generator)) * 0.2
            wide, high = (right - left) * grow, (bottom - top) * grow
            x = slice(max(0, int(left - wide)), int(right + wide))
            y = slice(max(0, int(top - high)), int(bottom + high))
            kept = pictures[n, :, :, y, x].clone()
            pictures[n] = -1
            pictures[n, :, :, y, x] = kept
        return pictures

    def _integers(self, below: int, count: int) -> Tensor:
        return torch.randint(below, (count,), generator=self._generator)


def mouth_weights(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes ``n 4`` in pixels -> weights ``n 1 1 H W``: larger inside, with a mean of about 1."""
    rows, columns = torch.arange(size[0])[:, None], torch.arange(size[1])[None]
    left, top, right, bottom = boxes.long()[:, :, None, None].unbind(1)
    inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    return (1 + (MOUTH_WEIGHT - 1) * inside.float())[:, None, None]


def train_vae(
    footage: DrawnFootage,
    config: VaeConfig,
    *,
    seconds: float,
    device: torch.device | str = "cpu",
    state: Path | None = None,
    recipe: Recipe | None = None,
    seed: int = 0,
    held_out: DrawnFootage | None = None,
    on_line: Callable[[str], None] = log.info,
) -> dict[str, Tensor]:
    """Returns the trained VAE's tensors by official name, float32 on the CPU.

    `state` is a file to resume from and to save progress in. `held_out` is only measured.

    Raises:
        InputError: diffusers is not installed.
    """
    torch.manual_seed(seed)
    recipe = recipe or Recipe.of(device)
    vae = trainable_vae(config, device)
    optimizer = torch.optim.AdamW(vae.parameters(), recipe.rate, betas=(0.9, 0.98), weight_decay=1e-4)
    step, spent = 0, 0.0
    if state is not None and state.exists():
        step, spent = _read_state(state, vae, optimizer)
    clips = VaeBatches(footage, device, seed + step)
    teacher = linear_code(clips)
    on_line(f"linear code alone: {psnr(*_through_code(clips, teacher)):.2f} dB on clips")
    budget, saved, reported = Budget(seconds, spent), spent, -1.0
    pictures, losses, phase, entered = recipe.pictures, [], -1, step
    while not budget.over:
        share = budget.share
        if phase != (phase := phase_of(share)):
            entered = step  # each phase has a warm-up, because some weights start to train in it
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate * rate(share, step - entered)
        optimizer.zero_grad(set_to_none=True)
        try:
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=torch.device(device).type == "cuda"):
                loss = step_loss(vae, clips, teacher, share, step, pictures)
            loss.backward()
        except torch.OutOfMemoryError:
            pictures = max(1, pictures // 2)
            on_line(f"step {step}: too little GPU memory, {pictures} pictures a step from here on")
            torch.cuda.empty_cache()
            continue
        if share < PICTURES:
            hold_past(vae)
        norm = torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        if torch.isfinite(norm):
            optimizer.step()
        losses.append(loss.detach())
        step += 1
        if share >= reported + REPORT_EVERY:
            reported = share
            mean = torch.stack(losses[-50:]).mean().item()
            quality = report(vae, held_out, device, films=3) if held_out is not None else ""
            on_line(f"{budget.spent:6.0f} s, step {step}, loss {mean:.4f} {quality}")
        if state is not None and budget.spent >= saved + STATE_EVERY:
            saved = budget.spent
            _save_state(state, vae, optimizer, step, saved)
    if state is not None:
        _save_state(state, vae, optimizer, step, budget.spent)
    return {
        to_original(name): t.detach().float().cpu().contiguous() for name, t in vae.autoencoder.state_dict().items()
    }


def phase_of(share: float) -> int:
    """0: pictures, 1: clips with the teacher, 2: clips from end to end, 3: pairs behind caches."""
    return sum(share >= end for end in (PICTURES, TAUGHT, PAIRS))


def step_loss(vae: VideoVae, clips: VaeBatches, teacher: LinearCode, share: float, step: int, pictures: int) -> Tensor:
    """The loss of one step; `share` determines the phase."""
    length = 1 if share < PICTURES else 9 if share < PAIRS else 17
    if share >= TAUGHT and step % 6 == 5:
        length = 1  # references are single pictures in every phase
    x, weights, films = clips(max(1, pictures // length), length)
    if length == 1 and step % 2:
        x = clips.masked(x, films)
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        code = teacher(x)
    mean, log_variance = vae.moments(x).float().chunk(2, dim=1)
    log_variance = log_variance.clamp(*LOG_VARIANCE)
    taught = share < TAUGHT
    if taught:
        latent = code
    else:
        latent = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
    made = vae.decode(latent + CODE_NOISE * torch.randn_like(latent)).float()
    loss = pixel_loss(made - x, weights)
    if not taught:
        loss = loss + KL * 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    loss = loss + (1.0 if taught else ANCHOR) * (mean - code).square().mean()
    loss = loss + LEVEL * (mean.square().mean().sqrt() / SIZE - 1).square()
    if share >= TAUGHT and step % 3 == 0:
        loss = loss + motion_loss(vae, clips, max(1, pictures // 8))
    return loss


def motion_loss(vae: VideoVae, clips: VaeBatches, count: int) -> Tensor:
    """Portrait and two motion frames are encoded into one latent frame, whose target is the mean of theirs.

    The motion frames are corrupted as in the denoiser's training and sampling: noise, and a tenth of the pixels grey.
    """
    x, _, _ = clips(count, 1 + 16 + MOTION_FRAMES)
    portrait, motion = x[:, :, :1], x[:, :, -MOTION_FRAMES:]
    with torch.no_grad():
        target = [vae.moments(part).float().chunk(2, dim=1)[0] for part in (portrait, motion[:, :, :1])]
    kept = torch.rand_like(motion[:, :1, :1]) > 0.1
    disturbed = (motion + 0.05 * torch.randn_like(motion)) * kept
    mean, _ = vae.moments(torch.cat((portrait, disturbed), dim=2)).float().chunk(2, dim=1)
    return ANCHOR * (mean - sum(target) / 2).square().mean()


def pixel_loss(error: Tensor, weights: Tensor) -> Tensor:
    """Absolute and squared error ``b 3 t H W``, also of the differences between neighbours in space and time."""
    loss = (weights * (error.abs() + 2 * error.square())).mean()
    for dimension in (2, 3, 4):
        if error.shape[dimension] > 1:
            edges = error.diff(dim=dimension).abs()
            loss = loss + (weights.expand_as(error).narrow(dimension, 1, edges.shape[dimension]) * edges).mean()
    return loss


def linear_code(clips: VaeBatches, batches: int = 8) -> LinearCode:
    """The teacher, fitted to clips of 5 frames, which have the same share of motion as films."""
    drawn = [clips(16, 5) for _ in range(batches)]
    return fit(torch.cat([x for x, _, _ in drawn]), torch.cat([w for _, w, _ in drawn]), SIZE)


def psnr(made: Tensor, true: Tensor, weights: Tensor | None = None) -> float:
    """PSNR in dB, of pixels in -1..1; with weights ``b 1 1 H W``, only of pixels with a weight above 1."""
    error = (made.clamp(-1, 1) - true).square()
    if weights is not None:
        error = error[(weights > 1).expand_as(error)]
    return (10 * torch.log10(4 / error.mean())).item()


@torch.no_grad()
def measure(vae: VideoVae, footage: DrawnFootage, device: torch.device | str, films: int) -> dict[str, float]:
    """Runs clips of 49 frames through the VAE as in inference, one by one: PSNR of all pixels and of the mouths, and
    statistics of the latents (scaled, as the networks see them)."""
    clips = VaeBatches(footage, device, 0)
    quality, mouths, latents, deviations = [], [], [], []
    for film in range(min(films, len(footage))):
        true = clips.frames[film : film + 1, :FRAMES_PER_CLIP].permute(0, 4, 1, 2, 3).float() / 127.5 - 1
        mean, log_variance = vae.moments(true).float().chunk(2, dim=1)
        made = vae.decode(mean).float()
        quality.append(psnr(made, true))
        mouths.append(psnr(made, true, clips.weights[film : film + 1]))
        latents.append(mean * LATENT_SCALE)
        deviations.append((0.5 * log_variance).exp().mean() * LATENT_SCALE)
    latents = torch.cat(latents)
    return {
        "psnr": sum(quality) / len(quality),
        "psnr_worst": min(quality),
        "psnr_mouth": sum(mouths) / len(mouths),
        "latent_mean": latents.mean().item(),
        "latent_std": latents.std().item(),
        "latent_std_first": latents[:, :, 0].std().item(),
        "posterior_std": torch.stack(deviations).mean().item(),
    }


def report(vae: VideoVae, footage: DrawnFootage, device: torch.device | str, films: int) -> str:
    vae.eval()
    with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=torch.device(device).type == "cuda"):
        measured = measure(vae, footage, device, films)
    vae.train()
    return ", ".join(f"{name} {value:.2f}" for name, value in measured.items())


def measure_tensors(tensors: dict[str, Tensor], footage: DrawnFootage, device: torch.device | str, films: int) -> dict:
    """`measure` for the VAE that a release with these tensors would load, in float32."""
    return measure(load_vae(tensors, device=device, dtype=torch.float32), footage, device, films)


def _through_code(clips: VaeBatches, teacher: LinearCode) -> tuple[Tensor, Tensor]:
    x, _, _ = clips(16, 9)
    return teacher.decode(teacher(x)), x


def _save_state(path: Path, vae: VideoVae, optimizer: torch.optim.Optimizer, step: int, spent: float) -> None:
    tensors = {f"vae.{name}": tensor for name, tensor in vae.state_dict().items()}
    for name, parameter in vae.named_parameters():
        tensors |= {f"{key}.{name}": value for key, value in optimizer.state.get(parameter, {}).items()}
    unfinished = path.with_suffix(".unfinished")
    content = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(content, str(unfinished), {"step": str(step), "spent": str(spent)})
    unfinished.replace(path)


def _read_state(path: Path, vae: VideoVae, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    """Restores network and optimizer; returns the step and the seconds spent."""
    kept, info = read_tensors(path), read_metadata(path)
    vae.load_state_dict({name.removeprefix("vae."): kept[name] for name in kept if name.startswith("vae.")})
    for name, parameter in vae.named_parameters():
        found = {key: kept[f"{key}.{name}"] for key in ADAM if f"{key}.{name}" in kept}
        optimizer.state[parameter] |= {key: found[key].to(parameter.device, copy=True) for key in found}
    return int(info["step"]), float(info["spent"])
