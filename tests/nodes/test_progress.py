"""What the user sees while a film is made."""

from __future__ import annotations

import os
import shutil
import sys

import pytest
import torch

from tests.nodes import fake_host
from tests.nodes.conftest import REAL


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (7, "0:07"), (750, "12:30"), (3723, "1:02:03")])
def test_time_is_shown_as_people_read_it(pack, seconds, text):
    assert pack("nodes.host.progress").span(seconds) == text


def test_the_text_counts_clips_and_steps(pack, sampler_of, monkeypatch):
    progress, texts = pack("nodes.host.progress"), []
    monkeypatch.setattr(progress, "show_text", lambda text, node_id: texts.append((text.rsplit(",", 1)[0], node_id)))
    bar = progress.StepBar(sampler_of(steps=2), clips=2, node_id="7")
    for _ in range(4):
        bar.callback()(0, torch.zeros(1, 16, 13, 2, 4), None, 2)
    counted = [
        "clip 1 of 2, step 1 of 2",
        "clip 1 of 2, step 2 of 2",
        "clip 2 of 2, step 1 of 2",
        "clip 2 of 2, step 2 of 2",
    ]
    assert texts == [(text, "7") for text in counted]


def test_decoding_is_on_the_bar_and_in_the_time_left(pack, sampler_of, monkeypatch):
    """Steps of 2 s and decodings of 10 s; before the first decoding it counts as much as DECODE_STEPS steps."""
    progress, texts, now, done = pack("nodes.host.progress"), [], [0.0], []
    monkeypatch.setattr(progress, "show_text", lambda text, node_id: texts.append(text))
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    bar = progress.StepBar(sampler_of(steps=2), clips=2, node_id="7", decodes=True)
    monkeypatch.setattr(bar._bar, "update_absolute", lambda value, total, preview: done.append(value / total))
    for _ in range(2):
        for _ in range(2):
            now[0] += 2
            bar.step(torch.zeros(1, 16, 13, 2, 4))
        bar.decoding()
        now[0] += 10
        bar.decoded()
    guess = progress.DECODE_STEPS * 2
    left = [6 + 2 * guess, 4 + 2 * guess, 4 + 2 * guess, 2 + 10, 10, 10]
    names = ["clip 1 of 2, step 1 of 2", "clip 1 of 2, step 2 of 2", "clip 1 of 2, decoding"]
    names += [name.replace("clip 1", "clip 2") for name in names]
    assert texts == [f"{name}, {progress.span(seconds)} left" for name, seconds in zip(names, left, strict=True)]
    assert done == sorted(done) and done[-1] == 1 and all(value < 1 for value in done[:-1])


def test_cancel_takes_effect_at_the_next_step(pack, sampler_of, press_cancel):
    bar, cancelled = pack("nodes.host.progress").StepBar(sampler_of(steps=5)), press_cancel(2)
    bar.step(torch.zeros(1, 16, 13, 2, 4))
    with pytest.raises(cancelled):
        bar.step(torch.zeros(1, 16, 13, 2, 4))


@pytest.fixture
def previews(pack):
    """`previews(on)` sets what the user chose in the settings."""
    pack()
    if os.environ.get("COMFYUI_PATH"):
        from comfy.cli_args import LatentPreviewMethod, args

        before = args.preview_method

        def choose(on):
            args.preview_method = LatentPreviewMethod.Auto if on else LatentPreviewMethod.NoPreviews

        yield choose
        args.preview_method = before
    else:
        yield lambda on: setattr(fake_host.STATE, "previews", on)
        fake_host.STATE.previews = False


