"""The learnt release: packed, written out, and loaded by the program as any release is."""

from __future__ import annotations

import pytest
import torch

from hallo3_core.cli.main import main
from hallo3_core.errors import InputError
from hallo3_core.inputs.audio import load_wav2vec
from hallo3_core.inputs.text import load_text_encoder, read_tokenizer
from hallo3_core.release.layout import FACE_FOLDER, TEXT_FOLDER, VAE_FILE, WAV2VEC_FOLDER, Release
from hallo3_core.toy import learnt_release
from hallo3_core.toy.learning import train_text, train_wav2vec
from hallo3_core.toy.learning.trainable_vae import trainable_vae
from hallo3_core.toy.noise_face import write_tiny_face
from hallo3_core.toy.noise_release import file_tensors
from hallo3_core.toy.packing import STEPS
from hallo3_core.toy.sizes import LEARNT
from hallo3_core.toy.world.captions import VOCABULARY
from hallo3_core.weights import names
from hallo3_core.weights.reading import read_tensors
from hallo3_core.weights.vae_names import to_original


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A release of the learnt one's sizes whose networks have just begun."""
    folder = tmp_path_factory.mktemp("trained")
    torch.manual_seed(0)
    learnt_release.write_transformers(folder, file_tensors(0, LEARNT.transformer))
    vae = trainable_vae(LEARNT.vae_config, "cpu")
    tensors = {to_original(name): tensor for name, tensor in vae.autoencoder.state_dict().items()}
    learnt_release.write_vae(folder, tensors)
    text = folder / TEXT_FOLDER
    train_text.write_tokenizer(text, train_text.caption_pieces())
    train_text.write_text_encoder(text, train_text.network(LEARNT).state_dict(), LEARNT)
    train_wav2vec.write_wav2vec(folder / WAV2VEC_FOLDER, train_wav2vec.network(LEARNT).state_dict(), LEARNT)
    write_tiny_face(folder / FACE_FOLDER)
    return folder


@pytest.fixture(scope="module")
def packed(trained, tmp_path_factory):
    return learnt_release.pack(trained, tmp_path_factory.mktemp("packed"))


def test_a_release_comes_back_within_the_steps_of_its_rows(trained, packed, tmp_path):
    back = learnt_release.write_toy_release(tmp_path / "back", packed)
    before, after = read_tensors(trained / VAE_FILE), read_tensors(back / VAE_FILE)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        step = tensor.flatten(1).abs().amax() / STEPS if tensor.ndim > 1 else 0
        assert (tensor - after[name]).abs().max() <= 0.501 * step, name
    own, theirs = (read_tensors(Release(folder).transformer_file) for folder in (trained, back))
    assert own.keys() == theirs.keys()
    assert all(own[name].shape == theirs[name].shape for name in own)


def test_every_network_of_it_loads(packed, tmp_path):
    release = Release(learnt_release.write_toy_release(tmp_path / "back", packed))
    assert release.network(names.DENOISER).config.hidden == LEARNT.hidden
    assert release.vae().latent_channels == 16
    assert load_text_encoder(release.text_folder, tokens=LEARNT.text_tokens).encode("a red flag").shape == (1, 32, 32)
    assert load_wav2vec(release.wav2vec_folder).dim == LEARNT.audio_width
    assert all(path.exists() for path in release.files())


def test_all_of_it_is_small_enough_to_ship(packed):
    assert sum(path.stat().st_size for path in packed.iterdir()) < 12e6


def test_every_word_of_a_caption_is_one_token(trained):
    tokenizer = read_tokenizer(trained / TEXT_FOLDER)
    words = [word for word in VOCABULARY if word.isalpha()]
    assert all(len(tokenizer.split(word)) == 1 for word in words)
    longest = max(len(tokenizer.split(train_text.describe(seed)[0])) for seed in range(300))
    assert longest < LEARNT.text_tokens


def test_a_folder_that_is_not_empty_or_weights_that_are_missing_are_refused(packed, tmp_path):
    (tmp_path / "something").write_text("")
    with pytest.raises(InputError, match="not empty"):
        learnt_release.write_toy_release(tmp_path, packed)
    with pytest.raises(InputError, match="tiny --noise"):
        learnt_release.write_toy_release(tmp_path / "new", tmp_path)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("arguments", "mark"), [([], "drawn world"), (["--noise"], "seeded noise")])
def test_tiny_writes_the_trained_release_unless_noise_is_asked_for(packed, tmp_path, monkeypatch, arguments, mark):
    monkeypatch.setattr(learnt_release, "WEIGHTS", packed)
    assert main(["tiny", str(tmp_path / "toy"), *arguments]) == 0
    assert mark in (tmp_path / "toy" / "TOY_WEIGHTS.txt").read_text()
