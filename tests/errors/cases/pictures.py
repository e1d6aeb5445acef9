"""Pictures of every kind, and files that are none. Most show no face: the whole picture serves."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, PngImagePlugin

from hallo3_core.inputs.image import read_image

from . import Case, Place, case
from .files import encoded, noise, picture, png, text

PIXELS = noise(20, 28)


def as_image(path: Path, expected: np.ndarray | None = None, within: float = 1e-6) -> Case:
    """A picture that is read as `expected`, ``h w 3`` in 0..255."""

    def treated() -> None:
        wanted = torch.from_numpy(np.ascontiguousarray(expected, dtype=np.float32) / 255).permute(2, 0, 1)
        torch.testing.assert_close(read_image(path), wanted, atol=within, rtol=0)

    return Case({"--image": path, "--face": "whole"}, treated=None if expected is None else treated)


def saved(place: Place, name: str, image: Image.Image, **options) -> Path:
    image.save(place.folder / name, **options)
    return place.folder / name


@case("picture: transparent")
def transparent(place):
    alpha = noise(20, 28, 1, seed=1)
    path = saved(place, "rgba.png", Image.fromarray(np.dstack((PIXELS, alpha))))
    return as_image(path, PIXELS * (alpha / 255.0))


@case("picture: grey")
def grey(place):
    return as_image(saved(place, "grey.png", Image.fromarray(PIXELS[..., 0])), PIXELS[..., :1].repeat(3, 2))


@case("picture: grey of 16 bits")
def deep_grey(place):
    deep = np.random.default_rng(2).integers(0, 65536, (20, 28)).astype(np.uint16)
    return as_image(saved(place, "deep.png", Image.fromarray(deep)), (deep / 257.0)[..., None].repeat(3, 2))


@case("picture: colours of 16 bits")
def deep_colours(place):
    deep = np.random.default_rng(3).integers(0, 65536, (20, 28, 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    return as_image(png(place.folder / "deep.png", 28, 20, 16, 2, rows), deep / 257.0, within=1.01 / 255)


@case("picture: black and white")
def bits(place):
    dark = PIXELS[..., 0] > 127
    return as_image(saved(place, "bits.png", Image.fromarray(dark)), 255.0 * dark[..., None].repeat(3, 2))


@case("picture: CMYK")
def cmyk(place):
    flat = Image.new("RGB", (24, 24), (200, 60, 120))
    path = saved(place, "cmyk.jpg", flat.convert("CMYK"), quality=100)
    return as_image(path, np.asarray(flat), within=3 / 255)


@case("picture: palette, one colour transparent")
def palette(place):
    colours = np.array([[255, 0, 0], [10, 200, 30], [0, 0, 255]], dtype=np.uint8)
    indices = np.random.default_rng(4).integers(0, 3, (20, 28), dtype=np.uint8)
    image = Image.fromarray(indices, "P")
    image.putpalette(colours.tobytes())
    return as_image(saved(place, "p.gif", image, transparency=1), colours[indices] * (indices != 1)[..., None])


@case("picture: turned by EXIF")
def turned(place):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side
    stored = Image.fromarray(PIXELS).transpose(Image.Transpose.ROTATE_90)
    return as_image(saved(place, "turned.png", stored, exif=exif), PIXELS)


@case("picture: moving GIF")
def moving_gif(place):
    frames = [Image.new("RGB", (24, 20), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    path = saved(place, "moving.gif", frames[0], save_all=True, append_images=frames[1:])
    return as_image(path, np.asarray(frames[0]))


@case("picture: moving WebP")
def moving_webp(place):
    frames = [Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)]
    path = saved(place, "moving.webp", frames[0], save_all=True, append_images=frames[1:], lossless=True)
    return as_image(path, PIXELS)


@case("picture: TIFF of two pages")
def pages(place):
    frames = [Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)]
    return as_image(saved(place, "pages.tiff", frames[0], save_all=True, append_images=frames[1:]), PIXELS)


@case("picture: with a colour profile")
def profile(place):
    wide = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    return as_image(saved(place, "profile.png", Image.fromarray(PIXELS), icc_profile=wide), PIXELS)


def held(kind: str, *more: Image.Image, **options) -> bytes:
    """PIXELS in a file."""
    content = io.BytesIO()
    options |= {"save_all": True, "append_images": more} if more else {}
    Image.fromarray(PIXELS).save(content, kind, **options)
    return content.getvalue()


def as_bytes(place: Place, content: bytes, name: str = "a.png", whole: bytes | None = None) -> Case:
    """A picture file; it is read as PIXELS, or if given as `whole` is read."""
    (place.folder / name).write_bytes(content)
    expected = PIXELS if whole is None else np.asarray(Image.open(io.BytesIO(whole)).convert("RGB"))
    return as_image(place.folder / name, expected)


@case("picture: PNG with 3 MB of compressed text")
def long_text(place):
    """As ComfyUI's own pictures may have, with a large workflow. Pillow reads 1 MB of it."""
    text = PngImagePlugin.PngInfo()
    text.add_itxt("workflow", "x" * 3_000_000, zip=True)
    return as_bytes(place, held("PNG", pnginfo=text))


