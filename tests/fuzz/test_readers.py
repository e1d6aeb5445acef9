"""Mutated pictures, recordings, batch files and configurations: 5,000 files beside the 5,000 checkpoints of
test_headers.py. Each is read or refused in one line; none crashes, hangs, or takes more memory than stated."""

from __future__ import annotations

import faulthandler
import importlib.util
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, features

from hallo3_core.cli.batch import read_batch
from hallo3_core.errors import InputError
from hallo3_core.inputs.image import MAX_PIXELS, read_image
from hallo3_core.inputs.recording import read_recording
from hallo3_core.inputs.text import load_text_encoder, read_tokenizer, read_weights
from hallo3_core.toy.noise_text import tiny_config, train_pieces

CASES = {"picture": 2500, "recording": 2000, "batch": 350, "configuration": 100, "index": 25, "tokenizer": 25}
# Bytes of growth: a damaged header may tell a picture of the largest size that is read, as bytes and then as floats.
MEMORY = MAX_PIXELS * (4 + 3 * 4) + (256 << 20)
ENDLESS = 60  # processor seconds a file, after which the run is ended and shows where it hung: most take milliseconds


def mutations():
    """The module beside this one, which says what a mutation is."""
    spec = importlib.util.spec_from_file_location("fuzz_headers", Path(__file__).with_name("test_headers.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pictures() -> Iterator[tuple[str, bytes]]:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 4), dtype=np.uint8)
    rgb, grey = Image.fromarray(pixels[..., :3]), Image.fromarray(pixels[..., 0])
    forms = [("png", Image.fromarray(pixels), {}), ("png", rgb.quantize(8), {"transparency": 1}), ("jpeg", rgb, {})]
    forms += [("png", Image.fromarray(pixels[..., 0].astype(np.uint16) << 8), {}), ("jpeg", rgb.convert("CMYK"), {})]
    forms += [("gif", rgb, {"save_all": True, "append_images": [grey]}), ("webp", rgb, {"lossless": True})]
    forms += [("tiff", rgb, {}), ("tiff", rgb, {"compression": "tiff_lzw"}), ("bmp", rgb, {}), ("ppm", rgb, {})]
    forms += [("tga", rgb, {"compression": "tga_rle"}), ("jpeg2000", rgb, {})]
    forms += [("avif", rgb, {})] if features.check("avif") else []
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind, picture, options in forms:
        content = io.BytesIO()
        picture.save(content, kind, **options, **({"exif": exif} if kind in ("png", "jpeg", "webp") else {}))
        yield kind, content.getvalue()


def recordings(folder: Path) -> Iterator[tuple[str, bytes]]:
    forms = [
        ("wav", "pcm_s16le"),
        ("wav", "pcm_f32le"),
        ("wav", "adpcm_ms"),
        ("aiff", "pcm_s24be"),
        ("au", "pcm_mulaw"),
    ]
    forms += [("flac", "flac"), ("mp3", "libmp3lame"), ("ogg", "libopus"), ("m4a", "aac"), ("aac", "aac")]
    forms += [("m4a", "alac"), ("mka", "pcm_s16le"), ("avi", "pcm_s16le"), ("wv", "wavpack"), ("ts", "mp2")]
    for ending, codec in forms:
        path = folder / f"seed.{ending}"
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=48_000, layout="mono")
            samples = 0.3 * np.sin(np.arange(2400, dtype=np.float32)[None] / 7)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = 48_000, Fraction(1, 48_000), 0
            for packet in [*stream.encode(frame), *stream.encode(None)]:
                container.mux(packet)
        yield ending, path.read_bytes()


def batches() -> Iterator[tuple[str, bytes]]:
    lines = "A person talks.@@me.png@@voice.wav\r\n\nÉ 人 😀@@b/b.png@@c.wav\n"
    yield "utf-8", lines.encode("utf-8-sig")
    yield "utf-16", lines.encode("utf-16")


def configurations() -> Iterator[tuple[str, bytes]]:
    yield "t5", json.dumps(tiny_config(264, 40, 2, 4, 64)).encode()


def indices() -> Iterator[tuple[str, bytes]]:
    yield "index", json.dumps({"metadata": {"total_size": 8}, "weight_map": {"a": "a.safetensors"}}).encode()


def tokenizers() -> Iterator[tuple[str, bytes]]:
    yield "pieces", train_pieces()


def configuration_reader(path: Path) -> object:
    """With neither tokenizer nor weights beside it: what is built after a configuration is refused then."""
    return load_text_encoder(path.rename(path.with_name("config.json")).parent)


def index_reader(path: Path) -> object:
    """A shard index lies under its own name."""
    return read_weights(path.rename(path.with_name("model.safetensors.index.json")).parent)


def tokenizer_reader(path: Path) -> object:
    return read_tokenizer(path.rename(path.with_name("spiece.model")).parent).tokens("A person talks.", 20)


READERS: dict[str, Callable[[Path], object]] = {
    "picture": read_image,
    "recording": read_recording,
    "batch": read_batch,
    "configuration": configuration_reader,
    "index": index_reader,
    "tokenizer": tokenizer_reader,
}


def read_all(kind: str, folder: Path, count: int, seed: int) -> dict[str, int]:
    """Read `count` mutants of one kind: how many were taken, how many refused."""
    mutated, draw = mutations().mutated, random.Random(f"{kind} {seed}")
    seeds = {
        "picture": pictures,
        "recording": lambda: recordings(folder),
        "batch": batches,
        "configuration": configurations,
        "index": indices,
        "tokenizer": tokenizers,
    }
    wholes = [content for _, content in seeds[kind]()]
    found = {"taken": 0, "refused": 0}
    for n in range(count):
        path = folder / "mutant"
        content = mutated(wholes[n % len(wholes)], draw)
        path.write_bytes(content)
        signal.setitimer(signal.ITIMER_PROF, ENDLESS)
        try:
            READERS[kind](path)
            found["taken"] += 1
        except InputError as error:
            assert "\n" not in str(error), error
            found["refused"] += 1
        except BaseException as error:
            raise AssertionError(f"{kind} {n}: {content.hex()}") from error
    signal.setitimer(signal.ITIMER_PROF, 0)
    return found


def main(folder: Path, seed: int = 0) -> None:
    """What the test runs in a process of its own, whose memory it measures; by hand, with other seeds."""
    import resource

    faulthandler.register(signal.SIGPROF, chain=True)  # then the process ends, as by default

    def peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

    for kind in CASES:
        read_all(kind, folder, 30, seed + 1)  # so that what is imported on the way does not count
    found = {}
    for kind, count in CASES.items():
        before, start = peak(), time.process_time()
        found[kind] = read_all(kind, folder, count, seed)
        found[kind] |= {"memory": peak() - before, "seconds": time.process_time() - start}
    sys.stdout.write(json.dumps(found))


@pytest.mark.skipif(sys.platform == "win32", reason="peak memory is asked of the resource module")
def test_mutated_files_are_read_or_refused(tmp_path):
    root = Path(__file__).parents[2]
    arguments = [sys.executable, __file__, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=root, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    for kind, found in json.loads(done.stdout).items():
        assert found["taken"] + found["refused"] == CASES[kind]
        assert found["refused"] > CASES[kind] / 20
        assert found["taken"] > CASES[kind] / 20 or kind in ("configuration", "index")  # they name files that lack
        assert found["memory"] < MEMORY


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
