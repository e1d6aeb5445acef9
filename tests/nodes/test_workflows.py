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
QUICK_START, MICROPHONE = "hallo3_quick_start", "hallo3_microphone.app"
APPS = [name for name in NAMES if name.endswith(".app")]
OF_THE_PAGE = {"MarkdownNote"}  # drawn by the page alone
LOADERS = {"Hallo3ModelLoader", "Hallo3ReferenceNetLoader", "Hallo3VAELoader", "Hallo3TextEncoderLoader"}
LOADERS |= {"Hallo3Wav2VecLoader", "Hallo3FaceAnalysisLoader", "Hallo3SeparateVocals"}
NUMBERS = {"INT": int, "FLOAT": (int, float), "STRING": str, "BOOLEAN": bool, "AUDIO_RECORD": str}
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


def test_every_one_has_a_picture_in_the_template_browser():
    assert sorted(path.stem for path in FOLDER.glob("*.jpg")) == NAMES


def insides(workflow: dict) -> dict[str, dict]:
    """The subgraphs of a workflow by id, which is the type of the nodes that stand for them."""
    return {each["id"]: each for each in workflow.get("definitions", {}).get("subgraphs", [])}


def nodes_of(name: str) -> list[dict]:
    """All nodes of a workflow, those inside a subgraph in the subgraph's place."""
    workflow = read(name)
    within = insides(workflow)
    return [node for outer in workflow["nodes"] for node in within.get(outer["type"], {"nodes": [outer]})["nodes"]]


def kinds(name: str) -> set[str]:
    return {node["type"] for node in nodes_of(name)}


def test_every_node_of_ours_is_in_some_workflow_and_only_cores_beside(declared, pack):
    used = set().union(*map(kinds, NAMES))
    kept = {key for key, node in pack().NODE_CLASS_MAPPINGS.items() if getattr(node, "DEPRECATED", False)}
    assert used - OF_THE_PAGE == set(declared) - kept


ENTRY, EXIT = -10, -20  # the page's numbers for a subgraph's inputs and outputs


def outputs_of(node: dict, declared, within) -> list[tuple[str, str]]:
    """Names and types of a node's outputs."""
    if node["type"] in within:
        return [(slot["name"], slot["type"]) for slot in within[node["type"]]["outputs"]]
    entry = declared[node["type"]]
    return list(zip(entry["output_name"], entry["output"], strict=True))


def type_of(node: dict, slot: dict, declared, within) -> str:
    """The type of a node's input."""
    if node["type"] in within:
        return next(each["type"] for each in within[node["type"]]["inputs"] if each["name"] == slot["name"])
    kind = inputs_of(declared[node["type"]])[slot["name"]][0]
    return "COMBO" if isinstance(kind, list) else kind


@pytest.mark.parametrize("name", NAMES)
def test_links_join_what_they_say(declared, name):
    workflow = read(name)
    within = insides(workflow)
    for graph in (workflow, *within.values()):
        nodes = {node["id"]: node for node in graph["nodes"]}
        fields = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
        arrivals = set()
        for link in graph["links"]:
            number, source, output, target, place, kind = link if graph is workflow else (link[key] for key in fields)
            if source == ENTRY:
                assert number in graph["inputs"][output]["linkIds"] and graph["inputs"][output]["type"] == kind
            else:
                giver = nodes[source]
                told = giver["outputs"][output]
                assert (told["name"], kind) == outputs_of(giver, declared, within)[output] and number in told["links"]
            if target == EXIT:
                assert number in graph["outputs"][place]["linkIds"] and graph["outputs"][place]["type"] == kind
                continue
            taker = nodes[target]
            slot = taker["inputs"][place]
            found = type_of(taker, slot, declared, within)
            assert found == kind and slot["link"] == number, f"{source} to {taker['type']}.{slot['name']}"
            arrivals.add((target, slot["name"]))
        for node in graph["nodes"]:
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
        count = len(expected)
        of_the_page = [None, "image"]  # its upload buttons and players, which follow
        assert len(values) >= count and all(value in of_the_page for value in values[count:]), node["type"]
        assert all(value == "fixed" for key, value in zip(expected, values[:count], strict=True) if key == "control")


