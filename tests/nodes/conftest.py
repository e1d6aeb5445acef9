"""The node tests run on a small fake host, or on a real ComfyUI when COMFYUI_PATH names its folder."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.nodes import fake_host
from tests.nodes.importing import PACK, import_pack

ROOT = Path(__file__).parents[2]
REAL = bool(os.environ.get("COMFYUI_PATH"))
SETTINGS = dict(steps=2, audio_cfg=3.5, text_cfg=3.5, reference_cfg=1.0, sampler="sde-dpmpp-2m")


def _start_real_host(models: Path) -> None:
    """ComfyUI's modules in this process, on the CPU, with `models` as its models folder."""
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    try:
        import comfy.cli_args

        comfy.cli_args.args.cpu = not torch.cuda.is_available()
        import folder_paths

        for name in ("utils.extra_config", "nodes", "server"):  # in the host's own order: its nodes hide its utils
            importlib.import_module(name)
    except ImportError as error:
        pytest.exit(f"COMFYUI_PATH is set, but ComfyUI cannot be imported: {error}. Use its Python.", returncode=3)
    folder_paths.models_dir = str(models)
    for kind in ("diffusion_models", "checkpoints", "vae", "text_encoders", "audio_encoders", "loras"):
        folder_paths.add_model_folder_path(kind, str(models / kind), is_default=True)


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """A models folder with the toy release in `hallo3/tiny`."""
    tiny = importlib.import_module("hallo3_core.toy.noise_release")
    folder = tmp_path_factory.mktemp("models")
    for kind in ("diffusion_models", "checkpoints", "vae", "text_encoders", "audio_encoders", "loras", "hallo3"):
        (folder / kind).mkdir()
    tiny.write_tiny_release(folder / "hallo3" / "tiny")
    return folder


@pytest.fixture(scope="session")
def pack(models):
    """The pack as the host imports it; `pack("nodes.loaders")` is one of its modules."""
    if REAL:
        _start_real_host(models)
    else:
        fake_host.install(str(models))
    root = import_pack(ROOT)

    def module(name: str = ""):
        return importlib.import_module(f"{PACK}.{name}") if name else root

    return module


@pytest.fixture
def press_cancel(pack):
    """`press_cancel(steps)`: Cancel after so many steps; returns the exception that the host raises then."""
    management = importlib.import_module("comfy.model_management")
    progress = pack("nodes.host.progress")
    original = progress.StepBar.step

    def press(steps: int) -> type[BaseException]:
        if not REAL:
            fake_host.STATE.progress.clear()
            fake_host.STATE.cancel_after = steps + (steps - 1) // 2  # each clip of 2 steps is decoded, one more update
        else:
            left = [steps]

            def step(self, clean):
                left[0] -= 1
                if left[0] == 0:
                    management.interrupt_current_processing()
                original(self, clean)

            progress.StepBar.step = step
        return management.InterruptProcessingException

    yield press
    progress.StepBar.step = original


@pytest.fixture(autouse=True)
def no_gradients(no_gradients):
    """As the host's executor runs nodes."""


@pytest.fixture(scope="session")
def loaded(pack):
    """What the loaders' nodes give for the toy release."""
    loaders = pack("nodes.loaders")
    tiny = "hallo3/tiny/"
    with torch.inference_mode():
        return SimpleNamespace(
            model=loaders.Hallo3ModelLoader().execute(tiny, "auto")[0],
            reference_net=loaders.Hallo3ReferenceNetLoader().execute(tiny, "auto")[0],
            vae=loaders.Hallo3VAELoader().execute(tiny)[0],
            clip=loaders.Hallo3TextEncoderLoader().execute(tiny)[0],
            wav2vec=loaders.Hallo3Wav2VecLoader().execute(tiny)[0],
        )


@pytest.fixture(scope="session")
def scene(pack, loaded):
    """A short film's inputs: 32x16 pixels, 2 clips; noise for a voice."""
    audio, recording, face = (pack(f"hallo3_core.inputs.{name}") for name in ("audio", "recording", "face"))
    image = pack("hallo3_core.inputs.image")
    memory, networks, vae = (pack(f"nodes.host.{name}") for name in ("memory", "networks", "vae"))
    draw = torch.Generator().manual_seed(3)
    with torch.inference_mode():
        voice = recording.Recording(torch.randn(1, 16000 * 3, generator=draw) * 0.1, 16000, "voice")
        with memory.on_device(loaded.wav2vec) as holder:
            features = audio.encode_audio(voice, audio.Wav2Vec(holder.model))
        portrait = pack("hallo3_core.inputs.portrait").prepare_portrait(
            torch.rand(1, 3, 60, 80, generator=draw),
            torch.ones(60, 80),
            image.plan_framing(60, 80, 16, 32),
            vae.CoreVae(loaded.vae),
            lambda latent: networks.run_reference_net(loaded.reference_net, latent),
            with_null=True,
        )
        embedding = torch.randn(face.EMBEDDING, generator=draw)
        someone = face.Face(embedding, (0.0, 0.0, 9.0, 9.0), torch.zeros(5, 2), 0, 1, 0.9, (0.0, 0.0, 9.0, 9.0))
        clip = loaded.clip
        text = clip.encode_from_tokens_scheduled(clip.tokenize("a person talks (loudly:1.3)"))
    return SimpleNamespace(text=text, audio=features, face=someone, reference=portrait)


@pytest.fixture
def sampler_of(pack, loaded, scene):
    """`sampler_of(steps)`: what the sampling nodes make of the scene."""

    def make(steps: int):
        settings = pack("hallo3_core.pipeline.options").Settings(steps=steps)
        text, audio, face, reference = scene.text, scene.audio, scene.face, scene.reference
        prepare = pack("nodes.host.sampling").prepare_sampler
        return prepare(loaded.model, text, loaded.vae, audio, face, reference, settings, seed=11)

    return make


@pytest.fixture
def film(pack, loaded, scene):
    """Run the node Hallo3LongVideo; the path of its film."""
    node = pack("nodes.film").Hallo3LongVideo

    def run(**changes) -> Path:
        inputs = dict(model=loaded.model, vae=loaded.vae, seed=11, **vars(scene), **SETTINGS)
        return Path(node().execute(**{**inputs, **changes})[0].get_stream_source())

    return run
