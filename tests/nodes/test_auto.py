""" "auto" takes one release for all loaders, and what is missing is told together, with the command that gets it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

PARTS = ("denoiser", "reference network", "VAE", "text encoder", "wav2vec2", "face models")


@pytest.fixture
def sources(pack):
    return pack("nodes.host.sources").SOURCES


@pytest.fixture
def own(models):
    """`own(name)`: a copy of the toy release in models/hallo3, its files linked. The usual one is put away."""
    away, made = models.with_name("away"), []
    (models / "hallo3" / "tiny").rename(away)

    def copy(name: str, *without: str, notice: bool = False) -> Path:
        folder = shutil.copytree(away, models / "hallo3" / name, copy_function=os.link)
        made.append(folder)
        for place in without if notice else (*without, "TOY_WEIGHTS.txt"):
            (shutil.rmtree if (folder / place).is_dir() else os.unlink)(folder / place)
        return folder

    yield copy
    for folder in made:
        shutil.rmtree(folder)
    away.rename(models / "hallo3" / "tiny")


@pytest.fixture
def as_real(pack, monkeypatch):
    """No weights are a toy's by their size, only by the notice in their folder."""
    monkeypatch.setattr(pack("nodes.host.contents"), "TOY_BYTES", {})


def taken(sources) -> dict[str, str]:
    """The folder of models/hallo3 that each loader takes its part from."""
    return {what: str(sources[what].find("auto")).partition("/hallo3/")[2].partition("/")[0] for what in PARTS}


def test_real_weights_come_before_a_toy_that_sorts_first(own, as_real, sources):
    own("a_toy", notice=True)
    own("weights")
    assert set(taken(sources).values()) == {"weights"}


def test_a_toy_is_known_by_its_size_where_nothing_says_so(own, pack, sources, monkeypatch):
    small = own("a_small", notice=True)
    (small / "TOY_WEIGHTS.txt").unlink()
    own("large")
    real_size = pack("nodes.host.contents").is_small
    monkeypatch.setattr(
        pack("nodes.host.contents"), "is_small", lambda path, part: "large" not in str(path) and real_size(path, part)
    )
    assert set(taken(sources).values()) == {"large"}


def test_the_parts_of_two_releases_are_not_mixed(own, as_real, sources):
    own("a", "t5-v1_1-xxl")
    own("b")
    assert set(taken(sources).values()) == {"b"}  # the one that is complete
    own("release", "wav2vec", "face_analysis")
    assert set(taken(sources).values()) == {"b"}


def test_the_denoiser_decides_even_where_another_has_more_parts(own, as_real, sources):
    own("a", "hallo3")  # all but the transformers
    own("b", "face_analysis")
    assert taken(sources) == dict.fromkeys(PARTS, "b") | {"face models": "a"}


def test_what_the_release_lacks_is_taken_from_another_but_never_from_a_toy(own, as_real, pack, sources):
    own("a_toy", notice=True)
    own("weights", "t5-v1_1-xxl", "wav2vec")
    rest = own("rest", "hallo3", "wav2vec", "cogvideox-5b-i2v-sat", "face_analysis")  # a text encoder and no more
    found = sources["text encoder"].find("auto")
    assert found == rest / "t5-v1_1-xxl" and sources["denoiser"].find("auto").name == "weights"
    with pytest.raises(pack("hallo3_core.errors").Missing, match="wav2vec2: none found"):
        sources["wav2vec2"].find("auto")


def test_a_release_without_its_transformers_is_no_denoiser_s(own, sources):
    own("rest", "hallo3")
    assert "hallo3/rest/" not in sources["denoiser"].offered()
    for what in PARTS[2:]:
        assert "hallo3/rest/" in sources[what].offered(), what


@pytest.fixture
def said(pack, monkeypatch):
    texts = []
    monkeypatch.setattr(pack("nodes.host.messages"), "_send", lambda text, node_id: texts.append(text))
    return texts


