"""Real InsightFace networks on real photographs: close faces, and the mask against the original's from MediaPipe."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import insightface
import numpy as np
import pytest
import torch
from torch import Tensor

from hallo3_core.errors import InputError
from hallo3_core.inputs.face import CERTAIN, DETECTOR_SIZE, FaceAnalyser, choose_face, embed_face
from hallo3_core.inputs.face_landmarks import find_landmarks
from hallo3_core.inputs.face_mask import grow_box, reference_mask
from hallo3_core.inputs.image import read_image
from hallo3_core.train.encoders import faces_in

T1 = Path(insightface.__path__[0], "data", "images", "t1.jpg")
FACES = {"yaoming.jpg": 1, "players.jpg": 22, "t1.jpg": 6}
SAME_PERSON = 0.6  # cosine of two embeddings; other people's share 0.12 at most
TINY = 20  # pixels of a face's width
LOOKED_AT = 30  # pictures and videos of one's own


def picture(photographs: Path, name: str) -> Tensor:
    return read_image(T1 if name == T1.name else photographs / name)


def similarity(one: Tensor, other: Tensor) -> float:
    return torch.cosine_similarity(one, other, 0).item()


def overlap(one: Tensor, other: Tensor) -> float:
    """Intersection over union of two masks."""
    return ((one * other).sum() / torch.maximum(one, other).sum()).item()


def close_ups(analyser: FaceAnalyser, image: Tensor, ratio: float) -> Iterator[tuple[Tensor, Tensor]]:
    """The larger faces' crops of so many face boxes, and their embeddings, largest first."""
    height, width = image.shape[-2:]
    for found in analyser.analyse(image):
        if found.box[2] - found.box[0] < TINY:
            continue
        x0, y0, x1, y1 = grow_box(tuple(round(side) for side in found.box), width, height, ratio)
        yield image[:, max(0, y0) : y1, max(0, x0) : x1], found.embedding


@pytest.mark.parametrize("name", FACES)
def test_the_first_look_is_the_originals(photographs, analyser, name):
    """Where it finds a face, nothing but it counts: every face, with InsightFace's own box and certainty."""
    image = picture(photographs, name)
    faces = analyser.analyse(image)
    bgr = (image.flip(0) * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
    boxes, _ = analyser.detector.detect(bgr, input_size=(DETECTOR_SIZE, DETECTOR_SIZE))
    assert len(faces) == len(boxes) == FACES[name] and min(found.score for found in faces) >= CERTAIN
    assert {found.box for found in faces} == {tuple(map(float, box[:4])) for box in boxes}


@pytest.mark.parametrize("name", FACES)
def test_close_faces_are_found_and_known(photographs, analyser, name):
    """Crops of 1.2 face boxes: at 640 x 640 the detector finds nothing in nearly all of them."""
    first, likeness = [], []
    for crop, embedding in list(close_ups(analyser, picture(photographs, name), 1.2))[::4]:
        bgr = (crop.flip(0) * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
        first.append(len(analyser.detector.detect(bgr)[0]))
        likeness.append(similarity(choose_face(analyser.analyse(crop)).embedding, embedding))
    assert sum(first) <= len(first) / 4
    assert np.median(likeness) > SAME_PERSON


def test_training_finds_close_faces_too(photographs, analyser):
    (crop, embedding), *_ = close_ups(analyser, picture(photographs, "yaoming.jpg"), 1.2)
    found = faces_in((crop * 255).byte(), analyser)[0]
    assert similarity(found.embedding, embedding) > SAME_PERSON


def test_nothing_is_found_where_there_is_no_face(photographs, analyser):
    image = picture(photographs, "yaoming.jpg")
    for other in (image[:, :70], torch.rand(3, 300, 300), torch.zeros(3, 200, 300)):
        with pytest.raises(InputError, match="no face found"):
            embed_face(other, analyser)


def test_the_mask_shows_the_face_below_the_hair(photographs, analyser):
    image = picture(photographs, "yaoming.jpg")
    found, mask = embed_face(image, analyser)
    _, y0, _, y1 = found.box
    rows, _ = mask.nonzero().T
    assert found.oval[1] > y0 + 0.08 * (y1 - y0) and rows.min() >= y0 - 0.02 * (y1 - y0)
    x, y = found.landmarks.long().T
    assert mask[y, x].all()


@pytest.mark.parametrize("name", ["yaoming.jpg", "t1.jpg"])
def test_the_mask_is_nearly_the_originals(photographs, with_landmarks, name):
    image = picture(photographs, name)
    _, ours = embed_face(image, with_landmarks)
    found, theirs = embed_face(image, with_landmarks, mask_from="mediapipe")
    assert overlap(ours, theirs) > 0.85
    x, y = found.landmarks.long().T
    assert theirs[y, x].all()


def test_mediapipe_masks_the_chosen_face(photographs, with_landmarks):
    image = picture(photographs, "t1.jpg")
    for which in ("leftmost", "largest", "rightmost"):
        found, mask = embed_face(image, with_landmarks, which, mask_from="mediapipe")
        estimated = embed_face(image, with_landmarks, which)[1]
        assert found.count == 6 and overlap(mask, estimated) > 0.8


def test_mediapipe_finds_faces_in_the_distance_too(photographs, with_landmarks):
    """In the whole picture it finds none of the 22; in a crop around the largest one it does."""
    image = picture(photographs, "players.jpg")
    _, theirs = embed_face(image, with_landmarks, mask_from="mediapipe")
    assert overlap(theirs, embed_face(image, with_landmarks)[1]) > 0.8


def test_a_face_that_mediapipe_does_not_find_is_an_error(photographs, with_landmarks):
    image = picture(photographs, "yaoming.jpg")
    with pytest.raises(InputError, match="me.png: MediaPipe does not find the face .* set mask_from to detector"):
        find_landmarks(image, (0, 200, 40, 240), 1, with_landmarks.folder, "me.png")


def test_a_damaged_landmark_file_is_an_error(photographs, with_landmarks, tmp_path):
    (tmp_path / "face_landmarker.task").write_bytes(b"PK damaged")
    with pytest.raises(InputError, match=r"face_landmarker.task: MediaPipe cannot use it \(.*Download it again"):
        find_landmarks(picture(photographs, "yaoming.jpg"), (60, 40, 180, 200), 1, tmp_path)


def pictures_in(folder: Path) -> Iterator[Tensor]:
    """`LOOKED_AT` pictures and videos' first frames, evenly chosen."""
    kinds = (".jpg", ".jpeg", ".png", ".mp4")
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in kinds]
    for path in paths[:: max(1, len(paths) // LOOKED_AT)]:
        if path.suffix.lower() != ".mp4":
            yield read_image(path)
            continue
        with av.open(str(path)) as container:
            frame = next(container.decode(video=0))
        yield torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1) / 255


def test_masks_of_ones_own_footage_are_nearly_the_originals(footage, with_landmarks):
    shared, before = [], []
    for image in pictures_in(footage):
        try:
            found, theirs = embed_face(image, with_landmarks, mask_from="mediapipe")
        except InputError:  # animals
            continue
        shared.append(overlap(embed_face(image, with_landmarks)[1], theirs))
        before.append(overlap(reference_mask(*image.shape[-2:], box=found.box), theirs))
    assert np.median(shared) > 0.92 and np.median(shared) > np.median(before) + 0.05, (shared, before)
