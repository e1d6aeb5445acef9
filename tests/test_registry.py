"""The published archive holds only the files needed to run, without code that the registry's scanners reject."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pathspec
import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LARGEST = 3_000_000  # bytes of the archive beside the toy release
LARGEST_TOY = 12_000_000
TOY = "hallo3_core/toy/weights/"
LARGEST_UNREAD = 300_000  # of what only people read, pictures apart
READ = pathspec.GitIgnoreSpec.from_lines(  # by a running pack, or by ComfyUI for it
    [
        *("/__init__.py", "/hallo3_core/**/*.py", "/nodes/**/*.py", "/web/**/*.md", "/locales/**/*.json"),
        *("/workflows/*.json", "/subgraphs/*.json", "/assets/speech.flac", "/pyproject.toml", "/requirements.txt"),
        *(f"/{TOY}*.safetensors", f"/{TOY}*.onnx", f"/{TOY}spiece.model"),  # by `tiny`
        "/hallo3.py",
    ]
)
PICTURES = {".jpg", ".png", ".webp"}

FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "print", "input", "breakpoint", "globals"}
FORBIDDEN_MODULES = {
    *("subprocess", "pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "ctypes", "code", "runpy", "pty"),
    *("socket", "ssl", "http", "urllib", "ftplib", "smtplib", "requests", "aiohttp", "httpx", "websocket"),
    *("base64", "codecs", "pip", "ensurepip", "venv", "winreg"),
}
FORBIDDEN_OF_OS = {"system", "popen", "environb", "putenv", "unsetenv", "fork"}
CHANGES = {"setdefault", "update", "pop", "clear"}  # methods that change os.environ; reading it is allowed
FORBIDDEN_PREFIXES_OF_OS = ("exec", "spawn", "posix_spawn")
NETWORK = {"huggingface_hub": "hallo3_core/release/download.py"}  # used only by the user's `download` command
DYNAMIC = "hallo3_core/errors.py"  # `require` imports an optional package by the name that its caller wrote

HOST = {"torch", "numpy"}  # comes with ComfyUI, and naming it could replace a CUDA build
OPTIONAL = {
    "insightface",
    "onnxruntime",
    "cv2",
    "audio_separator",
    "onnx",
    "sageattention",
    "mediapipe",
}  # asked for where used
OPTIONAL |= {"accelerate", "peft", "pyyaml", "bitsandbytes", "torchao"}  # in training alone: the extra [train]
BROUGHT = {"tokenizers"}  # by transformers
COMFY = {"comfy", "comfy_api", "comfy_execution", "folder_paths", "latent_preview", "server"}
OWN = {"hallo3_core"}  # by the launcher, which names its own folder first
DISTRIBUTIONS = {"PIL": "Pillow", "yaml": "pyyaml"}  # where the module is not called as what is installed


def _lines(name: str) -> list[str]:
    return (ROOT / name).read_text(encoding="utf-8").splitlines()


IGNORED = pathspec.GitIgnoreSpec.from_lines([*_lines(".gitignore"), "/.git"])


def files(folder: Path = ROOT) -> list[str]:
    """The project's files, without those that git ignores."""
    found = []
    for entry in sorted(folder.iterdir()):
        name = entry.relative_to(ROOT).as_posix()
        if entry.is_dir() and not IGNORED.match_file(f"{name}/"):
            found += files(entry)
        elif entry.is_file() and not IGNORED.match_file(name):
            found.append(name)
    return found


def shipped() -> list[str]:
    """The files in the registry's archive."""
    left_out = pathspec.GitIgnoreSpec.from_lines(_lines(".comfyignore"))
    return [name for name in files() if not left_out.match_file(name)]


SHIPPED = shipped()
CODE = {name: ast.parse((ROOT / name).read_text(encoding="utf-8")) for name in SHIPPED if name.endswith(".py")}


