"""Seconds a step of training and its memory, with and without each switch of the section memory, in pairs.

    python -m benchmarks.train_step toy --steps 10
    python -m benchmarks.train_step cpu-medium --steps 3

A run with a switch and one without take turns, so that what else the machine does meets both. Films, text, sound and
faces are noise, the VAE too: the time is that of real ones. On a CPU the memory is what autograd keeps for the backward
pass, counted; on a GPU the allocator's peak.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch

from hallo3_core.toy.noise_vae import tiny_vae_tensors
from hallo3_core.train.cache import cache_films
from hallo3_core.train.config import Config, Data, Memory, Network, Stop, Watch
from hallo3_core.train.encoders import Encoders
from hallo3_core.train.films import film_of_arrays
from hallo3_core.train.loop import _Run, train
from hallo3_core.train.processes import join
from hallo3_core.vae.autoencoder import load_vae

SIZES = {  # pixels, hidden, heads, layers, text tokens and width
    "toy": ((96, 144), 160, 5, 4, 24, 32),
    "cpu-medium": ((160, 240), 512, 8, 6, 64, 64),
}
SWITCHES = {
    "checkpoint_layers": Memory(checkpoint_layers=True),
    "fp8": Memory(fp8=True),
    "offload_activations": Memory(offload_activations=True),
    "micro_batch": Memory(micro_batch=1),
    "adamw8bit": Memory(optimiser="adamw8bit"),
}


def noise(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Bench:
    """A start, cached films and encoders of one size."""

    def __init__(self, size: str, batch: int, device: str, folder: Path):
        pixels, hidden, heads, layers, tokens, width = SIZES[size]
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        self.encoders = Encoders(
            vae=load_vae(tiny_vae_tensors(0), device=device, dtype=dtype),
            text=lambda caption: noise(tokens, width, seed=1),
            audio=lambda recording: noise(recording.frames, 3, 48, seed=2),
            face=lambda frame, name: noise(512, seed=3),
        )
        frames = (noise(57, *pixels, 3, seed=4) * 40 + 128).clamp(0, 255).to(torch.uint8)
        films = [
            film_of_arrays(str(n), frames.roll(n), "A person.", (8, 8, 40, 40), noise(57 * 640, seed=n) * 0.1)
            for n in range(2)
        ]
        self.config = Config(
            data=Data(size=pixels, windows=2, references=2, on_device=True),
            batch=batch,
            device=device,
            precision="bf16" if device == "cuda" else "fp32",
            stop=Stop(steps=1),
            network=Network(
                hidden,
                heads,
                layers,
                64,
                tokens,
                4,
                64,
                audio_inner=128,
                audio_tokens=4,
                audio_width=64,
                start="fan_in",
            ),
            watch=Watch(log_every=0, validate_every=0, checkpoint_minutes=0),
        )
        self.entries = cache_films(films, self.encoders, self.config.data, None)
        self.start = None
        for mode in ("base", "identity", "audio"):
            config = replace(self.config, mode=mode, start=self.start, output=folder / mode, batch=1)
            self.start = train(config, encoders=self.encoders, entries=self.entries).path

    def run(self, memory: Memory) -> _Run:
        config = replace(self.config, mode="speech", start=self.start, memory=memory)
        return _Run(config, join(config.device, config.batch), None, self.encoders, self.entries)


@contextmanager
def counted(device: str, found: list[int]):
    """Bytes: the peak of the allocator, or what autograd keeps at the end of the forward."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        yield
        found.append(torch.cuda.max_memory_allocated())
        return
    kept: dict[int, int] = {}
    alive = []

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        alive.append(storage)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield
    found.append(sum(kept.values()))


def one(run: _Run, device: str) -> float:
    """Seconds of the next step."""
    run.step += 1
    begun = time.perf_counter()
    run._step(1e-4, tells=False)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def compare(bench: Bench, name: str, steps: int, device: str) -> dict[str, object]:
    """The switch beside none, step by step."""
    runs = {"without": bench.run(Memory()), "with": bench.run(SWITCHES[name])}
    seconds: dict[str, list[float]] = {which: [] for which in runs}
    memory: dict[str, list[int]] = {which: [] for which in runs}
    for which, run in runs.items():
        if which == "with" and name == "offload_activations" and device != "cuda":
            memory[which].append(0)  # all of it is in host memory already
            one(run, device)
            continue
        with counted(device, memory[which]):
            one(run, device)  # a warm-up too
    for _ in range(steps):
        for which, run in runs.items():
            seconds[which].append(one(run, device))
    ratios = [b / a for a, b in zip(seconds["without"], seconds["with"], strict=True)]
    return {
        "switch": name,
        "seconds_without": round(median(seconds["without"]), 4),
        "seconds_with": round(median(seconds["with"]), 4),
        "ratio": round(median(ratios), 3),
        "kept_mb_without": round(memory["without"][0] / 1e6, 1),
        "kept_mb_with": round(memory["with"][0] / 1e6, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--switches", nargs="+", default=["checkpoint_layers", "fp8", "offload_activations", "micro_batch"]
    )
    parser.add_argument("--output", type=Path, help="a JSON file")
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        bench = Bench(given.size, given.batch, given.device, Path(folder))
        rows = [compare(bench, name, given.steps, given.device) for name in given.switches]
    about = {"size": given.size, "batch": given.batch, "device": given.device, "threads": torch.get_num_threads()}
    result = about | {"torch": torch.__version__, "switches": rows}
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
    if given.output:
        given.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
