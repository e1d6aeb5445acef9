"""Denoiser, reference network and projectors equal the recordings: results, and every value inside."""

from __future__ import annotations

import pytest
import torch
from einops import rearrange

from hallo3_core.model.attention import join_heads
from hallo3_core.model.config import Grid
from hallo3_core.model.denoiser import Conditions, Denoiser
from hallo3_core.model.positions import rotate_
from hallo3_core.weights import names
from hallo3_core.weights.parts import Parts, load, sort_transformer

# what `small.out` multiplies by 2^-7, to make the norms' eps values visible
SMALL = (
    "patch_embed.proj. patch_embed.text_proj. pos_embed.pos_embedding .dense. mlp.dense_4h_to_h. .query_key_value. "
    ".query. .key_value. transformer.final_layernorm. audio_proj.conv1. face_proj.proj."
).split()


def sort(tensors, part):
    parts = Parts()
    sort_transformer(tensors, part, parts)
    assert not parts.unknown
    return parts


class Networks:
    """Denoiser and projectors of one weight file, and the recorded forward through them."""

    def __init__(self, tensors, dtype=torch.float32):
        parts = sort(tensors, names.DENOISER)
        self.dtype = dtype
        self.denoiser: Denoiser = load(parts, names.DENOISER, dtype=dtype)
        self.audio = load(parts, names.AUDIO_PROJECTOR, dtype=dtype)
        self.face = load(parts, names.FACE_PROJECTOR, dtype=dtype)
        self.config = self.denoiser.config

    def conditions(self, text, bank, face, audio) -> Conditions:
        d = self.denoiser
        return Conditions(
            text=d.embed_text(text.to(self.dtype)),
            reference=d.reference_keys_values([b.to(self.dtype) for b in bank]),
            face=d.face_keys_values(self.face(face.to(self.dtype))),
            audio=d.audio_keys_values(self.audio(audio.to(self.dtype))),
        )

    def grid(self, x) -> Grid:
        return Grid(x.shape[2], x.shape[3] // self.config.patch, x.shape[4] // self.config.patch)

    def velocity(self, x, concat, timesteps, conditions):
        """In the recordings' order ``b t c h w``."""
        x, concat = (rearrange(y, "b t c h w -> b c t h w").to(self.dtype) for y in (x, concat))
        layout = self.denoiser.layout(self.grid(x), self.dtype)
        modulation = self.denoiser.modulate_steps(timesteps, self.dtype)
        return rearrange(self.denoiser(x, concat, conditions, modulation, layout), "b c t h w -> b t c h w")


def bank_of(recording, prefix):
    return [recording[f"{prefix}.{n}"] for n in recording.numbers(f"{prefix}.#")]


@pytest.fixture(scope="module")
def weights(recorded):
    return recorded("denoiser_tiny_weights").weights()


@pytest.fixture(scope="module")
def networks(weights):
    return Networks(weights)


@pytest.fixture(scope="module")
def forward(recorded):
    return recorded("denoiser_tiny")


def inputs(forward):
    bank = bank_of(forward, "in.bank")
    return forward["in.context"], bank, forward["in.face_emb"], forward["in.audio_emb"]


def test_velocity(networks, forward, table):
    conditions = networks.conditions(*inputs(forward))
    out = networks.velocity(forward["in.x"], forward["in.concat"], forward["in.timesteps"], conditions)
    table.meets(forward, "out", out)


def test_every_value_inside(networks, forward, table):
    d = networks.denoiser
    text_in, bank, face_in, audio_in = inputs(forward)
    x = rearrange(torch.cat((forward["in.x"], forward["in.concat"]), 2), "b t c h w -> b c t h w")
    layout = d.layout(networks.grid(x), torch.float32)
    table.meets(forward, "mid.time_embed", d.modulation.embed(forward["in.timesteps"], torch.float32))
    table.meets(forward, "mid.patch_conv", d.patch_embed(rearrange(x, "b c t h w -> (b t) c h w")))
    table.meets(forward, "mid.text_proj", d.embed_text(text_in))
    table.meets(forward, "mid.audio_proj", networks.audio(audio_in))
    table.meets(forward, "mid.face_proj", networks.face(face_in))

    conditions = networks.conditions(text_in, bank, face_in, audio_in)
    modulation = d.modulate_steps(forward["in.timesteps"], torch.float32)
    video, text = d.embed_video(x, layout), conditions.text + layout.text
    frames, m = layout.grid.frames, text.shape[1]
    for i, block in enumerate(d.blocks):
        mod, name = modulation.layer(i), f"layer{i}"
        reference, face, audio = conditions.of_layer(i)
        table.meets(forward, f"{name}.adaln", modulation.blocks[:, i].flatten(1))
        table.meets(forward, f"{name}.in_video", video)
        table.meets(forward, f"{name}.in_text", text)
        joined = block.modulated(video, text, mod)
        table.meets(forward, f"{name}.self_attn_in", torch.cat((joined, bank[i]), 1))
        table.meets(
            forward, f"{name}.self_attn_out", self_attention_with_reference_queries(block, joined, bank[i], m, layout)
        )
        video, text = block.attend(video, text, mod, layout, reference)
        table.meets(forward, f"{name}.video_after_self_attn", video)
        table.meets(forward, f"{name}.text_after_self_attn", text)
        out = block.attend_face(video, layout, face)
        table.meets(forward, f"{name}.face_attn_out", rearrange(out, "b (t n) d -> (b t) n d", t=frames))
        video = video + out
        table.meets(forward, f"{name}.video_after_face", video)
        out = block.attend_audio(video, layout, audio)
        table.meets(forward, f"{name}.audio_attn_out", rearrange(out, "b (t n) d -> (b t) n d", t=frames))
        video = video + out
        table.meets(forward, f"{name}.video_after_audio", video)
        before = torch.cat((text, video), 1)
        text_gate, video_gate = mod.text_mlp.gate, mod.video_mlp.gate
        gates = torch.cat((text_gate.expand(-1, m, -1), video_gate.expand(-1, video.shape[1], -1)), 1)
        video, text = block.feed_forward(video, text, mod)
        # the recorded MLP output is the one before its gate
        table.meets(forward, f"{name}.mlp_out", mlp_out(block, before, m, mod))
        assert torch.allclose(before + gates * mlp_out(block, before, m, mod), torch.cat((text, video), 1), atol=1e-5)
    table.meets(forward, "mid.final_hidden", torch.cat((text, video), 1))
    linear = {}
    hook = d.head.register_forward_hook(lambda _, __, out: linear.update(out=out))
    out = d.predict(video, modulation, layout)
    hook.remove()
    table.meets(forward, "mid.final_linear", linear["out"])
    table.meets(forward, "out", rearrange(out, "b c t h w -> b t c h w"))


def self_attention_with_reference_queries(block, joined, bank, text_tokens, layout):
    """As the original has it, the reference tokens queries too: the rows that we never compute are in the recording."""
    q, k, v = block._queries_keys_values(torch.cat((joined, bank), 1))
    n = joined.shape[1]

    def placed(x):
        rotate_(x[:, :, text_tokens:n], layout.rotary)
        return x

    q, k = placed(block.query_norm(q)), placed(block.key_norm(k))
    return block.self_attention.out(join_heads(block.attention(q, k, v)))


def mlp_out(block, joined, m, mod):
    normed = block.mlp_norm(joined)
    text = normed[:, :m] * (1 + mod.text_mlp.scale) + mod.text_mlp.shift
    video = normed[:, m:] * (1 + mod.video_mlp.scale) + mod.video_mlp.shift
    return block.mlp(torch.cat((text, video), 1))


def test_guided_pair(networks, forward, table):
    """The first sample in both halves, text and audio null in half 0, timestep 19, as the sampler runs it."""
    text, bank, face, audio = inputs(forward)
    text, audio, face = (y[:1].repeat(2, *[1] * (y.ndim - 1)) for y in (text, audio, face))
    text[0], audio[0] = 0, 0
    x, concat = (forward[k][:1].repeat(2, 1, 1, 1, 1) for k in ("in.x", "in.concat"))
    conditions = networks.conditions(text, bank, face, audio)
    table.meets(forward, "cfg.out", networks.velocity(x, concat, torch.full((2,), 19.0), conditions))


def test_small_weights_show_the_eps(weights, forward, table):
    small = {k: v * 2.0**-7 if any(s in k for s in SMALL) else v for k, v in weights.items()}
    networks = Networks(small)
    out = networks.velocity(
        forward["in.x"], forward["in.concat"], forward["in.timesteps"], networks.conditions(*inputs(forward))
    )
    table.meets(forward, "small.out", out)


def test_bfloat16_is_no_worse_than_the_original(weights, forward):
    networks = Networks(weights, torch.bfloat16)
    out = networks.velocity(
        forward["in.x"], forward["in.concat"], forward["in.timesteps"], networks.conditions(*inputs(forward))
    )
    (name, every), *_ = forward.forms("out")
    exact = forward[name]
    ours = (out[..., ::every, ::every].float() - exact).abs().mean()
    theirs = (forward[f"bf16.{name}"].float() - exact).abs().mean()
    assert ours <= 1.25 * theirs, f"mean error {ours:.2e}, the original's {theirs:.2e}"


@pytest.fixture(scope="module")
def reference(recorded):
    return sort(recorded("refnet_tiny_weights").weights(), names.REFERENCE_NET)


@pytest.mark.parametrize("case", ["zero_text", "with_text"])
def test_reference_bank(reference, recorded, table, case):
    recording = recorded("refnet_tiny")
    net = load(reference, names.REFERENCE_NET, dtype=torch.float32)
    latent = rearrange(recording["in.ref_latent"], "b 1 c h w -> b c h w")
    context = (recording["in.context"], recording[f"{case}.timestep"]) if case == "with_text" else ()
    bank = net(latent, *context)
    for n, features in enumerate(bank):
        table.meets(recording, f"{case}.bank.{n}", features)
    assert len(bank) == len(recording.numbers(f"{case}.bank.#"))


@pytest.mark.parametrize("case", ["zero_text", "with_text"])
def test_reference_network_is_the_plain_transformer(recorded, table, case):
    """Its unused output is met by the same trunk without reference, face and audio: CogVideoX-5B-I2V itself."""
    recording = recorded("refnet_tiny")
    parts = sort(recorded("refnet_tiny_weights").weights(), names.DENOISER)
    net = load(parts, names.DENOISER, dtype=torch.float32)
    latent = rearrange(recording["in.ref_latent"], "b t c h w -> b c t h w")
    text = recording["in.context"] * (case == "with_text")
    layout = net.layout(Grid(1, latent.shape[3] // 2, latent.shape[4] // 2), torch.float32)
    modulation = net.modulate_steps(recording[f"{case}.timestep"].float(), torch.float32)
    out = net(latent, latent, Conditions(net.embed_text(text)), modulation, layout)
    table.meets(recording, f"{case}.out", rearrange(out, "b c t h w -> b t c h w"))
