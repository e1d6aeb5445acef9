"""One clip through all networks, and a whole film of several clips, with the recorded draws."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from einops import rearrange

from hallo3_core.clips import FRAMES_PER_CLIP, LATENT_FRAMES, MOTION_FRAMES, NEW_FRAMES_PER_CLIP, Timeline
from hallo3_core.inputs.image import crop_to, to_uint8
from hallo3_core.inputs.portrait import encode_masked, framed, prepare_portrait
from hallo3_core.inputs.text import null_text
from hallo3_core.pipeline.clip import concat_latent
from hallo3_core.pipeline.conditions import prepare_run
from hallo3_core.pipeline.options import Settings
from hallo3_core.vae.autoencoder import LATENT_SCALE
from hallo3_core.weights import names
from tests.parity import test_networks as networks_test
from tests.parity import test_sampler as sampler_test
from tools.testbed.exact_film import film_clips


@pytest.fixture(scope="module")
def networks(recorded):
    return networks_test.Networks(recorded("denoiser_tiny_weights").weights())


@pytest.fixture(scope="module")
def reference_net(recorded):
    parts = networks_test.sort(recorded("refnet_tiny_weights").weights(), names.REFERENCE_NET)
    return networks_test.load(parts, names.REFERENCE_NET, dtype=torch.float32)


def test_one_clip(networks, reference_net, recorded, table):
    """`SATVideoDiffusionEngine.sample`: reference bank, both halves of every step, the clip's latent."""
    recording = recorded("e2e_sampling")
    bank = reference_net(rearrange(recording["in.ref_latent"], "b 1 c h w -> b c h w"))
    for n, features in enumerate(bank):
        table.meets(recording, f"bank.{n}", features.repeat(2, 1, 1))
    text, audio, face = recording["in.text"], recording["in.audio_emb"], recording["in.face_emb"]
    both = [torch.cat((torch.zeros_like(y), y)) for y in (text, audio)]
    conditions = networks.conditions(both[0], bank, face, both[1])
    halves = {}

    def evaluate(x, branches, timestep):
        assert [tuple(b) for b in branches] == [(True, False, False), (True, True, True)]
        pair, step = x.repeat(2, 1, 1, 1, 1), len(halves)
        halves[step] = networks.velocity(pair, recording["in.concat"], torch.tensor([float(timestep)]), conditions)
        table.meets(recording, f"step{step}.network_out", halves[step])
        return halves[step].split(1)

    out = sampler_test.replay(recording, "", recording["in.noise"], evaluate, table)
    table.meets(recording, "final", out)


