"""Reads arrays saved by torch, a tensor or a numpy array, as the original's preprocessing writes them. Runs no code.

A numpy array is pickled as its dtype, shape and bytes; these are parsed from the pickle's opcodes.
"""

from __future__ import annotations

import pickletools  # nosec B403: only lists opcodes, executes none
import re
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..weights.torch_pickle import Stored, outline

LARGEST = 2**31  # bytes of a file
# Every string in the pickle of a float array. A pickle that runs code needs others.
WORDS = {
    *(f"numpy.{core}.{module}" for core in ("core", "_core") for module in ("multiarray", "numeric")),
    *(
        "numpy",
        "ndarray",
        "dtype",
        "_reconstruct",
        "_frombuffer",
        "_codecs",
        "encode",
        "latin1",
        "b",
        "C",
        "<",
        "|",
        "=",
    ),
}
TYPE = re.compile(r"[<|=]?f[248]")


def read_array(path: Path) -> Tensor:
    """Returns a tensor of any shape; a numpy array of floats comes back flattened.

    Raises:
        InputError: the file contains anything else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            (name,) = (n for n in archive.namelist() if n.endswith("/data.pkl"))
            if sum(entry.file_size for entry in archive.infolist()) > LARGEST:
                raise ValueError("too large")
            pickled, prefix = archive.read(name), name.removesuffix("data.pkl") + "data/"
            sizes = {n.removeprefix(prefix): archive.getinfo(n).file_size for n in archive.namelist() if prefix in n}
            if not sizes:
                return _of_numpy(pickled)
            stored = outline(pickled, sizes)
            if not isinstance(stored, Stored):
                raise ValueError("no tensor")
            values = torch.frombuffer(bytearray(archive.read(prefix + stored.key)), dtype=stored.dtype)
            return values.as_strided(stored.shape, stored.stride, stored.offset).clone()
    except (ValueError, OSError, KeyError, IndexError, zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise InputError(
            f"{path}: is not a plain array of numbers (nothing in it was executed). Save the array again."
        ) from error


def _of_numpy(pickled: bytes) -> Tensor:
    texts, values = [], []
    for code, argument, _ in pickletools.genops(pickled):
        if code.name == "GLOBAL":
            texts += argument.split(" ")
        elif isinstance(argument, str):
            texts.append(argument)
        elif isinstance(argument, bytes | bytearray):
            values.append(bytes(argument))
    types = [text for text in texts if TYPE.fullmatch(text)]
    others = [text for text in texts if text not in WORDS and not TYPE.fullmatch(text)]
    if not types or len(others) + len([v for v in values if len(v) > 1]) != 1:
        raise ValueError("no array of floats")
    data = others[0].encode("latin-1") if others else max(values, key=len)  # protocol 2 stores bytes as text
    dtype = np.dtype(types[0].lstrip("|=<"))
    return torch.from_numpy(np.ndarray(len(data) // dtype.itemsize, dtype, data).copy())
