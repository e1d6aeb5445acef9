"""Peak device memory of each phase of a clip inside ComfyUI, through the nodes' own code.

    COMFYUI_PATH=~/ComfyUI python benchmarks/host_memory.py [--release DIR] [--weight-dtype bf16] [--limit-gb 12]

Needs a Python with the requirements of ComfyUI and of this pack. Without `--release`, the transformers and the VAE are
written at full size as sparse files of zeros (30 GB apparent, little on disk): memory does not depend on values. Prints
one JSON object: seconds and peak gigabytes of each phase, of the GPU if there is one, else of the process. A limit is
passed to ComfyUI as memory to leave free and enforced by torch, so a phase that needs more fails. ComfyUI's dynamic
VRAM is off here, because only its server turns it on.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
PACK = "hallo3_pack"
SECONDS = 1.0  # of audio: one clip
FRAMES_PER_CLIP = 49


def start_host(limit_gb: float | None) -> torch.device:
    """Imports ComfyUI's modules into this process; returns its compute device."""
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()
    if limit_gb is not None and not args.cpu:
        total = torch.cuda.get_device_properties(0).total_memory / 1e9
        args.reserve_vram = (total - limit_gb) * 1e9 / 2**30
        torch.cuda.set_per_process_memory_fraction(limit_gb / total)
    import comfy.model_management as management

    return management.get_torch_device()


def load_pack() -> None:
    """Imports the pack as the host does."""
    spec = importlib.util.spec_from_file_location(PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    sys.modules[PACK] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[PACK])


def of_pack(name: str):
    return importlib.import_module(f"{PACK}.{name}")


class Phases:
    """Time and peak memory by phase."""

    def __init__(self, device: torch.device):
        self.on_gpu, self.found = device.type == "cuda", {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        yield
        if self.on_gpu:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        self.found[name] = {"seconds": round(seconds, 2), "peak_GB": round(self._peak() / 1e9, 3)}

    def _peak(self) -> float:
        if self.on_gpu:
            return torch.cuda.max_memory_allocated()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # of the whole run so far


def measure(release: Path, args: argparse.Namespace, phases: Phases) -> None:
    """Makes one clip with noise as portrait, noise as voice, and zeros as prompt."""
    height, width = (int(side) for side in args.size.split("x"))
    audio = of_pack("hallo3_core.inputs.audio")
    recording = of_pack("hallo3_core.inputs.recording").Recording(
        torch.randn(1, int(16000 * SECONDS)) * 0.1, 16000, "noise"
    )
    face = of_pack("hallo3_core.inputs.face").Face(
        torch.randn(512), (0.0, 0.0, 9.0, 9.0), torch.zeros(5, 2), 0, 1, 0.9, (0.0, 0.0, 9.0, 9.0)
    )
    with phases.phase("load"):
        model = of_pack("nodes.host.model").load_model(str(release), args.weight_dtype)
        reference_net = of_pack("nodes.host.networks").load_reference_net(release, args.weight_dtype)
        vae = of_pack("nodes.host.vae").load_host_vae(release)
    config = model.model.diffusion_model.config
    audio_width = of_pack("nodes.host.model").projectors_of(model).audio.module.proj1.in_features // audio.WINDOW
    hidden = torch.randn(FRAMES_PER_CLIP, 1, audio_width)  # one layer as wide as wav2vec2's twelve
    with phases.phase("portrait: VAE and reference network"):
        image, mask = torch.rand(1, height, width, 3), torch.ones(1, height, width)
        portrait = of_pack("nodes.reference").make_reference(image, mask, vae, reference_net, height, width, "crop")
    text = [[torch.zeros(1, config.text_tokens, config.text_width), {}]]
    features = audio.AudioFeatures(hidden, recording.frames, recording)
    settings = of_pack("hallo3_core.pipeline.options").Settings(steps=args.steps)
    with phases.phase("sound and face to tokens"):
        sampler = of_pack("nodes.host.sampling").prepare_sampler(
            model, text, vae, features, face, portrait, settings, seed=0
        )
    with phases.phase(f"sampling, {args.steps} steps of two model calls"):
        latent = sampler.sample(0, None)
    with phases.phase("decoding"):
        of_pack("nodes.host.film").decode(vae, latent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--release", type=Path, help="an existing release (the toy one, or the real one)")
    parser.add_argument(
        "--layers", type=int, default=42, help="of the release that is written if there is no --release"
    )
    parser.add_argument("--weight-dtype", choices=("auto", "bf16", "fp16", "fp8"), default="bf16")
    parser.add_argument("--size", default="480x720", help="height x width")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--limit-gb", type=float, help="use at most this much of the GPU's memory")
    args = parser.parse_args()
    device = start_host(args.limit_gb)
    load_pack()
    phases = Phases(device)
    with tempfile.TemporaryDirectory() as scratch, torch.inference_mode():
        release = args.release
        if release is None:
            from convert_memory import full_config, make_release, official_shapes

            release, config = Path(scratch), full_config(args.layers)
            make_release(release, "pt", official_shapes(config), config)
        measure(release, args, phases)
    name = torch.cuda.get_device_name() if phases.on_gpu else "CPU: peaks are the process's, of the run so far"
    json.dump({"device": name, **vars(args), "phases": phases.found}, sys.stdout, indent=1, default=str)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
