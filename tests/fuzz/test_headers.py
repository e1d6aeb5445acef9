"""Mutated headers: 5,000 files, each read or refused in one line, in bounded time and memory."""

from __future__ import annotations

import io
import random
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from hallo3_core.errors import InputError
from hallo3_core.release.detect import identify_file
from hallo3_core.toy import noise_release as tiny
from hallo3_core.weights.onnx_outline import read_onnx_outline
from hallo3_core.weights.reading import read_header, read_tensors
from hallo3_core.weights.safetensors_format import HEADER_LIMIT
from hallo3_core.weights.torch_format import PICKLE_LIMIT
from tests.yardstick import unit

CASES = 5_000
MEMORY = 1 << 30  # bytes of growth
SLOWEST = 50  # million additions a file: a second or two
# What a mutation puts in: numbers at the edge, words of JSON and of pickle, tensor names of other models.
PIECES = (
    *(
        value.to_bytes(size, "little")
        for size in (1, 2, 4, 8)
        for value in (0, 1, (1 << (8 * size - 1)) - 1, (1 << 8 * size) - 1)
    ),
    *(
        b'"BF16"',
        b'"shape":[',
        b"[[[[[[[[",
        b"}}}}",
        b"null",
        b"1e999",
        b"-1",
        b"99999999999999999999",
        b"true",
        b'"\\ud800"',
    ),
    *(b"cos\nsystem\n", b"(", b"t", b"R", b"}", b"]", b"\x86", b"q\x00", b"h\x00", b"0", b"s", b"u", b"b", b"Q", b"."),
    *(b"\x8a\xff", b"\x8b\xff\xff\xff\x7f", b"B\xff\xff\xff\xff", b"X\xff\xff\xff\x7f", b"j\xff\xff\xff\xff"),
    *(b"9" * 4000, b"7," * 3000, b"[9," + b"8" * 900 + b"]", b"1." + b"3" * 3000),  # numbers that take their time
    *(b"\x8b\xa0\x0f\x00\x00" + b"\x7f" * 4000, b"h\x00h\x00\x86q\x00" * 40, b"K\x07" * 3000, b"h\x00h\x00\x93"),
    *(b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"__metadata__", b"/data.pkl", b"__builtin__\nlong\n"),
)


def mutated(content: bytes, draw: random.Random) -> bytes:
    """A few bytes turned, replaced, doubled, moved or cut off."""
    content = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 3, 8))):
        start = draw.randrange(len(content) + 1)
        stop = min(len(content), start + draw.choice((1, 1, 2, 4, 8, 64)))
        match draw.randrange(6):
            case 0 if start < len(content):
                content[start] ^= 1 << draw.randrange(8)
            case 1:
                piece = draw.choice(PIECES)
                content[start : start + len(piece)] = piece
            case 2:
                content[start:start] = draw.choice(PIECES)
            case 3:
                content[start:start] = content[start:stop] * draw.choice((1, 2, 50))
            case 4:
                del content[start:stop]
            case _ if draw.random() < 0.2:
                del content[start:]
    return bytes(content)


def small_transformers() -> dict[str, torch.Tensor]:
    """Tensors under official names, too few to be whole: what is fuzzed is the list of them."""
    tensors = tiny.file_tensors(0)
    kept = [name for name in tensors if ".layers.0." in name or "pos_embed" in name][:8]
    return {name: tensors[name].reshape(-1)[:2].clone() for name in kept}


def seeds() -> dict[str, bytes]:
    tensors = small_transformers()
    whole = io.BytesIO()
    torch.save({"module": tensors, "iteration": 1, "state": [(1, 2.5, "x")]}, whole)
    return {"safetensors": save(tensors, {"format": "pt"}), "torch": whole.getvalue()}


def mutants(count: int, seed: int):
    """Half are safetensors with a mutated header; of the torch ones half have a mutated pickle in a sound archive."""
    draw, whole = random.Random(seed), seeds()
    header = 8 + int.from_bytes(whole["safetensors"][:8], "little")
    with zipfile.ZipFile(io.BytesIO(whole["torch"])) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    pickled = next(name for name in records if name.endswith("data.pkl"))
    for n in range(count):
        if n % 4 == 0:
            yield mutated(whole["safetensors"][:header], draw) + whole["safetensors"][header:]
        elif n % 4 == 1:  # with the new length, so that the JSON is read
            text = mutated(whole["safetensors"][8:header], draw)
            yield len(text).to_bytes(8, "little") + text + whole["safetensors"][header:]
        elif n % 4 == 2:
            yield mutated(whole["torch"], draw)
        else:
            file = io.BytesIO()
            with zipfile.ZipFile(file, "w") as archive:
                for name, content in records.items():
                    archive.writestr(name, mutated(content, draw) if name == pickled else content)
            yield file.getvalue()


