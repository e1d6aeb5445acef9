"""Loaders: what they offer and refuse, and that the host's networks compute what the core's do."""

from __future__ import annotations

import os
import shutil

import pytest
import torch
from safetensors.torch import save_file

TINY = "hallo3/tiny/"


@pytest.fixture(scope="module")
def release(pack, models):
    return pack("hallo3_core.release.layout").Release(models / "hallo3" / "tiny")


def test_the_vae_is_the_cores(pack, loaded, release):
    vae = release.vae(dtype=torch.float32)
    pixels = torch.rand(49, 16, 16, 3)
    latent = loaded.vae.encode(pixels)
    assert torch.equal(latent, vae.encode((pixels * 2 - 1).movedim(-1, 0)[None]))
    decoded = ((vae.decode(latent) + 1) / 2).clamp(0, 1).movedim(1, -1)
    torch.testing.assert_close(loaded.vae.decode(latent), decoded, atol=1e-6, rtol=0)


@pytest.mark.skipif(not os.environ.get("COMFYUI_PATH"), reason="needs ComfyUI's own VAE")
def test_cores_own_vae_serves_and_encodes_alike(pack, release):
    """It decodes another way, but portrait and motion frames, 1 and 3 at a time, become the same latent."""
    core = pytest.importorskip("comfy.ldm.cogvideo.vae", reason="ComfyUI before 0.21 has none")
    vae = release.vae(dtype=torch.float32)
    toy, sizes = pack("nodes.host.vae").HostVae(vae), vae.autoencoder.config
    toy.first_stage_model = core.AutoencoderKLCogVideoX(
        latent_channels=sizes.latent_channels,
        block_out_channels=tuple(sizes.block_out_channels),
        layers_per_block=sizes.layers_per_block,
        groups=sizes.norm_num_groups,
    ).eval()
    toy.first_stage_model.load_state_dict(vae.autoencoder.state_dict())
    toy.patcher = pack("nodes.host.memory").patcher_for(toy.first_stage_model, plain=True)
    toy.__class__ = type(toy).__base__  # the host's VAE, no longer ours
    seen = pack("nodes.host.vae").CoreVae(toy)
    for frames in (1, 3):
        pixels = torch.rand(1, 3, frames, 16, 32) * 2 - 1
        torch.testing.assert_close(seen.encode(pixels), vae.encode(pixels), atol=1e-4, rtol=0)
    decoded = toy.decode(torch.randn(1, 16, 13, 2, 4))
    assert decoded.shape == (1, 49, 16, 32, 3)


def test_the_cores_view_of_a_host_vae_is_the_cores_vae(pack, loaded, release):
    torch.manual_seed(3)
    pixels = torch.rand(1, 3, 3, 16, 16) * 2.2 - 1.1  # cropping overshoots -1..1, and keeps it
    seen = pack("nodes.host.vae").CoreVae(loaded.vae).encode(pixels)
    torch.testing.assert_close(seen, release.vae(dtype=torch.float32).encode(pixels), atol=1e-5, rtol=0)


@pytest.mark.parametrize("prompt", ["", "a (smiling:1.4) person [talks]", "word " * 300])
def test_the_clip_gives_the_cores_text(pack, loaded, release, prompt):
    encoder = pack("hallo3_core.inputs.text").load_text_encoder(release.text_folder, dtype=torch.float32)
    ((text, _),) = loaded.clip.encode_from_tokens_scheduled(loaded.clip.tokenize(prompt))
    torch.testing.assert_close(text, encoder.encode(prompt), atol=1e-4, rtol=0)


def test_the_reference_net_is_the_cores(pack, loaded, release):
    latent = torch.randn(1, 16, 4, 6)
    expected = release.network("reference_net", dtype=torch.float32)(latent)
    found = pack("nodes.host.networks").run_reference_net(loaded.reference_net, latent)
    torch.testing.assert_close(found, list(expected), atol=1e-5, rtol=0)


@pytest.fixture
def in_models(models):
    """Puts files into the models folder, and takes them out again."""
    added = []

    def put(name: str, tensors: dict):
        path = models / name
        save_file(tensors, path)
        added.append(path)
        return path

    yield put
    for path in added:
        path.unlink()


def weights_of(network) -> dict:
    return {name: tensor.float() for name, tensor in network.state_dict().items()}


