"""Make the small copy of the recordings that the parity suite reads by default: `python copy_golden.py SOURCE TARGET`.

Of large results every 2nd or 4th value in the last two directions is kept (named `.every4th`, as the recordings
themselves do); of what repeats itself (layers, lengths, clips) the first.
"""

from __future__ import annotations

import gzip
import re
import sys
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

MANIFEST = "full_size_manifest.json"
FILES = (
    "audio denoiser_tiny denoiser_tiny_weights e2e_sampling image long_video refnet_tiny refnet_tiny_weights sampler "
    "vae_tiny vae_tiny_weights"
).split()
DROPPED = {
    "audio": r"a[12]\..*",
    "denoiser_tiny": r"layer[12]\..*",
    "e2e_sampling": r"step[123]\.(x_in|denoised|network_out)|step[1-9]\.noise0",  # of two draws the second counts
    "image": r"rect[01]\..*|square\.out",
    "sampler": r"toy50\.step(?!0\.|1\.|49\.)\d+\.(x_in|x_out|denoised)",
    "long_video": r".*(clip2|cond3)\..*|draw\.clip\d+\.step_noise\d*[13579]",  # beyond the film's end; draws unused
    "vae_tiny": r"enc17\..*",
}
THINNED = {  # inputs, weights and draws never are
    "audio": (r"a\d\.(clip\d+|windowed)", 4),
    "denoiser_tiny": (r"layer.*|mid.*|.*out", 4),
    "e2e_sampling": (r"step.*\.(x_in|x_out|denoised|network_out)", 4),
    "vae_tiny": (r"dec\.frames|dec\.unchunked_first5|enc\d+\.mid\..*|dec\.first_chunk\.mid\..*", 8),
    "long_video": (r"clip\d+\.(frames|audio|concat|latent)|cond\d+\.(encode|motion)_pixels", 8),
}


def copy(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    (target / "config.json").write_bytes((source / "config.json").read_bytes())
    (target / f"{MANIFEST}.gz").write_bytes(gzip.compress((source / MANIFEST).read_bytes(), mtime=0))
    (target / "audio_tiny_wav2vec").mkdir(exist_ok=True)
    for file in (source / "audio_tiny_wav2vec").iterdir():
        (target / "audio_tiny_wav2vec" / file.name).write_bytes(file.read_bytes())
    for name in FILES:
        with safe_open(str(source / f"{name}.safetensors"), "pt") as file:
            kept = dict(thinned(name, key, file.get_tensor(key)) for key in file.keys() if not dropped(name, key))
            save_file(kept, target / f"{name}.safetensors", file.metadata())


def dropped(name: str, key: str) -> bool:
    return name in DROPPED and re.fullmatch(DROPPED[name], key) is not None


def thinned(name: str, key: str, tensor):
    if key == "final.frames_uint8":  # t h w c
        return f"{key}.every4th", tensor[:, ::4, ::4].contiguous()
    key, _, before = key.partition(".every")
    before = int(before[:-2] or 1)  # "4th": it was thinned already
    pattern, every = THINNED.get(name, ("", 1))
    every = max(every, before) if re.fullmatch(pattern, key) else before
    step = every // before
    if step > 1:
        tensor = tensor[..., ::step, ::step].contiguous()
    return f"{key}.every{every}th" if every > 1 else key, tensor


if __name__ == "__main__":
    copy(*map(Path, sys.argv[1:3]))
