"""How much the toy's denoiser has learnt from sound, without sampling a film: a few model calls for each held-out film.

    python benchmarks/sound_learnt.py [--films 6] [--output benchmarks/results/sound-learnt-toy.json]

The network's loss on noised true films is compared under their own sound, under none (the null), and under sound that
comes some frames late or early. What there is to gain is bounded by what the mouth's motion is of the latents: the mean
square by which they change when the mouth is held still. The share that is gained is 0 for a network that does not
listen, and towards 1, in pure noise, for one that knows the mouth from the sound. The loss should be least at offset 0.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.effect_parts.probe import Probe
from benchmarks.measuring import machine, report
from hallo3_core.pipeline.networks import Networks
from hallo3_core.pipeline.options import Options, Settings
from hallo3_core.release.layout import Release
from hallo3_core.toy.learnt_release import write_toy_release

OFFSETS = (-4, -2, -1, 0, 1, 2, 4)  # frames by which the sound is of later (or, below 0, of earlier) frames
STEPS, ASKED = 20, (0, 6)  # of a schedule of 20 steps: pure noise, and a third of the way
NULL = "null"


def film_losses(networks: Networks, number: int) -> dict:
    """Losses of a held-out film by step and by sound, and the mouth's mean square in its latent."""
    probe = Probe(networks, number)
    heard = {NULL: None} | {str(offset): probe.frames_heard() + offset for offset in OFFSETS}
    losses = {str(step): {name: probe.loss(step, frames) for name, frames in heard.items()} for step in ASKED}
    return {"person": number, "mouth": probe.mouth(), "losses": losses}


def summary(films: list[dict]) -> dict:
    """By step: mean loss by sound, relative to the null's, and the share of the mouth's mean square that own sound
    gains (of pure noise alone: later the state itself shows the mouth)."""
    mouth = float(np.mean([film["mouth"] for film in films]))
    rows = {}
    for step in map(str, ASKED):
        losses = {s: float(np.mean([f["losses"][step][s] for f in films])) for s in films[0]["losses"][step]}
        rows[step] = {s: round((loss - losses[NULL]) / mouth, 4) for s, loss in losses.items()}
        rows[step]["loss under the null"] = round(losses[NULL], 5)
    return {"mouth in the latents": round(mouth, 5), "gained": round(-rows["0"]["0"], 4), "by step": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=6)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        release = Release(write_toy_release(Path(folder) / "toy"))
        networks = Networks(release, Options(Settings(STEPS)), keep=True)
        films = [film_losses(networks, number) for number in range(args.films)]
    report({**summary(films), "films": films, **machine("cpu", torch.float32)}, args.output)


if __name__ == "__main__":
    main()
