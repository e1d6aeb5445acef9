"""Arrays that torch saved: a tensor, or a numpy array, as the original's preparation leaves them. Nothing is run.

A numpy array is pickled as its type, its shape and its bytes; these are read out of the pickle's instructions.
"""

from __future__ import annotations

import pickletools  # nosec B403: it names instructions and runs none
import re
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..weights.torch_pickle import Stored, outline

LARGEST = 2**31  # bytes of a file
# Every word that the pickle of an array of floats has: whoever would run something needs another.
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
    """A tensor of any shape, or a numpy array of floats, which comes out flat.

    Raises:
        InputError: the file holds anything else.
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
            f"{path}: holds something else than an array of numbers. It was not run; save the array again."
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
    data = others[0].encode("latin-1") if others else max(values, key=len)  # protocol 2 writes bytes as text
    return torch.from_numpy(np.frombuffer(data, np.dtype(types[0].lstrip("|=<"))).copy())
