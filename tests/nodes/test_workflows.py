"""The bundled workflows, without ComfyUI: what they say holds of the nodes, and every one of them runs to its end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.workflows.runner import Made, Runner
from tools.workflows.declarations import declarations, put_release
from tools.workflows.drawing import FIELDS, inputs_of
from tools.workflows.stages import RELEASE

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "workflows"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
QUICK_START = "hallo3_quick_start"
OPEN = [name for name in NAMES if name != QUICK_START]  # those without a subgraph
OF_THE_PAGE = {"MarkdownNote"}  # drawn by the page alone
LOADERS = {"Hallo3ModelLoader", "Hallo3ReferenceNetLoader", "Hallo3VAELoader", "Hallo3TextEncoderLoader"}
LOADERS |= {"Hallo3Wav2VecLoader", "Hallo3FaceAnalysisLoader", "Hallo3SeparateVocals"}
NUMBERS = {"INT": int, "FLOAT": (int, float), "STRING": str, "BOOLEAN": bool}
BYPASSED = 4
GIVERS = {"Hallo3Portrait", "Hallo3Voice", "Hallo3SampleInputs"}  # the last is for saved workflows
SMALL = {"width": 32, "height": 16, "steps": 2}  # instead of what would take hours here


def read(name: str, form: str = "") -> dict:
    return json.loads((FOLDER / form / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module", autouse=True)
def release(models):
    put_release(models, models / "hallo3" / "tiny")
    yield
    shutil.rmtree(models / RELEASE)


@pytest.fixture(scope="module")
def declared(pack, release):
    return declarations(pack().NODE_CLASS_MAPPINGS, pack().NODE_DISPLAY_NAME_MAPPINGS)


def test_no_other_folder_hides_them():
    """ComfyUI serves templates from the first of these that a pack has; a second is listed and never found."""
    folders = ("example_workflows", "example", "examples", "workflow", "workflows")
    assert [folder for folder in folders if (ROOT / folder).exists()] == ["workflows"]


def nodes_of(name: str) -> list[dict]:
    """All nodes of a workflow, those inside its subgraph in the subgraph's place."""
    workflow = read(name)
    inside = {each["id"]: each["nodes"] for each in workflow.get("definitions", {}).get("subgraphs", [])}
    return [node for outer in workflow["nodes"] for node in inside.get(outer["type"], [outer])]


def kinds(name: str) -> set[str]:
    return {node["type"] for node in nodes_of(name)}


def test_every_node_of_ours_is_in_some_workflow_and_only_cores_beside(declared):
    used = set().union(*map(kinds, NAMES))
    assert (used - OF_THE_PAGE) | GIVERS == set(declared)


@pytest.mark.parametrize("name", OPEN)
def test_links_join_what_they_say(declared, name):
    workflow = read(name)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    arrivals = set()
    for number, source, output, target, place, kind in workflow["links"]:
        giver, taker = nodes[source], nodes[target]
        entry, slot = declared[giver["type"]], taker["inputs"][place]
        assert giver["outputs"][output]["name"] == entry["output_name"][output], giver["type"]
        assert entry["output"][output] == kind and number in giver["outputs"][output]["links"]
        wanted = inputs_of(declared[taker["type"]])[slot["name"]][0]
        assert wanted == kind and slot["link"] == number, f"{giver['type']} to {taker['type']}.{slot['name']}"
        arrivals.add((target, slot["name"]))
    for node in workflow["nodes"]:
        for slot in node["inputs"]:
            linked = slot.get("link") is not None
            assert linked == ((node["id"], slot["name"]) in arrivals), f"{node['type']}.{slot['name']}"


