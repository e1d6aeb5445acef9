"""Variants of conditioning from training to films: the command line and the nodes recognise them by the file alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from hallo3_core.cli.main import main
from hallo3_core.clips import Timeline
from hallo3_core.film.writer import read_film
from hallo3_core.model.conditioning import Conditioning
from hallo3_core.release.inspect import inspect
from hallo3_core.release.layout import Release
from hallo3_core.weights import names
from hallo3_core.weights.parts import transformer_config
from tests.nodes.conftest import SETTINGS
from tests.nodes.test_film import written  # noqa: F401
from tests.train.variants import write_trained_release
from tools.testbed.exact_film import film_clips

VARIANTS = {
    "tokens": Conditioning(audio="self", motion_frames=4),
    "norms": Conditioning(audio="norm", face="norm", motion_frames=1),
    "no_reference": Conditioning(face="none", reference=False),
    "no_sound": Conditioning(audio="none", face="norm", motion_frames=4),
}


@pytest.fixture(scope="module", params=VARIANTS)
def trained(request, models, tmp_path_factory) -> SimpleNamespace:
    """A release that was trained in a variant."""
    conditioning = VARIANTS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    with torch.inference_mode(False):
        release = write_trained_release(folder, models / "hallo3" / "tiny", conditioning)
    return SimpleNamespace(release=release, conditioning=conditioning)


def test_the_file_tells_the_variant(trained):
    release = Release(trained.release)
    assert transformer_config(release.transformers(), names.DENOISER).conditioning == trained.conditioning
    assert (names.REFERENCE_NET in release.transformers().tensors) == trained.conditioning.reference


def test_the_command_line_makes_a_film(trained, portrait, speech, short_speech, tmp_path):
    output = tmp_path / "film.mp4"
    chained = trained.conditioning == VARIANTS["tokens"]  # the others: one clip
    speech, length = (speech, 90) if chained else (short_speech, 8)
    words = ["animate", "--image", portrait, "--audio", speech, "--prompt", "A person talks.", "--output", output]
    words += ["--models", trained.release, "--size", "32x48", "--steps", "2", "--device", "cpu"]
    assert main([str(word) for word in words]) == 0
    frames, *_ = read_film(output)
    assert len(frames) == length and frames.float().std() > 1


def test_the_nodes_make_the_command_lines_film(trained, pack, loaded, scene, written):  # noqa: F811
    """All of it at once, and clip by clip."""
    model = pack("nodes.host.model").load_model(str(trained.release), "auto")
    node = pack("nodes.film").Hallo3LongVideo()
    node.execute(model=model, vae=loaded.vae, seed=11, **vars(scene), **SETTINGS)
    frames, count = scene.audio.frames, trained.conditioning.motion_frames
    assert len(written) == Timeline(frames, count).clips
    expected = pack("hallo3_core.inputs.image").to_uint8(core_film(pack, trained, loaded, scene))
    assert (torch.cat(written).int() - expected.int()).abs().max() <= 1
    if trained.conditioning.motion_frames != 2:
        chained = chained_film(pack, trained, loaded, scene, model, len(written))
        assert torch.equal(torch.cat(written), pack("hallo3_core.inputs.image").to_uint8(chained))


def chained_film(pack, trained, loaded, scene, model, clips: int) -> torch.Tensor:
    """With motion frames of the model's own number, and as many left out of each clip; ``n 3 H W``."""
    chaining, node = pack("nodes.chaining"), pack("nodes.sampling").Hallo3SampleClip()
    whole = motion = None
    for clip in range(clips):
        inputs = dict(model=model, vae=loaded.vae, clip_index=clip, seed=11, motion=motion)
        latent = node.execute(**inputs, **vars(scene), **SETTINGS)[0]
        frames = loaded.vae.decode(latent["samples"]).flatten(0, 1)
        motion = chaining.Hallo3MotionFrames().execute(frames, trained.conditioning.motion_frames)[0]
        whole = chaining.Hallo3AppendClip().execute(frames, scene.audio, clip, whole, scene.reference, model)[0]
    return whole.movedim(-1, 1)


def core_film(pack, trained, loaded, scene) -> torch.Tensor:
    """The film of the core, without any host."""
    release = pack("hallo3_core.release.layout").Release(trained.release)
    audio, noise = pack("hallo3_core.inputs.audio"), pack("hallo3_core.sampling.noise")
    reads, parts = trained.conditioning, release.transformers().tensors
    denoiser = release.network("denoiser", dtype=torch.float32)
    face_tokens, project = None, lambda windows: None
    if "face_projector" in parts:
        face_tokens = release.network("face_projector", dtype=torch.float32)(scene.face.embedding[None])
    if "audio_projector" in parts:
        project = release.network("audio_projector", dtype=torch.float32)
    reference = scene.reference
    if not reads.reference:
        reference = pack("hallo3_core.inputs.portrait").Portrait(reference.pixels, reference.framing, None)
    timeline = Timeline(scene.audio.frames, reads.motion_frames)
    windows = [audio.clip_audio(scene.audio, clip, timeline)[None] for clip in range(timeline.clips)]
    run = pack("hallo3_core.pipeline.conditions").prepare_run(
        denoiser,
        reference,
        pack("hallo3_core.pipeline.options").Settings(steps=SETTINGS["steps"]),
        text=scene.text[0][0],
        face_tokens=face_tokens,
        null_audio_tokens=project(torch.zeros_like(windows[0])),
    )
    clips = film_clips(
        denoiser,
        release.vae(dtype=torch.float32),
        run,
        reference,
        scene.audio.frames,
        lambda clip: project(windows[clip]),
        lambda clip: noise.SeededNoise(11, clip),
    )
    return torch.cat(list(clips))


def test_a_file_alone_loads_in_the_nodes(trained, pack):
    (path,) = Path(trained.release).glob("hallo3_*.safetensors")
    model = pack("nodes.host.model").load_model(str(path), "auto").model
    found = model.diffusion_model.config.reads
    assert vars(found) == vars(trained.conditioning)


def test_what_core_s_model_save_writes_is_the_same_variant(trained, pack, tmp_path):
    """It writes tensors alone, so what they don't tell (motion frames, the reference network) is one of them."""
    loaded = pack("nodes.host.model").load_model(str(trained.release), "auto")
    network, projectors = loaded.model.diffusion_model, pack("nodes.host.model").projectors_of(loaded)
    saved = loaded.model.model_config.process_unet_state_dict_for_saving(dict(network.state_dict()))
    path = tmp_path / "saved.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in saved.items()}, path)
    beside = {"audio_projector": projectors.audio, "face_projector": projectors.face}
    tensors = {f"{part}.{n}": t for part, own in beside.items() if own for n, t in own.module.state_dict().items()}
    if tensors:
        save_file(tensors, tmp_path / pack("nodes.host.checkpoint").PROJECTORS_FILE)
    again = pack("nodes.host.model").load_model(str(path), "auto").model.diffusion_model
    assert vars(again.config.reads) == vars(trained.conditioning)
    assert again.state_dict().keys() == network.state_dict().keys()
    assert inspect(path).usable


def test_the_released_conditioning_is_saved_without_a_tensor_of_it(pack, loaded):
    network, config = loaded.model.model.diffusion_model, loaded.model.model.model_config
    saved = config.process_unet_state_dict_for_saving(dict(network.state_dict()))
    assert len(saved) == len(network.state_dict())