def read_all(folder: Path, count: int, seed: int) -> tuple[int, int, float]:
    """Read `count` mutants: how many were taken, how many refused, and the processor time of the slowest, in units."""
    path, taken, refused, slowest = folder / "mutant", 0, 0, 0.0
    for content in mutants(count, seed):
        path.write_bytes(content)
        start = time.process_time()
        try:
            header = read_header(path)
            tensors = read_tensors(path)
            assert {name: tuple(entry) for name, entry in header.items()} == {
                name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()
            }
            assert sum(float(tensor.float().nan_to_num().sum()) for tensor in tensors.values()) is not None
            taken += 1
        except InputError as error:
            assert "\n" not in str(error)
            refused += 1
        identify_file(path)
        slowest = max(slowest, time.process_time() - start)
    return taken, refused, slowest / unit()


@pytest.mark.skipif(sys.platform == "win32", reason="peak memory is asked of the resource module")
def test_mutated_headers_are_read_or_refused(tmp_path):
    code = (
        "import importlib.util, pathlib, resource, sys\n"
        "spec = importlib.util.spec_from_file_location('fuzzed', sys.argv[1])\n"
        "fuzzed = importlib.util.module_from_spec(spec); spec.loader.exec_module(fuzzed)\n"
        "folder = pathlib.Path(sys.argv[2]); fuzzed.read_all(folder, 40, 1)\n"
        "unit = 1 if sys.platform == 'darwin' else 1024\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit\n"
        "before = peak(); result = fuzzed.read_all(folder, int(sys.argv[3]), 0)\n"
        "sys.stdout.write(' '.join(map(str, (*result, peak() - before))))\n"
    )
    arguments = [sys.executable, "-c", code, __file__, str(tmp_path), str(CASES)]
    run = subprocess.run(arguments, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    taken, refused, slowest, grown = map(float, run.stdout.split())
    assert taken + refused == CASES and taken > CASES / 50 and refused > CASES / 4
    assert slowest < SLOWEST and grown < MEMORY


@pytest.mark.skipif(sys.platform == "win32", reason="peak memory is asked of the resource module")
@pytest.mark.parametrize("form", ["safetensors", "torch"])
def test_the_costliest_header_stays_in_bounds(tmp_path, form):
    """As large as a header may be, and nothing in it but containers."""
    path = tmp_path / "large"
    if form == "safetensors":
        text = b'{"a":[' + b"{}," * ((HEADER_LIMIT - 16) // 3) + b"{}]}"
        path.write_bytes(len(text).to_bytes(8, "little") + text)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/data.pkl", b"\x80\x02" + b"}" * (PICKLE_LIMIT - 3) + b".")
    code = (
        "import resource, sys; from hallo3_core.weights.reading import read_header\n"
        "unit = 1 if sys.platform == 'darwin' else 1024\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit\n"
        "before = peak()\n"
        "try: read_header(sys.argv[1])\n"
        "except ValueError: pass\n"
        "sys.stdout.write(str(peak() - before))\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert int(run.stdout) < MEMORY


def test_mutated_onnx_files_are_read_or_refused(tmp_path):
    """The same for the walk over ONNX files, which has no limits but the file's own."""
    from hallo3_core.toy.noise_face import write_tiny_face

    detector, _ = write_tiny_face(tmp_path)
    whole, draw, path = detector.read_bytes(), random.Random(0), tmp_path / "mutant.onnx"
    shell = whole[:200] + whole[-2000:]  # where the outermost fields and the outputs are
    for _ in range(500):
        path.write_bytes(mutated(draw.choice((shell, whole)), draw) or b"\x08")
        try:
            read_onnx_outline(path)
        except ValueError as error:
            assert "\n" not in str(error)
        identify_file(path)
