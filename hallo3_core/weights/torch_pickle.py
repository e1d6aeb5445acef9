"""Reads the pickle of a torch checkpoint without running any of it.

A pickle is a program, and unpickling runs it. `outline` interprets only names, numbers and containers, and calls
nothing: objects that other names would create become placeholders. A name that could run programs is still rejected,
since no honest file has one. Source: the description of the opcodes in Python's `pickletools`.
"""

from __future__ import annotations

import pickletools  # nosec B403: it lists opcodes and runs none
from collections.abc import Mapping
from math import prod
from typing import NamedTuple

import torch

from ..model.config import Shape
from .mapping import LARGEST_COUNT, MOST_DIMENSIONS, is_count

MOST_NOTES = 20
LONGEST_NAME = 512  # of a class or function, including its module
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
# Objects that training programs store besides the tensors. None is created: each becomes a placeholder.
INERT = {
    "argparse.Namespace",
    "collections.defaultdict",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "pathlib._local.PosixPath",
    "numpy.ndarray",
    "numpy.dtype",
    "torch.Size",
    "torch.serialization._get_layout",
    "torch.device",
    "_codecs.encode",
    *(f"builtins.{name}" for name in ("bytearray", "complex", "dict", "float", "int", "list", "set")),
    *(f"numpy.{c}.{name}" for c in ("core", "_core") for name in ("multiarray._reconstruct", "multiarray.scalar")),
    *(f"numpy.{c}.numeric._frombuffer" for c in ("core", "_core")),
}
INERT_PACKAGES = ("deepspeed.", "sat.", "omegaconf.", "numpy.dtypes.")
PARAMETER_WITH_STATE, OF_A_TYPE = "torch._utils._rebuild_parameter_with_state", "torch._tensor._rebuild_from_type_v2"
_TENSORS = {*STORAGES, *UNTYPED, *DTYPES, TENSOR, TYPED_TENSOR, PARAMETER, ORDERED, PARAMETER_WITH_STATE, OF_A_TYPE}
# Modules that can run programs, open files or reach the network. Builtins that are not plain types are rejected too.
_RUNNING = frozenset(
    "os posix nt sys subprocess pty ctypes socket shutil runpy importlib imp code codeop pickle _pickle marshal io _io "
    "codecs webbrowser multiprocessing asyncio http urllib requests ftplib smtplib telnetlib tempfile signal threading "
    "pdb bdb timeit cProfile profile trace doctest pip pkgutil zipimport pydoc inspect builtin commands popen2 "
    "torch.hub torch.jit torch.utils.cpp_extension torch.serialization torch.storage numpy.testing pandas.io".split()
)
_PLAIN = frozenset("slice frozenset tuple range xrange str bytes bool object type NotImplemented Ellipsis".split())


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
    size: int  # in elements; in bytes if the type is unknown


class _Name(NamedTuple):
    name: str


class Foreign(dict):
    """Placeholder for an object that another program's name would create; it keeps items set on it like a dict."""

    def __init__(self, name: str):
        super().__init__()
        self.name = name


_PLACEHOLDER = object()


def outline(pickled: bytes, sizes: Mapping[str, int], notes: list[str] | None = None) -> object:
    """The content of a pickle: tensors as `Stored`, training state as placeholders.

    `sizes` are the records' sizes in bytes; `notes` collects what was skipped, without duplicates.

    Raises:
        ValueError: damaged, or it names something that could run programs.
    """
    notes = [] if notes is None else notes
    follower = _Follower(sizes, notes)
    try:
        for instruction, argument, _ in pickletools.genops(pickled):
            follower.follow(instruction.name, argument)
    except (IndexError, KeyError) as error:
        raise ValueError("its pickle is damaged") from error
    return follower.result


