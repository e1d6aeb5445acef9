"""Prompts, and faces as the toy detector finds them: drawn heads on a cool ground."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from PIL import Image

from hallo3_core.inputs.face import DETECTOR, embed_face, load_face_analyser
from hallo3_core.inputs.image import read_image

from . import Case, case
from .models import changed

GROUND, SKIN = (90, 128, 166), (224, 171, 140)
PROMPTS = {
    "empty": "",
    "of blanks": "   ",
    "of 2000 words": "word " * 2000,
    "with emoji": "A person talks. 😀👩‍👩‍👧 🇺🇳",
    "in Chinese": "一个人在对着镜头说话。",
    "in Arabic": "شخص يتحدث إلى الكاميرا",
    "with control characters": "A person\x07 talks.\x1b[2J\x1b[31m\r\n\t\x7f",
    "with a byte order mark": "\ufeffA person talks.",
    "with a broken character": "A person talks. \udcff",
    "with @@ in it": "A person@@talks",
}

for name, prompt in PROMPTS.items():

    @case(f"prompt: {name}")
    def prompted(place, prompt=prompt):
        return Case({"--prompt": prompt} if prompt else {"--prompt": None, "--prompt=": ""})


def heads(place, *where, size=(480, 480)):
    """A picture of heads: middle x, middle y, radius x, radius y."""
    image = torch.tensor(GROUND, dtype=torch.uint8).repeat(size[1], size[0], 1)
    y, x = torch.arange(size[1]).view(-1, 1) + 0.5, torch.arange(size[0]) + 0.5
    for middle_x, middle_y, radius_x, radius_y in where:
        inside = ((x - middle_x) / radius_x) ** 2 + ((y - middle_y) / radius_y) ** 2 <= 1
        image[inside] = torch.tensor(SKIN, dtype=torch.uint8)
    path = place.folder / "heads.png"
    Image.fromarray(image.numpy()).save(path)
    return path


def found(place, path, which, middle) -> Case:
    """The face whose box is around `middle` is the one that the reference network sees."""

    def treated() -> None:
        analyser = load_face_analyser(place.release / "face_analysis" / "models")
        face, mask = embed_face(read_image(path), analyser, which)
        assert face.box[0] < middle < face.box[2]
        x0, _, x1, _ = (round(side) for side in face.box)
        _, columns = mask.nonzero().T
        assert columns.min() <= max(0, x0) and columns.max() >= min(mask.shape[1], x1) - 1

    return Case({"--image": path, "--face": which}, treated=treated)


TWO = ((160, 220, 110, 130), (560, 240, 70, 85))


def with_detector(place, change) -> Path:
    """A release whose detector was changed."""
    release = changed(place)
    path = release / "face_analysis" / "models" / DETECTOR
    model = onnx.load_from_string(path.read_bytes())
    change(model)
    path.unlink()
    path.write_bytes(model.SerializeToString())
    return release


def not_a_toy(place) -> Path:
    """A release whose detector does not say that it is a toy's."""
    return with_detector(place, lambda model: model.ClearField("doc_string"))


@case("face: none")
def none(place):
    return Case({"--image": heads(place), "--models": not_a_toy(place)})


@case("face: none that the toy's weights know")
def none_drawn(place):
    return Case({"--image": heads(place)})


@case("face: masked by MediaPipe without its landmark file")
def no_landmarks(place):
    return Case({"--face-mask": "mediapipe"})


@case("face: as large as the picture")
def close(place):
    return found(place, heads(place, (240, 240, 200, 235)), "largest", 240)


@case("face: none, with --face whole")
def whole(place):
    return Case({"--image": heads(place), "--face": "whole"})


@case("face: several")
def several(place):
    return found(place, heads(place, *TWO, size=(720, 480)), "largest", 160)


@case("face: several, with --face 1")
def second(place):
    return found(place, heads(place, *TWO, size=(720, 480)), "1", 560)


@case("face: several, with --face 2")
def third(place):
    return Case({"--image": heads(place, *TWO, size=(720, 480)), "--face": "2"})


@case("face: tiny")
def tiny(place):
    return Case({"--image": heads(place, (240, 240, 8, 10)), "--models": not_a_toy(place)})


@case("face: at the edge")
def edge(place):
    return found(place, heads(place, (70, 240, 60, 75)), "largest", 70)


@case("face: upside down")
def upside_down(place):
    """The toy detector cannot see it, so one stands in whose landmarks are those of such a face."""

    def turned(model):
        for name in [output.name for output in model.graph.output][-3:]:
            for node in model.graph.node:
                node.output[:] = [f"{name}_up" if output == name else output for output in node.output]
            model.graph.node.append(onnx.helper.make_node("Neg", [f"{name}_up"], [name]))

    return Case({"--models": with_detector(place, turned)})


@case("face: no such choice")
def no_choice(place):
    return Case({"--face": "prettiest"})
