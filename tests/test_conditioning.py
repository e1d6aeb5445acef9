"""Variants of audio conditioning: each has its own modules and computation, and is detected from the file."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from safetensors.torch import save_file

from hallo3_core.errors import InputError
from hallo3_core.model.attention import KeysValues, further
from hallo3_core.model.conditioning import METADATA, Conditioning
from hallo3_core.model.config import AudioProjectorConfig, FaceProjectorConfig, Grid, TransformerConfig
from hallo3_core.model.denoiser import Conditions, Denoiser
from hallo3_core.model.hallo3 import Hallo3
from hallo3_core.model.projectors import AudioProjector, FaceProjector
from hallo3_core.model.reference_net import ReferenceNet
from hallo3_core.pipeline.conditions import stack
from hallo3_core.release.detect import expect
from hallo3_core.toy import noise_release as tiny
from hallo3_core.weights import names
from hallo3_core.weights.parts import load, read_parts, sort_official, transformer_config
from tests.noise import noise

GRID = Grid(3, 2, 3)
BATCH = 2
VARIANTS = [
    Conditioning(audio, face, reference, motion)
    for (audio, face, reference), motion in zip(
        product(("cross", "self", "norm", "none"), ("cross", "norm", "none"), (True, False)), [1, 2, 4] * 8, strict=True
    )
]
BY_NAME = pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(map(str, vars(v).values())))


def config_of(variant: Conditioning) -> TransformerConfig:
    sizes = dict(hidden=32, heads=2, layers=2, mlp=64, time=16, text_width=12, text_tokens=5)
    return TransformerConfig(
        **sizes,
        grid=Grid(3, 4, 6),
        channels=16,
        patch=2,
        face=None if variant.face == "none" else 12,
        audio=None if variant.audio == "none" else 20,
        conditioning=variant,
    )


def networks_of(variant: Conditioning) -> Hallo3:
    config = config_of(variant)
    plain = replace(config, face=None, audio=None)
    made = Hallo3(
        Denoiser(config),
        ReferenceNet(plain) if variant.reference else None,
        FaceProjector(FaceProjectorConfig(16, 2, config.face)) if config.face else None,
        AudioProjector(AudioProjectorConfig(5 * 2 * 3, 8, 4, config.audio)) if config.audio else None,
    )
    for number, (name, parameter) in enumerate(made.named_parameters()):
        scale = 0.1 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
        parameter.data = noise(*parameter.shape, seed=number) * scale + ("norm.weight" in name)
    return made


def inputs(networks: Hallo3) -> dict:
    h, w = 2 * GRID.rows, 2 * GRID.columns
    return dict(
        latent=noise(BATCH, 16, GRID.frames, h, w, seed=1),
        concat=noise(BATCH, 16, GRID.frames, h, w, seed=2),
        timesteps=torch.full((BATCH,), 437.0),
        text=noise(BATCH, 5, 12, seed=3),
        portrait=noise(BATCH, 16, h, w, seed=4) if networks.reference_net else None,
        face=noise(BATCH, 16, seed=5) if networks.face_projector else None,
        audio=noise(BATCH, 9, 5, 2, 3, seed=6) if networks.audio_projector else None,
    )


def sampled(networks: Hallo3, batch: dict) -> torch.Tensor:
    """Samples as for a film: constant values are computed once."""
    denoiser, dtype = networks.denoiser, torch.float32
    bank = networks.reference_net(batch["portrait"], batch["text"]) if networks.reference_net else None
    conditions = Conditions(
        denoiser.embed_text(batch["text"]),
        denoiser.reference_keys_values(bank),
        denoiser.face_keys_values(networks.face_projector(batch["face"]) if networks.face_projector else None),
        denoiser.audio_keys_values(networks.audio_projector(batch["audio"]) if networks.audio_projector else None),
    )
    modulation = denoiser.modulate_steps(batch["timesteps"], dtype)
    return denoiser(batch["latent"], batch["concat"], conditions, modulation, denoiser.layout(GRID, dtype))


@BY_NAME
def test_each_variant_trains_saves_loads_and_samples(variant, tmp_path):
    networks = networks_of(variant)
    batch = inputs(networks)
    velocity = networks(**batch)
    velocity.square().mean().backward()
    silent = [n for n, p in networks.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent

    files = {
        "denoiser": (networks.denoiser, "", variant.metadata()),
        "reference_net": (networks.reference_net, "", {}),
        "face": (networks.face_projector, "face_projector.", {}),
        "audio": (networks.audio_projector, "audio_projector.", {}),
    }
    parts = None
    for name, (module, prefix, metadata) in files.items():
        if module is not None:
            path = tmp_path / f"{name}.safetensors"
            save_file({prefix + n: t for n, t in module.state_dict().items()}, path, metadata)
            found = read_parts(path)
            assert not found.unknown
            if parts is None:
                expect(path, names.DENOISER) if metadata else None
                parts = found
            else:
                parts.add(found)
    assert transformer_config(parts, names.DENOISER) == config_of(variant)
    again = Hallo3(
        *(
            load(parts, part, dtype=torch.float32) if part in parts.tensors else None
            for part in (names.DENOISER, names.REFERENCE_NET, names.FACE_PROJECTOR, names.AUDIO_PROJECTOR)
        )
    )
    with torch.inference_mode():
        assert torch.allclose(sampled(again, batch), velocity, atol=1e-5 * float(velocity.abs().max()))


@BY_NAME
def test_official_names_carry_every_variant(variant):
    networks = networks_of(variant)
    official = names.official_names(names.DENOISER, 2)
    own = dict(networks.denoiser.named_parameters())
    assert own.keys() <= official.keys()
    tables = [own.pop("text_positions"), own.pop("video_positions").flatten(0, 2)]
    prefix = next(iter(names.PREFIXES))
    rotary = torch.zeros(Grid(3, 4, 6).tokens, 16)
    rotary[1:, 10], rotary[6:, 4], rotary[24:, 0] = 1, 1, 1
    file = {official[n]: t for n, t in own.items()}
    file |= {prefix + names.POSITIONS: torch.cat(tables)[None], prefix + names.ROTARY: rotary}
    parts = sort_official(file)
    assert not parts.unknown
    parts.conditioning = variant
    assert transformer_config(parts, names.DENOISER) == config_of(variant)


def test_the_default_is_the_released_model():
    assert Conditioning() == Conditioning("cross", "cross", True, 2) and not Conditioning().metadata()
    released = TransformerConfig.from_shapes(sort_official(tiny.file_tensors(0)).shapes(names.DENOISER))
    assert released.conditioning == Conditioning()


@pytest.mark.parametrize("kind", ["self", "norm"])
def test_other_audio_changes_the_result_and_batches_agree(kind):
    """Other audio changes the result. A batch of branches with different audio equals the branches run separately."""
    networks = networks_of(Conditioning(audio=kind, face="norm"))
    batch = inputs(networks)
    louder = batch | {"audio": batch["audio"] * 2}
    with torch.inference_mode():
        one, other = sampled(networks, batch), sampled(networks, louder)
        assert (one - other).abs().max() > 1e-3
        denoiser = networks.denoiser
        tokens = [networks.audio_projector(each["audio"][:1]) for each in (batch, louder)]
        kept = [denoiser.audio_keys_values(each) for each in tokens]
        both = stack(kept)
        layout, modulation = (
            denoiser.layout(GRID, torch.float32),
            denoiser.modulate_steps(batch["timesteps"][:1], torch.float32),
        )
        text, x = denoiser.embed_text(batch["text"][:1]), batch["latent"][:1]
        alone = [denoiser(x, x, Conditions(text, audio=each), modulation, layout) for each in kept]
        together = denoiser(x.expand(2, -1, -1, -1, -1), x, Conditions(text, audio=both), modulation, layout)
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


def test_adaptive_norm_gives_each_frame_its_own_sound():
    """Without self-attention between frames, a frame's audio affects only that frame."""
    networks = networks_of(Conditioning(audio="norm"))
    denoiser, block = networks.denoiser, networks.denoiser.blocks[0]
    modulation = denoiser.modulate_steps(torch.tensor([437.0]), torch.float32).layer(0)
    video = noise(1, GRID.tokens, 32)
    with torch.inference_mode():
        rows = block.audio_keys_values(noise(1, GRID.frames, 4, 20)).rows
        louder = rows.clone()
        louder[:, 1] += 1
        heard = []
        for each in (rows, louder):
            tokens = each.repeat_interleave(GRID.tokens_per_frame, dim=1)
            heard.append(block.feed_forward(video, None, modulation.with_video(tokens))[0])
    per_frame = (heard[0] - heard[1]).abs().unflatten(1, (GRID.frames, -1)).amax((0, 2, 3))
    assert per_frame[1] > 1e-3 and per_frame[0] == 0 and per_frame[2] == 0


