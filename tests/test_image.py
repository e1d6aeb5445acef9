"""Reading and framing pictures."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from hallo3_core.errors import InputError
from hallo3_core.inputs import image, mending

rng = np.random.default_rng(0)
PIXELS = rng.integers(0, 256, (20, 28, 3), dtype=np.uint8)
SIDES = st.integers(16, 400)
FILM = st.integers(1, 12).map(lambda n: 16 * n)


def unit(pixels):
    """``h w c`` bytes -> ``c h w`` in 0..1."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).float() / 255


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp"])
def test_lossless_pictures_are_read_as_they_are(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(PIXELS).save(path, lossless=True)
    found = image.read_image(path)
    assert found.dtype == torch.float32 and found.is_contiguous()
    assert torch.equal(found, unit(PIXELS))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright(tmp_path, orientation):
    """Pictures are read upright, in any camera orientation."""
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    seen = Image.fromarray(PIXELS)
    stored = seen.transpose(undo[orientation]) if orientation in undo else seen
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    assert torch.equal(image.read_image(tmp_path / "a.png"), unit(PIXELS))


def test_transparency_is_laid_over_black(tmp_path):
    alpha = rng.integers(0, 256, (20, 28), dtype=np.uint8)
    alpha[0] = 0
    Image.fromarray(np.dstack((PIXELS, alpha))).save(tmp_path / "rgba.png")
    found = image.read_image(tmp_path / "rgba.png")
    torch.testing.assert_close(found, unit(PIXELS) * torch.from_numpy(alpha) / 255)
    assert found[:, 0].max() == 0

    grey = np.dstack((PIXELS[..., 0], alpha))
    Image.fromarray(grey, "LA").save(tmp_path / "la.png")
    expected = (unit(grey[..., :1]) * torch.from_numpy(alpha) / 255).expand(3, -1, -1)
    torch.testing.assert_close(image.read_image(tmp_path / "la.png"), expected)


def test_palettes_are_looked_up(tmp_path):
    indices = rng.integers(0, 3, (20, 28), dtype=np.uint8)
    colours = np.array([[255, 0, 0], [10, 200, 30], [0, 0, 255]], dtype=np.uint8)
    picture = Image.fromarray(indices, "P")
    picture.putpalette(colours.tobytes())
    picture.save(tmp_path / "p.png")
    assert torch.equal(image.read_image(tmp_path / "p.png"), unit(colours[indices]))
    picture.save(tmp_path / "clear.png", transparency=1)
    assert torch.equal(image.read_image(tmp_path / "clear.png"), unit(colours[indices] * (indices != 1)[..., None]))


def test_grey_is_scaled_whatever_its_depth(tmp_path):
    deep = rng.integers(0, 65536, (20, 28)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    expected = torch.from_numpy(deep.astype(np.float32) / 65535).expand(3, -1, -1)
    torch.testing.assert_close(image.read_image(tmp_path / "deep.png"), expected)
    Image.fromarray(deep).save(tmp_path / "deep.tiff")
    torch.testing.assert_close(image.read_image(tmp_path / "deep.tiff"), expected)
    bits = PIXELS[..., 0] > 127
    Image.fromarray(bits).save(tmp_path / "bits.png")
    assert torch.equal(image.read_image(tmp_path / "bits.png"), torch.from_numpy(bits).float().expand(3, -1, -1))


def test_cmyk_keeps_its_colours(tmp_path):
    flat = Image.new("RGB", (24, 24), (200, 60, 120))
    flat.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    found = image.read_image(tmp_path / "cmyk.jpg")
    expected = torch.tensor((200, 60, 120)).view(3, 1, 1) / 255
    assert (found - expected).abs().max() < 3 / 255


def test_a_moving_picture_gives_its_first_frame(tmp_path):
    first, second = Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)
    first.save(tmp_path / "moving.webp", save_all=True, append_images=[second], lossless=True)
    assert torch.equal(image.read_image(tmp_path / "moving.webp"), unit(PIXELS))


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_a_cut_file_is_never_read_wrongly(tmp_path, suffix):
    """A truncated picture is rejected, unless the missing bytes affect no pixel."""
    whole, path = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
    Image.fromarray(PIXELS).save(whole)
    content, refused = whole.read_bytes(), 0
    for length in range(0, len(content), max(1, len(content) // 40)):
        path.write_bytes(content[:length])
        try:
            assert torch.equal(image.read_image(path), image.read_image(whole))
        except InputError as error:
            assert path.name in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > 30


def test_an_image_bomb_is_not_opened(tmp_path):
    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    for side in (9_000, 10_000, 60_000):  # beyond our limit, Pillow's warning and Pillow's error
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b""))
        with pytest.raises(InputError, match="bomb.png: absurdly large"):
            image.read_image(tmp_path / "bomb.png")


@pytest.mark.parametrize("size", [(15, 40), (40, 15), (200, 16)])
def test_an_unusable_picture_is_refused(tmp_path, size):
    Image.new("RGB", size).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=f"{size[0]}x{size[1]} is too"):
        image.read_image(tmp_path / "a.png")


