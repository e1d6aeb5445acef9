"""The blocks, which are subgraphs: the shipped ones, and those inside the workflows.

A block's description is its help page. The page finds tooltips of a subgraph in a pack's translations alone, by the
subgraph's id: those of the nodes inside, which `python -m tools.help` writes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from .drawing import Inside, Node, Output, Stage
from .stages import MADE, Part, Slots, heard, moving, said, seen

WHOLE = "Hallo3 portrait and recording to video"
READ = "Hallo3 portrait, recording and prompt"
CONDITIONS = ("model", "text", "vae", "audio", "face", "reference")  # the inputs of a sampler
SCALES = ("audio_cfg", "text_cfg", "reference_cfg")

OF_PORTRAIT = """
* **width**, **height**: the video's size; 0 is the model's own, 720x480 for the official release.
* **framing**: how a portrait of another shape is fitted: cut (crop), with bars that are cut off again (pad), or auto.
* **which_face**: who talks, if the picture shows several people.
* **when_no_face**: for drawings and animals, whole image goes on without a face.
"""
OF_FILES = """
* **release**: whose networks are used. auto finds the release in models/hallo3.
* **weight_dtype**: fp8 halves the memory of the large matrices.
"""
OF_SAMPLING = """
* **seed**, **steps**: 20 to 30 steps are enough for a look.
* **audio_cfg**, **text_cfg**, **reference_cfg**: how closely the video follows sound, prompt and portrait.
* **sampler**: sde-dpmpp-2m as the original; dpmpp-2m and ddim need fewer steps.
* **color_hold**: 0.5 to 1 keeps the portrait's colours in long videos. **seam_fade**: 8 hides jumps between clips.
* **resume_key**: with a name here, a run that was stopped goes on where it was.
"""


@cache
def read() -> Inside:
    """All that is read once, before sampling."""
    parts = moving(lora=True), said(), heard(), seen()
    takes, gives = _joined(*parts)
    description = f"""
Reads a portrait, a recording and a prompt, once, for Hallo3's samplers. Double-click it to see the stages inside.

* **text**: one sentence about person and place.
{OF_PORTRAIT.strip()}
{OF_FILES.strip()}
"""
    return Inside(READ, description, _columns(*parts), takes, gives)


@cache
def whole() -> Inside:
    """From the inputs to the video."""
    parts = moving(lora=True), said(), heard(), seen()
    takes, gives = _joined(*parts)
    film = Node("Hallo3LongVideo", {name: gives[name] for name in CONDITIONS}, 360)
    fields = ("seed", "steps", *SCALES, "sampler", "color_hold", "seam_fade", "resume_key")
    order = ("image", "audio", "text", *fields[:5])
    sampled = {name: [(film, name)] for name in fields}
    takes = {name: (sampled | takes)[name] for name in order} | takes | sampled
    columns = [*_columns(*parts), [Stage("Video transformer: clip after clip", [[film]], MADE)]]
    description = f"""
A portrait, a recording and a prompt become a talking video, as long as the recording. Double-click it to see the
stages inside.

* **text**: one sentence about person and place.
{OF_SAMPLING.strip()}
{OF_PORTRAIT.strip()}
{OF_FILES.strip()}
"""
    return Inside(WHOLE, description, columns, takes, {"film": film["film"]}, preview=film)


@cache
def text() -> Inside:
    description = "Encodes the prompt, once. **text**: one sentence about person and place."
    return _alone("Hallo3 text: what the scene shows", description, said(), says=False)


@cache
def speech() -> Inside:
    description = "Hears the whole recording, once: what the mouth follows."
    return _alone("Hallo3 speech: what the mouth follows", description, heard())


@cache
def identity() -> Inside:
    description = f"Finds the face, and looks at the portrait, once.\n\n{OF_PORTRAIT.strip()}"
    return _alone("Hallo3 identity: who the video shows", description, seen())


@cache
def clip() -> Inside:
    """One clip of a chain, with what it hands on to the next."""
    sample = Node("Hallo3SampleClip", {}, 300)
    frames = Node("VAEDecode", {"samples": sample["clip"]}, 200)
    held = Node("Hallo3ColorMatch", {"frames": frames["IMAGE"], "strength": 0.5}, 240)
    motion = Node("Hallo3MotionFrames", {"frames": held["frames"]}, 240)
    film = Node("Hallo3AppendClip", {"clip": held["frames"]}, 260, at=200)
    takes: dict[str, Slots] = {name: [(sample, name)] for name in CONDITIONS}
    takes["vae"] = [(sample, "vae"), (frames, "vae")]
    takes["audio"] = [(sample, "audio"), (film, "audio")]
    takes["reference"] = [(sample, "reference"), (held, "reference"), (film, "reference")]
    takes |= {"motion": [(sample, "motion")], "film": [(film, "film")]}
    takes["clip_index"] = [(sample, "clip_index"), (film, "clip_index")]
    takes |= {name: [(sample, name)] for name in ("seed", "steps", *SCALES)}
    takes["strength"] = [(held, "strength")]
    gives = {"film": film["film"], "sound": film["sound"], "motion": motion["motion"]}
    columns = [[Stage("Video transformer: one clip", [[sample], [frames], [held], [motion, film]], MADE)]]
    description = """
