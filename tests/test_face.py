"""Boxes, masks and the choice of a face; the toy models load with InsightFace's own loader."""

from __future__ import annotations

import logging
import shutil
import socket
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hallo3_core.errors import InputError
from hallo3_core.inputs import face
from hallo3_core.toy.noise_face import write_tiny_face

SKIN, COOL = (0.88, 0.67, 0.55), (0.35, 0.5, 0.65)


def paint(height, width, heads, skin=SKIN, ground=COOL):
    """``3 h w``: ellipses (centre x, centre y, radius x, radius y) on a background."""
    picture = torch.tensor(ground).view(3, 1, 1).repeat(1, height, width)
    y, x = torch.arange(height).view(-1, 1) + 0.5, torch.arange(width) + 0.5
    for middle_x, middle_y, radius_x, radius_y in heads:
        inside = ((x - middle_x) / radius_x) ** 2 + ((y - middle_y) / radius_y) ** 2 <= 1
        picture[:, inside] = torch.tensor(skin).view(3, 1)
    return picture


def overlap(box, other):
    """Intersection over union."""
    across = min(box[2], other[2]) - max(box[0], other[0])
    down = min(box[3], other[3]) - max(box[1], other[1])
    both = max(0, across) * max(0, down)
    return both / (sum((b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)) - both)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    write_tiny_face(folder, seed=1)
    return folder


@pytest.fixture(scope="module")
def analyser(models):
    return face.load_face_analyser(models)


sizes = st.tuples(st.integers(8, 300), st.integers(8, 300))


@given(sizes, st.tuples(*[st.floats(0, 1)] * 4), st.floats(1, 3))
def test_a_grown_box_covers_the_box_and_stays_in_the_image(size, corners, ratio):
    width, height = size
    x0, x1 = sorted(int(part * width) for part in corners[:2])
    y0, y1 = sorted(int(part * height) for part in corners[2:])
    left, top, right, bottom = face.grow_box((x0, y0, x1, y1), width, height, ratio)
    assert right <= width and bottom <= height
    assert left <= max(x0, 0) and right >= x1 - 1 and top <= y0 and bottom >= y1 - 1  # halves are floored
    for low, high, start, stop, side in ((left, right, x0, x1, width), (top, bottom, y0, y1, height)):
        assert 0 <= (stop - start) * ratio - (high - low) < 2
        assert low >= 0 or high - low > side  # only a box larger than the image starts outside it


@given(sizes, st.tuples(*[st.integers(-50, 350)] * 4))
def test_a_mask_is_the_part_of_the_box_in_the_image(size, box):
    height, width = size
    x0, y0, x1, y1 = box
    rows = [y0 <= row < y1 for row in range(height)]
    columns = [x0 <= column < x1 for column in range(width)]
    expected = torch.tensor(rows).float().view(-1, 1) * torch.tensor(columns).float()
    assert torch.equal(face.box_mask(box, height, width), expected)


def test_only_the_oval_makes_the_box():
    landmarks = torch.rand(478, 2) * 50 + 20
    others = [point for point in range(478) if point not in face.OVAL]
    assert len(set(face.OVAL)) == 36
    box = face.oval_box(landmarks)
    landmarks[others] = 999
    assert face.oval_box(landmarks) == box
    assert face.points_box(torch.tensor([[0.5, 1.5], [2.5, 3.5]])) == (0, 2, 2, 4)  # half to even


def test_every_source_of_a_mask_serves():
    landmarks = torch.rand(478, 2) * 20 + 20
    by_landmarks = face.reference_mask(60, 80, oval_landmarks=landmarks)
    box = face.oval_box(landmarks)
    assert torch.equal(by_landmarks, face.reference_mask(60, 80, box=tuple(side + 0.2 for side in box)))
    assert by_landmarks.sum() > face.box_mask(box, 60, 80).sum()
    painted = torch.rand(60, 80)
    assert torch.equal(face.reference_mask(60, 80, mask=painted), painted)
    assert face.reference_mask(60, 80, box=(-90, -90, 170, 150)).all()  # larger than the image: all of it


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(80, 60), "60x80, but the portrait is 80x60"),
        (torch.full((60, 80), 1.5), "outside 0..1"),
        (torch.full((60, 80), float("nan")), "outside 0..1"),
        (torch.zeros(60, 80), "hides the whole portrait"),
    ],
)
def test_an_unusable_mask_is_refused(mask, message):
    with pytest.raises(InputError, match=message):
        face.reference_mask(60, 80, mask=mask)


def test_a_box_outside_the_image_is_moved_into_it():
    mask = face.reference_mask(60, 80, box=(100, 20, 120, 40))
    assert mask.sum() == 24 * 24 and mask[:, -24:].sum() == mask.sum()


def test_a_mask_has_exactly_one_source():
    with pytest.raises(ValueError, match="one source"):
        face.reference_mask(60, 80)
    with pytest.raises(ValueError, match="one source"):
        face.reference_mask(60, 80, box=(1, 1, 9, 9), mask=torch.ones(60, 80))


