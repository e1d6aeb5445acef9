"""torch.compile of the blocks: no graph breaks, one compiled block for all layers and clips, results equal to eager."""

import pytest
import torch
from torch._dynamo.utils import counters

from hallo3_core.errors import InputError
from hallo3_core.model.config import Grid
from hallo3_core.model.denoiser import Conditions
from hallo3_core.pipeline.conditions import stack
from hallo3_core.runtime.compiling import check_compiler, compile_blocks
from hallo3_core.toy import noise_release as tiny
from hallo3_core.weights import names
from hallo3_core.weights.parts import load, sort_official

GRID = Grid(2, 2, 3)


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    counters.clear()
    with torch.inference_mode():
        yield
    torch._dynamo.reset()


@pytest.fixture
def denoiser():
    config = type(tiny.CONFIG)(**{**vars(tiny.CONFIG), "layers": 4, "text_tokens": 5})
    return load(sort_official(tiny.file_tensors(0, config)), names.DENOISER, dtype=torch.float32)


def arguments(denoiser, seed):
    """Arguments of a step: two branches that differ in text and audio; portrait, clip and timestep depend on the
    seed."""
    config, device = denoiser.config, denoiser.video_positions.device

    def noise(*shape, number):
        generator = torch.Generator().manual_seed(100 * seed + number)
        return torch.randn(*shape, generator=generator).to(device)

    bank = [noise(1, GRID.tokens_per_frame, config.hidden, number=i) for i in range(config.layers)]
    sounds = [noise(1, GRID.frames, 4, config.audio, number=20 + i) for i in range(2)]
    conditions = Conditions(
        text=denoiser.embed_text(noise(2, config.text_tokens, config.text_width, number=10)),
        reference=denoiser.reference_keys_values(bank),
        face=denoiser.face_keys_values(noise(1, 4, config.face, number=11)),
        audio=stack([denoiser.audio_keys_values(sound) for sound in sounds]),
    )
    modulation = denoiser.modulate_steps(torch.tensor([999.0 - seed, 500.0], device=device), torch.float32).step(0)
    latent = noise(2, 16, GRID.frames, 2 * GRID.rows, 2 * GRID.columns, number=12)
    return latent, latent[:1], conditions, modulation, denoiser.layout(GRID, torch.float32)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_one_block_serves_all_layers_and_clips(denoiser, backend):
    clips = [arguments(denoiser, seed) for seed in (0, 1)]
    plain = [denoiser(*clip) for clip in clips]
    compile_blocks(denoiser, backend)
    first = denoiser(*clips[0])
    assert counters["stats"]["unique_graphs"] == 2  # a regular layer, and the shorter last one
    assert not counters["graph_break"]
    second = denoiser(*clips[1])  # another portrait, prompt, audio and timestep, as in a second film
    assert counters["stats"]["unique_graphs"] == 2
    for found, expected in zip((first, second), plain, strict=True):
        assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("fold", [True, False])
def test_the_whole_forward_has_no_graph_break(denoiser, fold, monkeypatch):
    """Compiles the whole model, as hosts do, with folded and with plain keys and values."""
    monkeypatch.setattr("hallo3_core.model.denoiser.is_worth_folding", lambda *_: fold)
    inputs = arguments(denoiser, 0)
    plain = denoiser(*inputs)
    denoiser.compile(backend="eager", fullgraph=True)
    assert torch.allclose(denoiser(*inputs), plain, atol=1e-5)


def test_a_missing_compiler_is_reported_early():
    def broken(graph, inputs):
        raise RuntimeError("no compiler found\nand much more")

    with pytest.raises(
        InputError, match="--compile: torch cannot compile for cpu here .no compiler found.*run without --compile"
    ):
        check_compiler("cpu", broken)
    check_compiler("cpu", "eager")


def test_a_compiler_without_fp8_is_reported_early():
    """Triton behaves like this on GPUs before the RTX 40 series."""

    def picky(graph, inputs):
        if any(x.dtype == torch.float8_e4m3fn for x in inputs):
            raise RuntimeError("type fp8e4nv not supported in this architecture")
        return graph.forward

    check_compiler("cpu", picky)
    check_compiler("cpu", "eager", in_fp8=True)
    with pytest.raises(InputError, match="type fp8e4nv not supported"):
        check_compiler("cpu", picky, in_fp8=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_device_is_never_waited_for_inside_a_step(denoiser):
    inputs = arguments(denoiser.to("cuda"), 0)
    denoiser(*inputs)  # libraries may wait during import
    torch.cuda.set_sync_debug_mode("error")
    try:
        denoiser(*inputs)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_command_line_asks_for_it():
    from hallo3_core.cli.film_options import film_options
    from hallo3_core.cli.main import build_parser

    words = ["animate", "--image", "a.png", "--audio", "a.wav", "--prompt", "p", "--output", "a.mp4", "--models", "m"]
    asked = [
        film_options(build_parser().parse_args([*words, "--device", "cpu", *more])) for more in ([], ["--compile"])
    ]
    assert [options.compile for options in asked] == [False, True]
