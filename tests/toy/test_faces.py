"""Laws of the drawn world's face models: they see what InsightFace shows them, answer in its form, and learn."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from insightface.utils import face_align
from torch.nn import functional as F

from hallo3_core.inputs.face import DETECTOR, DETECTOR_SIZE, RECOGNISER, load_face_analyser
from hallo3_core.toy.faces import detector, recogniser, training
from hallo3_core.toy.faces.drawings import degrade, draw_people
from hallo3_core.toy.world.films import HELD_OUT, TRAINING, draw_film

PEOPLE = TRAINING[700_000:700_024]


@pytest.fixture(scope="module")
def drawings():
    return draw_people(PEOPLE, show_progress=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models that have hardly learned: their form is whole."""
    folder = tmp_path_factory.mktemp("faces")
    training.train_faces(folder, people=PEOPLE, detector_steps=2, recogniser_steps=2)
    return folder


def test_drawings_show_each_person_in_several_poses(drawings):
    people, views = drawings.pictures.shape[:2]
    assert people == len(PEOPLE) and views == 4
    assert drawings.boxes.shape == (people, views, 4) and drawings.points.shape == (people, views, 5, 2)
    assert not set(training.PEOPLE) & set(HELD_OUT)
    for person in drawings.pictures:
        assert not torch.equal(person[0], person[1])


def test_the_files_are_small_named_as_toys_and_repeatable(folder, tmp_path):
    import onnx

    paths = training.train_faces(tmp_path, people=PEOPLE, detector_steps=2, recogniser_steps=2)
    assert [path.name for path in paths] == [DETECTOR, RECOGNISER]
    assert sum(path.stat().st_size for path in paths) < 400_000
    for path in paths:
        assert onnx.load(path).doc_string.startswith("toy weights")
        assert path.read_bytes() == (folder / path.name).read_bytes()


def test_insightface_takes_them(folder):
    analyser = load_face_analyser(folder)
    picture = torch.from_numpy(draw_film(3, 1).frames[0]).permute(2, 0, 1) / 255
    assert isinstance(analyser.analyse(picture), list)


def test_the_recogniser_sees_what_insightface_aligns(drawings):
    for number in range(4):
        picture, points = drawings.pictures[number, 0], drawings.points[number, 0]
        theirs = face_align.norm_crop(picture.permute(1, 2, 0).numpy(), points.numpy())
        theirs = F.avg_pool2d(torch.from_numpy(theirs).permute(2, 0, 1).float() / 127.5 - 1, recogniser.BLOCK)
        ours = recogniser.align(picture[None].float() / 255, points[None])[0]
        assert (ours - theirs).abs().mean() < 0.02


def test_the_detector_sees_what_insightface_lays_out(drawings):
    import cv2

    picture = drawings.pictures[0, 0]
    height, width = picture.shape[1:]
    fit = DETECTOR_SIZE / width
    square = np.zeros((DETECTOR_SIZE, DETECTOR_SIZE, 3), np.uint8)
    square[: int(height * fit)] = cv2.resize(picture.permute(1, 2, 0).numpy(), (DETECTOR_SIZE, int(height * fit)))
    theirs = F.avg_pool2d(torch.from_numpy(square).permute(2, 0, 1).float() / 127.5 - 1, detector.BLOCK)
    ours, *_ = detector.lay_out(picture[None].float() / 255, torch.tensor([fit]), torch.zeros(1, 2))
    assert (ours[0] - theirs).abs().mean() < 0.02


@pytest.mark.parametrize("seed", range(3))
def test_the_exported_networks_are_the_trained_ones(seed):
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    finder, knower = detector.Detector(), recogniser.Recogniser()
    square = torch.rand(1, 3, DETECTOR_SIZE, DETECTOR_SIZE, generator=generator) * 2 - 1
    face = torch.rand(2, 3, recogniser.SIDE, recogniser.SIDE, generator=generator) * 2 - 1
    with torch.no_grad():
        found = finder(F.avg_pool2d(square, detector.BLOCK))[0]
        embedding = knower(F.avg_pool2d(face, recogniser.BLOCK))
    sessions = [
        onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        for content in (detector.export_detector(finder, "toy weights"), recogniser.export_recogniser(knower, "x"))
    ]
    outputs = sessions[0].run(None, {"picture": square.numpy()})
    assert [len(output) for output in outputs] == [2 * (DETECTOR_SIZE // stride) ** 2 for stride in (8, 16, 32)] * 3
    for number in (0, 1, 3, 4, 6, 7):  # the finer grids
        assert not outputs[number].any()
    first = slice(0, None, detector.ANCHORS)
    rows = found.flatten(1).T
    assert np.allclose(outputs[2][first, 0], rows[:, 0].sigmoid(), atol=5e-3) and not outputs[2][1::2].any()
    assert np.allclose(outputs[5][first], rows[:, 1:5], atol=2e-2)
    assert np.allclose(outputs[8][first], rows[:, 5:], atol=2e-2)
    theirs = torch.from_numpy(sessions[1].run(None, {"picture": face.numpy()})[0])
    assert F.cosine_similarity(theirs, embedding).min() > 0.999
    assert torch.allclose(theirs.norm(dim=1), torch.tensor(recogniser.NORM), atol=1e-2)


def test_what_a_cell_should_say_gives_the_box_back():
    boxes = torch.tensor([[[100.0, 120, 300, 380], [400, 100, 520, 260]]])
    points = torch.rand(1, 2, 5, 2) * 100 + 150
    fires, sides, offsets = detector.targets(boxes, points)
    cells = (fires[0] == 1).nonzero()
    assert 4 <= len(cells) <= 20
    seen = set()
    for row, column in cells.tolist():
        x, y = column * detector.STRIDE, row * detector.STRIDE
        left, top, right, bottom = sides[0, :, row, column] * detector.STRIDE
        box = torch.stack([x - left, y - top, x + right, y + bottom])
        which = int((boxes[0] - box).abs().sum(1).argmin())
        seen.add(which)
        assert torch.allclose(box, boxes[0, which], atol=1e-3)
        back = offsets[0, :, row, column].view(5, 2) * detector.STRIDE + torch.tensor([x, y])
        assert torch.allclose(back, points[0, which], atol=1e-3)
    assert seen == {0, 1}
    assert (detector.targets(torch.zeros(1, 2, 4), points)[0] == 0).all()


def test_the_recogniser_learns_to_tell_people_apart(drawings):
    def accuracy(network):
        with torch.no_grad():
            faces = training._aligned(drawings, torch.Generator().manual_seed(1))
            one, other = network(faces[:, 0]), network(faces[:, 3])
        return ((one @ other.T).argmax(1) == torch.arange(len(one))).float().mean()

    before = accuracy(training.train_recogniser(drawings, 1, 0))
    after = accuracy(training.train_recogniser(drawings, 60, 0))
    assert after > before and after > 0.9


def test_the_detector_learns_where_faces_are(drawings):
    generator = torch.Generator().manual_seed(5)

    def error(network):
        with torch.no_grad():
            squares, boxes, points = training._scattered(drawings, torch.Generator().manual_seed(6))
            return detector.loss(network(squares), *detector.targets(boxes, points)).item()

    assert error(training.train_detector(drawings, 30, 0)) < 0.7 * error(training.train_detector(drawings, 1, 0))
    assert not torch.equal(degrade(torch.ones(2, 3, 8, 8), generator), torch.ones(2, 3, 8, 8))