@case("picture: PNG with 3 MB of colour profile")
def long_profile(place):
    return as_bytes(place, held("PNG", icc_profile=bytes(3_000_000)))


@case("picture: PNG whose text has a wrong checksum")
def wrong_text(place):
    text = PngImagePlugin.PngInfo()
    text.add_text("title", "me")
    return as_bytes(place, held("PNG", pnginfo=text).replace(b"title\0me", b"title\0ME"))


@case("picture: PNG without its end")
def endless_png(place):
    return as_bytes(place, held("PNG")[:-12])


@case("picture: PNG with a wrong checksum in its size")
def wrong_size(place):
    content = bytearray(held("PNG"))
    content[29] ^= 1
    (place.folder / "a.png").write_bytes(content)
    return as_image(place.folder / "a.png")


@case("picture: JPEG without its last two bytes")
def endless_jpeg(place):
    whole = held("JPEG")
    return as_bytes(place, whole[:-2], "a.jpg", whole)


@case("picture: progressive JPEG without its last two bytes")
def endless_progressive(place):
    whole = held("JPEG", progressive=True)
    return as_bytes(place, whole[:-2], "a.jpg", whole)


@case("picture: JPEG without its last 30 bytes")
def short_jpeg(place):
    (place.folder / "a.jpg").write_bytes(held("JPEG")[:-30])
    return as_image(place.folder / "a.jpg")


@case("picture: JPEG with damaged EXIF data")
def wrong_exif(place):
    whole = held("JPEG")
    return as_bytes(place, held("JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(30)), "a.jpg", whole)


@case("picture: JPEG with 3 MB of colour profile")
def large_profile(place):
    return as_bytes(place, held("JPEG", icc_profile=bytes(3_000_000)), "a.jpg", held("JPEG"))


@case("picture: of a camera with two lenses (MPO), the second cut off")
def two_lenses(place):
    whole = held("MPO", Image.fromarray(255 - PIXELS))
    return as_bytes(place, whole[:-100], "a.jpg", whole)


@case("picture: WebP whose metadata is cut off")
def short_webp(place):
    exif = Image.Exif()
    exif[0x010E] = "a description " * 20
    return as_bytes(place, held("WEBP", lossless=True, exif=exif)[:-100], "a.webp")


@case("picture: moving GIF, cut off in its second picture")
def short_gif(place):
    content = held("GIF", Image.fromarray(255 - PIXELS))
    return as_bytes(place, content[:-200], "a.gif", content)


@case("picture: moving PNG, cut off in its second picture")
def short_apng(place):
    return as_bytes(place, held("PNG", Image.fromarray(255 - PIXELS))[:-300])


@case("picture: GIF with other bytes after its end")
def trailing(place):
    return as_bytes(place, held("GIF") + b"more" * 99, "a.gif", held("GIF"))


@case("picture: PNG named .jpg")
def misnamed(place):
    return as_image(saved(place, "really.jpg", Image.fromarray(PIXELS), format="PNG"), PIXELS)


@case("picture: 1 x 1 pixel")
def one_pixel(place):
    return as_image(picture(place.folder / "dot.png", (1, 1)))


@case("picture: 12000 x 12000 pixels")
def huge(place):
    return as_image(saved(place, "huge.png", Image.new("1", (12_000, 12_000))))


@case("picture: 12000 x 100 pixels")
def ribbon(place):
    return as_image(picture(place.folder / "ribbon.png", (12_000, 100)))


@case("picture: declares 60000 x 60000")
def bomb(place):
    return as_image(png(place.folder / "bomb.png", 60_000, 60_000, 8, 2, b""))


@case("picture: cut short")
def cut(place):
    path = saved(place, "cut.jpg", Image.fromarray(noise(200, 200)))
    path.write_bytes(path.read_bytes()[:9000])
    return as_image(path)


@case("picture: SVG named .png")
def svg(place):
    drawing = '<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"><circle r="20"/></svg>'
    return as_image(text(place.folder / "drawing.png", drawing))


@case("picture: HEIC")
def heic(place):
    (place.folder / "photo.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200))
    return as_image(place.folder / "photo.jpg")


@case("picture: EPS")
def eps(place):
    return as_image(text(place.folder / "a.png", "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n"))


@case("picture: text named .jpg")
def letter(place):
    return as_image(text(place.folder / "letter.jpg"))


@case("picture: video")
def film(place):
    return as_image(encoded(place.folder / "film.mkv", "aac", pictures=True))


@case("picture: floating point")
def floats(place):
    return as_image(saved(place, "float.tiff", Image.fromarray(np.random.default_rng(5).random((20, 20), dtype="f4"))))


@case("picture: grey of 32 bits")
def deepest(place):
    return as_image(saved(place, "i.tiff", Image.fromarray(np.full((20, 20), 1 << 20, dtype=np.int32))))


@case("picture: empty file")
def empty(place):
    (place.folder / "empty.png").touch()
    return as_image(place.folder / "empty.png")


@case("picture: folder")
def folder(place):
    return as_image(place.folder)


@case("picture: not there")
def missing(place):
    return as_image(place.folder / "none.png")


@case("picture: name of 300 letters")
def long_name(place):
    return as_image(place.folder / ("x" * 300 + ".png"))
