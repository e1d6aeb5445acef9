"""The safetensors format: its header, checked in full before anything is mapped.

Layout: 8 bytes with the header's length, the header as JSON, then the values. Source: the format's description.
"""

from __future__ import annotations

import json
import math
from math import prod

import torch

from ..model.config import Shape
from .mapping import LARGEST_COUNT, MOST_DIMENSIONS, Slot, is_count

LENGTH_BYTES = 8
# The format allows 100 MB. The whole file's header has 0.4 MB; parsing a hostile one takes up to 30 times its size.
HEADER_LIMIT = 16 << 20
NAME_LIMIT = 512
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


# Parsing an integer takes time quadratic in its digits, and no valid value needs more digits than this.
LONGEST_NUMBER = 20
BOUNDED = dict(
    parse_int=lambda text: int(text) if len(text) <= LONGEST_NUMBER else -1,
    parse_float=lambda text: float(text) if len(text) <= LONGEST_NUMBER else math.nan,
)


def header_length(start: bytes, size: int) -> int:
    """The header's length, from the first 8 bytes of a file of `size` bytes.

    Raises:
        ValueError: longer than the file or than any real header.
    """
    length = int.from_bytes(start[:LENGTH_BYTES], "little")
    if length > HEADER_LIMIT:
        raise ValueError(f"its header claims {length:,} bytes, more than the {HEADER_LIMIT:,} that any real one needs")
    if length + LENGTH_BYTES > size:
        raise ValueError(f"cut short: its header claims {length:,} bytes, the file has {size:,}")
    return length


def parse_header(text: bytes, size: int) -> tuple[dict[str, Slot], dict[str, str]]:
    """Parses the JSON header of a file of `size` bytes into slots by tensor name, and the metadata. The tensors must
    cover every byte of the values exactly once.

    Raises:
        ValueError: the header is wrong; the message names the tensor.
    """
    try:
        content = json.loads(text.decode("utf-8"), object_pairs_hook=_without_repeats, **BOUNDED)
    except RecursionError as error:
        raise ValueError("its header nests too deep") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"its header is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError("its header is not a table of tensors")
    metadata = content.pop("__metadata__", {})
    if not (isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())):
        raise ValueError("its metadata is not a table of texts")
    values = LENGTH_BYTES + len(text)
    slots = {check_name(name): _slot(name, entry, values) for name, entry in content.items()}
    end = values
    for name, slot in sorted(slots.items(), key=lambda item: (item[1].start, item[1].stop)):
        if slot.start != end:
            fault = (
                "overlap those of another tensor" if slot.start < end else f"leave {slot.start - end:,} bytes unused"
            )
            raise ValueError(f"the offsets of {name} {fault}")
        end = slot.stop
    if end > size:
        raise ValueError(f"cut short: its tensors end at byte {end:,}, the file has {size:,}")
    if end < size:
        raise ValueError(f"its tensors end at byte {end:,}, yet the file has {size:,}")
    return slots, metadata


def check_name(name: str) -> str:
    """Checks that a tensor's name can be printed.

    Raises:
        ValueError: too long, or not printable.
    """
    if len(name) > NAME_LIMIT or not name.isprintable():
        raise ValueError(f"a tensor's name is not printable or too long ({name[:20]!a}...)")
    return name


def _slot(name: str, entry: object, values: int) -> Slot:
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise ValueError(f"{name} lacks dtype, shape or data_offsets")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or kind not in DTYPES:
        raise ValueError(f"{name} has dtype {str(kind)[:20]!a}, expected one of {', '.join(DTYPES)}")
    if not _are_counts(shape) or prod(count for count in shape if count) >= LARGEST_COUNT:
        raise ValueError(f"the shape of {name} is not a list of counts")
    if not (_are_counts(offsets) and len(offsets) == 2 and offsets[0] <= offsets[1]):
        raise ValueError(f"the offsets of {name} are not a start and an end")
    start, stop = offsets
    if prod(shape) * DTYPES[kind].itemsize != stop - start:
        raise ValueError(f"{name} has shape {shape_text(shape)} in {kind} but {_count(stop - start)} bytes")
    return Slot(tuple(shape), DTYPES[kind], values + start, values + stop)


def shape_text(shape: list[int] | Shape) -> str:
    """A shape as text for messages; implausibly large numbers are not written out."""
    return "[" + ", ".join(map(_count, shape[:8])) + (", ...]" if len(shape) > 8 else "]")


def _count(number: int) -> str:
    return f"{number:,}" if number < 1 << 63 else "2**63 or more"


def _are_counts(values: object) -> bool:
    return isinstance(values, list) and len(values) <= MOST_DIMENSIONS and all(map(is_count, values))


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    table = dict(pairs)
    if len(table) != len(pairs):
        seen: set[str] = set()
        repeated = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(f"its header names {repeated[:80]!a} twice")
    return table
