"""Make the small copy of the recorded training steps: `python copy_golden_train.py SOURCE TARGET`.

The weights are left out: they are those of `golden`, recorded with the same seed. Of what is derived (inputs, latents,
results, gradients) every 8th value in the last direction is kept (every 4th of short rows), draws and films whole.
"""

from __future__ import annotations

import gzip
import re
import sys
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

PHASES = ("train_phase1", "train_phase2")
PACKED = ("trainable_tiny.json", "trainable_full_size.json")
THINNED = r".*\.(in\.(?!text|face)|mid\.|net\.x|out\.(velocity|x0)|bank\.|grad\.|param\.|ema\.).*"
SHORT = r"all\.grad\..*conv1\.weight"  # rows of two: its samples are enough


def copy(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "lr_curve.json"):
        (target / name).write_bytes((source / name).read_bytes())
    for name in PACKED:
        (target / f"{name}.gz").write_bytes(gzip.compress((source / name).read_bytes(), mtime=0))
    for name in (*PHASES, "train_data", "train_alpha_table"):
        with safe_open(str(source / f"{name}.safetensors"), "pt") as file:
            keys = [key for key in file.keys() if not re.fullmatch(SHORT, key)]
            kept = dict(thinned(key, file.get_tensor(key)) for key in keys)
        save_file(kept, target / f"{name}.safetensors")


def thinned(key: str, tensor):
    every = 8 if tensor.shape[-1] >= 16 else 4
    if re.fullmatch(THINNED, key) and tensor.shape[-1] >= 2 * every:
        return f"{key}.every{every}th", tensor[..., ::every].contiguous()
    return key, tensor


if __name__ == "__main__":
    copy(*map(Path, sys.argv[1:3]))
