"""Names files that are not read as recordings by their first bytes, and what turns them into one that is."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

# First bytes of sound and film formats that are not read here. FFmpeg converts them all.
_CONVERTIBLE = {
    b"\x7f\xfe\x80\x01": "DTS",
    b"\xfe\x7f\x01\x80": "DTS",
    b"\x1f\xff\xe8\x00": "DTS",
    b"\xff\x1f\x00\xe8": "DTS",
    b"DTSHDHDR": "DTS-HD",
    b"Creative Voice File": "Creative Voice (voc)",
    b"\x06\x0e\x2b\x34\x02\x05\x01\x01": "MXF",
    b".RMF": "RealMedia",
    b".ra\xfd": "RealAudio",
    b"MPCK": "Musepack",
    b"MP+": "Musepack",
    b"DSD ": "DSD (dsf)",
    b"FRM8": "DSD (dff)",
    b"tBaK": "TAK",
    b"ajkg": "Shorten",
    b"nut/multimedia container": "NUT",
    b"#!SILK": "SILK",
    b".SoX": "SoX",
    b"XoS.": "SoX",
    b"NIST_1A": "NIST Sphere",
    b"\x64\xa3": "IRCAM",
    b"\x72\xf8\x1f\x4e": "S/PDIF",
    b"\xf8\x72\x4e\x1f": "S/PDIF",
}
_NOTES = {b"MThd": "MIDI", b"IMPM": "tracker"}
_LATM = (b"\x56", 0xE0)  # MPEG-4 sound in LOAS frames: 11 bits of sync
HEAD = 64  # bytes
_WHOLE = 64 << 20  # bytes of a file's index that are searched
_SCHEMES = re.compile(rb"schm....(cenc|cens|cbc1|cbcs)", re.DOTALL)
FAIRPLAY, AUDIBLE = "drms", "aavd"  # codes of encrypted AAC in mp4 files
_NO_DECODER = "Decoder not found"  # FFmpeg's words
USUAL = "Use wav, mp3, flac, ogg or m4a."


def advice(file: Path, path: Path, reason: str) -> str:
    """What an unreadable file is and what to do. `path` is its name for the user, `reason` is FFmpeg's, which is said
    if nothing better is known."""
    with file.open("rb") as content:
        head = content.read(HEAD)
    for start, kind in _CONVERTIBLE.items():
        if head.startswith(start):
            return f"is {kind}, a kind of sound that is not read here. Convert it: {command(path)}"
    if head[:1] == _LATM[0] and len(head) > 1 and head[1] & _LATM[1] == _LATM[1]:
        return f"is AAC in LATM frames, a kind of sound that is not read here. Convert it: {command(path)}"
    for start, kind in _NOTES.items():
        if head.startswith(start):
            return f"is a {kind} file, which holds notes and no sound. Record it with the program that plays it."
    if (links := ogg_links(file)) > 1:
        return (
            f"is an ogg of {links} recordings of different kinds, joined end to end (chained). If only the "
            f"first of them is in the wav, convert each before joining. Convert it: {command(path)}"
        )
    boxes = dict(_boxes(file))
    if b"mdat" in boxes and b"moov" not in boxes:
        return (
            "is an mp4 or m4a without its index (moov), which is written last: the recording was not finished, or the "
            "copy was cut short. Copy it again, or let a program such as untrunc rebuild the index, and then "
            f"convert it: {command(path)}"
        )
    if reason == _NO_DECODER:
        return f"its sound is of a kind that this FFmpeg (PyAV's) cannot decode. Convert it: {command(path)}"
    return f"not readable as sound ({reason}). {USUAL}"


def command(path: Path, *options: str) -> str:
    """FFmpeg's command that converts a file to a wav beside it."""
    name = f"{path.stem}{'_converted' * (path.suffix == '.wav')}.wav"
    return shlex.join(["ffmpeg", *options, "-i", str(path), str(path.with_name(name))])


def protection(file: Path, path: Path, code: str, is_damaged: bool) -> str | None:
    """How the sound of an mp4 file is encrypted, and what to do; None if it is not.

    `code` is the mp4 code of the sound. Common encryption, which it does not tell, is looked for in a damaged file.
    """
    if code == FAIRPLAY:
        return "is encrypted by its shop (FairPlay), which only Apple's programs open. Use a copy without protection."
    if code == AUDIBLE:
        return f"is encrypted by Audible. Convert it: {command(path, '-activation_bytes', 'YOURS')}"
    boxes = dict(_boxes(file)) if is_damaged else {}
    if b"moov" not in boxes:
        return None
    start, size = boxes[b"moov"]
    with file.open("rb") as content:
        content.seek(start)
        is_encrypted = _SCHEMES.search(content.read(min(size, _WHOLE)))
    if not is_encrypted:
        return None
    words = command(path, "-decryption_key", "KEY")
    return f"is encrypted (common encryption), so its publisher's key in hex is needed. Convert it: {words}"


def ogg_links(file: Path) -> int:
    """Number of recordings that are joined in an ogg file: groups of pages that begin streams. 0: not an ogg."""
    with file.open("rb") as content:
        links, begins = 0, False
        while (header := content.read(27))[:4] == b"OggS" and len(header) == 27:
            links += bool(header[5] & 2) and not begins
            begins = bool(header[5] & 2)
            content.seek(sum(content.read(header[26])), 1)
    return links


def _boxes(file: Path) -> Iterator[tuple[bytes, tuple[int, int]]]:
    """Outermost boxes of an mp4 file: kind, and start and size of its content. Ends at what is no box."""
    end, start = file.stat().st_size, 0
    with file.open("rb") as content:
        while start + 8 <= end:
            content.seek(start)
            header = content.read(16)
            size, kind, length = int.from_bytes(header[:4], "big"), header[4:8], 8
            if size == 1:
                size, length = int.from_bytes(header[8:], "big"), 16
            if not kind.isalnum() or 0 < size < length:
                return
            yield kind, (start + length, (size or end - start) - length)
            start += size or end