@pytest.mark.parametrize("name", ["auto", "hallo3/release/"])
def test_the_node_says_what_auto_took_and_a_workflow_s_own_value_is_no_warning(own, as_real, pack, said, caplog, name):
    own("a_toy", notice=True)
    with pack("nodes.host.messages").speaking("3"):
        pack("nodes.loaders").Hallo3VAELoader().find(name)
    own("weights")
    with pack("nodes.host.messages").speaking("3"):
        pack("nodes.loaders").Hallo3VAELoader().find(name)
    assert said == ["auto: hallo3/a_toy/ (toy weights)", "auto: hallo3/weights/"]
    assert not caplog.text


def test_a_warning_names_no_folders(pack, said, tmp_path):
    log = pack("hallo3_core.inputs.face").log
    with pack("nodes.host.messages").speaking("3"):
        log.warning("%s: %s", tmp_path / "glintr100.onnx", "toy weights")
        log.warning("%s and %s: %d", str(tmp_path / "a.onnx"), "b/c", 3)
    assert said[-1] == "Warning: glintr100.onnx: toy weights\nWarning: a.onnx and b/c: 3"


def test_text_that_is_no_utf8_reaches_the_page(pack, monkeypatch):
    sent = []
    instance = SimpleNamespace(send_progress_text=lambda text, node_id: sent.append(text.encode()))
    monkeypatch.setattr("server.PromptServer.instance", instance, raising=False)
    pack("nodes.host.messages").show_text(os.fsdecode(b"caf\xe9"), "3")
    assert sent == [rb"caf\udce9"]


# What is missing ------------------------------------------------------------------------------------------------


@pytest.fixture
def nothing(own, pack, monkeypatch):
    """No models, and every package there: `nothing(...)` takes packages away."""
    needs = pack("nodes.needs")

    def without(*modules: str, faces: dict | None = None) -> None:
        monkeypatch.setattr(needs, "is_there", lambda module: module not in modules)
        monkeypatch.setattr(needs, "missing_packages", lambda provider: faces or {})

    without()
    monkeypatch.setattr(needs, "which", lambda program: program)
    monkeypatch.setattr(pack("hallo3_core.inputs.face_runtime"), "installed_builds", lambda module: [])
    return without


@pytest.fixture
def workflow(pack, monkeypatch):
    """`workflow({key: inputs})`: the nodes that the host runs."""

    def run(nodes: dict) -> None:
        graph = pack("nodes.host.graph")
        monkeypatch.setattr(graph, "running_nodes", lambda: [graph.GraphNode(*node) for node in nodes.items()])

    return run


def message(pack, key: str, **inputs) -> str:
    node = pack().NODE_CLASS_MAPPINGS[key]
    with pytest.raises(pack("hallo3_core.errors").InputError) as error:
        getattr(node(), node.FUNCTION)(**{node.FILE: "auto", **inputs})
    return str(error.value)


def test_the_first_loader_tells_all_that_every_video_needs(pack, models, nothing):
    nothing("diffusers", "av", faces={"onnxruntime": "onnxruntime", "insightface": "insightface"})
    text = message(pack, "Hallo3Wav2VecLoader")
    lines = text.splitlines()
    assert lines[0] == ("none found: denoiser, reference network, VAE, text encoder, wav2vec2 and face models.")
    assert lines[1] == "missing: the packages diffusers, av, onnxruntime and insightface."
    assert lines[2] == "To get the official release (40.2 GB), run in a terminal:"
    assert lines[4] == "Or toy weights, which know drawn people only (31 MB):"
    folder = models / "hallo3"
    for command, last in ((lines[3], f"download {folder}/release"), (lines[5], f"tiny {folder}/toy")):
        assert [step.partition("-m pip ")[2] or step.partition("hallo3.py ")[2] for step in command.split(" && ")] == [
            "install diffusers av onnxruntime",
            "install --no-deps insightface",
            last,
        ]
    assert lines[6].startswith("Then restart ComfyUI and press Run.") and len(lines) == 7


def test_only_what_the_running_workflow_uses_is_asked_for(pack, nothing, workflow):
    nothing("audio_separator", faces={"cv2": "opencv-python-headless"})
    workflow({"Hallo3VAELoader": {"vae_name": "auto"}, "LoadImage": {"image": "x.png"}})
    text = message(pack, "Hallo3VAELoader")
    assert text.startswith("none found: VAE.\n") and "opencv" not in text and "separator" not in text
    assert "Files that you have already go into models/vae or models/hallo3" in text


