"""Whole pictures in files that Pillow refuses, and browsers show: damage outside the picture itself.

PNG: metadata that is too large for Pillow's limit, or whose checksum is wrong. JPEG: the end marker is cut off. WebP:
metadata after the picture is cut off. The picture's own bytes are never changed, so a damaged picture stays refused.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

LARGEST = 512 << 20  # bytes of a file that is tried again
_PNG = b"\x89PNG\r\n\x1a\n"
_PICTURE = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")  # what a PNG's pixels depend on
_TURNED = b"eXIf"
_JPEG, _END = b"\xff\xd8\xff", b"\xff\xd9"
# Bytes in place of those that may be missing: they decode differently if pixels are missing.
_FILLINGS = tuple(pattern * 64 + _END for pattern in (b"\0", b"\x55\xaa", b"\xfe", b"\x93\x17\xc4\x6a", b"\x3c"))
_WEBP_PICTURE = (b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF")


def mended(content: bytes) -> list[bytes]:
    """The same picture without what may be damaged around it, in one or more forms; empty if nothing can be left out.

    All forms must decode, and to equal pixels: else the picture itself is damaged.
    """
    if content.startswith(_PNG):
        return [_PNG + b"".join(_png_chunks(content))]
    if content.startswith(_JPEG):
        data = content.rstrip(b"\xff")
        return [data + filling for filling in _FILLINGS] if _has_all_scans(data) else []
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return [_riff(list(_riff_chunks(content)))]
    return []


def decoded(content: bytes, decode: Any) -> Any:
    """What `decode` makes of a mended file (opened as bytes); None if the picture itself is damaged.

    decode: reads a picture from a binary stream to a tensor, and raises on damage.
    """
    pictures = [decode(io.BytesIO(form)) for form in mended(content)]
    same = pictures and all(picture.equal(pictures[0]) for picture in pictures)
    return pictures[0] if same else None


def _png_chunks(content: bytes) -> Iterator[bytes]:
    """The chunks of a PNG that matter, as they are. Others, and an orientation with a wrong checksum, are left out."""
    start = len(_PNG)
    while start + 8 <= len(content):
        size, kind = struct.unpack(">I4s", content[start : start + 8])
        chunk = content[start : start + size + 12]
        is_whole = len(chunk) == size + 12 and zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
        if kind in _PICTURE and (kind != b"tRNS" or is_whole) or (kind == _TURNED and is_whole):
            yield chunk
        start += size + 12
        if kind == b"IEND":
            return


def _has_all_scans(content: bytes) -> bool:
    """Whether a JPEG ends inside the last scan that it needs: each component's 64 coefficients were begun to the last
    bit. The scans of a progressive JPEG bring them in parts."""
    bits: dict[int, list[int | None]] = {}
    start = 2
    while (start := content.find(b"\xff", start)) >= 0 and start + 4 <= len(content):
        marker, size = content[start + 1], int.from_bytes(content[start + 2 : start + 4], "big")
        if marker == 0xFF:
            start += 1
            continue
        if marker == 0 or 0xD0 <= marker <= 0xD9:  # inside a scan's data
            start += 2
            continue
        body = content[start + 4 : start + 2 + size]
        if len(body) < size - 2:
            return False
        if 0xC0 <= marker <= 0xC2:
            bits = {body[6 + 3 * n]: [None] * 64 for n in range(body[5])}
        elif marker == 0xDA:
            first, last, approximation = body[-3:]
            for n in range(body[0]):
                bits[body[1 + 2 * n]][first : last + 1] = [approximation & 15] * (last + 1 - first)
        start += 2 + size
    return bool(bits) and all(bit == 0 for component in bits.values() for bit in component)


def _riff_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Whole chunks of a WebP that its pictures depend on: kind, and the chunk."""
    start = 12
    while start + 8 <= len(content):
        kind, size = struct.unpack("<4sI", content[start : start + 8])
        chunk = content[start : start + 8 + size + size % 2]
        if len(chunk) < 8 + size:
            return
        if kind in _WEBP_PICTURE:
            yield kind, chunk + bytes(8 + size + size % 2 - len(chunk))
        start += len(chunk)


def _riff(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """A WebP file of these chunks. Its header names no metadata any more, which was left out."""
    body = b"".join(
        chunk[:8] + bytes([chunk[8] & 0b00010010]) + chunk[9:] if kind == b"VP8X" else chunk for kind, chunk in chunks
    )
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body