def test_a_file_that_is_not_a_picture_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such picture"):
        image.read_image(tmp_path / "missing.png")
    with pytest.raises(InputError, match="no such picture"):
        image.read_image(tmp_path)
    (tmp_path / "song.png").write_bytes(b"RIFF of a song, not of a picture" * 9)
    with pytest.raises(InputError, match="song.png: not a picture"):
        image.read_image(tmp_path / "song.png")
    (tmp_path / "program.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n")
    with pytest.raises(InputError, match="not a picture"):  # a format that Pillow opens with another program
        image.read_image(tmp_path / "program.eps")
    Image.fromarray(rng.random((20, 20), dtype=np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(InputError, match="no agreed white"):
        image.read_image(tmp_path / "float.tiff")


@given(SIDES, SIDES, FILM, FILM, st.sampled_from(image.MODES))
def test_a_plan_fills_the_frame_or_fits_into_it(rows, columns, height, width, mode):
    if max(rows, columns) > image.MAX_ASPECT * min(rows, columns):
        with pytest.raises(InputError):
            image.plan_framing(rows, columns, height, width, mode)
        return
    plan = image.plan_framing(rows, columns, height, width, mode)
    top, left, kept_rows, kept_columns = plan.keep
    assert height in (plan.scaled[0],) or width in (plan.scaled[1],)  # one side decides
    assert 0 <= top <= top + kept_rows <= height and 0 <= left <= left + kept_columns <= width
    assert kept_rows % 2 == kept_columns % 2 == 0
    scales = plan.scaled[0] / rows, plan.scaled[1] / columns
    slack = 1 / min(rows, columns)  # rounding moves a side by at most 1 pixel
    if mode == "crop" or (mode == "auto" and rows != columns):
        assert plan.scaled[0] >= height and plan.scaled[1] >= width
        assert plan.keep == (0, 0, height, width)
        assert abs(scales[0] - scales[1]) < slack
    else:
        assert plan.scaled == (kept_rows, kept_columns)
        assert 0 <= height - kept_rows - 2 * top <= 1 and 0 <= width - kept_columns - 2 * left <= 1  # floor half first
        assert abs(scales[0] - scales[1]) <= slack or 2 in plan.scaled


@settings(max_examples=40)
@given(st.integers(16, 60), st.integers(16, 60), st.integers(1, 4), st.integers(1, 4), st.sampled_from(image.MODES))
def test_one_colour_stays_one_colour_inside_and_black_outside(rows, columns, height, width, mode):
    plan = image.plan_framing(rows, columns, 16 * height, 16 * width, mode)
    colour = torch.tensor((0.2, 0.5, 0.9)).view(1, 3, 1, 1)
    frame = image.frame_pixels(colour.expand(1, 3, rows, columns), plan)
    assert frame.shape == (1, 3, 16 * height, 16 * width)
    kept = image.crop_to(frame, plan)
    assert kept.shape[-2:] == plan.keep[2:]
    torch.testing.assert_close(kept, colour.expand_as(kept))
    torch.testing.assert_close(frame.sum((-1, -2)), kept.sum((-1, -2)))  # nothing but black is cut off


@pytest.mark.parametrize(("rows", "columns"), [(40, 40), (90, 60), (30, 64)])
def test_framing_is_the_same_in_a_mirror(rows, columns):
    portrait = torch.rand(2, 3, rows, columns)
    plan = image.plan_framing(rows, columns, 48, 64)
    found = image.frame_pixels(portrait.flip(-1), plan)
    torch.testing.assert_close(found, image.frame_pixels(portrait, plan).flip(-1))


def test_a_portrait_of_the_right_size_is_untouched():
    portrait = torch.rand(1, 3, 48, 64)
    assert torch.equal(image.frame_pixels(portrait, image.plan_framing(48, 64, 48, 64)), portrait)
    square = torch.rand(1, 3, 48, 48)
    plan = image.plan_framing(48, 48, 48, 64)
    assert torch.equal(image.crop_to(image.frame_pixels(square, plan), plan), square)


def test_cropping_keeps_the_overshoot_and_padding_clamps():
    edge = (torch.arange(30) > 14).float().expand(1, 3, 20, 30)
    assert image.frame_pixels(edge, image.plan_framing(20, 30, 64, 96, "crop")).max() > 1.01
    padded = image.frame_pixels(edge, image.plan_framing(20, 30, 64, 96, "pad"))
    assert padded.min() >= 0 and padded.max() <= 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_framing_keeps_the_dtype(dtype):
    portrait, plan = torch.rand(1, 3, 30, 40), image.plan_framing(30, 40, 16, 32)
    found = image.frame_pixels(portrait.to(dtype), plan)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), image.frame_pixels(portrait, plan), atol=0.01, rtol=0.01)


