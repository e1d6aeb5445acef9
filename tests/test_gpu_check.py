"""The GPU check, rehearsed on the CPU: every part returns a result, even with few packages installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu_parts import exactness, steps
from benchmarks.gpu_parts.bench import Bench

ROOT = Path(__file__).parents[1]
# (transformers may be imported by diffusers itself, through peft, where that is installed)
ABSENT = ("av", "insightface", "onnxruntime", "cv2", "soundfile", "torchvision", "torchaudio")
COMPILED = ("compiled", "exact compiled")
REHEARSAL = f"""
import sys
sys.modules.update(dict.fromkeys({ABSENT}))  # importing one of them fails
from benchmarks import gpu
assert not {{"PIL", "diffusers", "tools.testbed.fake_device"}} & sys.modules.keys()
gpu.main(sys.argv[1:])
"""


def errors(value: object) -> list[str]:
    """All errors anywhere in a result."""
    if isinstance(value, list):
        return [error for each in value for error in errors(each)]
    if not isinstance(value, dict):
        return []
    own = [value["error"]] if isinstance(value.get("error"), str) else []
    return own + errors(list(value.values()))


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    output = tmp_path_factory.mktemp("gpu") / "gpu.json"
    parts = [name for name in gpu.PARTS if name not in COMPILED]
    words = ["--preset", "smallest", "--device", "cpu", "--parts", *parts, "--output", str(output)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", REHEARSAL, *words], env=environment, check=True)
    return json.loads(output.read_text())["parts"]


def test_every_part_answers(rehearsed):
    kernels = ("exact attention", "attention")  # kernels of CUDA or of missing packages: their errors are recorded
    assert list(rehearsed) == [name for name in gpu.PARTS if name not in COMPILED]
    for name, found in rehearsed.items():
        assert len(found) > 1 and "skipped" not in found, name
        assert name in kernels or not errors(found), (name, errors(found))


def test_what_is_exact_is_found_exact(rehearsed):
    for name in ("torch", "math"):
        assert all(row["exact"] for row in rehearsed["exact attention"][name].values())
    for dtype, limit in {"float32": 1e-5, "float16": 5e-3, "bfloat16": 5e-2}.items():
        row = rehearsed["exact denoiser"][dtype]
        assert 0 < row["error"] == row["cpu_error"] < limit and row["streamed_equals_resident"] is True
        assert all(0 < each["error"] < limit for each in rehearsed["exact conv"][dtype].values())
    matmul = rehearsed["exact fp8 matmul"]
    assert max(matmul["weights"], matmul["matmuls"]) < matmul["limit"] < matmul["lossy"] < 0.1


def test_modes_are_compared_with_the_eager_step(rehearsed):
    assert all(rehearsed["streamed"][calls]["equal"] for calls in ("1", "2"))
    assert 0 < rehearsed["fp8"]["fp8 weights"]["difference"] < rehearsed["fp8"]["fp8 matmuls"]["difference"] < 0.2
    assert rehearsed["vae"]["differences"]["caches in host memory: equal"]
    assert all(clip["relative"] == 0 for clip in rehearsed["toy film"]["float32"])
    assert all(0 < clip["relative"] < 0.1 for clip in rehearsed["toy film"]["bfloat16"])
    assert len(rehearsed["profile step"]["operations"]) > 5


@pytest.mark.parametrize("part", COMPILED)
def test_compiled_parts(part, monkeypatch):
    for module in (steps, exactness):
        compile_blocks = module.compile_blocks
        monkeypatch.setattr(module, "compile_blocks", lambda blocks, own=compile_blocks: own(blocks, backend="eager"))
    found = gpu.PARTS[part].work(Bench("smallest", "cpu", torch.float32))
    assert not errors(found) and found["difference" if part == "compiled" else "error"] < 1e-5


def test_a_part_that_fails_is_recorded_and_the_rest_goes_on(tmp_path, monkeypatch):
    def full(bench):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 80 GiB.")

    parts = {
        "full": gpu.Part(full, 1),
        "long": gpu.Part(lambda bench: {"never": True}, 100),
        "good": gpu.Part(lambda bench: {"answer": 42}, 1),
    }
    monkeypatch.setattr(gpu, "PARTS", parts)
    seen, output = [], tmp_path / "gpu.json"

    def on_result(found):
        gpu.write(found, output)
        seen.append(list(json.loads(output.read_text())["parts"]))

    gpu.check(Bench("full", "cpu", torch.float32), list(parts), 50, on_result)
    assert seen == [["full"], ["full", "long"], ["full", "long", "good"]] and list(tmp_path.iterdir()) == [output]
    found = json.loads(output.read_text())["parts"]
    assert found["full"]["out_of_memory"] and "\n" not in found["full"]["error"]
    assert found["full"]["where"][-1].startswith("test_gpu_check.py:")
    assert "skipped" in found["long"] and found["good"]["answer"] == 42
