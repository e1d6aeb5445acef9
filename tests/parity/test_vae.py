"""The VAE equals the recordings: encodes, decodes in chunks and not, and every value inside that was recorded."""

from __future__ import annotations

import re

import pytest
import torch

from hallo3_core.toy.noise_vae import tiny_vae_tensors
from hallo3_core.vae.autoencoder import LATENT_SCALE, VaeConfig, build_vae, chunk_spans, load_vae
from hallo3_core.weights.vae_names import to_diffusers, to_original

PREFIX = "first_stage_model."


@pytest.fixture(scope="module")
def weights(recorded):
    return recorded("vae_tiny_weights").weights()


@pytest.fixture(scope="module")
def vae(weights):
    return load_vae(weights)


@pytest.fixture(scope="module")
def recording(recorded):
    return recorded("vae_tiny")


class Inside:
    """Records what submodules give, by the recording's own names for them (`down0.downsample`, `up3`, `mid`...)."""

    def __init__(self, half, recording, prefix):
        self.found, self.hooks = {}, []
        names = {re.sub(r"\.every\d+\w+$", "", k).removeprefix(prefix) for k in recording.keys if k.startswith(prefix)}
        for name in names:
            self.hooks.append(self._submodule(half, name).register_forward_hook(self._keeper(name)))

    def _submodule(self, half, name):
        level, _, resampler = name.partition(".")
        if level == "mid":
            inner = re.sub(r"block_(\d)", lambda m: f"resnets.{int(m.group(1)) - 1}", resampler)
            return half.mid_block.get_submodule(inner)
        kind, number = re.fullmatch(r"(down|up|conv_in)(\d*)", level).groups()
        if kind == "conv_in":
            return half.conv_in
        block = half.down_blocks[int(number)] if kind == "down" else half.up_blocks[-1 - int(number)]
        if not resampler:
            return block.resnets[-1]
        return (block.downsamplers if kind == "down" else block.upsamplers)[0]

    def _keeper(self, name):
        def keep(module, inputs, output):
            self.found[name] = output[0] if isinstance(output, tuple) else output

        return keep

    def __enter__(self):
        return self.found

    def __exit__(self, *_):
        for hook in self.hooks:
            hook.remove()


def unused(recording, prefix):
    """Recorded tensors that no comparison has read: `table.meets` says nothing about a name that it does not find."""
    keys = {key for key in recording.keys if key.startswith(prefix)}
    assert keys
    return keys - recording.used


def test_encode(vae, recording, table):
    lengths = recording.numbers("enc#.pixels")
    assert {1, 3} <= set(lengths)
    for frames in lengths:
        name = f"enc{frames}"
        pixels, noise = recording[f"{name}.pixels"], recording[f"{name}.noise"]
        prefix = f"{name}.mid."
        with Inside(vae.autoencoder.encoder, recording, prefix) as inside:
            table.meets(recording, f"{name}.moments", vae.moments(pixels))
        for key, found in inside.items():
            table.meets(recording, prefix + key, found)
        table.meets(recording, f"{name}.latent_scaled", vae.encode(pixels, noise) * LATENT_SCALE)
    assert not unused(recording, "enc")


def test_decode_in_chunks(vae, recording, table):
    latent = recording["dec.latent"]
    frames, prefix = latent.shape[2], "dec.first_chunk.mid."
    spans = [(start, stop, stop == frames) for start, stop in chunk_spans(frames)]
    table.exactly(recording, "dec.chunk_bounds", spans)
    chunks = vae.decode_chunks(latent)
    with Inside(vae.autoencoder.decoder, recording, prefix) as inside:
        decoded = [next(chunks)]
    for key, found in inside.items():
        table.meets(recording, prefix + key, found)
    decoded += chunks
    table.exactly(recording, "dec.chunk_frames", [chunk.shape[2] for chunk in decoded])
    table.meets(recording, "dec.frames", torch.cat(decoded, dim=2))
    assert not unused(recording, "dec.first_chunk.") | unused(recording, "dec.frames")


def test_decode_in_one_call(vae, recording, table):
    latent = recording["dec.latent"]
    table.meets(recording, "dec.single_latent", vae.decode(latent[:, :, :1]))
    table.meets(recording, "dec.unchunked_first5", vae.autoencoder.decoder(latent[:, :, :5])[0])
    assert not unused(recording, "dec.single") | unused(recording, "dec.unchunked")


def test_sizes_of_the_recorded_weights(weights, golden_config):
    config = VaeConfig.from_shapes({name: tuple(tensor.shape) for name, tensor in weights.items()})
    channels = tuple(golden_config["vae_ch"] * factor for factor in golden_config["vae_mult"])
    assert config == VaeConfig(channels, golden_config["vae_res"])
    own = tiny_vae_tensors(0, config)
    assert {name: tensor.shape for name, tensor in own.items()} == {n: tensor.shape for n, tensor in weights.items()}


def test_names_and_shapes_at_full_size(manifest):
    shapes = {
        name.removeprefix(PREFIX): tuple(entry["shape"])
        for name, entry in manifest["tensors"].items()
        if name.startswith(PREFIX)
    }
    assert sorted(shapes) == sorted(manifest["3d-vae.pt"]["keys_without_prefix"])
    assert all(to_original(to_diffusers(name)) == name for name in shapes)
    config = VaeConfig.from_shapes(shapes)
    assert config == VaeConfig()
    parameters = dict(build_vae(config).autoencoder.named_parameters())
    assert {to_original(name): tuple(p.shape) for name, p in parameters.items()} == shapes
    for half in ("encoder", "decoder"):
        count = sum(p.numel() for name, p in parameters.items() if name.startswith(half))
        assert count == manifest["parameter_counts"][f"vae_{half}"]