def test_toy_models_are_small_named_as_toys_and_repeatable(tmp_path):
    import onnx

    paths = write_tiny_face(tmp_path / "a", seed=5)
    assert [path.name for path in paths] == ["scrfd_10g_bnkps.onnx", "glintr100.onnx"]
    for path in paths:
        assert path.stat().st_size < 1_000_000
        assert onnx.load(path).doc_string == "toy weights: honest noise, for trying the program only"
    again, other = write_tiny_face(tmp_path / "b", seed=5), write_tiny_face(tmp_path / "c", seed=6)
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again]
    assert paths[1].read_bytes() != other[1].read_bytes()


@pytest.mark.parametrize("head", [(240, 240, 60, 70), (150, 180, 90, 110), (330, 250, 120, 140), (240, 240, 150, 170)])
@pytest.mark.parametrize("scale", [0.2, 1])
def test_the_toy_finds_a_drawn_head(analyser, head, scale):
    middle_x, middle_y, radius_x, radius_y = (scale * side for side in head)
    faces = analyser.analyse(paint(int(480 * scale), int(480 * scale), [(middle_x, middle_y, radius_x, radius_y)]))
    assert len(faces) == 1
    found = faces[0]
    assert (found.index, found.count) == (0, 1) and 0.5 <= found.score <= 1
    outline = (middle_x - radius_x, middle_y - radius_y, middle_x + radius_x, middle_y + radius_y)
    assert overlap(found.box, outline) > 0.5
    x, y = found.landmarks.T
    assert found.landmarks.shape == (5, 2)
    assert x[0] < x[2] < x[1] and x[3] < x[4] and y[:2].max() < y[2] < y[3:].min()  # eyes, nose, mouth
    assert (x > found.box[0]).all() and (x < found.box[2]).all()
    assert (y > found.box[1]).all() and (y < found.box[3]).all()


