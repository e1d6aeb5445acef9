"""The VAE at toy size: names, loading, the posterior, and decoding in chunks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hallo3_core.errors import InputError
from hallo3_core.toy.noise_vae import CONFIG, CONTRAST, tiny_vae_tensors
from hallo3_core.vae.autoencoder import LOG_VARIANCE, VaeConfig, build_vae, channels_last, chunk_spans, load_vae
from hallo3_core.weights.vae_names import in_diffusers_names, to_diffusers, to_original


@pytest.fixture(scope="module")
def tensors():
    return {name: tensor.float() for name, tensor in tiny_vae_tensors(3).items()}


@pytest.fixture(scope="module")
def vae(tensors):
    return load_vae(tensors)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def latents(frames, seed=0):
    return draw(1, CONFIG.latent_channels, frames, 2, 3, seed=seed)


def pixels(frames, seed=0):
    return draw(1, 3, frames, 16, 24, seed=seed).clamp(-1, 1)


def shapes_of(config):
    return {name: tuple(p.shape) for name, p in build_vae(config).autoencoder.named_parameters()}


def same(one, other):
    return torch.equal(one, other)


@pytest.mark.parametrize("config", [CONFIG, VaeConfig()], ids=["toy", "full"])
def test_names_convert_back_and_forth(config):
    theirs = list(shapes_of(config))
    official = [to_original(name) for name in theirs]
    assert [to_diffusers(name) for name in official] == theirs
    assert len(set(official)) == len(theirs)
    assert not set(official) & {name for name in theirs if "block" in name}


@pytest.mark.parametrize(
    ("official", "theirs"),
    [
        ("encoder.down.1.block.2.norm1.weight", "encoder.down_blocks.1.resnets.2.norm1.weight"),
        ("encoder.down.0.downsample.conv.bias", "encoder.down_blocks.0.downsamplers.0.conv.bias"),
        ("encoder.mid.block_2.conv1.conv.bias", "encoder.mid_block.resnets.1.conv1.conv.bias"),
        ("decoder.up.3.block.0.conv1.conv.bias", "decoder.up_blocks.0.resnets.0.conv1.conv.bias"),
        ("decoder.up.0.block.0.nin_shortcut.bias", "decoder.up_blocks.3.resnets.0.conv_shortcut.bias"),
        ("decoder.up.1.upsample.conv.weight", "decoder.up_blocks.2.upsamplers.0.conv.weight"),
        ("decoder.norm_out.conv_y.conv.weight", "decoder.norm_out.conv_y.conv.weight"),
    ],
)
def test_names_of_the_release(official, theirs):
    assert (to_diffusers(official), to_original(theirs)) == (theirs, official)


@settings(deadline=None, max_examples=8)
@given(
    channels=st.lists(st.sampled_from([32, 64, 96]), min_size=4, max_size=4),
    layers=st.integers(1, 3),
    latent=st.integers(1, 4),
)
def test_sizes_are_read_from_shapes_in_either_naming(channels, layers, latent):
    config = VaeConfig(tuple(channels), layers, latent)
    shapes = shapes_of(config)
    assert VaeConfig.from_shapes(shapes) == config
    assert VaeConfig.from_shapes({to_original(name): shape for name, shape in shapes.items()}) == config


def test_either_naming_loads_the_same_and_the_loss_is_ignored(vae, tensors):
    other = load_vae(in_diffusers_names(tensors) | {"loss.discriminator.weight": torch.zeros(2)})
    assert same(other.decode(latents(1)), vae.decode(latents(1)))


def test_loading_copies_nothing(vae, tensors):
    parameters = dict(vae.autoencoder.named_parameters())
    assert {to_original(name): p.data_ptr() for name, p in parameters.items()} == {
        name: tensor.data_ptr() for name, tensor in tensors.items()
    }


def test_loading_casts(tensors):
    vae = load_vae(tensors, dtype=torch.bfloat16)
    assert {p.dtype for p in vae.parameters()} == {torch.bfloat16}
    assert not vae.training and not any(p.requires_grad for p in vae.parameters())
    assert vae.encode(pixels(1)).dtype == vae.decode(latents(1)).dtype == torch.bfloat16


MISSING, WRONG = "decoder.up.2.block.0.norm1.conv_y.conv.weight", "encoder.mid.block_1.conv2.conv.weight"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: t.pop(MISSING), to_diffusers(MISSING)),
        (lambda t: t.update({WRONG: t[WRONG][:-1]}), to_diffusers(WRONG)),
        (lambda t: t.update({"quant_conv.weight": torch.zeros(1)}), "quant_conv.weight"),
        (lambda t: t.update({to_diffusers(WRONG): t[WRONG]}), to_diffusers(WRONG)),
        (lambda t: t.pop("decoder.conv_in.conv.weight"), "decoder.conv_in.conv.weight"),
        (lambda t: t.update({"encoder.down.1.block.0.conv1.conv.weight": torch.zeros(48, 32, 3, 3, 3)}), "48 channels"),
        (lambda t: t.clear(), "3d-vae.pt"),
    ],
    ids=["missing", "misshapen", "unknown", "twice", "no size", "no groups", "empty"],
)
def test_a_file_that_does_not_fit_is_refused_by_name(tensors, change, named):
    changed = dict(tensors)
    change(changed)
    with pytest.raises(InputError) as error:
        load_vae(changed, label="some.pt")
    assert str(error.value).startswith("some.pt: ") and named in str(error.value)


def test_encoding_without_noise_is_the_mean(vae):
    frames = pixels(3)
    mean, log_variance = vae.moments(frames).chunk(2, dim=1)
    noise = draw(*mean.shape)
    assert same(vae.encode(frames), mean)
    assert same(vae.encode(frames, torch.zeros_like(noise)), mean)
    assert torch.allclose((vae.encode(frames, noise) - mean) / noise, (log_variance / 2).exp(), rtol=1e-3)
    assert torch.allclose((vae.encode(frames, noise) + vae.encode(frames, -noise)) / 2, mean, atol=1e-6)


@pytest.mark.parametrize(("given_value", "used"), [(-1000.0, LOG_VARIANCE[0]), (1000.0, LOG_VARIANCE[1])])
def test_log_variance_has_bounds(tensors, given_value, used):
    bias = tensors["encoder.conv_out.conv.bias"].clone()
    bias[CONFIG.latent_channels :] = given_value
    vae = load_vae(tensors | {"encoder.conv_out.conv.bias": bias})
    noise = draw(1, CONFIG.latent_channels, 1, 2, 3)
    deviation = torch.tensor(used / 2).exp()
    assert torch.allclose(vae.encode(pixels(1), noise), vae.encode(pixels(1)) + deviation * noise, rtol=1e-5)


@given(half=st.integers(0, 500))
def test_chunks_cover_the_latent_once_and_start_with_three(half):
    frames = 2 * half + 1
    spans = chunk_spans(frames)
    assert [n for start, stop in spans for n in range(start, stop)] == list(range(frames))
    assert [stop - start for start, stop in spans] == [min(frames, 3), *[2] * (half - 1)]


@pytest.mark.parametrize("frames", [0, 2, 12])
def test_only_odd_latents_have_chunks(frames):
    with pytest.raises(ValueError, match=str(frames)):
        chunk_spans(frames)


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 6])
def test_frames_of_a_latent(vae, frames):
    chunks = list(vae.decode_chunks(latents(frames)))
    assert torch.cat(chunks, 2).shape == (1, 3, 4 * frames - 3, 16, 24)
    assert vae.encode(torch.cat(chunks, 2)).shape == (1, CONFIG.latent_channels, frames, 2, 3)


def test_an_even_latents_last_half_pair_is_completed_by_itself(vae):
    latent = latents(4)
    completed = vae.decode(torch.cat((latent, latent[:, :, -1:]), 2))
    assert same(vae.decode(latent), completed[:, :, :13])


def test_decoding_is_diffusers_own_where_that_is_the_releases(vae):
    latent = latents(7)
    assert torch.allclose(vae.decode(latent), vae.autoencoder.decode(latent).sample, atol=1e-5)


def test_cudnns_order_of_weights_changes_nothing(vae, tensors):
    ordered = load_vae(tensors)
    channels_last(ordered)
    convolutions = [
        m.weight for m in ordered.modules() if isinstance(m, torch.nn.Conv3d) and m.weight[0, 0].numel() > 1
    ]
    assert convolutions and all(w.is_contiguous(memory_format=torch.channels_last_3d) for w in convolutions)
    latent = torch.randn(1, 16, 5, 4, 6, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(ordered.decode(latent), vae.decode(latent), atol=1e-4)


def test_encoding_is_one_call(vae):
    """Group norms cover all frames, so the result differs from diffusers' encode, which takes 8 frames at a time."""
    frames = pixels(17)
    assert vae.moments(frames).shape == (1, 2 * CONFIG.latent_channels, 5, 2, 3)
    assert same(vae.moments(frames), vae.autoencoder.encoder(frames)[0])
    assert not torch.allclose(vae.encode(frames), vae.autoencoder.encode(frames).latent_dist.mode(), atol=1e-3)


