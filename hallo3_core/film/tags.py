"""Tags of an mp4 under names of one's own, beside those that every reader knows.

FFmpeg writes an mp4's tags in one of two forms: Apple's (title, comment, ...), which most programs read and which has
no room for other names, or a list of keys, in which those programs see nothing. Here the file has Apple's, and at its
end, where ISO 14496-12 allows such a box, a list of keys with all tags.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

from ..errors import InputError

_TEXT = 1  # the type of a value in UTF-8


def check_tags(tags: Mapping[str, str]) -> None:
    """Raises InputError for a tag that is no text in Unicode, as of a name or value in other bytes than UTF-8."""
    for name, text in tags.items():
        for value in (name, text):
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise InputError(
                    f"metadata {name!a}: {value[:80]!a} holds half of a character. Type it again, or save its file as "
                    "UTF-8."
                ) from error
            if "\0" in value:
                raise InputError(f"metadata {name!a}: a text ends where it holds a zero. Leave it out.")


def append_tags(path: Path, tags: Mapping[str, str]) -> None:
    """Add the list of keys to a whole mp4.

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