@pytest.mark.parametrize("name", NAMES)
def test_the_api_form_has_the_same_nodes(name):
    workflow = read(name)
    within, shown = insides(workflow), {}
    for outer in workflow["nodes"]:
        inner = within.get(outer["type"])
        for node in inner["nodes"] if inner else [outer]:
            if node["type"] not in OF_THE_PAGE and node["mode"] != BYPASSED:
                shown[f"{outer['id']}:{node['id']}" if inner else str(node["id"])] = node["type"]
    assert {number: entry["class_type"] for number, entry in read(name, "api").items()} == shown


@pytest.mark.parametrize("name", NAMES)
def test_it_explains_itself(name):
    workflow = read(name)
    notes = [node["widgets_values"][0] for node in workflow["nodes"] if node["type"] == "MarkdownNote"]
    assert notes[0].startswith("# ")
    titles = [group["title"].partition(":")[0] for group in workflow["groups"]]
    assert {"Your portrait and your voice", "Models and inputs, read once", "Video transformer"} <= set(titles)
    for inside in insides(workflow).values():
        assert inside["description"] and inside["groups"]


@pytest.mark.parametrize("name", NAMES)
def test_no_group_is_empty(name):
    workflow = read(name)
    for graph in (workflow, *insides(workflow).values()):
        for group in graph["groups"]:
            x, y, width, height = group["bounding"]
            inside = [n for n in graph["nodes"] if x < n["pos"][0] < x + width and y < n["pos"][1] < y + height]
            assert inside, group["title"]


def test_the_quick_start_has_all_settings_at_hand():
    """What the troubleshooting names is on the nodes that are open: the block's, and the sampler's own."""
    workflow = read(QUICK_START)
    shown = {slot["name"] for node in workflow["nodes"] for slot in node["inputs"] if "widget" in slot}
    wanted = {"which_face", "when_no_face", "framing", "seam_fade", "sampler", "release", "weight_dtype", "width"}
    assert wanted | {"text", "seed", "steps", "audio_cfg", "text_cfg", "reference_cfg"} <= shown
    prompt, long = read(QUICK_START, "api"), read("hallo3_long_video", "api")
    assert sorted(e["class_type"] for e in prompt.values()) == sorted(e["class_type"] for e in long.values())


@pytest.mark.parametrize("name", APPS)
def test_an_app_shows_inputs_that_are_there_and_the_video(name):
    workflow = read(name)
    nodes, data = {node["id"]: node for node in workflow["nodes"]}, workflow["extra"]["linearData"]
    assert workflow["extra"]["linearMode"] is True
    for number, widget, words in data["inputs"]:
        assert words["description"]
        assert nodes[number]["mode"] != BYPASSED  # App mode hides it
        assert widget in {slot["name"] for slot in nodes[number]["inputs"] if "widget" in slot}
    shown = [nodes[number]["type"] for number, *_ in data["inputs"][:2]]
    assert shown == ["Hallo3Portrait", "RecordAudio" if name == MICROPHONE else "Hallo3Voice"]
    assert [nodes[number]["type"] for number in data["outputs"]] == ["SaveVideo"]


def test_the_app_is_the_quick_start():
    assert read(f"{QUICK_START}.app", "api") == read(QUICK_START, "api")


@pytest.mark.parametrize("name", [name for name in NAMES if name != MICROPHONE])
def test_a_fresh_installation_runs_it_untouched(name):
    """No file of one's own is read: portrait and voice are the samples, and loaders choose by themselves."""
    for entry in read(name, "api").values():
        assert entry["class_type"] not in ("LoadImage", "LoadAudio", "RecordAudio")
        if entry["class_type"] in ("Hallo3Portrait", "Hallo3Voice"):
            assert "sample" in entry["inputs"]["image" if entry["class_type"] == "Hallo3Portrait" else "audio"]
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
    "block_whole": [90],  # a shipped subgraph with inputs and an output
    "block_read": [],
    "hallo3_long_video": [90],
    "hallo3_quick_start": [90],
    "hallo3_microphone.app": [90],
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
