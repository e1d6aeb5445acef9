"""Trains the toy wav2vec2 on the world's voices: a linear head predicts the mouth from each frame's hidden states.

The network runs as in inference: the whole recording is normalised, convolved, resampled to 25 per second and encoded,
and every layer's output is used. The head is discarded.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import require
from ...inputs.audio import encode_audio, load_wav2vec
from ...inputs.recording import VOICE_RATE, Recording
from ..noise_wav2vec import PREPROCESSOR, VOCABULARY, tiny_config
from ..sizes import Sizes
from ..world.speech import draw_voice, speak
from .budget import Budget, rate

log = logging.getLogger(__name__)

CLIP = 49  # frames; recordings are one to four clips long
TARGETS = 3  # height and width of the mouth, loudness
PEAK = 2e-3
LEGACY = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}


@dataclass(frozen=True, eq=False)
class Voices:
    """Recordings of one length: `sounds` ``n samples`` at 16 kHz, `targets` ``n frames 3``."""

    sounds: Tensor
    targets: Tensor


def draw_voices(seeds: range, clips: int = 1) -> Voices:
    """Draws speech of these seeds' voices, each `clips` clips long."""
    spoken = [speak(draw_voice(seed), clips * CLIP / 25, seed) for seed in seeds]
    sounds = torch.from_numpy(np.stack([speech.samples for speech in spoken]))
    targets = np.stack([np.column_stack((speech.mouth, speech.loudness)) for speech in spoken])
    return Voices(sounds, torch.from_numpy(targets).float())


def network(sizes: Sizes) -> nn.Module:
    """transformers' model at the toy's sizes, untrained, without dropout."""
    transformers = require("transformers", "transformers", "wav2vec2")
    config = tiny_config(sizes.audio_layers, sizes.audio_width, sizes.audio_heads, sizes.audio_channels)
    return transformers.Wav2Vec2Model(transformers.Wav2Vec2Config.from_dict(config)).eval()


def hidden_states(model: nn.Module, sounds: Tensor, frames: int) -> Tensor:
    """Recordings ``b samples`` -> ``b frames layers dim``, differentiable; equal to `encode_audio` for whole clips."""
    variance, mean = torch.var_mean(sounds, dim=1, correction=0, keepdim=True)
    features = model.feature_extractor((sounds - mean) / (variance + 1e-7).sqrt())
    stretched = F.interpolate(features, size=frames, mode="linear", align_corners=True).transpose(1, 2)
    embedded, _ = model.feature_projection(stretched)
    states = []

    def keep(module: nn.Module, inputs: tuple, output: Tensor | tuple[Tensor, ...]) -> None:
        states.append(output[0] if isinstance(output, tuple) else output)

    hooks = [layer.register_forward_hook(keep) for layer in model.encoder.layers]
    try:
        last = model.encoder(embedded).last_hidden_state
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack([*states[:-1], last], dim=2)


def train_wav2vec(
    voices: list[Voices],
    sizes: Sizes,
    *,
    seconds: float,
    device: torch.device | str = "cpu",
    batch: int = 24,
    seed: int = 0,
    on_line: Callable[[str], None] = log.info,
) -> tuple[dict[str, Tensor], Tensor]:
    """Returns the trained tensors in transformers' names, and the head ``3 (layers dim + 1)`` for measuring.

    `voices`: one group per length of recording. The budget starts with the first step.
    """
    torch.manual_seed(seed)
    model = network(sizes).to(device).requires_grad_(True)
    head = nn.Linear(sizes.audio_layers * sizes.audio_width, TARGETS).to(device)
    groups = [(group.sounds.to(device), group.targets.to(device)) for group in voices]
    parameters = [*model.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, PEAK, betas=(0.9, 0.98), weight_decay=1e-3)
    budget, step, losses = Budget(seconds), 0, []
    while not budget.over:
        for group in optimizer.param_groups:
            group["lr"] = PEAK * rate(budget.share, step, warm_up=100, hold=0.3)
        sounds, targets = groups[step % len(groups)]
        chosen = torch.randint(len(sounds), (max(1, batch * CLIP // targets.shape[1]),), device=sounds.device)
        noise = torch.rand(len(chosen), 1, device=sounds.device).square() * 0.01
        noisy = sounds[chosen] + noise * torch.randn_like(sounds[chosen])
        made = head(hidden_states(model, noisy, targets.shape[1]).flatten(2))
        loss = (made - targets[chosen]).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if torch.isfinite(torch.nn.utils.clip_grad_norm_(parameters, 1.0)):
            optimizer.step()
        losses.append(loss.detach())
        step += 1
        if step % 200 == 0:
            on_line(f"{budget.spent:6.0f} s, step {step}, error {torch.stack(losses[-200:]).mean().item():.5f}")
    on_line(f"wav2vec2: {step} steps, last error {torch.stack(losses[-50:]).mean().item():.5f}")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    return tensors, torch.cat((head.weight, head.bias[:, None]), dim=1).detach().cpu()


def write_wav2vec(folder: Path, tensors: dict[str, Tensor], sizes: Sizes) -> Path:
    """Writes a folder with wav2vec2-base-960h's layout and names (those of a CTC model, whose head is unused)."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config = tiny_config(sizes.audio_layers, sizes.audio_width, sizes.audio_heads, sizes.audio_channels)
    for name, content in (("config.json", config), ("preprocessor_config.json", PREPROCESSOR)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    named = {
        f"wav2vec2.{_legacy(name)}": tensor.float() for name, tensor in tensors.items() if "masked_spec" not in name
    }
    named["lm_head.weight"] = torch.zeros(VOCABULARY, sizes.audio_width)
    named["lm_head.bias"] = torch.zeros(VOCABULARY)
    save_file(named, str(folder / "model.safetensors"), {"format": "pt"})
    return folder


def measure_wav2vec(folder: Path, head: Tensor, voices: Voices) -> dict[str, float]:
    """Mean correlations of the mouth that the head predicts from `encode_audio` features with the true one."""
    wav2vec, found = load_wav2vec(folder), []
    for sound, target in zip(voices.sounds, voices.targets, strict=True):
        hidden = encode_audio(Recording(sound[None], VOICE_RATE, "drawn"), wav2vec).hidden[: len(target)]
        made = hidden.flatten(1) @ head[:, :-1].T + head[:, -1]
        found.append([torch.corrcoef(torch.stack((made[:, n], target[:, n])))[0, 1].item() for n in range(TARGETS)])
    height, width, loudness = np.mean(found, 0)
    worst = min(row[0] for row in found)
    return {"height": float(height), "height_worst": worst, "width": float(width), "loudness": float(loudness)}


def _legacy(name: str) -> str:
    for new, old in LEGACY.items():
        name = name.replace(new, old)
    return name