def imported(tree: ast.AST) -> set[str]:
    """Top-level names of the packages that a file imports, also through `require`."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("require", "require_class"):
            found.add(_literal(node.args[0]).split(".")[0])
    return found


def _constants(tree: ast.Module) -> set[str]:
    """Names that a module assigns to a string literal exactly once."""
    found = set()
    for node in tree.body:
        if isinstance(node, ast.Assign):
            names, values = (getattr(part, "elts", [part]) for part in (node.targets[0], node.value))
            found |= {ast.unparse(name) for name, value in zip(names, values, strict=False) if _literal(value)}
    return found


def _literal(node: ast.expr) -> str:
    return node.value if isinstance(node, ast.Constant) else ""


def test_what_runs_is_published_and_what_builds_is_not():
    for name in ("__init__.py", "requirements.txt", "pyproject.toml", "LICENSE", "README.md", "CHANGELOG.md"):
        assert name in SHIPPED
    for name in ("assets/portrait.jpg", "assets/speech.flac"):
        assert name in SHIPPED
    for folder in ("hallo3_core", "nodes", "web", "locales", "workflows", "subgraphs"):
        assert [name for name in files() if name.startswith(f"{folder}/")] == [
            name for name in SHIPPED if name.startswith(f"{folder}/")
        ], folder
    developers = (
        "tests/",
        "benchmarks/",
        "tools/",
        "examples/",
        ".ci/",
        "dev",
        "requirements-dev.txt",
        "assets/draw",
        "docs/pictures/",
    )
    assert not [name for name in SHIPPED if name.startswith(developers)]
    sizes = {name: (ROOT / name).stat().st_size for name in SHIPPED}
    assert sum(size for name, size in sizes.items() if not name.startswith(TOY)) < LARGEST
    assert sum(size for name, size in sizes.items() if name.startswith(TOY)) < LARGEST_TOY


def unread(names: list[str]) -> list[str]:
    """The files that the running pack does not read, without pictures."""
    return [name for name in names if not READ.match_file(name) and Path(name).suffix not in PICTURES]


def test_little_is_published_that_is_not_read():
    sizes = {name: (ROOT / name).stat().st_size for name in unread(SHIPPED)}
    assert sum(sizes.values()) < LARGEST_UNREAD, sizes
    assert not [name for name in SHIPPED if any(part.startswith(".") for part in Path(name).parts)]


def test_what_a_tool_left_behind_counts_as_unread():
    """Measurements, weights and archives count, whatever their name and folder."""
    strays = [".coverage", "coverage.xml", "hallo3_core/weights/model.safetensors", "nodes/dump.json", "dist/pack.zip"]
    assert unread(strays) == strays
    assert not unread(["hallo3_core/model/denoiser.py", "locales/en/main.json", "workflows/hallo3_long_video.json"])


def test_what_is_published_works_by_itself(tmp_path):
    """From the archive alone, the pack can be imported and the command line finds what it needs."""
    pack = tmp_path / "custom_nodes" / "hallo3"
    for name in SHIPPED:
        (pack / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, pack / name)
    code = f"""
import sys
sys.path.insert(0, r"{ROOT / "tests/nodes"}")
import fake_host, importing
fake_host.install(r"{tmp_path}")
pack = importing.import_pack(r"{pack}")
assert len(pack.NODE_CLASS_MAPPINGS) == {len(list((ROOT / "web/docs").glob("*.md")))}
"""
    for words in (["-c", code], ["-m", "hallo3_core", "samples", str(tmp_path)]):
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=pack)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "hallo3_speech.flac").is_file()


def test_nothing_is_installed_or_run_beside_the_pack():
    assert not {"install.py", "prestartup_script.py", "setup.py"} & set(SHIPPED)
    assert not [name for name in SHIPPED if Path(name).suffix in {".mjs", ".sh", ".bat", ".exe", ".so", ".dll"}]


def test_scripts_are_for_the_page_and_fetch_nothing():
    """ComfyUI's page loads every script below `web`. Ours add to it by its own call, and ask no server for anything."""
    scripts = [name for name in SHIPPED if Path(name).suffix == ".js"]
    assert all(name.startswith("web/") for name in scripts)
    for name in scripts:
        text = (ROOT / name).read_text(encoding="utf-8")
        assert set(re.findall(r"""from ["'](.*?)["']""", text)) == {"/scripts/app.js"}, name
        refused = r"\b(?:fetch\w*|XMLHttpRequest|WebSocket|eval|Function|import)\(|\.prototype\b"
        assert not re.findall(refused, text), name


