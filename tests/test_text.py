"""The text encoder at toy size: tokens, truncation, unmasked padding, and rejected inputs."""

from __future__ import annotations

import json
import logging
import shutil
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from hallo3_core.errors import InputError
from hallo3_core.inputs.text import TEXT_TOKENS, load_text_encoder, null_text, prompt_tokens, read_tokenizer
from hallo3_core.toy.noise_text import write_tiny_text_encoder

DIM = 40
PROMPT = "A person is talking to the camera."
SCRIPTS = ["", "   ", "你好，世界", "مرحبا بالعالم", "नमस्ते", "привет"]
SCRIPTS += ["🙂👩\u200d👩\u200d👧", "e\u0301\u200b\ufeff", "\x00\t\n", "ﬁ ① Ｗide"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_text_encoder(tmp_path_factory.mktemp("t5") / "t5-v1_1-xxl", seed=1, dim=DIM)


@pytest.fixture(scope="module")
def encoder(folder):
    return load_text_encoder(folder, dtype=torch.float32)


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "t5")


def shards(folder):
    return sorted(folder.glob("model-*.safetensors"))


def rewrite(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


def encode(encoder, prompt):
    with torch.inference_mode():
        return encoder.encode(prompt)


def refusal(folder, **options):
    with pytest.raises(InputError) as error:
        load_text_encoder(folder, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@given(prompt=st.text(max_size=80), count=st.integers(1, 60))
def test_any_prompt_gives_as_many_tokens_as_asked(encoder, prompt, count):
    tokenizer = encoder.tokenizer
    tokens = tokenizer.tokens(prompt, count)
    assert len(tokens) == count and all(0 <= token < tokenizer.size for token in tokens)
    own, end = tokenizer.split(prompt), tokens.index(tokenizer.end)
    assert tokens[:end] == own[: count - 1]
    assert set(tokens[end + 1 :]) <= {tokenizer.pad}


@pytest.mark.parametrize("prompt", [PROMPT, *SCRIPTS])
def test_tokens_are_those_of_transformers(folder, encoder, prompt):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    for count in (8, 40):
        expected = theirs(prompt, padding="max_length", truncation=True, max_length=count).input_ids
        assert encoder.tokenizer.tokens(prompt, count) == expected


def test_text_is_that_of_transformers_own_loading(folder, encoder):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.T5EncoderModel.from_pretrained(str(folder), local_files_only=True).float().eval()
    tokens = torch.tensor([encoder.tokenizer.tokens(PROMPT, TEXT_TOKENS)])
    with torch.inference_mode():
        expected = theirs(input_ids=tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state
    assert torch.allclose(encode(encoder, PROMPT), expected, atol=1e-4)


@pytest.mark.parametrize("prompt", [PROMPT, *SCRIPTS])
def test_text_has_one_shape_and_is_always_the_same(encoder, prompt):
    text = encode(encoder, prompt)
    assert text.shape == (1, TEXT_TOKENS, DIM)
    assert torch.isfinite(text).all() and torch.equal(text, encode(encoder, prompt))


def test_a_prompt_reaches_every_token_and_padding_takes_part(folder, encoder):
    one, other = encode(encoder, "A woman sings."), encode(encoder, "An old man nods.")
    assert ((one - other).abs().amax(2) > 1e-4).all()
    shorter = load_text_encoder(folder, dtype=torch.float32, tokens=40)
    assert not torch.allclose(encode(shorter, "A woman sings."), one[:, :40], atol=1e-3)


@pytest.mark.parametrize("spare", [0, 1], ids=["between words", "within a word"])
def test_what_does_not_fit_is_left_out_with_a_warning_that_says_from_where(encoder, caplog, spare):
    tokenizer, words = encoder.tokenizer, PROMPT.split() * 5
    room = len(tokenizer.split(" ".join(words[:10]))) + spare
    kept = max(n for n in range(len(words)) if len(tokenizer.split(" ".join(words[:n]))) <= room)
    assert kept == 10
    caplog.set_level(logging.WARNING)
    fits = tokenizer.tokens(" ".join(words[:kept]), room + 1)
    assert not caplog.records and fits[-1] in (tokenizer.end, tokenizer.pad)
    rest = " ".join(words[kept:])
    cut = tokenizer.tokens(" ".join(words), room + 1)
    assert rest[:60] in caplog.text and str(room) in caplog.text
    assert cut == tokenizer.tokens(" ".join([*words, "and", "more"]), room + 1)
    assert cut == [*tokenizer.split(" ".join(words))[:room], tokenizer.end]


def test_a_prompt_that_fits_exactly_is_not_cut(encoder, caplog):
    own = encoder.tokenizer.split(PROMPT)
    assert encoder.tokenizer.tokens(PROMPT, len(own) + 1) == [*own, encoder.tokenizer.end]
    assert not caplog.records


def test_a_broken_character_is_refused(encoder):
    with pytest.raises(InputError, match="character 3"):
        encoder.encode("a \udcff b")


def test_null_is_zeros_and_not_the_empty_prompt(encoder):
    text = encode(encoder, "").bfloat16()
    null = null_text(text)
    assert null.shape == text.shape and null.dtype == text.dtype and not null.any() and text.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near(folder, encoder, dtype):
    half = load_text_encoder(folder, dtype=dtype)
    text = encode(half, PROMPT)
    assert text.dtype == dtype
    assert (text.float() - encode(encoder, PROMPT)).abs().mean() < 0.05
    wide = {name for name, p in half.model.named_parameters() if p.dtype == torch.float32}
    assert all(".wo." in name for name in wide) and bool(wide) == (dtype == torch.float16)


def test_without_a_dtype_weights_stay_as_stored_and_are_not_random(folder):
    loaded = load_text_encoder(folder).model
    stored = {name: tensor for shard in shards(folder) for name, tensor in load_file(shard).items()}
    parameters = dict(loaded.named_parameters())
    assert parameters.keys() == stored.keys()
    assert all(torch.equal(parameters[name], tensor) for name, tensor in stored.items())
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}
    assert loaded.get_input_embeddings().weight is loaded.encoder.get_input_embeddings().weight
    assert not loaded.training


def test_one_file_with_a_decoder_and_both_names_of_the_table_is_read_too(copy, encoder):
    tensors = {name: tensor for shard in shards(copy) for name, tensor in load_file(shard).items()}
    for path in (*shards(copy), copy / "model.safetensors.index.json"):
        path.unlink()
    tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"].clone()
    tensors |= {"decoder.final_layer_norm.weight": torch.ones(DIM), "lm_head.weight": torch.ones(3, DIM)}
    save_file(tensors, copy / "model.safetensors")
    assert torch.equal(encode(load_text_encoder(copy, dtype=torch.float32), PROMPT), encode(encoder, PROMPT))


def test_tokenizer_json_serves_where_there_is_no_spiece_model(copy, encoder):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(str(copy), local_files_only=True)
    theirs.backend_tokenizer.enable_padding(length=7)
    theirs.backend_tokenizer.enable_truncation(5)
    theirs.backend_tokenizer.save(str(copy / "tokenizer.json"))
    (copy / "spiece.model").unlink()
    tokenizer = read_tokenizer(copy)
    for prompt in (PROMPT, *SCRIPTS):
        assert tokenizer.tokens(prompt, 30) == encoder.tokenizer.tokens(prompt, 30)


@pytest.mark.parametrize(
    "name", ["config.json", "spiece.model", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
)
def test_a_missing_or_damaged_file_is_named(copy, name):
    path = copy / name
    path.write_bytes(path.read_bytes()[:20])
    assert name in refusal(copy)
    path.write_bytes(b"")
    assert name in refusal(copy)
    path.unlink()
    assert name in refusal(copy)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_layers": 10**9}, "more than 256"),
        ({"d_model": 1e300}, "more than 1,048,576"),
        ({"d_model": "wide"}, "describes no usable T5"),
        ({"model_type": "bert"}, "a 'bert' model"),
    ],
)
def test_a_configuration_that_no_model_has_is_refused(copy, change, said):
    path = copy / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    message = refusal(copy)
    assert "config.json" in message and said in message


def test_an_empty_prompt_is_warned_of(encoder, caplog):
    assert torch.isfinite(encoder.encode(" ")).all()
    assert "the prompt is empty" in caplog.text


def test_no_folder_and_no_weights(copy, tmp_path):
    assert "no such folder" in refusal(tmp_path / "none")
    (copy / "model.safetensors.index.json").unlink()
    assert "model-00001-of-00002.safetensors is there without its index" in refusal(copy)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "holds a list"),
        ("{}", "no weight_map"),
        ("[" * 100_000, "nests too deep"),
        ('{"weight_map": {"shared.weight": ["a"]}}', "no weight_map of names"),
        ("{", "not JSON"),
        ('{"weight_map": {"shared.weight": "../x.safetensors"}}', "'../x.safetensors'"),
    ],
)
def test_a_bad_index_is_refused(copy, content, said):
    (copy / "model.safetensors.index.json").write_text(content)
    message = refusal(copy)
    assert "model.safetensors.index.json" in message and said in message


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: t.pop("shared.weight"), "shared.weight"),
        (lambda t: t.update({"encoder.extra.weight": torch.zeros(1)}), "encoder.extra.weight"),
        (lambda t: t.update({"shared.weight": t["shared.weight"][:-8].clone()}), "shared.weight"),
    ],
    ids=["missing", "unknown", "misshapen"],
)
def test_weights_that_do_not_fit_are_refused_by_name(copy, change, named):
    rewrite(next(path for path in shards(copy) if "shared.weight" in load_file(path)), change)
    assert named in refusal(copy)