@pytest.mark.parametrize("name", NAMES)
def test_nothing_required_is_left_open_and_every_value_is_allowed(declared, name):
    prompt = read(name, "api")
    for entry in prompt.values():
        kind, values = entry["class_type"], entry["inputs"]
        inputs = inputs_of(declared[kind])
        assert declared[kind]["input"]["required"].keys() <= values.keys(), kind
        for key, value in values.items():
            if isinstance(value, list):
                source = prompt[value[0]]["class_type"]
                assert declared[source]["output"][value[1]] == inputs[key][0], f"{source} to {kind}.{key}"
            elif key in inputs:
                check_value(f"{kind}.{key}", value, *inputs[key])
            else:  # a part of a dynamic choice, such as SaveVideo's format.codec
                assert inputs[key.partition(".")[0]][0] == "COMFY_DYNAMICCOMBO_V3", f"{kind}.{key}"


def check_value(name: str, value, kind, options=None) -> None:
    options = options or {}
    choices = kind if isinstance(kind, list) else options.get("options")
    if choices is not None:
        assert value in [choice["key"] if isinstance(choice, dict) else choice for choice in choices], name
        return
    assert isinstance(value, NUMBERS[kind]), name
    if kind in ("INT", "FLOAT"):
        assert options.get("min", value) <= value <= options.get("max", value), name
        if kind == "INT" and "min" in options:
            assert (value - options["min"]) % options.get("step", 1) == 0, name


@pytest.mark.parametrize("name", NAMES)
def test_saved_values_are_one_for_each_widget_and_seeds_stand_still(declared, name):
    for node in nodes_of(name):
        if node["type"] not in declared or not node["type"].startswith("Hallo3"):
            continue  # core's nodes get more widgets with time, and the page fills them
        expected = []
        for key, (kind, *options) in inputs_of(declared[node["type"]]).items():
            if isinstance(kind, list) or kind in FIELDS:
                expected += [key] + ["control"] * bool(options and options[0].get("control_after_generate"))
        values = node.get("widgets_values", [])
        assert len(values) == len(expected), node["type"]
        assert all(value == "fixed" for key, value in zip(expected, values, strict=True) if key == "control")


@pytest.mark.parametrize("name", OPEN)
def test_the_api_form_has_the_same_nodes(name):
    shown = {
        str(node["id"]): node["type"]
        for node in read(name)["nodes"]
        if node["type"] not in OF_THE_PAGE and node["mode"] != BYPASSED
    }
    assert {number: entry["class_type"] for number, entry in read(name, "api").items()} == shown


@pytest.mark.parametrize("name", OPEN)
def test_it_explains_itself(name):
    workflow = read(name)
    notes = [node["widgets_values"][0] for node in workflow["nodes"] if node["type"] == "MarkdownNote"]
    assert len(notes) >= 2 and notes[0].startswith("# ")
    titles = [group["title"].partition(":")[0] for group in workflow["groups"]]
    assert {"Models", "Text", "Speech", "Identity", "Video transformer"} <= set(titles)


def test_the_quick_start_is_one_node_between_what_goes_in_and_the_video():
    workflow, long = read(QUICK_START), read("hallo3_long_video", "api")
    (block,) = workflow["definitions"]["subgraphs"]
    outside = sorted(node["type"] for node in workflow["nodes"] if node["type"] not in OF_THE_PAGE | {block["id"]})
    assert outside == ["Hallo3SampleInputs", "LoadAudio", "LoadImage", "SaveVideo"]
    prompt = read(QUICK_START, "api")
    assert sorted(e["class_type"] for e in prompt.values()) == sorted(e["class_type"] for e in long.values())
    shown = {slot["name"] for slot in block["inputs"]}
    assert {"text", "audio_cfg", "text_cfg", "reference_cfg", "color_hold", "resume_key"} <= shown
    (node,) = (node for node in workflow["nodes"] if node["type"] == block["id"])
    (picture,) = node["properties"]["previewExposures"]
    sampler = next(node for node in block["nodes"] if node["type"] == "Hallo3LongVideo")
    assert picture["sourceNodeId"] == str(sampler["id"])


