"""One model call of the denoiser as in the original: everything is recomputed at every step, from the same weights.

Follows sections 4.2 to 4.4 of the algorithm from top to bottom. The portrait's tokens are queries too, and their rows
are dropped. Both projectors, the timestep embedding, every layer's modulation, and the keys and values of portrait,
face and audio are recomputed at each call. The four face tokens are repeated for each frame.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor

from hallo3_core.model.blocks import Block
from hallo3_core.model.denoiser import Denoiser
from hallo3_core.model.positions import Layout, Rotary

from .presets import Inputs, Networks


def velocity(networks: Networks, inputs: Inputs, latent: Tensor, timestep: float, layout: Layout) -> Tensor:
    """Predicts the velocity ``b 16 t h w``; inputs with a batch of 1 are shared by all samples."""
    denoiser, batch, dtype = networks.denoiser, latent.shape[0], latent.dtype
    audio = networks.audio(inputs.audio.expand(batch, -1, -1, -1, -1))
    face = networks.face(inputs.face.expand(batch, -1))
    embedding = F.silu(denoiser.modulation.embed(torch.full((batch,), timestep, device=latent.device), dtype))
    video, text = embed(denoiser, latent, inputs, layout)
    for block, linear, features in zip(denoiser.blocks, denoiser.modulation.blocks, inputs.bank, strict=True):
        modulation = linear(embedding).unflatten(-1, (12, -1))[:, :, None]
        features = features.expand(batch, -1, -1)
        video, text = self_attention(block, video, text, features, modulation, layout)
        each_frame = repeat(face, "b n c -> (b t) n c", t=layout.grid.frames)
        video = video + cross_attention(block, block.face_norm, block.face_attention, video, each_frame, layout)
        each_frame = rearrange(audio, "b t n c -> (b t) n c")
        video = video + cross_attention(block, block.audio_norm, block.audio_attention, video, each_frame, layout)
        video, text = feed_forward(block, video, text, modulation)
    return head(denoiser, video, text, embedding, layout)


def embed(denoiser: Denoiser, latent: Tensor, inputs: Inputs, layout: Layout) -> tuple[Tensor, Tensor]:
    """Video tokens ``b (t r c) D`` and text tokens ``b m D``, with positions."""
    frames = rearrange(torch.cat((latent, inputs.concat.expand_as(latent)), dim=1), "b c t h w -> (b t) c h w")
    video = rearrange(denoiser.patch_embed(frames), "(b t) d r c -> b (t r c) d", b=latent.shape[0])
    text = denoiser.text_embed(inputs.text.expand(latent.shape[0], -1, -1))
    return video + layout.video, text + denoiser.text_positions


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale) + shift


def rotated(x: Tensor, rotary: Rotary) -> Tensor:
    """Neighbouring pairs (a, b) -> (a cos - b sin, b cos + a sin), ``b h n d``."""
    cos, sin = (table.repeat_interleave(2, dim=-1) for table in (rotary.cos, rotary.sin))
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    return (x * cos + torch.stack((-b, a), dim=-1).flatten(-2) * sin).to(x.dtype)


def self_attention(block: Block, video: Tensor, text: Tensor, features: Tensor, modulation: Tensor, layout: Layout):
    """Concatenates text, video and portrait; all of them are queries, keys and values."""
    video_shift, video_scale, video_gate = modulation[:, :3].unbind(1)
    text_shift, text_scale, text_gate = modulation[:, 6:9].unbind(1)
    m, n = text.shape[1], video.shape[1]
    joined = torch.cat(
        (
            modulated(block.attention_norm(text), text_shift, text_scale),
            modulated(block.attention_norm(video), video_shift, video_scale),
            features,
        ),
        dim=1,
    )
    q, k, v = rearrange(block.self_attention.qkv(joined), "b n (three h d) -> three b h n d", three=3, h=block.heads)
    q, k = block.query_norm(q), block.key_norm(k)
    q, k = (
        torch.cat((x[:, :, :m], rotated(x[:, :, m : m + n], layout.rotary), x[:, :, m + n :]), dim=2) for x in (q, k)
    )
    out = block.self_attention.out(rearrange(block.attention(q, k, v), "b h n d -> b n (h d)"))
    return video + video_gate * out[:, m : m + n], text + text_gate * out[:, :m]


def cross_attention(block: Block, norm, attention, video: Tensor, tokens: Tensor, layout: Layout) -> Tensor:
    """Each frame's video tokens attend to its own few tokens ``(b t) n c``; all frames use the first one's
    positions."""
    frames = rearrange(norm(video), "b (t n) d -> (b t) n d", t=layout.grid.frames)
    rotary = layout.rotary.first_frame(layout.grid)
    q = rearrange(attention.query(frames), "b n (h d) -> b h n d", h=block.heads)
    k, v = rearrange(attention.key_value(tokens), "b n (two h d) -> two b h n d", two=2, h=block.heads)
    out = block.attention(rotated(block.query_norm(q), rotary), block.key_norm(k), v)
    return rearrange(attention.out(rearrange(out, "b h n d -> b n (h d)")), "(b t) n d -> b (t n) d", b=video.shape[0])


def feed_forward(block: Block, video: Tensor, text: Tensor, modulation: Tensor) -> tuple[Tensor, Tensor]:
    """One MLP over both streams, each with its own modulation and gate."""
    video_shift, video_scale, video_gate = modulation[:, 3:6].unbind(1)
    text_shift, text_scale, text_gate = modulation[:, 9:12].unbind(1)
    m = text.shape[1]
    joined = torch.cat(
        (
            modulated(block.mlp_norm(text), text_shift, text_scale),
            modulated(block.mlp_norm(video), video_shift, video_scale),
        ),
        dim=1,
    )
    out = block.mlp.down(F.gelu(block.mlp.up(joined), approximate="tanh"))
    return video + video_gate * out[:, m:], text + text_gate * out[:, :m]


def head(denoiser: Denoiser, video: Tensor, text: Tensor, embedding: Tensor, layout: Layout) -> Tensor:
    """Normalises both streams, drops the text, and maps tokens to 2x2 latent pixels."""
    m, grid, patch = text.shape[1], layout.grid, denoiser.config.patch
    shift, scale = denoiser.head_modulation(embedding).unflatten(-1, (2, -1))[:, :, None].unbind(1)
    video = denoiser.final_norm(torch.cat((text, video), dim=1))[:, m:]
    out = denoiser.head(modulated(denoiser.head_norm(video), shift, scale))
    sizes = dict(t=grid.frames, r=grid.rows, p=patch, q=patch)
    return rearrange(out, "b (t r c) (k p q) -> b k t (r p) (c q)", **sizes)
