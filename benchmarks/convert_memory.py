"""Memory and time of inspecting and converting the release at full size, on sparse files of zeros.

    python benchmarks/convert_memory.py FOLDER [--dtype fp8] [--format pt] [--layers 42] [--manifest FILE]

Makes the transformer file and the VAE file in FOLDER as sparse files (real names, shapes and layout; tens of GB
apparent size), inspects and converts them, each in its own process, and prints one JSON object: seconds, and peak
resident memory (including mapped pages), in total and above the interpreter with everything imported. The output is
not sparse: use `--layers` to make it fit a smaller disk. Linux only (/proc, sparse files).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

sys.path.insert(0, str(Path(__file__).parents[1]))

from hallo3_core.model.config import Grid, TransformerConfig
from hallo3_core.model.positions import rotary_table
from hallo3_core.release.layout import TRANSFORMER_FILE, TRANSFORMER_FOLDER, VAE_FILE
from hallo3_core.toy.noise_release import Draw, transformer_tensors
from hallo3_core.weights import names
from hallo3_core.weights.vae_names import to_original
from hallo3_core.weights.writing import NewTensor, header

LAYERS = 42
PROJECTORS = {  # the released sizes: window 5 x 12 layers x 768, 32 tokens of 768; 4 tokens of 1024
    "audio_proj.proj1.weight": (512, 46080),
    "audio_proj.proj1.bias": (512,),
    "audio_proj.proj2.weight": (512, 512),
    "audio_proj.proj2.bias": (512,),
    "audio_proj.proj3.weight": (24576, 512),
    "audio_proj.proj3.bias": (24576,),
    "audio_proj.conv1.weight": (24576, 24576, 2),
    "audio_proj.conv1.bias": (24576,),
    "audio_proj.norm.weight": (768,),
    "audio_proj.norm.bias": (768,),
    "face_proj.proj.weight": (4096, 512),
    "face_proj.proj.bias": (4096,),
    "face_proj.norm.weight": (1024,),
    "face_proj.norm.bias": (1024,),
}
Shapes = dict[str, tuple[int, ...]]


def full_config(layers: int) -> TransformerConfig:
    """The released sizes, except for the number of layers."""
    return TransformerConfig(
        hidden=3072,
        heads=48,
        layers=layers,
        mlp=12288,
        time=512,
        text_width=4096,
        text_tokens=226,
        grid=Grid(13, 30, 45),
        channels=16,
        patch=2,
        face=1024,
        audio=768,
    )


def official_shapes(config: TransformerConfig) -> Shapes:
    """Names and shapes of the two transformers in the official file."""
    shapes: Shapes = {}
    for prefix, part in names.PREFIXES.items():
        conditions = part == names.DENOISER
        with FakeTensorMode(allow_non_fake_inputs=True):
            own = {k: tuple(v.shape) for k, v in transformer_tensors(NoDraw(), config, conditions).items()}
        if conditions:
            own |= {f"transformer.{name}": shape for name, shape in PROJECTORS.items()}
        shapes |= {prefix + name: shape for name, shape in own.items()}
    return shapes


class NoDraw(Draw):
    """Draws empty tensors instead of noise: only shapes are needed."""

    def __init__(self):
        super().__init__(0)

    def __call__(self, *shape: int, scale: float = 1.0) -> Tensor:
        return torch.empty(shape, dtype=torch.bfloat16)


def manifest_shapes(path: Path) -> Shapes:
    """Shapes of the two transformers from a manifest, an object whose `tensors` list name, shape and dtype."""
    tensors = json.loads(path.read_text())["tensors"]
    rows = tensors.items() if isinstance(tensors, dict) else ((row["name"], row) for row in tensors)
    shapes = {name: tuple(row["shape"] if isinstance(row, dict) else row[0]) for name, row in rows}
    return {name: shape for name, shape in shapes.items() if name.startswith(tuple(names.PREFIXES))}


def vae_shapes() -> Shapes:
    """Official names and shapes of the VAE at its released sizes."""
    from diffusers import AutoencoderKLCogVideoX

    with torch.device("meta"):
        vae = AutoencoderKLCogVideoX(block_out_channels=(128, 256, 256, 512), layers_per_block=3)
    return {to_original(name): tuple(tensor.shape) for name, tensor in vae.state_dict().items()}


def write_sparse(path: Path, shapes: Shapes, wrapper: str, kind: str, values: dict[str, Tensor]) -> None:
    """Writes a sparse file of bfloat16 zeros under these names, except for the few tensors in `values`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "safetensors":
        entries = [NewTensor(name, torch.bfloat16, shape) for name, shape in shapes.items()]
        start = header(entries, {"format": "pt"})
        with path.open("wb") as file:
            file.write(start)
            file.truncate(len(start) + sum(entry.bytes for entry in entries))
        offset, offsets = len(start), {}
        for entry in entries:
            offsets[entry.name] = offset
            offset += entry.bytes
    else:
        mode = FakeTensorMode()
        with mode, torch.serialization.skip_data(materialize_fake_tensors=True):
            tensors = {name: torch.empty(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
            torch.save({wrapper: tensors}, path)
        with mode:
            found = torch.load(path)[wrapper]
        offsets = {name: found[name].untyped_storage()._checkpoint_offset for name in values}
    with path.open("r+b") as file:
        for name, tensor in values.items():
            file.seek(offsets[name])
            file.write(tensor.contiguous().view(torch.uint8).numpy().tobytes())


def make_release(folder: Path, kind: str, shapes: Shapes, config: TransformerConfig) -> tuple[Path, Path]:
    """Writes transformer and VAE file. The rotary tables are real, because the grid is read from them."""
    transformer_file, vae = folder / TRANSFORMER_FOLDER / "1" / TRANSFORMER_FILE, folder / VAE_FILE
    sines = rotary_table(config.grid, config.grid, config.head).sin.repeat_interleave(2, dim=1).bfloat16()
    write_sparse(transformer_file, shapes, "module", kind, {prefix + names.ROTARY: sines for prefix in names.PREFIXES})
    write_sparse(vae, vae_shapes(), "state_dict", kind, {})
    (folder / TRANSFORMER_FOLDER / "latest").write_text("1")
    return transformer_file, vae


MEASURED = """
import json, sys, time
from hallo3_core.release.{verb} import {verb}

def peak():  # bytes resident at most so far, mapped files included
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmHWM"))

before, start = peak(), time.perf_counter()
{verb}(*sys.argv[1:])
found = {{"seconds": round(time.perf_counter() - start, 2), "peak_GB": round(peak() / 1e9, 3)}}
json.dump(found | {{"above_interpreter_GB": round((peak() - before) / 1e9, 3)}}, sys.stdout)
"""


def measure(verb: str, *arguments: object) -> dict[str, float]:
    """Runs `hallo3_core.release.<verb>.<verb>` in its own process."""
    command = [sys.executable, "-c", MEASURED.format(verb=verb), *map(str, arguments)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


def size_gb(paths: Iterable[Path], on_disk: bool = False) -> float:
    """Total size of files: apparent, or on disk."""
    sizes = (path.stat().st_blocks * 512 if on_disk else path.stat().st_size for path in paths)
    return round(sum(sizes) / 1e9, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", choices=("bf16", "fp16", "fp8", "int8"), default="fp8")
    parser.add_argument("--format", choices=("pt", "safetensors"), default="pt")
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--manifest", type=Path, help="names and shapes from here instead of from the sizes")
    args = parser.parse_args()
    config = full_config(args.layers)
    shapes = manifest_shapes(args.manifest) if args.manifest else official_shapes(config)
    args.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        release, target = Path(temporary) / "release", Path(temporary) / "converted"
        start = time.perf_counter()
        sources = make_release(release, args.format, shapes, config)
        report = {
            "torch": torch.__version__,
            "format": args.format,
            "dtype": args.dtype,
            "layers": args.layers,
            "tensors": len(shapes),
            "made_in_seconds": round(time.perf_counter() - start, 2),
            "source_GB": size_gb(sources),
            "source_on_disk_GB": size_gb(sources, on_disk=True),
            "inspect": measure("inspect", sources[0]),
            "convert": measure("convert", release, target, args.dtype),
        }
        report["target_GB"] = {path.name: size_gb([path]) for path in sorted(target.iterdir())}
    json.dump(report, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