@pytest.mark.parametrize("name", NAMES)
def test_a_fresh_installation_runs_it_untouched(name):
    """No file of one's own is read: what is linked comes from the samples, and loaders choose by themselves."""
    for entry in read(name, "api").values():
        assert entry["class_type"] not in ("LoadImage", "LoadAudio")
        if entry["class_type"] in LOADERS:
            chosen = {key: value for key, value in entry["inputs"].items() if isinstance(value, str)}
            assert "auto" in chosen.values(), chosen


@pytest.mark.parametrize("name", NAMES)
def test_loaders_say_where_their_files_are_from_and_belong(name):
    from hallo3_core.release.download import PARTS, REPOSITORY

    for node in nodes_of(name):
        if node["type"] not in LOADERS:
            continue
        files = node["properties"]["models"]
        for file in files:
            path = file["name"].removeprefix("release/")
            assert file["directory"] == "hallo3" and any(part.takes(path) for part in PARTS), path
            assert file["url"] == f"https://huggingface.co/{REPOSITORY}/resolve/main/{path}"
        part = next(part for part in PARTS if part.takes(files[0]["name"].removeprefix("release/")))
        assert set(part.needed) <= {file["name"].removeprefix("release/") for file in files}, node["type"]


@pytest.fixture
def run(pack):
    """Run a workflow, small: what it saves and shows."""

    def run(name: str) -> list[dict]:
        prompt = read(name, "api")
        for entry in prompt.values():
            entry["inputs"] |= {key: value for key, value in SMALL.items() if key in entry["inputs"]}
        runner = Runner(pack().NODE_CLASS_MAPPINGS, lambda module: pack(f"hallo3_core.{module}"))
        return list(runner.run(prompt).values())

    return run


@pytest.fixture
def parted(pack, monkeypatch):
    """A separator for which all is voice."""

    def split_voice(recording, model):
        silence = recording.waveform * 0
        return recording, type(recording)(silence, recording.rate, recording.name)

    monkeypatch.setattr(pack("nodes.vocals"), "split_voice", split_voice)


FILMS = {
    "block": [90],  # the subgraph with inputs and an output
    "hallo3_long_video": [90],
    "hallo3_quick_start": [90],
    "hallo3_single_clip": [47],
    "hallo3_chained_clips": [90],
    "hallo3_guidance_grid": [],
    "hallo3_scene_prompt": [90, 90],
    "hallo3_low_vram": [90],
    "hallo3_clean_vocals": [90],
    "hallo3_core_sampler": [47],
}


@pytest.mark.parametrize("name", FILMS)
def test_it_runs_to_its_end(run, parted, name):
    shown = run(name)
    films = [entry["video"] for entry in shown if entry["kind"] == "SaveVideo"]
    assert [len(film.images) for film in films] == FILMS[name]  # of 3.58 s of speech, or of one clip
    for film in films:
        assert isinstance(film, Made) and film.fps == 25 and film.images.isfinite().all()
        assert film.audio["waveform"].abs().max() > 0.1
    for entry in shown:
        if entry["kind"] == "PreviewImage":
            assert entry["images"].ndim == 4 and entry["images"].std() > 0
    assert shown


def test_without_the_separator_the_node_says_what_to_install(pack, run):
    with pytest.raises(pack("hallo3_core.errors").InputError, match="audio-separator"):
        run("hallo3_clean_vocals")


def test_two_clips_by_hand_are_the_long_film(pack, run, monkeypatch):
    """The chain holds its colours to the portrait half-way, as `color_hold` 0.5 does."""
    chained = run("hallo3_chained_clips")[0]["video"]
    whole, clips, writer = read("hallo3_long_video", "api"), [], pack("nodes.host.film").FilmWriter
    next(entry for entry in whole.values() if "color_hold" in entry["inputs"])["inputs"]["color_hold"] = 0.5
    original = writer.write
    monkeypatch.setattr(writer, "write", lambda self, frames: clips.append(frames) or original(self, frames))
    monkeypatch.setitem(globals(), "read", lambda name, form: whole)
    run("hallo3_long_video")
    assert torch.equal(torch.cat(clips), pack("hallo3_core.inputs.image").to_uint8(chained.images.movedim(-1, 1)))
