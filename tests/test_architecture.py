"""The core's packages form layers, nodes import the core, only one package imports the host, and a class name means
one class."""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
# A package may import itself and the packages listed after it.
ORDER = (
    *("nodes", "cli", "animate", "parallel", "train", "evaluate", "data", "pipeline", "toy", "release", "film"),
    *("inputs", "vae", "weights", "runtime", "sampling", "model", "errors", "clips"),
)
HOST = {"comfy", "comfy_api", "comfy_extras", "comfy_execution", "folder_paths", "server", "execution"}
HOST_HOME = Path("nodes/host")


class Import(NamedTuple):
    """An import in a source file; `module` is a full name such as "hallo3_core.model.config" or "comfy.samplers"."""

    file: Path
    line: int
    module: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"


def imports_of(root: Path) -> Iterator[Import]:
    """Every import in hallo3_core and nodes, at any level of a file. Relative imports get their full names."""
    for folder in ("hallo3_core", "nodes"):
        for path in sorted((root / folder).rglob("*.py")):
            file = path.relative_to(root)
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                for module in _modules(node, file.parts[:-1]):
                    yield Import(file, node.lineno, module)


def _modules(node: ast.AST, package: tuple[str, ...]) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    start = list(package[: len(package) - node.level + 1]) if node.level else []
    start += node.module.split(".") if node.module else []
    if len(start) > 1 or node.level == 0:
        return [".".join(start)]
    return [".".join([*start, alias.name]) for alias in node.names]  # from . import model: the names are the packages


def room_of(module: str) -> str:
    """The package in ORDER that a module belongs to, or "" for modules outside this project."""
    first, *others = module.removesuffix(".py").split(".")
    if first == "nodes":
        return "nodes"
    return others[0] if first == "hallo3_core" and others and not others[0].startswith("__") else ""


def room_of_file(file: Path) -> str:
    return room_of(".".join(file.parts).removesuffix(".py"))


def upward(root: Path) -> list[str]:
    """Imports that point up in ORDER or out of the core."""
    found = []
    for each in imports_of(root):
        own, other = room_of_file(each.file), room_of(each.module)
        if not own or not other:
            continue
        assert own in ORDER and other in ORDER, f"{each}: add the package to ORDER"
        if ORDER.index(other) < ORDER.index(own):
            found.append(str(each))
    return found


def circles(root: Path) -> list[list[str]]:
    """Packages that import each other, directly or indirectly."""
    reach: dict[str, set[str]] = {}
    for each in imports_of(root):
        own, other = room_of_file(each.file), room_of(each.module)
        if own and other and own != other:
            reach.setdefault(own, set()).add(other)
    for _ in ORDER:
        for seen in reach.values():
            seen |= set().union(*(reach.get(each, set()) for each in seen))
    return [
        sorted({own, *(other for other in seen if own in reach.get(other, ()))})
        for own, seen in reach.items()
        if own in seen
    ]


def host_imports(root: Path) -> list[str]:
    """Imports of ComfyUI outside the package that may import it."""
    return [
        str(each)
        for each in imports_of(root)
        if each.module.split(".")[0] in HOST and not each.file.is_relative_to(HOST_HOME)
    ]


def repeated_classes(root: Path) -> dict[str, list[str]]:
    """Names that several modules give a class, with their files. Classes inside functions or classes do not count."""
    homes: dict[str, list[str]] = {}
    for folder in ("hallo3_core", "nodes"):
        for path in sorted((root / folder).rglob("*.py")):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef):
                    homes.setdefault(node.name, []).append(path.relative_to(root).as_posix())
    return {name: files for name, files in homes.items() if len(files) > 1}


def test_imports_point_down():
    assert not upward(ROOT)


def test_no_packages_import_each_other():
    assert not circles(ROOT)


def test_the_host_is_known_in_one_place():
    assert not host_imports(ROOT)
    assert any(each.module.startswith("comfy") for each in imports_of(ROOT))  # the check finds imports at all


def test_what_is_tested_and_what_is_measured_share_tools_alone():
    """Benchmarks come and go. Only their own tests import them, and nothing that is published imports tools."""
    testing = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests").rglob("*.py")
        if re.search(r"^\s*(from|import) benchmarks\b", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert testing == {"tests/test_benchmarks.py", "tests/test_gpu_check.py"}
    assert not [each for each in imports_of(ROOT) if each.module.split(".")[0] in ("benchmarks", "tests", "tools")]


def test_a_class_name_means_one_class():
    assert repeated_classes(ROOT) == {}


def test_every_package_is_in_the_order():
    core = ROOT / "hallo3_core"
    names = {path.stem for path in core.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert names - {"__init__", "__main__"} <= set(ORDER)


@pytest.fixture
def copy(tmp_path):
    """A copy of the source tree that a test may modify."""
    for folder in ("hallo3_core", "nodes"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("hallo3_core/model/config.py", "from ..weights import names"),
        ("hallo3_core/sampling/noise.py", "from hallo3_core.pipeline.options import Settings"),
        ("hallo3_core/vae/latents.py", "def late():\n    import hallo3_core.release.layout"),
        ("hallo3_core/errors.py", "from . import model"),
        ("hallo3_core/film/color.py", "from ...nodes import types"),
    ],
)
def test_an_import_that_is_planted_upward_is_found(copy, file, line):
    path = copy / file
    path.write_text(path.read_text(encoding="utf-8") + f"\n{line}\n", encoding="utf-8")
    assert len(upward(copy)) == 1 and upward(copy)[0].startswith(file)
    if "errors" not in file:
        assert circles(copy)


def test_a_host_import_that_is_planted_is_found(copy):
    for file in ("hallo3_core/animate.py", "nodes/film.py"):
        path = copy / file
        path.write_text(path.read_text(encoding="utf-8") + "\nimport comfy.samplers\n", encoding="utf-8")
    assert len(host_imports(copy)) == 2


def test_a_class_name_that_is_planted_twice_is_found(copy):
    path = copy / "nodes" / "types.py"
    path.write_text(path.read_text(encoding="utf-8") + "\n\nclass Timeline:\n    pass\n", encoding="utf-8")
    assert repeated_classes(copy) == {"Timeline": ["hallo3_core/clips.py", "nodes/types.py"]}
