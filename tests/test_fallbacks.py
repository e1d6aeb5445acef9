"""Fallbacks after out-of-memory errors and non-finite values, and their messages."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import torch

from hallo3_core.errors import InputError
from hallo3_core.inputs.portrait import Portrait
from hallo3_core.pipeline import sampling_fallbacks
from hallo3_core.pipeline.causes import likely_cause
from hallo3_core.pipeline.conditions import prepare_run
from hallo3_core.pipeline.networks import Networks
from hallo3_core.pipeline.options import Options, Settings
from hallo3_core.pipeline.sampling_fallbacks import IN_TURN, TOGETHER
from hallo3_core.release.layout import Release
from hallo3_core.runtime.activations import activation_bytes
from hallo3_core.runtime.fallback import Fallbacks, is_out_of_memory
from hallo3_core.sampling.finite import NotFinite, check_finite
from hallo3_core.sampling.guidance import Guidance, Scales
from hallo3_core.sampling.sampler import SAMPLERS, sample
from hallo3_core.sampling.schedule import make_schedule
from hallo3_core.vae.autoencoder import PIXELS
from hallo3_core.vae.tiles import OVERLAP, decode_in_tiles, halves, ramps


class Memory:
    """Has enough memory for modes up to this size."""

    def __init__(self, room: int):
        self.room, self.tried = room, []

    def __call__(self, size: int) -> int:
        self.tried.append(size)
        if size > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return size


MODES = {"at once": 4, "in halves": 2, "one by one": 1}


def test_the_first_mode_that_suffices_is_taken_and_stays():
    reports, memory = [], Memory(2)
    fallbacks = Fallbacks("sampling", MODES, reports.append)
    assert fallbacks.run(memory) == fallbacks.run(memory) == 2
    assert memory.tried == [4, 2, 2]
    assert reports == ["out of memory while sampling at once: trying again in halves"]


def test_if_no_mode_suffices_the_error_says_so():
    with pytest.raises(InputError, match="out of memory while sampling one by one, the smallest mode"):
        Fallbacks("sampling", MODES).run(Memory(0))


def test_other_failures_are_not_tried_again():
    calls = []

    def broken(mode):
        calls.append(mode)
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        Fallbacks("sampling", MODES).run(broken)
    assert calls == [4]


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("GET was unable to find an engine to execute this computation"), True),
        (RuntimeError("expected scalar type Half"), False),
        (ValueError("out of memory"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_what_counts_as_out_of_memory(error, is_memory):
    assert is_out_of_memory(error) == is_memory


def test_torch_says_so_in_words_that_we_know():
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60)
    assert is_out_of_memory(error.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_solver_stops_at_the_step_that_is_not_finite(value, sampler):
    seen = []

    def predict(x, step):
        seen.append(step)
        clean = torch.zeros(1, 4)
        clean[0, 3] = value if step == 2 else 0
        return clean

    with pytest.raises(NotFinite, match="step 3 of 5: the latent holds values that are NaN or infinite"):
        sample(torch.randn(1, 4), make_schedule(5), predict, sampler, lambda step: torch.zeros(1, 4))
    assert seen == [0, 1, 2]


def test_large_numbers_are_numbers():
    check_finite(torch.full((2, 2), 3e38), 0, 1)


@pytest.mark.parametrize(
    ("dtype", "guidance", "with_lora", "words"),
    [
        (torch.float16, Guidance(), True, "fp16 ends at 65504"),
        (torch.bfloat16, Guidance(), True, "LoRA is too strong"),
        (torch.bfloat16, Guidance(Scales(1, 12, 3)), False, "guidance scale"),
        (torch.bfloat16, Guidance([Scales(), Scales(9, 1, 1)]), False, "guidance scale"),
        (torch.bfloat16, Guidance(), False, "weights are damaged"),
    ],
)
def test_the_likely_cause_is_named(dtype, guidance, with_lora, words):
    assert words in likely_cause(dtype, guidance, with_lora)


class Enlarging:
    """A VAE whose pixels each depend on one latent pixel, with the real one's chunks: tiling must not change
    results."""

    def decode_chunks(self, latent):
        pixels = latent[:, :3].repeat_interleave(PIXELS, -1).repeat_interleave(PIXELS, -2)
        yield pixels[:, :, :1]
        yield pixels[:, :, 1:].repeat_interleave(4, 2)


@pytest.mark.parametrize("size", [(2, 2), (16, 17), (17, 40), (60, 90)])
def test_tiles_join_without_a_seam(size):
    latent = torch.randn(1, 16, 3, *size, generator=torch.Generator().manual_seed(0))
    whole = torch.cat(list(Enlarging().decode_chunks(latent)), dim=2)
    assert torch.allclose(decode_in_tiles(Enlarging(), latent), whole, atol=1e-5)


@pytest.mark.parametrize("side", range(1, 100))
def test_halves_cover_a_side_and_their_weights_fade(side):
    spans = halves(side)
    total = torch.zeros(side * PIXELS)
    for start, stop in spans:
        weight = ramps(start, stop, side)
        assert (weight > 0).all()
        total[start * PIXELS : stop * PIXELS] += weight
    assert torch.allclose(total, torch.ones_like(total), atol=1e-6)
    if len(spans) == 2:
        assert spans[0][1] - spans[1][0] == OVERLAP and max(b - a for a, b in spans) < side


def test_the_toy_vae_in_tiles_is_nearly_itself(tiny_release):
    from hallo3_core.release.layout import Release

    vae = Release(tiny_release).vae(dtype=torch.float32)
    latent = torch.randn(1, 16, 3, 24, 34, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        whole, tiled = vae.decode(latent), decode_in_tiles(vae, latent)
    assert tiled.shape == whole.shape
    assert (tiled - whole).square().mean().sqrt() < 0.25 * whole.std()


def test_model_calls_run_in_turn_from_the_start_if_they_would_not_fit_together(tiny_release, monkeypatch):
    settings = Settings(steps=2)
    networks = Networks(Release(tiny_release), Options(settings=settings))
    with torch.inference_mode(), networks.denoiser() as denoiser, ExitStack() as opened:
        config = denoiser.config
        bank = [torch.zeros(1, config.grid.tokens_per_frame, config.hidden)] * config.layers
        portrait = Portrait(torch.zeros(1, 3, 16 * config.grid.rows, 16 * config.grid.columns), None, bank)
        run = prepare_run(
            denoiser,
            portrait,
            settings,
            text=torch.zeros(1, config.text_tokens, config.text_width),
            face_tokens=torch.zeros(1, 4, config.face),
            null_audio_tokens=torch.zeros(1, config.grid.frames, 4, config.audio),
        )
        need = activation_bytes(config, run.conditions.layout.grid, 2, torch.float32)
        for free, first in ((None, TOGETHER), (need, TOGETHER), (need - 1, IN_TURN)):
            monkeypatch.setattr(sampling_fallbacks, "free_bytes", lambda device, free=free: free)
            assert next(iter(sampling_fallbacks.sampling_fallbacks(run, denoiser, networks, opened))) == first