def test_the_preview_of_the_portraits_latent_is_the_portrait_in_small(pack, sampler_of, previews):
    previews(True)
    sampler = sampler_of(steps=2)
    pixels = sampler.portrait.pixels
    latent = pack("hallo3_core.vae.latents").encode(sampler.vae, pixels[:, :, None])
    shown = pack("nodes.host.progress").StepBar(sampler)._previewer.decode_latent_to_preview_image("JPEG", latent)[1]
    assert shown.size == (latent.shape[-1], latent.shape[-2])
    small = torch.nn.functional.adaptive_avg_pool2d((pixels[0] + 1) / 2 * 255, latent.shape[-2:])
    found = torch.tensor(list(shown.convert("RGB").tobytes())).reshape(*latent.shape[-2:], 3).movedim(-1, 0)
    assert (found - small).abs().max() <= 1  # 8 latent pixels and 17 unknowns: the fit is exact, up to a level


def test_previews_are_off_where_the_user_has_them_off_and_cost_nothing(pack, sampler_of, previews, monkeypatch):
    previews(False)
    sampler = sampler_of(steps=2)
    monkeypatch.setattr(type(sampler.vae), "encode", lambda *args: pytest.fail("the VAE was asked for a preview"))
    assert pack("nodes.host.progress").StepBar(sampler)._previewer is None


@pytest.fixture
def tiny_previews(pack, models):
    """TAESD previews, with `taecvx.pth` in `vae_approx` as `tiny_previews(weights)` puts it there."""
    from comfy.cli_args import LatentPreviewMethod, args

    folder, before = models / "vae_approx", args.preview_method
    sys.modules["folder_paths"].add_model_folder_path("vae_approx", str(folder))
    args.preview_method = LatentPreviewMethod.TAESD

    def put(weights) -> None:
        folder.mkdir(exist_ok=True)
        torch.save(weights, folder / "taecvx.pth")
        getattr(sys.modules["folder_paths"], "filename_list_cache", {}).clear()

    yield put
    args.preview_method = before
    shutil.rmtree(folder, ignore_errors=True)


def tiny_decoder() -> dict[str, torch.Tensor]:
    """Random weights in the form of taecvx.pth: an encoder and a decoder of 64 to 256 channels, in half precision."""
    taehv = pytest.importorskip("comfy.taesd.taehv", exc_type=ImportError)
    torch.manual_seed(3)
    network = taehv.TAEHV(latent_channels=16)
    for parameter in network.parameters():  # the host's layers come without values
        torch.nn.init.normal_(parameter, std=0.05)
    return {name: tensor.half() for name, tensor in network.state_dict().items()}


@pytest.mark.skipif(not REAL, reason="needs ComfyUI's own tiny decoders")
def test_the_tiny_decoder_shows_the_first_frame_in_full_size(pack, sampler_of, tiny_previews):
    tiny_previews(weights := tiny_decoder())
    previewer = pack("nodes.host.progress").StepBar(sampler_of(steps=2))._previewer
    latent = torch.randn(1, 16, 13, 4, 6, generator=torch.Generator().manual_seed(1))
    shown = previewer.decode_latent_to_preview_image("JPEG", latent)[1]
    assert shown.size == (48, 32)
    from comfy.taesd.taehv import TAEHV

    network = TAEHV(latent_channels=16)
    network.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    expected = network.decode(latent[:, :, :1])[0, :, 0].clamp(0, 1) * 255
    found = torch.tensor(list(shown.tobytes())).reshape(32, 48, 3).movedim(-1, 0)
    assert (found - expected).abs().max() <= 8  # the host may compute in half precision


@pytest.mark.parametrize("weights", [{"decoder.1.weight": torch.zeros(1)}, {}])
def test_a_file_that_is_no_tiny_decoder_leaves_the_colours(pack, sampler_of, tiny_previews, previews, weights, caplog):
    previews(True)
    from comfy.cli_args import LatentPreviewMethod, args

    args.preview_method = LatentPreviewMethod.TAESD
    tiny_previews(weights)
    previewer = pack("nodes.host.progress").StepBar(sampler_of(steps=2))._previewer
    assert previewer.decode_latent_to_preview_image("JPEG", torch.zeros(1, 16, 13, 2, 4))[1].size == (4, 2)
    assert "taecvx.pth: no tiny decoder for previews" in caplog.text
