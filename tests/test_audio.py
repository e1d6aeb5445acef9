"""Audio features: chunked results equal unchunked ones, layers equal transformers', clips match their definition."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from hallo3_core.clips import FRAMES_PER_CLIP, Timeline
from hallo3_core.errors import InputError
from hallo3_core.inputs import audio
from hallo3_core.inputs.recording import VOICE_RATE, Recording, to_mono
from hallo3_core.toy.noise_wav2vec import write_tiny_wav2vec

transformers = pytest.importorskip("transformers")

LAYERS, DIM = 3, 24


def voice(samples: int, seed: int = 0, channels: int = 1, rate: int = VOICE_RATE) -> Recording:
    noise = torch.randn(channels, samples, generator=torch.Generator().manual_seed(seed))
    return Recording(0.1 * noise * torch.linspace(0.1, 1, samples), rate, "voice.wav")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_wav2vec(tmp_path_factory.mktemp("wav2vec"), 7, layers=LAYERS, dim=DIM)


@pytest.fixture(scope="module")
def wav2vec(folder):
    return audio.load_wav2vec(folder)


@pytest.fixture
def copy(folder, tmp_path):
    """A copy of the toy model that a test may modify."""
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def cut(path):
    path.write_bytes(path.read_bytes()[:2000])


def change_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# the toy


def test_the_toy_is_the_same_bytes_from_the_same_seed(folder, tmp_path):
    again = write_tiny_wav2vec(tmp_path / "a", 7, layers=LAYERS, dim=DIM)
    other = write_tiny_wav2vec(tmp_path / "b", 8, layers=LAYERS, dim=DIM)
    for file in folder.iterdir():
        assert (again / file.name).read_bytes() == file.read_bytes()
    assert (other / "model.safetensors").read_bytes() != (folder / "model.safetensors").read_bytes()


def test_the_toy_speaks_at_a_sane_size(wav2vec):
    hidden = audio.encode_audio(voice(32_000), wav2vec).hidden
    for layer in range(LAYERS):
        assert 0.3 < hidden[:, layer].std() < 3
        assert hidden[:, layer].std(dim=0).mean() > 0.1  # frames differ, so the audio has an effect


def test_transformers_itself_reads_the_toy_as_we_do(folder, wav2vec):
    theirs, report = transformers.Wav2Vec2Model.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    assert set(report["missing_keys"]) <= {"masked_spec_embed"}
    ours = wav2vec.model.state_dict()
    for name, tensor in theirs.state_dict().items():
        assert name == "masked_spec_embed" or torch.equal(tensor, ours[name]), name
    transformers.Wav2Vec2ForCTC.from_pretrained(folder, local_files_only=True)


@pytest.mark.parametrize(("dim", "heads"), [(24, 5), (9, 3)])
def test_a_toy_that_cannot_be_is_refused(tmp_path, dim, heads):
    with pytest.raises(ValueError, match="cannot be shared"):
        write_tiny_wav2vec(tmp_path, dim=dim, heads=heads)


# loading


def test_a_file_beside_its_config_loads_as_the_folder_does(copy, wav2vec):
    (copy / "model.safetensors").rename(copy / "voice.safetensors")
    (copy / "preprocessor_config.json").unlink()
    found = audio.load_wav2vec(copy / "voice.safetensors")
    assert (found.layers, found.dim) == (LAYERS, DIM)
    assert all(torch.equal(a, b) for a, b in zip(found.model.parameters(), wav2vec.model.parameters(), strict=True))


def test_a_pickled_file_loads_as_well(copy, wav2vec):
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    found = audio.load_wav2vec(copy)
    assert all(torch.equal(a, b) for a, b in zip(found.model.parameters(), wav2vec.model.parameters(), strict=True))


def test_the_model_is_as_asked_for_and_chance_has_no_part_in_it(folder):
    before = torch.get_rng_state()
    model = audio.load_wav2vec(folder).model
    assert torch.equal(torch.get_rng_state(), before)
    assert not model.training and {p.dtype for p in model.parameters()} == {torch.float32}
    assert not any(p.requires_grad or p.is_meta for p in model.parameters())


@pytest.mark.parametrize(
    ("spoil", "named", "reason"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json", "missing"),
        (lambda f: (f / "config.json").write_text("{"), "config.json", "not JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "config.json", "holds a list"),
        (lambda f: change_json(f / "config.json", model_type="hubert"), "config.json", "a 'hubert' model"),
        (lambda f: change_json(f / "config.json", num_hidden_layers=10**9), "config.json", "more than 256"),
        (lambda f: change_json(f / "config.json", hidden_size="wide"), "", "wav2vec2"),
        (lambda f: change_json(f / "config.json", conv_dim=[16]), "config.json", "not a wav2vec2 configuration"),
        (lambda f: change_json(f / "config.json", num_hidden_layers=4), "model.safetensors", "lacks encoder.layers.3"),
        (lambda f: change_json(f / "config.json", num_hidden_layers=2), "model.safetensors", "has encoder.layers.2"),
        (lambda f: change_json(f / "config.json", intermediate_size=64), "model.safetensors", "has shape"),
        (lambda f: change_json(f / "preprocessor_config.json", sampling_rate=8000), "preprocessor", "is 8000"),
        (lambda f: change_json(f / "preprocessor_config.json", do_normalize=False), "preprocessor", "is False"),
        (lambda f: (f / "model.safetensors").unlink(), "", "no weights, expected model.safetensors"),
        (lambda f: cut(f / "model.safetensors"), "model.safetensors", "model.safetensors"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused(copy, spoil, named, reason):
    spoil(copy)
    with pytest.raises(InputError, match=reason) as error:
        audio.load_wav2vec(copy)
    assert str(copy / named).removesuffix("/") in str(error.value)


@pytest.mark.parametrize("name", ["wav2vec2.encoder.pos_conv_embed.conv.weight_g", "wav2vec2.encoder.layer_norm.bias"])
def test_no_weight_is_made_up(copy, name):
    tensors = load_file(copy / "model.safetensors")
    del tensors[name]
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(InputError, match="lacks encoder"):
        audio.load_wav2vec(copy)


# the signal


@given(samples=st.integers(2, 200_000), gain=st.floats(1, 8), offset=st.floats(-0.5, 0.5))
@settings(max_examples=20, deadline=None)
def test_the_signal_is_normalised_and_then_padded(samples, gain, offset):
    waveform = voice(samples).waveform[0]
    signal = audio.padded_signal(waveform)
    padded = audio.padded_frames(Recording(waveform[None], VOICE_RATE).frames)
    assert padded % FRAMES_PER_CLIP == 0
    assert -(-signal.shape[0] // audio.SAMPLES_PER_FRAME) == padded
    assert signal[samples:].abs().sum() == 0
    assert abs(signal[:samples].mean()) < 1e-3 and abs(signal[:samples].square().mean() - 1) < 1e-2 or samples < 100
    if samples > 1000:
        assert (audio.padded_signal(waveform * gain + offset) - signal).abs().max() < 1e-3


def test_a_whole_number_of_49_frames_is_not_padded():
    assert audio.padded_signal(voice(49 * 640).waveform[0]).shape == (49 * 640,)
    assert audio.padded_signal(voice(49 * 640 + 1).waveform[0]).shape == (49 * 640 + 1 + 48 * 640,)


# convolutions in pieces


def make_model(norm: str):
    torch.manual_seed(3)
    config = transformers.Wav2Vec2Config(
        hidden_size=DIM,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=[16] * 7,
        feat_extract_norm=norm,
        conv_bias=norm == "layer",
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
    )
    model = transformers.Wav2Vec2Model(config).eval()
    for parameter in model.feature_extractor.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("piece", [1, 7, 50, 99, 10_000])
@pytest.mark.parametrize("samples", [400, 719, 720, 31_999])
@torch.no_grad()
def test_convolving_in_pieces_is_convolving_at_once(norm, piece, samples):
    model = make_model(norm)
    signal = voice(samples, seed=5).waveform[0] * 10 + 0.3
    whole = model.feature_extractor(signal[None])[0]
    found = audio.convolve(model, signal, piece)
    assert found.shape == whole.shape
    assert (found - whole).abs().max() <= 2e-5 * max(1, whole.abs().max())


# the encoder


@torch.no_grad()
def test_every_layer_is_kept_in_order_and_the_embedding_left_out(wav2vec):
    features = torch.randn(16, 97, generator=torch.Generator().manual_seed(2))
    found = audio.encode_features(features, 49, wav2vec)
    model = wav2vec.model
    stretched = torch.nn.functional.interpolate(features[None], size=49, mode="linear", align_corners=True)
    x = model.feature_projection(stretched.transpose(1, 2))[0]
    x = model.encoder.layer_norm(x + model.encoder.pos_conv_embed(x))
    assert found.shape == (49, LAYERS, DIM)
    for index, layer in enumerate(model.encoder.layers):
        x = layer(x)
        x = x[0] if isinstance(x, tuple) else x
        assert (found[:, index] - x[0]).abs().max() < 1e-5


def test_encoding_leaves_no_trace(wav2vec):
    before = torch.get_rng_state()
    first = audio.encode_audio(voice(20_000), wav2vec).hidden
    second = audio.encode_audio(voice(20_000), wav2vec).hidden
    assert torch.equal(first, second) and not first.requires_grad
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(RuntimeError):
        audio.encode_features(torch.zeros(99, 97), 49, wav2vec)  # not the width of the model
    assert not any(module._forward_hooks for module in wav2vec.model.modules())


@given(samples=st.integers(1, 60_000))
@settings(max_examples=10, deadline=None)
def test_any_length_is_encoded_to_whole_49_frames(samples, wav2vec):
    recording = voice(samples)
    features = audio.encode_audio(recording, wav2vec)
    assert features.frames == recording.frames and features.clips == Timeline(recording.frames).clips
    assert features.hidden.shape == (audio.padded_frames(recording.frames), LAYERS, DIM)
    assert features.hidden.dtype == torch.float32 and features.hidden.isfinite().all()


def test_loudness_does_not_matter_and_channels_are_mixed(wav2vec):
    stereo = voice(88_200, channels=2, rate=44_100)
    mono = Recording(to_mono(stereo)[None], VOICE_RATE)
    quiet = Recording(mono.waveform / 8, VOICE_RATE)
    expected = audio.encode_audio(mono, wav2vec).hidden
    assert (audio.encode_audio(stereo, wav2vec).hidden - expected).abs().max() < 1e-5
    assert (audio.encode_audio(quiet, wav2vec).hidden - expected).abs().max() < 1e-2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_file_in_half_precision_is_computed_in_float32(copy, dtype):
    """Some CPUs compute wav2vec2's convolutions incorrectly in bfloat16."""
    path = copy / "model.safetensors"
    save_file({name: tensor.to(dtype) for name, tensor in load_file(path).items()}, path)
    found = audio.load_wav2vec(copy)
    assert {p.dtype for p in found.model.parameters()} == {torch.float32}
    save_file({name: tensor.float() for name, tensor in load_file(path).items()}, path)
    exact = audio.encode_audio(voice(32_000), audio.load_wav2vec(copy)).hidden
    assert torch.equal(audio.encode_audio(voice(32_000), found).hidden, exact)