def test_further_tokens_know_their_frame():
    """The same audio in two frames gives two different tokens."""
    block = networks_of(Conditioning(audio="self")).denoiser.blocks[0]
    tokens = noise(1, 1, 4, 20).expand(1, 2, -1, -1)
    keys = block.audio_keys_values(tokens).keys.detach().unflatten(2, (2, 4))
    assert (keys[:, :, 0] - keys[:, :, 1]).abs().max() > 1e-3


def test_tokens_of_one_serve_a_batch_of_the_other():
    one = KeysValues(noise(1, 2, 3, 4), noise(1, 2, 3, 4, seed=1))
    two = KeysValues(noise(2, 2, 5, 4), noise(2, 2, 5, 4, seed=1))
    assert further(None, one) is one
    assert further(one, two).keys.shape == further(two, one).values.shape == (2, 2, 8, 4)


@pytest.mark.parametrize(
    "values",
    [dict(audio="both"), dict(face="self"), dict(reference=1), dict(motion_frames=3), dict(motion_frames=True)],
)
def test_a_conditioning_checks_itself(values):
    with pytest.raises(ValueError, match=f"{next(iter(values))} is .*choose one of"):
        Conditioning(**values)


@pytest.mark.parametrize("text", ["{", "[]", '{"audio": "both"}', '{"sound": 1}', '{"motion_frames": 3}', "[" * 5000])
def test_damaged_metadata_is_one_line_that_names_the_file(tmp_path, text):
    path = tmp_path / "denoiser.safetensors"
    save_file({n: t for n, t in networks_of(Conditioning()).denoiser.state_dict().items()}, path, {METADATA: text})
    with pytest.raises(InputError, match=r"denoiser.safetensors: ") as error:
        read_parts(path)
    assert "\n" not in str(error.value)


def test_tokens_that_nothing_reads_are_refused():
    with pytest.raises(ValueError, match="width 12"):
        replace(config_of(Conditioning()), face=12, conditioning=Conditioning(face="none"))
