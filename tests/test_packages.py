"""A missing package is answered in one line with the command that installs it, and all that is missing beside it."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest
import torch

from hallo3_core import errors
from hallo3_core.cli.main import main
from hallo3_core.errors import REQUIRED, InputError, missing_package, naming_missing_packages, require, require_class
from hallo3_core.runtime.without_storage import without_storage

ROOT = Path(__file__).parents[1]
HOME = Path("hallo3_core/runtime/without_storage.py")


def test_the_packages_that_messages_know_are_those_of_requirements():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert sorted(REQUIRED.values()) == sorted(re.match(r"[\w-]+", line)[0] for line in lines if line[0] != "#")


@pytest.mark.parametrize("module", REQUIRED)
def test_any_of_them_is_told_by_the_name_that_pip_knows(monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=f"{REQUIRED[module]} is not installed. Run .* {REQUIRED[module]}, and"):
        with naming_missing_packages():
            __import__(module)


def test_what_is_missing_beside_it_is_told_too(monkeypatch):
    for module in ("av", "tqdm", "PIL"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match="reading sound needs the package av. Run .* install av Pillow tqdm, and"):
        require("av", "av", "reading sound")


def test_a_package_that_another_one_needs_is_told(monkeypatch, tmp_path):
    (tmp_path / "halfway.py").write_text("import tqdm_of_another_age")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="package tqdm_of_another_age is not installed"):
        require("halfway", "halfway", "this")


def test_a_package_that_does_not_load_is_told(monkeypatch, tmp_path):
    (tmp_path / "broken.py").write_text("raise ImportError('libGL.so.1: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"broken is installed but cannot be loaded \(libGL.so.1: cannot open\)"):
        require("broken", "broken", "this")
    with pytest.raises(InputError, match="torch is installed but cannot be loaded .* install --upgrade torch"):
        require_class("torch", "Tensr", "torch", "this")


def test_a_module_that_an_installed_package_lacks_is_no_missing_package():
    assert missing_package(ModuleNotFoundError("no", name="torch.of_tomorrow")) is None
    with pytest.raises(ModuleNotFoundError), naming_missing_packages():
        import hallo3_core.of_tomorrow  # noqa: F401


@pytest.mark.parametrize(
    ("module", "words"),
    [("huggingface_hub", ["download", "x", "--parts", "vae"]), ("tqdm", ["convert", "none", "x"])],
)
def test_a_command_ends_in_one_line(monkeypatch, capsys, module, words):
    monkeypatch.setitem(sys.modules, module, None)
    assert main(words) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(f"error: .*package {module}.* {errors.pip_command('install', module)}, and .*", last)


def contexts(tree: ast.AST) -> list[int]:
    """Lines on which a block runs on another device: `with torch.device(...)`."""
    blocks = [item for node in ast.walk(tree) if isinstance(node, ast.With) for item in node.items]
    return [item.context_expr.lineno for item in blocks if ast.unparse(item.context_expr).startswith("torch.device(")]


def test_one_place_enters_a_device_context():
    """So that no package is imported for the first time inside one, which torch before 2.9 cannot do."""
    assert contexts(ast.parse("with torch.device('meta'):\n    import transformers"))
    found = [path.relative_to(ROOT) for folder in ("hallo3_core", "nodes") for path in (ROOT / folder).rglob("*.py")]
    assert [path for path in found if contexts(ast.parse((ROOT / path).read_text(encoding="utf-8")))] == [HOME]


def test_a_network_without_storage_draws_nothing():
    torch.manual_seed(0)
    wanted = torch.rand(2)
    torch.manual_seed(0)
    assert without_storage(torch.nn.Linear, 3, 4).weight.is_meta
    assert torch.equal(torch.rand(2), wanted)
