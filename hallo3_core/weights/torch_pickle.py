"""What the pickle of a torch checkpoint says, read without running any of it.

A pickle is a program, and unpickling runs it. `outline` follows it as far as names, numbers and containers go, calls
nothing, and refuses the first name that is neither a tensor's nor on the list of inert ones. Source: the description
of the instructions in Python's `pickletools`.
"""

from __future__ import annotations

import pickletools  # nosec B403: it names instructions and runs none
from collections.abc import Mapping
from math import prod
from typing import NamedTuple

import torch

from ..model.config import Shape

STORAGES = {
    f"torch.{name}Storage": dtype
    for name, dtype in {
        "Double": torch.float64,
        "Float": torch.float32,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
    }.items()
}
UNTYPED = ("torch.storage.UntypedStorage", "torch.UntypedStorage")
DTYPES = {str(dtype): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}
TENSOR, TYPED_TENSOR = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3"
PARAMETER, ORDERED = "torch._utils._rebuild_parameter", "collections.OrderedDict"
# What training programs keep beside the tensors. None of it is made: a placeholder stands for it.
INERT = {
    "argparse.Namespace",
    "collections.defaultdict",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "pathlib._local.PosixPath",
    "numpy.ndarray",
    "numpy.dtype",
    "torch.Size",
    "torch.device",
    "_codecs.encode",
    *(f"builtins.{name}" for name in ("bytearray", "complex", "dict", "float", "int", "list", "set")),
    *(f"numpy.{c}.{name}" for c in ("core", "_core") for name in ("multiarray._reconstruct", "multiarray.scalar")),
    *(f"numpy.{c}.numeric._frombuffer" for c in ("core", "_core")),
}
INERT_PACKAGES = ("deepspeed.", "sat.", "omegaconf.", "numpy.dtypes.")
_TENSORS = {*STORAGES, *UNTYPED, *DTYPES, TENSOR, TYPED_TENSOR, PARAMETER, ORDERED}


class Stored(NamedTuple):
    """A tensor of the archive; offset and strides in elements of the record `key`."""

    shape: Shape
    dtype: torch.dtype
    key: str
    offset: int
    stride: Shape


class _Storage(NamedTuple):
    dtype: torch.dtype | None
    key: str
    size: int  # in elements; in bytes where the type is not told


class _Name(NamedTuple):
    name: str


_PLACEHOLDER = object()


def outline(pickled: bytes, sizes: Mapping[str, int]) -> object:
    """What a pickle holds: tensors as `Stored`, training state as placeholders. `sizes` are the records', in bytes.

    Raises:
        ValueError: damaged, or it names something that is neither a tensor's nor inert.
    """
    follower = _Follower(sizes)
    try:
        for instruction, argument, _ in pickletools.genops(pickled):
            follower.follow(instruction.name, argument)
    except (IndexError, KeyError) as error:
        raise ValueError("its pickle is damaged") from error
    return follower.result


