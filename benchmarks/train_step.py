"""Seconds and memory of a training step, with and without each switch of the section memory, side by side.

    python -m benchmarks.train_step toy --rounds 10
    python -m benchmarks.train_step cpu-medium --rounds 3

Every round makes one step with each switch and one without any, so that other load affects all alike. Films, text,
audio, faces and the VAE are noise; the time is that of real ones. On a CPU, seconds are CPU time and memory is the peak
of the tensors that the first step makes, with the optimiser's moments; on a GPU, memory is the allocator's peak,
including weights.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import weakref
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hallo3_core.inputs.face import Face
from hallo3_core.toy.noise_vae import tiny_vae_tensors
from hallo3_core.train.cache import cache_films
from hallo3_core.train.config import Data, Memory, NetworkSizes, Stop, TrainingConfig, Watch
from hallo3_core.train.encoders import Encoders
from hallo3_core.train.film import film_of_arrays
from hallo3_core.train.loop import TrainingRun, train
from hallo3_core.train.processes import join
from hallo3_core.vae.autoencoder import load_vae

BOX = (8.0, 8.0, 40.0, 40.0)
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
            faces=lambda frame: [Face(noise(512, seed=3), BOX, torch.zeros(5, 2), 0, 1, 0.9, BOX)],
        )
        frames = (noise(57, *pixels, 3, seed=4) * 40 + 128).clamp(0, 255).to(torch.uint8)
        films = [
            film_of_arrays(str(n), frames.roll(n), "A person.", BOX, noise(57 * 640, seed=n) * 0.1) for n in range(2)
        ]
        self.config = TrainingConfig(
            data=Data(size=pixels, windows=2, references=2, on_device=True),
            batch=batch,
            device=device,
            precision="bf16" if device == "cuda" else "fp32",
            stop=Stop(steps=1),
            network=NetworkSizes(
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

    def run(self, memory: Memory) -> TrainingRun:
        config = replace(self.config, mode="speech", start=self.start, memory=memory)
        return TrainingRun(config, join(config.device, config.batch), None, self.encoders, self.entries)


class Peak(TorchDispatchMode):
    """Peak bytes of simultaneously live tensors among those made inside this context."""

    def __init__(self):
        super().__init__()
        self.bytes = self._now = 0
        self._seen: dict[int, object] = {}

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage) -> None:
        key = storage._cdata
        if key not in self._seen:
            size = storage.nbytes()
            self._seen[key] = weakref.ref(storage, lambda _: self._remove(key, size))
            self._now += size
            self.bytes = max(self.bytes, self._now)

    def _remove(self, key: int, size: int) -> None:
        del self._seen[key]
        self._now -= size


def peak_of(run: TrainingRun, device: str) -> int:
    """Peak bytes of a step: the allocator's, or on a CPU those of the tensors that the step makes."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        one(run, device)
        return torch.cuda.max_memory_allocated()
    with Peak() as peak:
        one(run, device)
    return peak.bytes


def one(run: TrainingRun, device: str) -> float:
    """Seconds of the next step; on a CPU the CPU seconds, which are more reliable on a shared machine."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    run.step += 1
    begun = clock()
    run._step(1e-4, logs=False)
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - begun


def compare(bench: Bench, switches: list[str], rounds: int, device: str) -> dict[str, object]:
    """Compares the switches with none. Each run makes a first step, whose peak memory is measured; then every round
    makes one step of each run, so that other load affects all alike, and ratios are those of one round."""
    runs = {"none": bench.run(Memory()), **{name: bench.run(SWITCHES[name]) for name in switches}}
    memory = {name: peak_of(run, device) for name, run in runs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        for name in list(runs) if number % 2 == 0 else reversed(runs):
            seconds[name].append(one(runs[name], device))
    found = {}
    for name, own in seconds.items():
        ratios = [b / a for a, b in zip(seconds["none"], own, strict=True)]
        found[name] = {
            "seconds": [round(value, 3) for value in own],
            "ratio": round(median(ratios), 3),
            "peak_mb": round(memory[name] / 1e6, 1),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--switches", nargs="+", default=["checkpoint_layers", "fp8", "offload_activations", "micro_batch"]
    )
    parser.add_argument("--output", type=Path, help="a JSON file")
    args = parser.parse_args()
    with TemporaryDirectory() as folder:
        bench = Bench(args.size, args.batch, args.device, Path(folder))
        found = compare(bench, args.switches, args.rounds, args.device)
    about = {"size": args.size, "batch": args.batch, "device": args.device, "threads": torch.get_num_threads()}
    result = about | {"torch": torch.__version__, "switches": found}
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
    if args.output:
        args.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
