"""The pack calls nothing that could run code from a data file, and its own files are private."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from hallo3_core.film.work_folder import WorkFolder

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for folder in ("hallo3_core", "nodes") for path in (ROOT / folder).rglob("*.py"))
BUILTINS = {"eval", "exec", "compile", "__import__", "breakpoint", "input"}
# Dotted names of functions that execute code or pass data to a program that might execute it.
CALLS = (
    *("pickle.", "_pickle.", "cloudpickle.", "dill.", "joblib.", "marshal.", "shelve.", "yaml.", "runpy.", "code."),
    *("torch.load", "torch.jit.", "torch.hub.", "torch.serialization.", "torch.package."),
    *("numpy.load", "numpy.fromfile", "numpy.frombuffer", "pandas.read_pickle"),
    *("subprocess.", "os.system", "os.popen", "os.exec", "os.spawn", "os.startfile", "pty.", "ctypes."),
    *("xml.", "lxml.", "urllib.", "requests.", "http.", "socket.", "ftplib.", "tempfile.mktemp"),
    *("importlib.util.spec_from_file_location", "importlib.machinery."),
)
ALLOWED = ("yaml.safe_load", "yaml.safe_dump")  # builds plain values only
KEYWORDS = {("trust_remote_code", True), ("allow_pickle", True), ("weights_only", False), ("shell", True)}


def imported(tree: ast.Module) -> dict[str, str]:
    """Local name -> dotted name of the import."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                package = alias.name.split(".")[0]
                names[alias.asname or package] = alias.name if alias.asname else package
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def faults(source: str) -> list[str]:
    """Calls in a source file to functions in the lists above."""
    tree = ast.parse(source)
    names, found = imported(tree), []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        start, dot, rest = called.partition(".")
        full = names.get(start, start) + dot + rest
        if called in BUILTINS or (full.startswith(CALLS) and full not in ALLOWED):
            found.append(f"{node.lineno}: {full}")
        for keyword in node.keywords:
            if isinstance(keyword.value, ast.Constant) and (keyword.arg, keyword.value.value) in KEYWORDS:
                found.append(f"{node.lineno}: {keyword.arg}={keyword.value.value}")
        # `require` imports by name, so the same names are allowed as for imports
        if full.endswith(("require", "require_class")) and isinstance(node.args[0], ast.Constant):
            name = node.args[0].value  # of yaml, only the safe functions are called, as checked above
            found += [f"{node.lineno}: {name}"] if name != "yaml" and f"{name}.".startswith(CALLS) else []
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_runs_what_a_file_says(path):
    assert not faults(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "source",
    [
        "eval(text)",
        "import pickle\npickle.loads(content)",
        "from pickle import loads as read\nread(content)",
        "import torch as t\nt.load(path)",
        "import numpy as np\nnp.load(path)",
        "import os\nos.system(text)",
        "from yaml import load\nload(text)",
        "model.from_pretrained(path, trust_remote_code=True)",
        'require("pickle", "pickle", "reading")',
    ],
)
def test_the_search_finds_what_it_looks_for(source):
    assert faults(source)
    assert not faults("import re, torch\nre.compile(text)\nmodule.eval()\ntorch.compile(module)\nlogging.warning(text)")


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are POSIX's")
def test_work_in_progress_is_its_owners(tmp_path):
    with WorkFolder(tmp_path / "work", "film.mp4") as work:
        assert work.path.stat().st_mode & 0o777 == 0o700
        assert all(path.stat().st_mode & 0o077 == 0 for path in work.path.iterdir())