class _Follower:
    """A pickle machine that calls nothing."""

    def __init__(self, sizes: Mapping[str, int]):
        self.sizes, self.result = sizes, None
        self.stack: list = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}

    def follow(self, instruction: str, argument: object) -> None:
        stack = self.stack
        match instruction:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                self.result = stack.pop()
            case "MARK":
                self.marks.append(len(stack))
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[instruction])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_SET":
                stack.append(_PLACEHOLDER)
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "LONG4" | "BINFLOAT":
                stack.append(argument)
            case "BINUNICODE" | "SHORT_BINUNICODE" | "SHORT_BINSTRING" | "BINBYTES" | "SHORT_BINBYTES":
                stack.append(argument)
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self.pop(int(instruction[-1]))))
            case "TUPLE":
                stack.append(tuple(self.pop_to_mark()))
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "APPEND" | "APPENDS" | "ADDITEMS":
                items = self.pop(1) if instruction == "APPEND" else self.pop_to_mark()
                if self.is_container(list):
                    stack[-1].extend(items)
            case "SETITEM" | "SETITEMS":
                items = self.pop(2) if instruction == "SETITEM" else self.pop_to_mark()
                if self.is_container(dict):
                    stack[-1].update(_pairs(items))
            case "BUILD":
                self.pop(1)
                self.is_container(dict)
            case "GLOBAL":
                stack.append(_named(*argument.split(" ", 1)))
            case "INST":
                raise ValueError(f"refused: its pickle calls {argument.replace(' ', '.')[:80]!a}")
            case "STACK_GLOBAL":
                stack.append(_named(*map(str, self.pop(2))))
            case "REDUCE" | "NEWOBJ":
                stack.append(_made(*self.pop(2)))
            case "BINPERSID":
                stack.append(self.storage(stack.pop()))
            case _:
                raise ValueError(f"refused: its pickle uses {instruction}, which torch.save does not write")

    def pop(self, count: int) -> list:
        if len(self.stack) < count:
            raise IndexError
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def pop_to_mark(self) -> list:
        start = self.marks.pop()
        if start > len(self.stack):
            raise IndexError
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def is_container(self, kind: type) -> bool:
        """Whether the topmost value is one of `kind`; a placeholder swallows what is put into it."""
        if self.stack[-1] is not _PLACEHOLDER and not isinstance(self.stack[-1], kind):
            raise ValueError("damaged: its pickle fills something that is no container")
        return self.stack[-1] is not _PLACEHOLDER

    def storage(self, told: object) -> _Storage:
        match told:
            case ("storage", _Name(name), str(key), str(), int(size)) if name in STORAGES or name in UNTYPED:
                dtype = STORAGES.get(name)
                needed, there = size * (dtype.itemsize if dtype else 1), self.sizes.get(key, -1)
                if not 0 <= needed <= there:
                    raise ValueError(f"damaged: its record {key[:20]!a} has {max(there, 0):,} bytes of {needed:,}")
                return _Storage(dtype, key, size)
        raise ValueError("refused: its pickle refers to something that is no record of the archive")


def _named(module: str, name: str) -> _Name:
    """The name of a class or function, if it is a tensor's or inert."""
    full = f"{module}.{name}".replace("__builtin__.long", "builtins.int").replace("__builtin__.", "builtins.")
    if full not in _TENSORS and full not in INERT and not full.startswith(INERT_PACKAGES):
        raise ValueError(f"refused: its pickle asks for {full[:80]!a}, which is no tensor and could run code")
    return _Name(full)


def _made(callee: object, arguments: object) -> object:
    """What torch, were it to call `callee`, would make: a tensor, a table, or something that does not matter here."""
    if not isinstance(callee, _Name) or not isinstance(arguments, tuple):
        raise ValueError("damaged: its pickle calls something that has no name")
    match callee.name, arguments:
        case name, _ if name in INERT or name.startswith(INERT_PACKAGES):
            return _PLACEHOLDER
        case name, (storage, offset, shape, stride, *_) if name == TENSOR:
            return _tensor(storage, offset, shape, stride, None)
        case name, (storage, offset, shape, stride, _, _, _Name(dtype), *_) if name == TYPED_TENSOR:
            return _tensor(storage, offset, shape, stride, DTYPES.get(dtype))
        case name, (Stored() as tensor, *_) if name == PARAMETER:
            return tensor
        case name, _ if name == ORDERED:
            return {}
    raise ValueError(f"refused: its pickle calls {callee.name} with arguments that torch.save does not write")


def _tensor(storage: object, offset: object, shape: object, stride: object, dtype: torch.dtype | None) -> Stored:
    """A tensor, whose elements must lie in the storage, each in a place of its own."""
    if not (isinstance(storage, _Storage) and all(map(_are_counts, ((offset,), shape, stride)))):
        raise ValueError("damaged: its pickle describes a tensor in a way that torch.save does not")
    dtype = storage.dtype or dtype
    if dtype is None or len(shape) != len(stride):
        raise ValueError("damaged: its pickle describes a tensor without a type, or with too few strides")
    room = storage.size if storage.dtype else storage.size // dtype.itemsize
    last = offset + sum((count - 1) * step for count, step in zip(shape, stride, strict=True))
    if prod(shape) > room or (prod(shape) and last >= room):
        raise ValueError(f"a tensor of {len(shape)} dimensions claims more elements than its record has ({room:,})")
    return Stored(shape, dtype, storage.key, offset, stride)


def _pairs(items: list) -> dict:
    if len(items) % 2:
        raise IndexError
    for key in items[::2]:
        if not isinstance(key, str | int | float | None):  # nested tuples can take for ever to hash
            raise ValueError("refused: its pickle has a key that is neither text nor number")
    return dict(zip(items[::2], items[1::2], strict=True))


def _are_counts(values: object) -> bool:
    return isinstance(values, tuple) and all(type(value) is int and value >= 0 for value in values)
