"""Custom mp4 tags, in addition to the standard ones.

FFmpeg writes an mp4's tags in one of two forms: Apple's (title, comment, ...), which most programs read but which
allows no custom names, or a list of keys, which those programs ignore. Here the file has Apple's tags, plus a list of
keys with all tags at its end, where ISO 14496-12 allows such a box.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

from ..errors import InputError

_TEXT = 1  # type code of a UTF-8 value


def check_tags(tags: Mapping[str, str]) -> None:
    """Raises InputError for a name or value that is not valid Unicode (it came from non-UTF-8 bytes) or holds a NUL."""
    for name, text in tags.items():
        for value in (name, text):
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise InputError(
                    f"metadata {name!a}: {value[:80]!a} has a broken character. Type it again, or save its file as "
                    "UTF-8."
                ) from error
            if "\0" in value:
                raise InputError(f"metadata {name!a}: it has a NUL character, where the text would end. Leave it out.")


def append_tags(path: Path, tags: Mapping[str, str]) -> None:
    """Appends the list of keys to a complete mp4.

    Raises:
        OSError: the disk is full.
    """
    handler = _box(b"hdlr", bytes(8), b"mdta", bytes(13))
    keys = _box(b"keys", struct.pack(">II", 0, len(tags)), *(_box(b"mdta", name.encode()) for name in tags))
    values = (_box(b"data", struct.pack(">II", _TEXT, 0), text.encode()) for text in tags.values())
    listed = _box(b"ilst", *(_box(struct.pack(">I", number), value) for number, value in enumerate(values, start=1)))
    with open(path, "ab") as file:
        file.write(_box(b"meta", bytes(4), handler, keys, listed))


def _box(kind: bytes, *content: bytes) -> bytes:
    inside = b"".join(content)
    return struct.pack(">I4s", 8 + len(inside), kind) + inside