class RecordedNoise:
    """The draws of one clip of the recorded film, in this project's order ``b c t h w``."""

    def __init__(self, recording, clip):
        self.recording, self.clip = recording, clip

    def pixel_uniform(self, height, width):
        return self.recording[f"draw.cond{self.clip}.mask_rand"]

    def encode_normal(self, shape):
        return self.recording[f"draw.cond{self.clip}.encode_noise"]

    def initial(self, shape):
        return rearrange(self.recording[f"draw.clip{self.clip}.noise"], "b t c h w -> b c t h w")

    def step(self, index, shape):
        # numbered through the clip: one draw at the first step, then two a step, of which the second is used
        draw = self.recording[f"draw.clip{self.clip}.step_noise{2 * index}"]
        return rearrange(draw, "b t c h w -> b c t h w")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_whole_film(dtype, recorded, golden_config, golden_dir, table):
    """float32 meets every recorded tensor. Two machines' float32 differ by 1e-6 in a film, which alone moves about one
    byte in ten thousand over the edge to its neighbour; so the share of such bytes is asked of the float64 film, whose
    own rounding does not count."""
    from hallo3_core.inputs.audio import clip_windows, encode_audio, load_wav2vec
    from hallo3_core.inputs.face_mask import reference_mask
    from hallo3_core.inputs.image import plan_framing
    from hallo3_core.inputs.recording import Recording as Sound
    from hallo3_core.vae.autoencoder import load_vae

    recording = recorded("long_video")
    vae = load_vae(recorded("vae_tiny_weights").weights(), dtype=dtype)
    networks = networks_test.Networks(recorded("denoiser_tiny_weights").weights(), dtype)
    reference_parts = networks_test.sort(recorded("refnet_tiny_weights").weights(), names.REFERENCE_NET)
    reference_net = networks_test.load(reference_parts, names.REFERENCE_NET, dtype=dtype)
    image = rearrange(recording["in.image_uint8"], "h w c -> 1 c h w") / 255
    height, width = golden_config["latent_h"] * 8, golden_config["latent_w"] * 8
    framing = plan_framing(*image.shape[-2:], height, width, "auto")
    landmarks = recording["in.landmarks_normalised"].double() * torch.tensor([image.shape[3], image.shape[2]])
    mask = reference_mask(*image.shape[-2:], oval_landmarks=landmarks)
    masked = framed(image * mask, framing)
    table.meets(recording, "ref.masked_face_pixels", masked[:, :, None])
    noise = recording["draw.ref.encode_noise"]
    table.meets(recording, "ref.latent", encode_masked(image, mask, framing, vae, noise)[:, :, None])
    portrait = prepare_portrait(image.to(dtype), mask.to(dtype), framing, vae, reference_net, noise=noise)

    features = encode_audio(
        Sound(recording["in.waveform"][None], 16000), load_wav2vec(golden_dir / "audio_tiny_wav2vec")
    )
    table.exactly(recording, "final.count", features.frames)
    table.meets(recording, "face_emb", recording["in.face_embedding"][None])
    table.meets(recording, "uc_text", null_text(recording["text"]))
    settings = Settings(steps=int(recording.metadata["steps"]))
    silence = torch.zeros(1, *clip_windows(features.hidden, 0).shape)
    run = prepare_run(
        networks.denoiser,
        portrait,
        settings,
        text=recording["text"],
        face_tokens=networks.face(recording["face_emb"].to(dtype)),
        null_audio_tokens=networks.audio(silence.to(dtype)),
        dtype=dtype,
    )

    def audio_tokens(clip):  # by the padded length: the recording has the clip that we would never run
        sound = clip_windows(features.hidden, clip)[None]
        table.meets(recording, f"clip{clip}.audio", sound)
        return networks.audio(sound.to(dtype))

    watched = Watched(vae, recording, table)
    clips = len(recording.numbers("clip#.audio") or recording.numbers("draw.clip#.noise"))
    every_frame = clips * NEW_FRAMES_PER_CLIP
    assert clips >= Timeline(features.frames).clips
    draws = partial(RecordedNoise, recording)
    made = film_clips(networks.denoiser, watched, run, portrait, every_frame, audio_tokens, draws)
    film = torch.cat(list(made))[: features.frames]
    if framing.mode == "pad":  # the original cuts a square portrait's film back to the square
        film = crop_to(film, framing)
    film = to_uint8(film)
    if f"draw.cond{clips}.encode_noise" in recording:  # the next motion frames, which the original makes and never uses
        concat_latent(watched, portrait.pixels, watched.motion, draws(clips))
    meets_bytes(recording, film, table, dtype)


def meets_bytes(recording, film, table, dtype):
    """8-bit frames may differ by one level in fewer than 0.01 % of values."""
    kind = {torch.float32: "single precision", torch.float64: "double precision"}[dtype]
    ((name, every),) = recording.forms("final.frames_uint8")
    difference = (film[:, ::every, ::every].int() - recording[name].int()).abs()
    table.rows.append((f"long_video/{name} ({kind}, levels)", float(difference.max()), 1.0))
    table.rows.append((f"long_video/{name} ({kind}, share off by one)", (difference > 0).double().mean().item(), 1e-4))
    assert difference.max() <= 1
    assert dtype == torch.float32 or (difference > 0).double().mean() < 1e-4


class Watched:
    """The VAE, with every tensor that goes in and out compared with the recording."""

    def __init__(self, vae, recording, table):
        self.vae, self.recording, self.table, self.clip = vae, recording, table, 0
        self.latent_channels = vae.latent_channels
        self.motion = None

    def encode(self, pixels, noise=None):
        latent = self.vae.encode(pixels, noise)
        self.table.meets(self.recording, f"cond{self.clip}.encode_pixels", pixels)
        self.table.meets(self.recording, f"cond{self.clip}.latent", latent * LATENT_SCALE)
        concat = torch.cat((latent, latent.new_zeros(1, latent.shape[1], LATENT_FRAMES - 1, *latent.shape[3:])), 2)
        self.table.meets(
            self.recording,
            f"clip{self.clip}.concat",
            rearrange(concat * LATENT_SCALE, "b c t h w -> b t c h w"),
        )
        return latent

    def decode_chunks(self, latent):
        name = f"clip{self.clip}"
        self.table.meets(self.recording, f"{name}.latent", rearrange(latent * LATENT_SCALE, "b c t h w -> b t c h w"))
        chunks = list(self.vae.decode_chunks(latent))
        frames = torch.cat(chunks, 2)
        assert frames.shape[2] == FRAMES_PER_CLIP
        self.table.meets(self.recording, f"{name}.frames", frames)
        self.motion = ((frames[0] + 1) / 2).clamp(0, 1).transpose(0, 1)[-MOTION_FRAMES:]
        self.clip += 1
        self.table.meets(self.recording, f"cond{self.clip}.motion_pixels", self.motion.transpose(0, 1)[None] * 2 - 1)
        return iter(chunks)