SOUND = {"waveform": torch.zeros(1, 1, 16_000), "sample_rate": 16_000}


def test_the_vocals_model_alone_has_its_own_size(pack, own, nothing, workflow, as_real, monkeypatch):
    own("weights")
    nothing("audio_separator")
    monkeypatch.setattr(pack("nodes.needs"), "which", lambda program: None)
    workflow({"Hallo3SeparateVocals": {"model": "auto", "audio": ["1", 0]}, "Hallo3VAELoader": {"vae_name": "auto"}})
    text = message(pack, "Hallo3SeparateVocals", audio=SOUND)
    assert text.startswith('none found: vocal separation model.\nmissing: the package "audio-separator[cpu]".\n')
    assert "the program ffmpeg" in text and "part of the official release (67 MB)" in text
    assert "--parts vocals" in text and "toy" not in text


def test_a_part_of_a_real_release_is_fetched_alone(pack, own, nothing, as_real):
    own("weights", "wav2vec", "t5-v1_1-xxl")
    text = message(pack, "Hallo3Wav2VecLoader")
    assert text.startswith("none found: text encoder and wav2vec2.") and "(9.9 GB)" in text
    assert "--parts text wav2vec" in text and "toy" not in text


def test_a_toy_that_lost_a_part_is_written_anew(pack, own, nothing, models):
    own("toy", "wav2vec", notice=True)
    text = message(pack, "Hallo3Wav2VecLoader")
    assert f"tiny {models}/hallo3/toy-2" in text and "the official release (40.2 GB)" in text


@pytest.fixture
def no_package(pack, monkeypatch):
    """The VAE's library is not installed."""
    require = pack("hallo3_core.errors").require
    monkeypatch.setattr(
        pack("nodes.host.vae"), "load_host_vae", lambda path: require("no_such_module", "no-such-package", "the VAE")
    )


def test_one_missing_package_keeps_its_own_words(pack, own, nothing, no_package):
    own("weights")
    assert message(pack, "Hallo3VAELoader").startswith("the VAE needs the package no-such-package. ")


def test_a_missing_package_is_told_with_all_the_rest(pack, own, nothing, no_package, as_real):
    own("weights", "wav2vec")
    nothing("av")
    text = message(pack, "Hallo3VAELoader")
    assert text.startswith("none found: wav2vec2.\nmissing: the packages av and no-such-package.")
    assert "install av no-such-package" in text


def test_other_errors_are_left_as_they_are(pack, nothing):
    text = message(pack, "Hallo3VAELoader", vae_name="mine.safetensors")
    assert text.startswith("VAE: 'mine.safetensors' is not there: put the file into models/vae")


def test_the_host_s_queue_tells_which_nodes_run(pack, monkeypatch):
    graph = pack("nodes.host.graph")
    nodes = {
        "1": {"class_type": "Hallo3VAELoader", "inputs": {"vae_name": "auto"}},
        "2": {"class_type": "VAEDecode", "inputs": {"vae": ["1", 0], "x": 3}},
        "3": {"class_type": "Hallo3SeparateVocals", "inputs": {}},
    }
    others = {"1": {"class_type": "Hallo3LoraLoader", "inputs": {}}}
    running = [(0, "other", others, {}, ["1"]), (1, "mine", nodes, {}, ["2"], {})]
    queue = SimpleNamespace(get_current_queue_volatile=lambda: (running, []))
    monkeypatch.setattr("server.PromptServer.instance", SimpleNamespace(prompt_queue=queue), raising=False)
    monkeypatch.setattr(
        "comfy_execution.utils.get_executing_context", lambda: SimpleNamespace(prompt_id="mine", node_id="1")
    )
    assert {node.key for node in graph.running_nodes()} == {"Hallo3VAELoader", "VAEDecode"}
    monkeypatch.setattr("comfy_execution.utils.get_executing_context", lambda: None)
    assert graph.running_nodes() is None


def test_the_requirements_are_those_that_are_looked_for(pack):
    lines = (Path(__file__).parents[2] / "requirements.txt").read_text().splitlines()
    named = {line.partition(">=")[0] for line in lines if line and not line.startswith("#")}
    assert named == set(pack("hallo3_core.errors").REQUIRED.values())