class _Follower:
    """A pickle interpreter that calls nothing."""

    def __init__(self, sizes: Mapping[str, int], notes: list[str]):
        self.sizes, self.notes, self.result = sizes, notes, None
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
            case "EMPTY_SET" | "BYTEARRAY8":
                stack.append(_PLACEHOLDER)
            case "FROZENSET":
                self.pop_to_mark()
                stack.append(_PLACEHOLDER)
            case "POP":
                self.pop(1)
            case "POP_MARK":
                self.pop_to_mark()
            case "BININT" | "BININT1" | "BININT2" | "BINFLOAT":
                stack.append(argument)
            case "LONG1" | "LONG4":  # huge integers are slow to multiply or look up
                stack.append(argument if abs(argument) < LARGEST_COUNT else _PLACEHOLDER)
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8" | "SHORT_BINSTRING":
                stack.append(argument)
            case "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8":
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
                    stack[-1].update(self.pairs(items))
            case "BUILD":
                self.pop(1)
                self.is_container(dict)
            case "GLOBAL":
                stack.append(self.named(*argument.split(" ", 1)))
            case "INST":
                raise ValueError(f"refused: its pickle calls {argument.replace(' ', '.')[:80]!a}")
            case "STACK_GLOBAL":
                stack.append(self.named(*self.pop(2)))
            case "REDUCE" | "NEWOBJ":
                stack.append(_made(*self.pop(2)))
            case "NEWOBJ_EX":
                stack.append(_made(*self.pop(3)[:2]))
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
        """Whether the top value is of type `kind`. False for placeholders, so items added to them are dropped."""
        top = self.stack[-1]
        if isinstance(top, kind):
            return True
        if top is not _PLACEHOLDER and not isinstance(top, Foreign):
            raise ValueError("damaged: its pickle fills something that is not a container")
        return False

    def named(self, module: object, name: object) -> _Name:
        """The name of a class or function.

        Raises:
            ValueError: a name that could run programs, or not a name.
        """
        if not (isinstance(module, str) and isinstance(name, str)) or len(module) + len(name) > LONGEST_NAME:
            raise ValueError("damaged: its pickle asks for something that is not a name")
        full = f"{module}.{name}".replace("__builtin__.long", "builtins.int").replace("__builtin__.", "builtins.")
        if full not in _TENSORS and full not in INERT and not full.startswith(INERT_PACKAGES):
            if _runs(full):
                raise ValueError(
                    f"refused: its pickle asks for {full[:80]!a}, which is not a tensor and could run code"
                )
            self.note(f"asks for {full[:80]!a}, which is not a tensor")
        return _Name(full)

    def pairs(self, items: list) -> dict:
        """Keys and values as a dict. Skips keys that are neither text nor number, because nested tuples can take
        forever to hash."""
        if len(items) % 2:
            raise IndexError
        keys = items[::2]
        plain = [isinstance(key, str | int | float | None) for key in keys]
        if not all(plain):
            self.note("has a key that is neither text nor number")
        return {key: value for key, value, is_plain in zip(keys, items[1::2], plain, strict=True) if is_plain}

    def note(self, text: str) -> None:
        if text not in self.notes and len(self.notes) < MOST_NOTES:
            self.notes.append(text)

    def storage(self, reference: object) -> _Storage:
        match reference:
            case ("storage", _Name(name), str(key), str(), size) if is_count(size) and name in {*STORAGES, *UNTYPED}:
                dtype = STORAGES.get(name)
                needed, there = size * (dtype.itemsize if dtype else 1), self.sizes.get(key, -1)
                if not 0 <= needed <= there:
                    raise ValueError(f"damaged: its record {key[:20]!a} has {max(there, 0):,} bytes of {needed:,}")
                return _Storage(dtype, key, size)
        raise ValueError("refused: its pickle refers to something that is not a record of the archive")


def _runs(full: str) -> bool:
    """Whether a name is in a module that can run programs, or is a builtin that may."""
    parts = full.split(".")
    if parts[0] == "builtins":
        return len(parts) != 2 or (parts[1] not in _PLAIN and not parts[1].endswith(("Error", "Exception", "Warning")))
    return any(".".join(parts[:length]) in _RUNNING for length in range(1, len(parts)))


def _made(callee: object, arguments: object) -> object:
    """What torch would create by calling `callee`: a tensor, a table, or something irrelevant here."""
    if callee is _PLACEHOLDER or isinstance(callee, Foreign):
        return _PLACEHOLDER
    if not isinstance(callee, _Name) or not isinstance(arguments, tuple):
        raise ValueError("damaged: its pickle calls something that has no name")
    match callee.name, arguments:
        case name, _ if name in INERT or name.startswith(INERT_PACKAGES):
            return _PLACEHOLDER
        case name, (storage, offset, shape, stride, *_) if name == TENSOR:
            return _tensor(storage, offset, shape, stride, None)
        case name, (storage, offset, shape, stride, _, _, _Name(dtype), *_) if name == TYPED_TENSOR:
            return _tensor(storage, offset, shape, stride, DTYPES.get(dtype))
        case name, (Stored() as tensor, *_) if name in (PARAMETER, PARAMETER_WITH_STATE):
            return tensor
        case name, (_Name(maker), _, tuple() as inner, *_) if name == OF_A_TYPE and maker != OF_A_TYPE:
            return _made(_Name(maker), inner)
        case name, _ if name not in _TENSORS:
            return Foreign(name)
        case name, _ if name == ORDERED:
            return {}
    raise ValueError(f"refused: its pickle calls {callee.name} with arguments that torch.save does not write")


def _tensor(storage: object, offset: object, shape: object, stride: object, dtype: torch.dtype | None) -> Stored:
    """Describes a tensor, after checking that its elements lie in the storage and do not outnumber the storage's."""
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


def _are_counts(values: object) -> bool:
    return isinstance(values, tuple) and len(values) <= MOST_DIMENSIONS and all(map(is_count, values))