@given(st.integers(-5, 1000).filter(lambda side: side < 16 or side % 16))
def test_a_bad_frame_size_is_answered_with_a_good_one(side):
    with pytest.raises(InputError, match=rf"width {side}: .* Nearest: \d+") as caught:
        image.plan_framing(64, 64, 48, side)
    nearest = int(str(caught.value).rstrip(".").split()[-1])
    assert image.plan_framing(64, 64, 48, nearest).size == (48, nearest)
    assert abs(nearest - side) <= 8 or nearest == 16


def test_what_does_not_fit_the_plan_is_refused():
    plan = image.plan_framing(40, 30, 48, 64)
    with pytest.raises(InputError, match="framing 'stretch'"):
        image.plan_framing(40, 30, 48, 64, "stretch")
    with pytest.raises(ValueError, match="expected a float image"):
        image.frame_pixels(torch.rand(1, 3, 30, 40), plan)
    with pytest.raises(ValueError, match="expected a float image"):
        image.frame_pixels(torch.zeros(1, 3, 40, 30, dtype=torch.uint8), plan)
    with pytest.raises(ValueError, match="expected frames of"):
        image.crop_to(torch.rand(3, 40, 30), plan)


@given(st.floats(0, 1), st.integers(0, 2**31))
def test_dropped_pixels_are_the_same_in_all_frames(rate, seed):
    generator = torch.Generator().manual_seed(seed)
    frames = torch.rand(1, 3, 2, 6, 8, generator=generator) + 0.5
    uniform = torch.rand(6, 8, generator=generator)
    found = image.pixel_dropout(frames, uniform, rate)
    kept = found != 0
    assert torch.equal(kept, (uniform > rate).expand_as(kept))
    assert torch.equal(found[kept], frames[kept])


def test_dropout_wants_a_draw_of_the_frame_size():
    with pytest.raises(ValueError, match="expected a draw"):
        image.pixel_dropout(torch.rand(3, 6, 8), torch.rand(8, 6))


def test_bytes_are_truncated_and_channels_last():
    frames = torch.rand(2, 3, 5, 7)
    found = image.to_uint8(frames)
    assert torch.equal(found, torch.from_numpy((255 * frames.numpy()).astype(np.uint8).transpose(0, 2, 3, 1)))
    edges = torch.tensor([-1.0, 0.999, 1.0, 2.0]).view(1, 1, 1, 4)
    assert image.to_uint8(edges).flatten().tolist() == [0, 254, 255, 255]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_bytes_do_not_hide_what_is_not_finite(bad):
    frames = torch.zeros(1, 3, 4, 4)
    frames[0, 1, 2, 3] = bad
    with pytest.raises(InputError, match="NaN or infinity"):
        image.to_uint8(frames)


@pytest.mark.parametrize("kind", ["tiff", "jpeg", "png", "webp"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_a_picture_is_turned_once(tmp_path, kind, turn):
    """Pillow 10.0 rotated TIFFs itself but kept the orientation tag."""
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:24, :32] = 255  # the upper left quarter
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(pixels).save(tmp_path / f"a.{kind}", exif=exif)
    found = image.read_image(tmp_path / f"a.{kind}")
    corner = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}[turn]
    height, width = (48, 64) if turn < 5 else (64, 48)
    assert found.shape == (3, height, width)
    quarter = found.unflatten(1, (2, -1)).unflatten(3, (2, -1)).mean((0, 2, 4))
    assert quarter.argmax() == corner[0] * 2 + corner[1]


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_lacks_pixels_is_never_completed(tmp_path, progressive):
    """Cut anywhere, it is refused or equals the whole picture."""
    content = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(content, "JPEG", progressive=progressive)
    whole = np.array(Image.open(content).convert("RGB"))
    size, accepted = len(content.getvalue()), 0
    for length in [*range(size - 12, size), *range(700, size, 211)]:
        (tmp_path / "a.jpg").write_bytes(content.getvalue()[:length])
        try:
            found = image.read_image(tmp_path / "a.jpg")
        except InputError:
            continue
        accepted += 1
        assert torch.equal((255 * found).round(), torch.from_numpy(whole).permute(2, 0, 1).float())
    assert 2 <= accepted <= 6, "without its end marker, or a part of it"


def test_no_bytes_of_a_mended_picture_are_changed():
    """What is left of a PNG are its own chunks."""
    content = io.BytesIO()
    text = PngImagePlugin.PngInfo()
    text.add_text("title", "me")
    Image.new("RGB", (16, 16)).save(content, "PNG", pnginfo=text)
    (form,) = mending.mended(content.getvalue())
    assert b"title" not in form and len(form) < len(content.getvalue())
    parts = [form[8:33], form[33:-12], form[-12:]]  # size, pixels, end
    assert all(part in content.getvalue() for part in parts)
    assert mending.mended(b"BM" + bytes(99)) == []
