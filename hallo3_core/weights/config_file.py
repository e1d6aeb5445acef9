"""Reads the `config.json` beside a model's weights as plain values and checks its sizes before anything is built."""

from __future__ import annotations

import json
from pathlib import Path

from ..errors import InputError

SIZE_LIMIT = 16 << 20  # bytes; a shard index of T5-XXL has 20 kB
LARGEST = 1 << 20  # of any size in a configuration; the largest real one is T5's vocabulary, 32128
MOST_LAYERS = 256
LAYERS = ("num_layers", "num_decoder_layers", "num_hidden_layers", "num_feat_extract_layers", "num_adapter_layers")


def read_json(path: Path, remedy: str) -> dict:
    """The object in a JSON file; `remedy` ends the message if there is none.

    Raises:
        InputError: missing, too large, damaged, or not an object.
    """
    try:
        if (size := path.stat().st_size) > SIZE_LIMIT:
            raise InputError(f"{path}: {size:,} bytes, more than any real one has. {remedy}")
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: missing. {remedy}") from error
    except RecursionError as error:
        raise InputError(f"{path}: nests too deep. {remedy}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). {remedy}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not text in UTF-8. {remedy}") from error
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{path}: is not JSON ({error}). {remedy}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, expected an object. {remedy}")
    return content


def read_config(path: Path, kind: str, remedy: str) -> dict:
    """A model's configuration, checked to be of `kind` and to have plausible sizes.

    Raises:
        InputError: as `read_json`, another kind of model, or a size so large that building the model would never end.
    """
    content = read_json(path, remedy)
    found = content.get("model_type")
    if found != kind:
        raise InputError(f"{path}: describes a {str(found)[:40]!r} model, expected {kind!r}. {remedy}")
    for name, value in content.items():
        for number in value if isinstance(value, list) else [value]:
            limit = MOST_LAYERS if name in LAYERS else LARGEST
            if isinstance(number, int | float) and not abs(number) <= limit:  # also true for NaN
                raise InputError(f"{path}: {name[:40]!a} is more than {limit:,}, which no such model has. {remedy}")
        if isinstance(value, list) and len(value) > MOST_LAYERS:
            raise InputError(f"{path}: {name[:40]!a} has {len(value):,} entries, which no such model has. {remedy}")
    return content