def test_values_that_are_not_finite_are_refused(folder):
    broken = audio.load_wav2vec(folder)
    norm = broken.model.encoder.layers[1].final_layer_norm
    norm.bias = torch.nn.Parameter(norm.bias.index_fill(0, torch.tensor([3]), float("nan")), requires_grad=False)
    with pytest.raises(InputError, match="voice.wav: .* NaN"):
        audio.encode_audio(voice(20_000), broken)
    with pytest.raises(InputError, match="no sound"):
        audio.encode_audio(Recording(torch.zeros(1, 0), VOICE_RATE), broken)


# windows and clips


@given(padded=st.integers(1, 160))
@settings(max_examples=30, deadline=None)
def test_a_window_is_two_frames_either_way(padded):
    hidden = torch.randn(padded, 2, 3, generator=torch.Generator().manual_seed(padded))
    found = audio.windows(hidden, torch.arange(padded))
    for i in range(padded):
        for k in range(5):
            assert torch.equal(found[i, k], hidden[min(max(i + k - 2, 0), padded - 1)])


@given(padded=st.integers(1, 400))
@settings(max_examples=30, deadline=None)
def test_clips_are_prefix_new_frames_and_repeats(padded):
    hidden = torch.randn(padded, 2, 3, generator=torch.Generator().manual_seed(padded))
    whole = audio.windows(hidden, torch.arange(padded))
    prefix = torch.zeros(2, 5, 2, 3)
    for clip in range(Timeline(padded).clips):
        own = torch.cat((prefix, whole[47 * clip : 47 * clip + 47]))
        filled = torch.cat((own, own[-1:].expand(49 - len(own), -1, -1, -1)))
        assert torch.equal(audio.clip_windows(hidden, clip), filled)
        prefix = own[-2:]
    for clip in (-1, Timeline(padded).clips):
        with pytest.raises(IndexError, match=f"clip {clip} does not exist"):
            audio.clip_windows(hidden, clip)