@pytest.mark.parametrize(("key", "value", "named"), [("model_type", "umt5", "umt5"), ("vocab_size", 100, "tokenizer")])
def test_a_configuration_that_does_not_fit_is_refused(copy, key, value, named):
    path = copy / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    assert named in refusal(copy)


def test_a_missing_package_is_answered_with_the_command(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    assert "pip install sentencepiece" in refusal(folder)


def test_values_that_are_not_finite_are_refused(copy):
    rewrite(shards(copy)[0], lambda tensors: next(iter(tensors.values())).fill_(float("inf")))
    with pytest.raises(InputError, match="not finite"):
        load_text_encoder(copy, dtype=torch.float32).encode(PROMPT)


def test_toy_folder_follows_from_the_seed(folder, tmp_path):
    again = write_tiny_text_encoder(tmp_path / "again", seed=1, dim=DIM)
    other = write_tiny_text_encoder(tmp_path / "other", seed=2, dim=DIM)
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(path.name for path in again.iterdir())
    assert all((folder / name).read_bytes() == (again / name).read_bytes() for name in names)
    assert all((folder / shard.name).read_bytes() != shard.read_bytes() for shard in shards(other))


def test_toy_pieces_are_of_t5s_kind(encoder):
    tokenizer = encoder.tokenizer
    assert (tokenizer.pad, tokenizer.end) == (0, 1)
    assert len(set(tokenizer.split(PROMPT))) > 5 and 2 not in tokenizer.split(PROMPT)
    assert 2 in tokenizer.split("🙂")


def test_a_toys_tokenizer_says_how_many_tokens_its_denoiser_reads(tmp_path):
    assert prompt_tokens(tmp_path) == 226  # no settings: the release's
    for longest, expected in ((512, 226), (226, 226), (32, 32), (1e30, 226), (0, 226)):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": longest}))
        assert prompt_tokens(tmp_path) == expected


def test_the_toy_releases_agree_on_the_number_of_text_tokens(tmp_path, tiny_release):
    from hallo3_core.release.layout import Release
    from hallo3_core.toy.learnt_release import write_toy_release
    from hallo3_core.weights import names
    from hallo3_core.weights.parts import transformer_config

    for folder in (tiny_release, write_toy_release(tmp_path / "toy")):
        release = Release(folder)
        config = transformer_config(release.transformers(), names.DENOISER)
        assert prompt_tokens(release.text_folder) == config.text_tokens


def test_a_byte_order_mark_of_a_text_file_is_no_part_of_the_prompt(encoder):
    tokens = [encoder.tokenizer.tokens(mark + "A person talks.", 16) for mark in ("", "\ufeff")]
    assert tokens[0] == tokens[1]
