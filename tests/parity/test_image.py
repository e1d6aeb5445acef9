"""Framing, pixel mask and face boxes against the recorded ones."""

from __future__ import annotations

import torch

from hallo3_core.inputs import face_mask as face
from hallo3_core.inputs.image import crop_to, frame_pixels, pixel_dropout, plan_framing
from tests.parity import golden

# MediaPipe's outer outline of the lips. Its box was recorded too, though sampling never uses it.
LIPS = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 185, 40, 39, 37, 0, 267, 269, 270, 409)


def framed(recording, key):
    image = recording[key]
    plan = plan_framing(*image.shape[-2:], *recording["target_size"].tolist())
    return frame_pixels(image, plan), plan


def test_portraits_that_are_not_square_are_covered_and_cropped(recorded, table):
    recording = recorded("image")
    numbers = recording.numbers("rect#.in")
    assert numbers
    for n in numbers:
        pixels, plan = framed(recording, f"rect{n}.in")
        table.meets(recording, f"rect{n}.out", pixels.squeeze(0))
        assert crop_to(pixels, plan).shape == pixels.shape


def test_square_portraits_are_padded(recorded, table):
    recording = recorded("image")
    pixels, plan = framed(recording, "square.in")
    table.meets(recording, "square.out_clamped", pixels)
    table.meets(recording, "square.out", pixels)  # bilinear stays in 0..1, so clamping takes nothing away
    height = plan.size[0]
    assert plan.keep == (0, (plan.size[1] - height) // 2, height, height)


def test_pixels_are_dropped(recorded, table):
    recording = recorded("image")
    found = pixel_dropout(recording["mask.in"], recording["mask.rand"], recording["mask.rate"].item())
    table.meets(recording, "mask.out", found, tolerance=0)


def test_boxes_grow(recorded, table):
    recording = recorded("image")
    grown = []
    for x0, x1, y0, y1, width, height, ratio in recording["expand.in"].tolist():
        box = face.grow_box((int(x0), int(y0), int(x1), int(y1)), int(width), int(height), ratio)
        grown.append((box[0], box[2], box[1], box[3]))
    table.exactly(recording, "expand.out", torch.tensor(grown))


def test_masks_follow_the_landmarks(recorded, table):
    recording = recorded("image")
    numbers = recording.numbers("face#.image_wh")
    assert numbers
    for n in numbers:
        width, height = recording[f"face{n}.image_wh"].tolist()
        landmarks = face.landmarks_to_pixels(recording[f"face{n}.landmarks_normalised"], width, height)
        table.meets(recording, f"face{n}.landmarks_pixels", landmarks, tolerance=0)
        mask = face.reference_mask(height, width, oval_landmarks=landmarks)
        table.exactly(recording, f"face{n}.face_mask", mask * 255)
        lips = face.grow_box(face.points_box(landmarks[LIPS, :]), width, height, ratio=2.0)
        table.exactly(recording, f"face{n}.lip_mask", face.box_mask(lips, height, width) * 255)


CHECKS = (
    test_portraits_that_are_not_square_are_covered_and_cropped,
    test_square_portraits_are_padded,
    test_pixels_are_dropped,
    test_boxes_grow,
    test_masks_follow_the_landmarks,
)


def test_every_recorded_tensor_is_met():
    """By the tests above, which are run once more: others of this file may run in another process."""
    recording = golden.Recording("image")
    for check in CHECKS:
        check(lambda name: recording, golden.Table())
    assert recording.keys == recording.used
