"""The pack, imported as a host does: from its folder, under a name that is none of Python's."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

PACK = "hallo3_pack"


def import_pack(folder: str | Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        PACK, Path(folder) / "__init__.py", submodule_search_locations=[str(folder)]
    )
    sys.modules[PACK] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