def test_no_frame_depends_on_latents_of_later_chunks(vae):
    short = vae.decode(latents(7)[:, :, :3])
    assert torch.allclose(vae.decode(latents(7))[:, :, : short.shape[2]], short, atol=1e-6)
    assert torch.allclose(vae.decode(latents(7)[:, :, :4])[:, :, : short.shape[2]], short, atol=1e-6)


def test_chunks_remember_those_before(vae):
    latent = latents(5)
    later = list(vae.decode_chunks(latent))[1]
    other = list(vae.decode_chunks(torch.cat((-latent[:, :, :3], latent[:, :, 3:]), 2)))[1]
    assert not torch.allclose(later, other, atol=1e-3)


def test_decodes_do_not_disturb_each_other(vae):
    one, two = latents(5, seed=1), latents(5, seed=2)
    alone = [list(vae.decode_chunks(latent)) for latent in (one, two)]
    abandoned = vae.decode_chunks(two)
    next(abandoned)
    mixed = list(zip(vae.decode_chunks(one), vae.decode_chunks(two), strict=True))
    for expected, found in zip(zip(*alone, strict=True), mixed, strict=True):
        assert all(map(same, expected, found))


def test_a_batch_is_its_members(vae):
    batch = torch.cat((latents(3, seed=1), latents(3, seed=2)))
    members = torch.cat([vae.decode(latent[None]) for latent in batch])
    assert torch.allclose(vae.decode(batch), members, atol=1e-5)