One clip of a chain. **clip_index** picks its 1.88 seconds of the sound. **motion** are the last 2 frames of the clip
before, **film** is the video so far: both come from the block before, and stay open in the first. **strength**: how far
colours are held to the portrait's.
"""
    return Inside("Hallo3 one clip of a chain", description, columns, takes, gives)


def all_blocks() -> list[Inside]:
    return [whole(), read(), text(), speech(), identity(), clip()]


SHIPPED = {WHOLE: whole, READ: read}


WORKFLOWS = Path(__file__).parents[2] / "workflows"


def tooltips(nodes: Mapping[str, Any]) -> dict[str, Any]:
    """The blocks' entries in nodeDefs.json, by id, from those of the nodes."""
    places, entries = _output_places(), {}
    for inside in all_blocks():
        entry = entries[inside.id] = {"inputs": {}, "outputs": {}}
        for name, ((node, slot), *_) in inside.takes.items():
            if node.kind in nodes:  # ours
                entry["inputs"][name] = {"tooltip": nodes[node.kind]["inputs"][slot]["tooltip"]}
        for number, output in enumerate(inside.gives.values()):
            if output.node.kind in nodes:
                place = places[output.node.kind, output.name]
                entry["outputs"][str(number)] = {"tooltip": nodes[output.node.kind]["outputs"][place]["tooltip"]}
    return entries


def _output_places() -> dict[tuple[str, str], str]:
    """A node's outputs by kind and name to their place, as the workflows have them."""
    found = {}
    for path in WORKFLOWS.glob("*.json"):
        workflow = json.loads(path.read_text(encoding="utf-8"))
        for graph in (workflow, *workflow.get("definitions", {}).get("subgraphs", [])):
            for node in graph["nodes"]:
                found |= {(node["type"], slot["name"]): str(i) for i, slot in enumerate(node["outputs"])}
    return found


def _joined(*parts: Part) -> tuple[dict[str, Slots], dict[str, Output]]:
    """A block's inputs and outputs from those of its stages: one choice for all files of a release."""
    takes: dict[str, Slots] = {}
    files: dict[str, list] = {"release": [], "weight_dtype": []}
    for part in parts:
        for name, slots in part.takes.items():
            if name == "weight_dtype":
                files[name] = [*slots, *files[name]]  # the reference network's first: it has the fewer choices
            elif name in ("denoiser", "text_encoder", "wav2vec", "face_analysis", "reference_net", "vae"):
                files["release"] += slots
            else:
                takes[name] = slots
    first = {name: takes.pop(name) for name in ("image", "audio", "text") if name in takes}
    found = {**first, **takes, **files}
    gives = {name: output for part in parts for name, output in part.gives.items()}
    order = sorted(gives, key=lambda name: CONDITIONS.index(name) if name in CONDITIONS else len(CONDITIONS))
    return {name: slots for name, slots in found.items() if slots}, {name: gives[name] for name in order}


def _columns(models: Part, text: Part, speech: Part, identity: Part) -> list[list[Stage]]:
    return [[models.stage, text.stage, speech.stage], [identity.stage]]


def _alone(name: str, description: str, part: Part, *, says: bool = True) -> Inside:
    takes, gives = _joined(part)
    return Inside(name, description, [[part.stage]], takes, gives, says=says)