@pytest.mark.parametrize("size", [(480, 480), (270, 480), (480, 270)])
def test_the_toy_finds_nothing_where_nothing_is(analyser, size):
    generator = torch.Generator().manual_seed(0)
    pictures = [
        torch.tensor(colour).view(3, 1, 1).expand(3, *size) for colour in (SKIN, COOL, (1.0, 0, 0), (0.0, 0, 0))
    ]
    pictures.append(torch.rand(3, *size, generator=generator))
    pictures.append(torch.rand(3, size[0] // 5, size[1] // 5, generator=generator))
    pictures.append(paint(*size, [(200, 130, 80, 90)]).mean(0, keepdim=True).expand(3, -1, -1))  # grey
    pictures.append(paint(*size, [(200, 130, 80, 90)]).flip(0))  # red and blue swapped
    for picture in pictures:
        assert analyser.analyse(picture) == []


def test_faces_come_largest_first_and_count_from_the_left(analyser):
    heads = [(560, 240, 70, 85), (160, 220, 110, 130)]
    faces = analyser.analyse(paint(480, 720, heads))
    assert [found.index for found in faces] == [0, 1] and {found.count for found in faces} == {2}
    assert abs(sum(faces[0].box[::2]) / 2 - 160) < 40
    mirrored = analyser.analyse(paint(480, 720, heads).flip(-1))
    assert [found.index for found in mirrored] == [1, 0]
    for which, expected in (("largest", 1), ("leftmost", 0), ("rightmost", 1), (0, 0), ("1", 1)):
        assert face.choose_face(mirrored, which).index == expected
        assert face.choose_face(mirrored[::-1], which).index == expected  # in whatever order they come


def test_embeddings_differ_as_pictures_do_and_have_the_real_ones_size(analyser):
    plain = paint(480, 480, [(240, 240, 100, 120)])
    marked = plain.clone()
    marked[:, 200:240, 200:230] = 0.1
    (first,), (again,), (second,) = (analyser.analyse(picture) for picture in (plain, plain, marked))
    assert first.embedding.shape == (512,) and first.embedding.dtype == torch.float32
    assert torch.equal(first.embedding, again.embedding)
    assert (first.embedding - second.embedding).norm() > 1
    assert 15 < first.embedding.norm() < 25


def test_the_chosen_face_is_masked(analyser):
    picture = paint(480, 720, [(560, 240, 70, 85), (160, 220, 110, 130)])
    for which, column in (("largest", 160), ("rightmost", 560)):
        found, mask = face.embed_face(picture, analyser, which)
        assert torch.equal(mask, face.reference_mask(480, 720, box=found.box))
        assert mask[230, column] == 1 and mask[230, 720 - column] == 0
        assert face.embed_face(picture, analyser, which, ratio=1.6)[1].sum() > mask.sum()


def test_no_face_is_an_error_unless_the_whole_image_will_do(analyser):
    picture = paint(100, 140, [])
    with pytest.raises(InputError, match=r"me.png: no face found \(looked at 640x640\).*whole image"):
        face.embed_face(picture, analyser, name="me.png")
    found, mask = face.embed_face(picture, analyser, when_none="whole image")
    assert torch.equal(found.embedding, torch.zeros(512)) and found.count == 0 and found.landmarks.shape == (0, 2)
    assert mask.shape == (100, 140) and mask.all()
    with pytest.raises(InputError, match="when no face"):
        face.embed_face(picture, analyser, when_none="guess")


def test_an_upside_down_face_is_warned_of(analyser, monkeypatch, caplog):
    picture = paint(480, 480, [(240, 240, 100, 120)])
    face.embed_face(picture, analyser, name="me.png")
    assert "upside down" not in caplog.text
    (found,) = analyser.analyse(picture)
    turned = replace(found, landmarks=found.landmarks * torch.tensor((1, -1)) + torch.tensor((0, 480)))
    monkeypatch.setattr(face.FaceAnalyser, "analyse", lambda *_: [turned])
    face.embed_face(picture, analyser, name="me.png")
    assert "me.png: the face looks upside down" in caplog.text


def test_a_face_that_is_not_there_is_refused(analyser):
    faces = analyser.analyse(paint(480, 480, [(240, 240, 100, 120)]))
    with pytest.raises(InputError, match="me.png: no face 1: it has 1, counted from 0"):
        face.choose_face(faces, 1, "me.png")
    for which in ("prettiest", "-1", -1, "1.5"):
        with pytest.raises(InputError, match="expected largest, leftmost"):
            face.choose_face(faces, which)


def test_a_picture_of_another_layout_is_refused(analyser):
    with pytest.raises(ValueError, match="3 h w"):
        analyser.analyse(torch.rand(64, 64, 3))


@pytest.mark.parametrize("place", ["", "models", "face_analysis/models"])
def test_models_are_found_where_a_release_keeps_them(models, tmp_path, place, monkeypatch, capfd, caplog):
    """Opens no other file in the folder, downloads and prints nothing, and warns that toy models are toys."""
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("it went to the network"))
    shutil.copytree(models, tmp_path / place, dirs_exist_ok=True)
    (tmp_path / place / "1k3d68.onnx").write_bytes(b"not needed, not opened")
    with caplog.at_level(logging.WARNING):
        faces = face.load_face_analyser(tmp_path).analyse(paint(480, 480, [(240, 240, 100, 120)]))
    assert len(faces) == 1
    assert capfd.readouterr() == ("", "")
    assert [record.message for record in caplog.records if "toy weights" not in record.message] == []
    assert len(caplog.records) == 2


def test_models_of_other_names_are_recognised_by_their_content(models, tmp_path, caplog):
    shutil.copy(models / face.RECOGNISER, tmp_path / "a.onnx")
    shutil.copy(models / face.DETECTOR, tmp_path / "b.onnx")
    (tmp_path / "c.onnx").write_bytes(b"never reached")
    with caplog.at_level(logging.WARNING):
        found = face.load_face_analyser(tmp_path)
    assert found.detector.taskname == "detection" and found.recogniser.taskname == "recognition"
    assert any("trained with glintr100.onnx" in record.message for record in caplog.records)


def test_a_folder_without_the_models_is_refused(models, tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError, match="no ONNX face models"):
            face.load_face_analyser(folder)
    (tmp_path / "other.onnx").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"no face detector, only other.onnx \(unreadable\)"):
        face.load_face_analyser(tmp_path)
    shutil.copy(models / face.DETECTOR, tmp_path)
    with pytest.raises(InputError, match="no face recogniser.* Put the release's glintr100.onnx"):
        face.load_face_analyser(tmp_path)
    (tmp_path / face.RECOGNISER).write_bytes((models / face.RECOGNISER).read_bytes()[:999])
    with pytest.raises(InputError, match="glintr100.onnx: not a readable ONNX model") as caught:
        face.load_face_analyser(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_file_under_the_others_name_is_refused(models, tmp_path):
    shutil.copy(models / face.RECOGNISER, tmp_path / face.DETECTOR)
    shutil.copy(models / face.DETECTOR, tmp_path / face.RECOGNISER)
    with pytest.raises(InputError, match="scrfd_10g_bnkps.onnx: InsightFace finds another network in it than"):
        face.load_face_analyser(tmp_path)


def test_a_detector_without_landmarks_is_refused(models, tmp_path):
    import onnx

    shutil.copy(models / face.RECOGNISER, tmp_path)
    model = onnx.load(models / face.DETECTOR)
    del model.graph.output[6:]
    onnx.save(model, tmp_path / face.DETECTOR)
    with pytest.raises(InputError, match="another network in it than a face detector"):
        face.load_face_analyser(tmp_path)


def test_a_provider_that_is_not_there_is_refused(models, monkeypatch):
    import onnxruntime

    with pytest.raises(InputError, match="'TPU': expected one of CPU, CUDA"):
        face.load_face_analyser(models, "TPU")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(InputError, match="provider CUDA: the installed onnxruntime offers CPU"):
        face.load_face_analyser(models, "CUDA")
