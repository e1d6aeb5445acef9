"""Reads the inputs and outputs of an ONNX file from its outermost fields. Reads no weights and needs no ONNX package.

Source: the ONNX format's description (a protocol buffer). Field 7 of the model is the graph; fields 11 and 12 of the
graph are its inputs and outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .mapping import Content, map_file

Sizes = tuple[int | None, ...]  # None: any size

GRAPH, INPUT, OUTPUT, INITIALISER = 7, 11, 12, 5
_FIXED = {1: 8, 5: 4}  # bytes of the wire types with a fixed length


class OnnxOutline(NamedTuple):
    """Sizes of each input and output, by name, without weights that are also listed as inputs."""

    inputs: dict[str, Sizes]
    outputs: dict[str, Sizes]


def read_onnx_outline(path: Path) -> OnnxOutline:
    """Reads the inputs and outputs of an ONNX file.

    Raises:
        ValueError: damaged, or not an ONNX file.
    """
    with path.open("rb") as file:
        content = map_file(file, 0, path.stat().st_size)
        graphs = [span for field, span in _fields(content, 0, len(content)) if field == GRAPH and span]
        if len(graphs) != 1:
            raise ValueError("an ONNX file without a graph")
        values: dict[int, dict[str, Sizes]] = {INPUT: {}, OUTPUT: {}}
        weights = set()
        for field, span in _fields(content, *graphs[0]):
            if field in values and span:
                name, sizes = _value(content, *span)
                values[field][name] = sizes
            elif field == INITIALISER and span:
                weights.add(_text(content, 8, *span))
        inputs = {name: sizes for name, sizes in values[INPUT].items() if name not in weights}
        return OnnxOutline(inputs, values[OUTPUT])


def _value(content: Content, start: int, stop: int) -> tuple[str, Sizes]:
    """Name and sizes of one input or output. The sizes are at fields type (2), tensor (1), shape (2), dimensions (1),
    size (1)."""
    sizes = []
    for tensor in _inside(content, [(start, stop)], 2, 1):
        for dimension in _inside(content, [tensor], 2, 1):
            values = [value for field, value in _numbers(content, *dimension) if field == 1]
            sizes.append(values[0] if values and values[0] > 0 else None)
    return _text(content, 1, start, stop), tuple(sizes)


def _inside(content: Content, spans: list[tuple[int, int]], *fields: int) -> list[tuple[int, int]]:
    for wanted in fields:
        spans = [span for outer in spans for field, span in _fields(content, *outer) if field == wanted and span]
    return spans


def _text(content: Content, wanted: int, start: int, stop: int) -> str:
    spans = _inside(content, [(start, stop)], wanted)
    return bytes(content[spans[0][0] : min(spans[0][1], spans[0][0] + 512)]).decode("utf-8", "replace") if spans else ""


def _fields(content: Content, start: int, stop: int) -> Iterator[tuple[int, tuple[int, int] | None]]:
    """Yields a message's fields, with the byte range of those that hold bytes."""
    for field, _, span in _walk(content, start, stop):
        yield field, span


def _numbers(content: Content, start: int, stop: int) -> Iterator[tuple[int, int]]:
    for field, number, span in _walk(content, start, stop):
        if span is None:
            yield field, number


def _walk(content: Content, start: int, stop: int) -> Iterator[tuple[int, int, tuple[int, int] | None]]:
    while start < stop:
        tag, start = _varint(content, start, stop)
        field, wire = tag >> 3, tag & 7
        if wire == 0:
            number, start = _varint(content, start, stop)
            yield field, number, None
            continue
        if wire == 2:
            length, start = _varint(content, start, stop)
        elif wire in _FIXED:
            length = _FIXED[wire]
        else:
            raise ValueError("a damaged ONNX file")
        if start + length > stop:
            raise ValueError(f"an ONNX file cut short: {start + length - stop:,} bytes are missing")
        yield field, 0, (start, start + length) if wire == 2 else None
        start += length


def _varint(content: Content, start: int, stop: int) -> tuple[int, int]:
    number = 0
    for i in range(10):
        if start + i >= stop:
            raise ValueError("an ONNX file cut short")
        byte = content[start + i]
        number |= (byte & 127) << 7 * i
        if byte < 128:
            return number, start + i + 1
    raise ValueError("a damaged ONNX file")
