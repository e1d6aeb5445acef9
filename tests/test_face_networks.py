"""SCRFD and ArcFace as InsightFace runs them: the same boxes, landmarks, crops and embeddings from the same files."""

from __future__ import annotations

import contextlib
import io
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hallo3_core import face_networks
from hallo3_core.errors import InputError
from hallo3_core.face import RECOGNISER, load_face_analyser
from hallo3_core.face_networks import STRIDES, TEMPLATE, align, fit, grid_points, without_doubles
from hallo3_core.image import read_image

WIDTHS = (1, 4, 10)  # of scores, boxes and landmarks


def busy_detector(path, order=range(9), batched=False):
    """SCRFD's form with random convolutions, so that all of its grids fire here and there; 640 x 640 only."""
    import onnx
    from onnx import helper, numpy_helper

    draw = np.random.default_rng(0)
    nodes, constants, outputs = [], [], []
    for width in WIDTHS:
        for stride in STRIDES:
            name, rows = f"{width}_{stride}", 2 * (640 // stride) ** 2
            weight = draw.normal(0, 1 if width == 1 else 2, (2 * width, 3, 1, 1)).astype(np.float32)
            bias = np.full(2 * width, -1.8 if width == 1 else 3, np.float32)
            shape = np.array([1, rows, width] if batched else [rows, width])
            for suffix, values in (("w", weight), ("b", bias), ("s", shape)):
                constants.append(numpy_helper.from_array(values, name + suffix))
            nodes += [
                helper.make_node("AveragePool", ["x"], [name + "p"], kernel_shape=[stride] * 2, strides=[stride] * 2),
                helper.make_node("Conv", [name + "p", name + "w", name + "b"], [name + "c"]),
                helper.make_node("Transpose", [name + "c"], [name + "t"], perm=[0, 2, 3, 1]),
                helper.make_node("Reshape", [name + "t", name + "s"], [name + "r"]),
                helper.make_node("Sigmoid" if width == 1 else "Abs", [name + "r"], [name]),
            ]
            outputs.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape.tolist()))
    picture = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, 640, 640])
    graph = helper.make_graph(nodes, "busy", [picture], [outputs[i] for i in order], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(scope="module")
def runtime():
    return pytest.importorskip("onnxruntime")


def session(runtime, path):
    return runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def insightface(path):
    """InsightFace's own network of a file."""
    zoo = pytest.importorskip("insightface.model_zoo")
    with contextlib.redirect_stdout(io.StringIO()):
        network = zoo.get_model(str(path), providers=["CPUExecutionProvider"])
        network.prepare(0, **({"input_size": (640, 640), "det_thresh": 0.5} if network.taskname == "detection" else {}))
    return network


def bgr(picture):
    return picture.to(torch.uint8).flip(0).permute(1, 2, 0).contiguous().numpy()


def scenery(height, width, seed=4):
    """Smooth colours, ``3 h w`` of whole numbers 0..255."""
    coarse = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(seed))
    return (torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")[0] * 255).round()


@pytest.mark.parametrize("seed", range(3))
def test_faces_are_those_that_insightface_finds(runtime, tmp_path, seed):
    path = busy_detector(tmp_path / "busy.onnx")
    picture = scenery(640, 640, seed)  # at the network's own size, so that nobody scales it
    boxes, landmarks, scores = face_networks.Detector(session(runtime, path), path).detect(picture)
    expected, points = insightface(path).detect(bgr(picture))
    assert len(boxes) == len(expected) > 5
    assert torch.allclose(boxes, torch.tensor(expected[:, :4]), atol=1e-3)
    assert torch.allclose(landmarks, torch.tensor(points), atol=1e-3)
    assert torch.allclose(scores, torch.tensor(expected[:, 4]), atol=1e-5)


SCALED = {(480, 720): (426, 640), (900, 500): (640, 355), (123, 77): (640, 400), (1500, 2000): (480, 640)}


@pytest.mark.parametrize("size", SCALED)
def test_pictures_are_scaled_as_opencv_scales_them(size):
    cv2 = pytest.importorskip("cv2")
    picture, (rows, columns) = scenery(*size), SCALED[size]
    shown, scale = fit(picture)
    assert scale == rows / size[0]
    expected = torch.from_numpy(cv2.resize(bgr(picture), (columns, rows))[..., ::-1].copy()).permute(2, 0, 1)
    assert (shown[:, :rows, :columns] - expected).abs().max() <= 1  # where a half is rounded


def test_the_order_and_the_batch_of_the_outputs_do_not_matter(runtime, tmp_path):
    picture, found = scenery(480, 640), []
    for number, (order, batched) in enumerate(((range(9), False), (range(9), True), (range(8, -1, -1), False))):
        path = busy_detector(tmp_path / f"{number}.onnx", order, batched)
        found.append(face_networks.Detector(session(runtime, path), path).detect(picture))
    for other in found[1:]:
        assert all(torch.equal(first, second) for first, second in zip(found[0], other, strict=True))


def test_a_detector_without_landmarks_is_refused(runtime, tmp_path):
    path = busy_detector(tmp_path / "busy.onnx", range(6))
    with pytest.raises(ValueError, match="6 outputs"):
        face_networks.Detector(session(runtime, path), path)


def turned(degrees, scale, shift):
    """The template's points, turned, scaled and moved: a face that lies so in a picture."""
    points = torch.view_as_complex(torch.tensor(TEMPLATE))
    turn = torch.polar(torch.tensor(float(scale)), torch.deg2rad(torch.tensor(float(degrees))))
    return torch.view_as_real(points * turn + complex(*shift))


@pytest.mark.parametrize(
    "place", [(0, 1, (0, 0)), (20, 1.7, (90, 40)), (-35, 0.6, (150, 200)), (170, 2.5, (300, 320)), (5, 1, (-60, 420))]
)
def test_crops_are_those_of_insightface(place):
    face_align = pytest.importorskip("insightface.utils.face_align")
    picture = scenery(480, 400)
    landmarks = turned(*place) + torch.rand(5, 2, generator=torch.Generator().manual_seed(1)) * 4
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        expected = face_align.norm_crop(bgr(picture), landmarks.numpy())
    crop = align(picture, landmarks)
    difference = (crop - torch.from_numpy(expected[..., ::-1].copy()).permute(2, 0, 1)).abs()
    assert difference.mean() < 0.5  # of 255: OpenCV places pixels to 1/32
    inside = align(torch.full_like(picture, 255), landmarks) == 255
    assert difference[inside].max() <= 3


def test_a_face_that_lies_as_the_template_is_not_changed():
    picture = scenery(112, 112)
    assert torch.equal(align(picture, torch.tensor(TEMPLATE)), picture)


def test_embeddings_are_those_of_insightface(tiny_release, portrait):
    folder = tiny_release / "face_analysis" / "models"
    picture = read_image(portrait)
    (face,) = load_face_analyser(folder).analyse(picture)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        theirs = insightface(folder / RECOGNISER).get(
            bgr((picture * 255).round()), SimpleNamespace(kps=face.landmarks.numpy())
        )
    assert torch.allclose(face.embedding, torch.tensor(theirs), atol=2e-2, rtol=1e-3)  # of values of about 1
    assert torch.cosine_similarity(face.embedding, torch.tensor(theirs), dim=0) > 0.99999


@given(st.integers(1, 2000), st.integers(1, 2000))
def test_a_fitted_picture_lies_in_the_square(height, width):
    height, width = max(height, width // 8, 16), max(width, height // 8, 16)
    shown, scale = fit(torch.ones(1, height, width))
    rows, columns = (int(shown[0].amax(dim).sum()) for dim in (1, 0))
    assert shown.shape[1:] == (640, 640) and max(rows, columns) == 640
    assert shown[0, :rows, :columns].all()
    assert abs(rows - height * scale) < 1e-6 and abs(columns - width * scale) <= max(1, width / height)


def test_grid_points_cover_the_picture():
    for stride in STRIDES:
        points = grid_points(stride, 2 * (640 // stride) ** 2)
        assert torch.equal(points[0::2], points[1::2])  # both anchors of a point
        assert torch.equal(points[:4:2], torch.tensor([[0.0, 0.0], [stride, 0.0]]))  # along the row first
        assert points.max() == 640 - stride


boxes_of = st.lists(st.tuples(*[st.integers(0, 60)] * 2, *[st.integers(1, 40)] * 2, st.floats(0, 1)), max_size=12)


@given(boxes_of)
def test_no_kept_box_overlaps_a_kept_one_and_every_other_overlaps_a_surer_one(given_boxes):
    boxes = torch.tensor([[x, y, x + w, y + h] for x, y, w, h, _ in given_boxes], dtype=torch.float32).view(-1, 4)
    scores = torch.tensor([score for *_, score in given_boxes])
    kept = without_doubles(boxes, scores)

    def share(i, j):
        across = min(boxes[i, 2], boxes[j, 2]) - max(boxes[i, 0], boxes[j, 0]) + 1
        down = min(boxes[i, 3], boxes[j, 3]) - max(boxes[i, 1], boxes[j, 1]) + 1
        both = max(0, across) * max(0, down)
        areas = sum((boxes[k, 2] - boxes[k, 0] + 1) * (boxes[k, 3] - boxes[k, 1] + 1) for k in (i, j))
        return float(both / (areas - both))

    assert kept == sorted(kept, key=lambda i: -scores[i])
    assert all(share(i, j) <= 0.4 + 1e-6 for i in kept for j in kept if i != j)
    for i in set(range(len(boxes))) - set(kept):
        assert any(scores[j] >= scores[i] and share(i, j) >= 0.4 - 1e-6 for j in kept)


def test_a_damaged_file_is_told(tmp_path, tiny_release):
    folder = tiny_release / "face_analysis" / "models"
    for path in folder.glob("*.onnx"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    busy_detector(tmp_path / "scrfd_10g_bnkps.onnx", range(6))
    with pytest.raises(InputError, match="scrfd_10g_bnkps.onnx: not a readable ONNX model .6 outputs"):
        load_face_analyser(tmp_path)