@given(frames=st.one_of(st.integers(1, 200), st.integers(1, 2 * 3600 * 25)), share=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_every_frame_of_a_long_film_hears_its_own_moment(frames, share):
    """Uses frame numbers as features. For any length up to two hours, frame n's window is centred on n, and a clip's
    two motion frames get the same audio as in the preceding clip."""
    padded = audio.padded_frames(frames)
    assert padded % 49 == 0 and frames <= padded < frames + 49
    clip = round(share * (Timeline(frames).clips - 1))
    start, stop = Timeline(frames).span(clip)
    found = audio.clip_windows(torch.arange(padded, dtype=torch.float64).view(-1, 1, 1), clip)[..., 0, 0]
    assert found[2 : 2 + stop - start, 2].tolist() == list(range(start, stop))
    assert found[:2, 2].tolist() == ([0, 0] if clip == 0 else [start - 2, start - 1])
    assert (found[:, 2] - found[:, 0]).max() <= 2 and found.max() <= padded - 1


def test_a_film_has_the_clips_that_its_frames_need(wav2vec):
    features = audio.encode_audio(voice(47 * 640), wav2vec)
    assert (features.frames, features.clips, features.hidden.shape[0]) == (47, 1, 49)
    assert torch.equal(audio.clip_audio(features, 0), audio.clip_windows(features.hidden, 0))
    assert audio.clip_windows(features.hidden, 1).shape == (49, 5, LAYERS, DIM)  # the released sampler has one more
    with pytest.raises(IndexError, match="a video of 47 frames has 1 clips"):
        audio.clip_audio(features, 1)