@pytest.mark.parametrize("name", CODE)
def test_no_file_does_what_scanners_refuse(name):
    for node in ast.walk(CODE[name]):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in FORBIDDEN_CALLS, f"line {node.lineno}: {called}"
            if called in ("require", "require_class"):
                assert _literal(node.args[0]), f"line {node.lineno}: a module whose name is not written there"
            if called.endswith("import_module") and name != DYNAMIC:
                assert ast.unparse(node.args[0]) in _constants(CODE[name]), f"line {node.lineno}: an import of any name"
            assert called not in {f"os.environ.{change}" for change in CHANGES}, f"line {node.lineno}: {called}"
        for target in getattr(node, "targets", []):  # of an assignment or a del
            assert not ast.unparse(target).startswith("os.environ"), f"line {node.lineno}: os.environ is changed"
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "os":
            refused = node.attr in FORBIDDEN_OF_OS or node.attr.startswith(FORBIDDEN_PREFIXES_OF_OS)
            assert not refused, f"line {node.lineno}: os.{node.attr}"
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "torch" and node.attr == "load":
            raise AssertionError(f"line {node.lineno}: torch.load")
    found = imported(CODE[name])
    assert not found & FORBIDDEN_MODULES
    for module, place in NETWORK.items():
        assert module not in found or name == place


@pytest.mark.parametrize("name", CODE)
def test_every_file_can_be_read_by_a_person(name):
    lines = _lines(name)
    assert max(map(len, lines), default=0) <= 200
    assert not any(re.search(r"(\\x[0-9a-f]{2}){16}|[A-Za-z0-9+/]{100}", line) for line in lines)


def test_only_the_users_own_command_downloads():
    callers = [name for name, tree in CODE.items() if "download" in _modules(tree)]
    assert callers == ["hallo3_core/cli/main.py"]


def _modules(tree: ast.AST) -> set[str]:
    """Last names of the project's own modules that a file imports from."""
    imports = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level)
    return {part for node in imports for part in ((node.module or "").split(".")[-1], *(n.name for n in node.names))}


def requirements(name: str) -> list[str]:
    lines = (line.partition("#")[0].strip() for line in _lines(name))
    return [line for line in lines if line]


def test_the_two_lists_of_dependencies_are_one():
    assert PROJECT["project"]["dependencies"] == requirements("requirements.txt")


def test_dependencies_are_loose_and_leave_the_hosts_alone():
    for line in requirements("requirements.txt"):
        assert re.fullmatch(r"[\w-]+>=[\d.]+", line), line
    declared = {re.split(r"\W", line.lower())[0] for line in requirements("requirements.txt")}
    harmful = {"torch", "torchvision", "torchaudio", "numpy", "onnxruntime", "insightface", "opencv"}
    assert not declared & harmful


def test_what_is_imported_is_declared_and_what_is_declared_is_imported():
    used = set().union(*(imported(tree) for tree in CODE.values())) - set(sys.stdlib_module_names) - COMFY - OWN
    used = {DISTRIBUTIONS.get(module, module) for module in used}
    declared = {re.split(r"[<>=]", line)[0] for line in requirements("requirements.txt")}
    assert used - HOST - OPTIONAL - BROUGHT == declared


def test_the_registry_finds_what_it_asks_for():
    project, comfy = PROJECT["project"], PROJECT["tool"]["comfy"]
    assert project["name"] == "hallo3"  # for ever
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert (ROOT / project["license"]["file"]).is_file()
    assert {"Repository", "Documentation", "Bug Tracker"} <= project["urls"].keys()
    assert comfy.keys() >= {"PublisherId", "DisplayName", "Icon", "Banner", "requires-comfyui"}
    assert comfy["requires-comfyui"] == ">=0.8.0"
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_an_installed_package_has_the_core_and_the_files_that_it_reads():
    setuptools = PROJECT["tool"]["setuptools"]
    assert setuptools["packages"]["find"]["include"] == ["hallo3_core*"]
    for folder in {path.parent for path in (ROOT / "hallo3_core").rglob("*.py")}:
        assert (folder / "__init__.py").exists(), f"{folder}: is left out of the package"
    kept = {
        path
        for package, patterns in setuptools["package-data"].items()
        for pattern in patterns
        for path in ROOT.joinpath(*package.split(".")).glob(pattern)
    }
    others = {
        path for path in (ROOT / "hallo3_core").rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert others == kept


def test_a_publisher_fills_in_all_or_nothing():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert bool(PROJECT["tool"]["comfy"]["PublisherId"]) == ("/OWNER/" not in text)


def test_icon_and_banner_have_the_shapes_that_the_registry_shows():
    images = pytest.importorskip("PIL.Image")
    for key, shape in (("Icon", 1), ("Banner", 21 / 9)):
        path = ROOT / "assets" / PROJECT["tool"]["comfy"][key].rpartition("/")[2]
        with images.open(path) as picture:
            assert abs(picture.width / picture.height - shape) < 0.01
            assert key != "Icon" or picture.width <= 400
        assert path.stat().st_size < 200_000