NAN = float("nan")


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        (torch.zeros(1, 3, 1, 16, 20), "multiples of 8"),
        (torch.zeros(1, 3, 1, 12, 24), "multiples of 8"),
        (torch.zeros(1, 4, 1, 16, 24), "[1, 4, 1, 16, 24]"),
        (torch.zeros(3, 1, 16, 24), "[3, 1, 16, 24]"),
        (torch.zeros(1, 3, 0, 16, 24), "[1, 3, 0, 16, 24]"),
        (torch.full((1, 3, 1, 16, 24), NAN), "NaN"),
    ],
)
def test_frames_that_cannot_be_encoded_are_refused(vae, bad, named):
    with pytest.raises(InputError) as error:
        vae.encode(bad)
    assert named in str(error.value)


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        (torch.zeros(1, 4, 3, 2, 3), "[1, 4, 3, 2, 3]"),
        (torch.zeros(1, CONFIG.latent_channels, 0, 2, 3), "0"),
        (torch.full((1, CONFIG.latent_channels, 1, 2, 3), NAN), "NaN"),
    ],
)
def test_latents_that_cannot_be_decoded_are_refused_at_once(vae, bad, named):
    with pytest.raises(InputError) as error:
        vae.decode_chunks(bad)
    assert named in str(error.value)


def test_noise_of_another_shape_is_refused(vae):
    with pytest.raises(InputError, match="noise"):
        vae.encode(pixels(1), torch.zeros(1, CONFIG.latent_channels, 1, 2, 2))


def test_toy_weights_follow_from_the_seed():
    one, again, other = tiny_vae_tensors(5), tiny_vae_tensors(5), tiny_vae_tensors(6)
    assert {tensor.dtype for tensor in one.values()} == {torch.bfloat16}
    assert one.keys() == again.keys() == other.keys()
    assert all(same(one[name], again[name]) and not same(one[name], other[name]) for name in one)


@pytest.mark.parametrize("seed", range(3))
def test_toy_pictures_can_be_seen(seed):
    vae = load_vae(tiny_vae_tensors(seed), dtype=torch.float32)
    frames = vae.decode(draw(1, CONFIG.latent_channels, 3, 4, 6, seed=seed))
    assert CONTRAST / 2 < frames.std() < CONTRAST * 1.5
    assert (frames.abs() > 1).float().mean() < 0.1
    assert 0.5 < vae.encode(frames.clamp(-1, 1)).std() < 2


def test_caches_in_host_memory_change_nothing_on_a_cpu():
    """There the buffer that is overwritten for the next chunk is the memory that this chunk reads."""
    from hallo3_core.vae.causal_conv import caches_in_host_memory

    vae = load_vae(tiny_vae_tensors(0))
    latent = torch.randn(1, 16, 7, 4, 6, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = vae.decode(latent)
        with caches_in_host_memory(vae.autoencoder):
            assert torch.equal(vae.decode(latent), expected)