def test_what_model_save_writes_loads_again(pack, loaded, release, in_models):
    """Core's ModelSave puts a prefix before our names and leaves the projectors out."""
    network = loaded.model.model.diffusion_model
    saved = {"model.diffusion_model." + name: tensor.clone() for name, tensor in network.state_dict().items()}
    in_models("diffusion_models/saved.safetensors", {**saved, "v_pred": torch.tensor([])})
    loader, error = pack("nodes.loaders").Hallo3ModelLoader(), pack("hallo3_core.errors").InputError
    with pytest.raises(error, match="without its projectors: put hallo3_projectors.safetensors into"):
        loader.execute("saved.safetensors", "auto")
    projectors = {
        f"{part}.{name}": tensor.clone()
        for part in ("audio_projector", "face_projector")
        for name, tensor in release.transformers().tensors[part].items()
    }
    in_models("diffusion_models/hallo3_projectors.safetensors", projectors)
    again = loader.execute("saved.safetensors", "auto")[0].model.diffusion_model
    for name, tensor in weights_of(network).items():
        assert torch.equal(tensor, weights_of(again)[name]), name


def test_fp8_keeps_the_small_tensors_and_is_the_cores_rounding(pack, scene, loaded, release):
    fp8 = pack("hallo3_core.weights.fp8")
    network = pack("nodes.host.networks").load_reference_net(release.folder, "fp8")
    latent = torch.randn(1, 16, 4, 6)
    core = release.network("reference_net", dtype=torch.float32)
    for name, parameter in core.named_parameters():
        if fp8.is_rounded(name):
            weight, scale = fp8.quantise(parameter, name)
            parameter.copy_(weight.float() * scale)
    found = pack("nodes.host.networks").run_reference_net(network, latent)
    torch.testing.assert_close(found, list(core(latent)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["plain", "dora", "bias"])
def test_a_lora_changes_what_the_core_would_change(kind, pack, loaded, release, in_models):
    file, config = pack("hallo3_core.release.lora.file"), loaded.model.model.diffusion_model.config
    d, draw = config.hidden, torch.Generator().manual_seed(2)
    layers = {
        "attn1.to_k": (d, d),
        "attn1.to_v": (d, d),
        "ff.net.2": (d, config.mlp),
        "norm2.linear": (6 * d, config.time),
    }
    tensors = {}
    for layer, (rows, columns) in layers.items():
        stem = f"transformer.transformer_blocks.1.{layer}"
        tensors[f"{stem}.lora_A.weight"] = torch.randn(4, columns, generator=draw)
        tensors[f"{stem}.lora_B.weight"] = torch.randn(rows, 4, generator=draw)
    if kind == "dora":
        tensors |= {f"{stem}.lora_magnitude_vector": torch.rand(rows, generator=draw) + 0.5}
    if kind == "bias":
        tensors |= {f"{stem}.lora_B.bias": torch.randn(rows, generator=draw)}
    path = in_models("loras/style.safetensors", tensors)
    model = pack("nodes.loaders").Hallo3LoraLoader().execute(loaded.model, "style.safetensors", 0.5)[0]
    before = release.network("denoiser", dtype=torch.float32)
    after = release.network("denoiser", dtype=torch.float32)
    pack("hallo3_core.release.lora.applying").apply_lora(after, file.LoraFile.open(path).of_denoiser(config), 0.5)
    expected = dict(after.named_parameters())
    changed = {n for n, p in before.named_parameters() if not torch.equal(p, expected[n])}
    for name, weight in model.patched().items():
        torch.testing.assert_close(weight, expected[name.removeprefix("diffusion_model.")], atol=1e-4, rtol=1e-3)
    assert {"diffusion_model." + name for name in changed} == set(model.patches)
    assert not loaded.model.patches
    assert pack("nodes.host.model").projectors_of(model) is pack("nodes.host.model").projectors_of(loaded.model)


def test_a_lora_that_touches_nothing_is_refused(pack, loaded, in_models):
    in_models("loras/other.safetensors", {"lora_te1_x.lora_up.weight": torch.zeros(2, 2)})
    with pytest.raises(pack("hallo3_core.errors").InputError, match="not a LoRA for this model"):
        pack("nodes.loaders").Hallo3LoraLoader().execute(loaded.model, "other.safetensors", 1.0)


def test_files_and_releases_are_offered(pack, in_models):
    in_models("vae/cog.safetensors", {"x": torch.zeros(1)})
    in_models("hallo3/own.safetensors", {"x": torch.zeros(1)})
    loaders = pack("nodes.loaders")
    offered = loaders.Hallo3VAELoader.INPUT_TYPES()["required"]["vae_name"][0]
    assert {"cog.safetensors", "hallo3/own.safetensors", TINY} <= set(offered)
    assert not any("mp_rank" in name for name in offered)  # a release is offered as a whole
    for loader in ("Hallo3TextEncoderLoader", "Hallo3Wav2VecLoader", "Hallo3FaceAnalysisLoader"):
        ((names, _), *_) = getattr(loaders, loader).INPUT_TYPES()["required"].values()
        assert TINY in names


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/hostname", "hallo3/../../x.pt", "none found"])
def test_a_name_leads_nowhere_else(pack, models, name):
    with pytest.raises(pack("hallo3_core.errors").InputError, match="models/vae or models/hallo3"):
        pack("nodes.loaders").Hallo3VAELoader().execute(name)


def test_a_file_of_another_kind_is_refused(pack, loaded, in_models):
    in_models("diffusion_models/vae.safetensors", {"decoder.conv_in.conv.weight": torch.zeros(8, 16, 3, 3, 3)})
    in_models("text_encoders/vae.safetensors", {"decoder.conv_in.conv.weight": torch.zeros(8, 16, 3, 3, 3)})
    loaders, error = pack("nodes.loaders"), pack("hallo3_core.errors").InputError
    with pytest.raises(error, match=r"vae.safetensors is .*denoiser"):
        loaders.Hallo3ModelLoader().execute("vae.safetensors", "auto")
    with pytest.raises(error, match=r"vae.safetensors is .*T5"):
        loaders.Hallo3TextEncoderLoader().execute("vae.safetensors")


def test_tensors_that_do_not_fit_are_refused_before_loading(pack, release):
    """The host's own loading would log missing tensors and, with late weights, accept any shape."""
    memory, error = pack("nodes.host.memory"), pack("hallo3_core.errors").InputError
    parts_type = pack("hallo3_core.weights.parts").Parts
    tensors = dict(release.transformers().tensors["denoiser"])
    lacking = {name: tensor for name, tensor in tensors.items() if name != "head.bias"}
    with pytest.raises(error, match=r"1 missing \(head.bias\)"):
        memory.checked(parts_type({"denoiser": lacking}), "denoiser", "file")
    swapped = {**tensors, "blocks.0.mlp.up.bias": torch.zeros(3)}
    with pytest.raises(error, match="blocks.0.mlp.up.bias has shape"):
        memory.checked(parts_type({"denoiser": swapped}), "denoiser", "file")


@pytest.fixture
def converted(pack, models, release):
    """The toy release in fp8, as `convert` writes it."""
    folder = models / "hallo3" / "converted"
    pack("hallo3_core.release.convert").convert(release.folder, folder, "fp8")
    yield folder
    shutil.rmtree(folder)


def test_a_converted_release_in_fp8_computes_what_the_core_computes(pack, converted):
    loader = pack("nodes.loaders").Hallo3ModelLoader()
    host = loader.execute("hallo3/converted/", "auto")[0].model
    core = pack("hallo3_core.release.layout").Release(converted).network("denoiser", dtype=torch.float32)
    text = torch.randn(1, core.config.text_tokens, core.config.text_width)
    place = dict(dtype=torch.float32, device=torch.device("cpu"))
    conditions = pack("nodes.host.conditions").prepare_text(host.diffusion_model, text, (1, 16, 2, 4, 4), **place)
    latent, times = torch.randn(1, 32, 2, 4, 4), torch.tensor([500.0])
    call = conditions.of((pack("hallo3_core.sampling.guidance").EVERYTHING,))
    found = host.diffusion_model(latent, times, hallo3=call)
    own = pack("hallo3_core.model.denoiser").Conditions(text=core.embed_text(text))
    modulation = core.modulate_steps(times, torch.float32)
    expected = core(*latent.chunk(2, dim=1), own, modulation, call.layout)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    multiplied_out = loader.execute("hallo3/converted/", "bf16")[0].model.diffusion_model
    assert {parameter.dtype for parameter in multiplied_out.parameters()} == {torch.bfloat16}


def test_the_face_models_load(pack):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("insightface")
    analyser = pack("nodes.loaders").Hallo3FaceAnalysisLoader().execute(TINY, "CPU")[0]
    assert isinstance(analyser.analyse(torch.zeros(3, 64, 64)), list)


def test_loading_the_vae_says_nothing_of_missing_weights(pack, caplog):
    import logging

    pack("nodes.loaders").Hallo3VAELoader().execute(TINY)
    assert "No VAE weights" not in caplog.text
    logging.warning("No VAE weights detected, and this is another's")
    assert "another's" in caplog.text


def test_automatic_weights_are_fp16_only_where_they_are_stored_so(pack, monkeypatch):
    """Whatever the host prefers, as it does with --fast; what the user chooses is taken."""
    memory = pack("nodes.host.memory")
    fp16, bf16 = torch.float16, torch.bfloat16

    def prefer_fp16(stored, supported):
        return fp16 if fp16 in supported else stored

    chosen = dict(
        should_use_bf16=lambda device: True,
        unet_dtype=lambda model_params, supported_dtypes, weight_dtype: prefer_fp16(weight_dtype, supported_dtypes),
        unet_manual_cast=lambda dtype, device, supported: None if prefer_fp16(dtype, supported) == dtype else fp16,
    )
    for name, value in chosen.items():
        monkeypatch.setattr(memory.management, name, value)
    for stored, choice, expected in ((bf16, "auto", bf16), (fp16, "auto", fp16), (bf16, "fp16", fp16)):
        found, compute = memory.choose_dtypes({"a.weight": torch.zeros(2, 2, dtype=stored)}, choice, quantised=False)
        assert found == expected and compute is None


# What is offered, and what "auto" takes --------------------------------------------------------------------------

LOADERS = {
    "Hallo3ModelLoader": ("denoiser", "models/diffusion_models"),
    "Hallo3ReferenceNetLoader": ("reference_net", "models/diffusion_models"),
    "Hallo3VAELoader": ("vae_name", "models/vae"),
    "Hallo3TextEncoderLoader": ("text_encoder", "models/text_encoders"),
    "Hallo3Wav2VecLoader": ("wav2vec", "models/audio_encoders"),
    "Hallo3FaceAnalysisLoader": ("face_analysis", "models/insightface/models"),
    "Hallo3LoraLoader": ("lora", "models/loras"),
    "Hallo3SeparateVocals": ("model", "models/audio_separator"),
}
OTHERS = {"Hallo3FaceAnalysisLoader": dict(provider="CPU"), "Hallo3SeparateVocals": {"audio": None}}
OTHERS |= {key: dict(weight_dtype="auto") for key in ("Hallo3ModelLoader", "Hallo3ReferenceNetLoader")}


def offered(pack, key: str) -> list[str]:
    return list(pack().NODE_CLASS_MAPPINGS[key].INPUT_TYPES()["required"][LOADERS[key][0]][0])


@pytest.fixture
def no_models(pack, models, monkeypatch):
    """A models folder with nothing in it, as after a fresh installation."""
    hidden = models.with_name("hidden")
    models.rename(hidden)
    for folder in hidden.iterdir():
        (models / folder.name).mkdir(parents=True)
    yield models
    shutil.rmtree(models)
    hidden.rename(models)


@pytest.mark.parametrize("key", LOADERS)
@pytest.mark.parametrize("name", ["auto", "hallo3/release/", "none found"])
def test_without_models_the_words_are_ours_and_hold_the_command(pack, loaded, no_models, key, name):
    node, (argument, where) = pack().NODE_CLASS_MAPPINGS[key], LOADERS[key]
    assert node.VALIDATE_INPUTS(**{argument: name}) is True  # the host's own refusal would come first
    inputs = {argument: name, **OTHERS.get(key, {})}
    if key == "Hallo3LoraLoader":
        return
    if key == "Hallo3SeparateVocals":
        inputs["audio"] = {"waveform": torch.zeros(1, 1, 99), "sample_rate": 16_000}
    with pytest.raises(pack("hallo3_core.errors").InputError, match="^none found: ") as error:
        getattr(node(), node.FUNCTION)(**inputs)
    assert "hallo3.py download" in str(error.value) and "models/hallo3" in str(error.value)
    assert node.source().what in str(error.value) and where == node.source().where


@pytest.mark.parametrize("key", LOADERS)
def test_auto_and_another_s_folder_take_the_release_that_is_there(pack, models, caplog, key):
    if key in ("Hallo3LoraLoader", "Hallo3SeparateVocals"):
        return
    if key == "Hallo3FaceAnalysisLoader":
        pytest.importorskip("insightface")
    node, (argument, _) = pack().NODE_CLASS_MAPPINGS[key], LOADERS[key]
    assert offered(pack, key)[0] == "auto"
    getattr(node(), node.FUNCTION)(**{argument: "auto", **OTHERS.get(key, {})})
    assert "took" not in caplog.text
    getattr(node(), node.FUNCTION)(**{argument: "hallo3/theirs/", **OTHERS.get(key, {})})
    assert "hallo3/theirs/ is not there: took hallo3/tiny/" in caplog.text


def test_a_converted_release_alone_is_found(pack, models, converted, no_release):
    for key in ("Hallo3ModelLoader", "Hallo3ReferenceNetLoader", "Hallo3VAELoader"):
        node, (argument, _) = pack().NODE_CLASS_MAPPINGS[key], LOADERS[key]
        assert getattr(node(), node.FUNCTION)(**{argument: "auto", **OTHERS.get(key, {})})


@pytest.fixture
def no_release(models, converted):
    """The official toy release put away."""
    away = models.with_name("away")
    (models / "hallo3" / "tiny").rename(away)
    yield
    away.rename(models / "hallo3" / "tiny")


def test_a_file_that_is_named_but_missing_is_not_replaced(pack):
    with pytest.raises(
        pack("hallo3_core.errors").InputError, match="'mine.safetensors' is not there: put the file into"
    ):
        pack("nodes.loaders").Hallo3VAELoader().execute("mine.safetensors")


def test_a_dropdown_leaves_out_what_is_something_else(pack, converted, models, in_models):
    lora = {"transformer.transformer_blocks.0.attn1.to_q.lora_A.weight": torch.zeros(4, 8)}
    in_models("loras/style.safetensors", lora)
    shutil.copy(converted / "hallo3_denoiser.safetensors", models / "loras" / "denoiser.safetensors")
    in_models("text_encoders/t5-00001-of-00002.safetensors", {"x": torch.zeros(1)})
    try:
        files = {f"hallo3/converted/hallo3_{part}.safetensors" for part in ("denoiser", "reference_net", "vae")}
        assert files & set(offered(pack, "Hallo3ModelLoader")) == {"hallo3/converted/hallo3_denoiser.safetensors"}
        nets = files & set(offered(pack, "Hallo3ReferenceNetLoader"))
        assert nets == {"hallo3/converted/hallo3_reference_net.safetensors"}
        assert files & set(offered(pack, "Hallo3VAELoader")) == {"hallo3/converted/hallo3_vae.safetensors"}
        assert offered(pack, "Hallo3LoraLoader") == ["style.safetensors"]
        for key in ("Hallo3TextEncoderLoader", "Hallo3Wav2VecLoader"):
            assert not [name for name in offered(pack, key) if "hallo3_" in name or "00001" in name]
        assert "hallo3/converted/" not in offered(pack, "Hallo3TextEncoderLoader")
    finally:
        (models / "loras" / "denoiser.safetensors").unlink()


def test_a_file_that_is_written_again_is_read_again(pack, in_models, models):
    path = models / "loras" / "later.safetensors"
    in_models("loras/later.safetensors", {"decoder.conv_in.conv.weight": torch.zeros(8, 16, 3, 3, 3)})
    assert "later.safetensors" in offered(pack, "Hallo3LoraLoader")  # an unidentified file may fit
    save_file(
        {
            "shared.weight": torch.zeros(4, 4),
            "encoder.block.0.layer.0.SelfAttention.q.weight": torch.zeros(4, 4),
            "encoder.block.0.layer.1.DenseReluDense.wi_0.weight": torch.zeros(4, 4),
        },
        path,
    )
    assert "later.safetensors" not in offered(pack, "Hallo3LoraLoader")


def test_every_loader_says_what_a_wrong_file_is(pack, converted, models):
    for key in ("Hallo3VAELoader", "Hallo3TextEncoderLoader", "Hallo3Wav2VecLoader", "Hallo3ModelLoader"):
        node, (argument, _) = pack().NODE_CLASS_MAPPINGS[key], LOADERS[key]
        wrong = "hallo3/converted/hallo3_reference_net.safetensors"
        with pytest.raises(pack("hallo3_core.errors").InputError, match="is Hallo3's reference network"):
            getattr(node(), node.FUNCTION)(**{argument: wrong, **OTHERS.get(key, {})})


def test_fp8_matmul_asks_the_host_for_it_and_says_where_it_cannot(pack, loaded, caplog, monkeypatch):
    memory, fp8 = pack("nodes.host.memory"), pack("hallo3_core.weights.fp8")
    assert "fp8 matmul" in pack("nodes.loaders").Hallo3ModelLoader.INPUT_TYPES()["required"]["weight_dtype"][0]
    plain, fast = (
        memory.prepare_weights({"blocks.0.mlp.up.weight": torch.rand(16, 16)}, c)[0]
        for c in memory.DTYPES
        if "fp8" in c
    )
    mark = f"blocks.0.mlp.up.{fp8.MARK}"
    assert b"full_precision" in bytes(plain[mark].tolist()) and b"full_precision" not in bytes(fast[mark].tolist())
    pack("nodes.loaders").Hallo3ModelLoader().execute(TINY, "fp8 matmul")
    assert "has no fp8 matmul: weights are kept in it, matmuls are exact" in caplog.text


def scaled(tensors, mark, scale_name, quantise):
    """T5's matrices quantised."""
    found = {}
    for name, tensor in tensors.items():
        found[name] = tensor
        if tensor.ndim == 2 and name.startswith("encoder.block") and "relative" not in name:
            layer = name.removesuffix(".weight")
            found[name], found[f"{layer}.{scale_name}"] = quantise(tensor)
            if mark is not None:
                found[f"{layer}.comfy_quant"] = mark.clone()
    return found


def in_fp8(weight):
    scale = weight.abs().max() / 448
    return (weight / scale).to(torch.float8_e4m3fn), scale.reshape(1)


def by_rows(weight):
    scale = weight.abs().amax(1, keepdim=True) / 127
    return (weight / scale).round().to(torch.int8), scale


def words(text):
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


FORMS = {
    "scaled_fp8": (None, "scale_weight", in_fp8),
    "comfy_quant": (words('{"format": "float8_e4m3fn"}'), "weight_scale", in_fp8),
    "int8": (words('{"format": "int8_tensorwise"}'), "weight_scale", by_rows),
}


@pytest.mark.parametrize("form", FORMS)
def test_t5_in_8_bits_is_read_as_on_the_command_line(pack, release, models, form):
    core, folder = pack("hallo3_core.inputs.text"), models / "text_encoders" / form
    shutil.copytree(release.text_folder, folder)
    tensors = {name: tensor.clone() for name, tensor in core.read_weights(folder).items()}
    for path in folder.glob("model*"):
        path.unlink()
    tensors = scaled(tensors, *FORMS[form]) | ({"scaled_fp8": torch.zeros(2)} if form == "scaled_fp8" else {})
    save_file(tensors, folder / "model.safetensors")
    (clip,) = pack().NODE_CLASS_MAPPINGS["Hallo3TextEncoderLoader"]().execute(f"{form}/")
    ((text, _),) = clip.encode_from_tokens_scheduled(clip.tokenize("a person talks"))
    wanted = core.load_text_encoder(folder, dtype=torch.float32).encode("a person talks")
    shutil.rmtree(folder)
    torch.testing.assert_close(text.float(), wanted, atol=0.03 * wanted.abs().max().item(), rtol=0)


def test_int8_weights_stay_so_and_compute_alike(pack, release, models):
    folder = models / "hallo3" / "int8"
    pack("hallo3_core.release.convert").convert(release.folder, folder, "int8")
    wanted = pack("hallo3_core.release.layout").Release(folder).network("denoiser").blocks[0].mlp.up
    found = {}
    for choice in ("auto", "int8", "bf16"):
        (model,) = pack().NODE_CLASS_MAPPINGS["Hallo3ModelLoader"]().execute("hallo3/int8/", choice)
        layer = model.model.diffusion_model.blocks[0].mlp.up
        found[choice] = layer(torch.eye(layer.in_features)).float() - layer.bias.float()
    shutil.rmtree(folder)
    whole = wanted.full_weight(torch.float32).T
    for choice, weight in found.items():
        torch.testing.assert_close(weight, whole, atol=0.01 * whole.abs().max().item(), rtol=0, msg=choice)


def test_a_host_without_int8_layers_multiplies_out_and_says_so(pack, monkeypatch, caplog, release):
    memory = pack("nodes.host.memory")
    monkeypatch.setattr(memory, "host_formats", lambda: {"float8_e4m3fn"})
    tensors = pack("hallo3_core.weights.int8").rounded({"blocks.0.mlp.up.weight": torch.randn(8, 16)})
    found, quantised = memory.prepare_weights(tensors, "auto")
    assert not quantised and found["blocks.0.mlp.up.weight"].dtype == torch.bfloat16
    assert "this ComfyUI has no int8 layers" in caplog.text
    with pytest.raises(
        ValueError, match="weight dtype int8: this ComfyUI has no int8 layers. Update it, or choose fp8"
    ):
        memory.prepare_weights({"blocks.0.mlp.up.weight": torch.randn(8, 16)}, "int8")
