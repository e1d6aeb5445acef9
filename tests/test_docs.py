"""Everything that the documentation names exists: links, files, commands, options, nodes, inputs and workflows."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import pytest

from hallo3_core.cli.main import build_parser

ROOT = Path(__file__).parents[1]
WITH_OTHER_OPTIONS = {"CONTRIBUTING.md", "benchmarks/README.md", "benchmarks/LOG.md"}  # those of their own tools
BENCHMARKS = ROOT / "benchmarks"
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for folder, pattern in (
        (ROOT, "*.md"),
        (ROOT / "docs", "**/*.md"),
        (BENCHMARKS, "**/*.md"),
        (ROOT / "assets", "*.md"),
    )
    for path in folder.glob(pattern)
}
OTHERS_OPTIONS = {"--temp-directory", "--disable-metadata"}  # ComfyUI's
OTHERS_OPTIONS |= {"--nnodes", "--nproc-per-node", "--num_processes"}  # launchers'
OTHERS_OPTIONS |= {"--colour"}  # used in docs/errors.md as an example of a rejected option
# test_help compares them with the nodes
NODES = json.loads((ROOT / "locales/en/nodeDefs.json").read_text(encoding="utf-8"))
NODES = {key: node for key, node in NODES.items() if key.startswith("Hallo3")}  # the others are subgraphs
FOLDERS = ("assets", "benchmarks", "docs", "hallo3_core", "nodes", "tests", "web", "workflows", "subgraphs", "locales")


def parsers() -> dict[str, argparse.ArgumentParser]:
    """The command line's parsers by command."""
    (commands,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(commands.choices)


def prose(page: str) -> str:
    """A page without diagrams and other programs' command lines."""
    lines = PAGES[page].replace("\\\n", " ").replace("\\|", "/").splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("    ") or "python -m hallo3_core" in line)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page):
    targets = re.findall(r"\]\(([^)\s]+)\)", PAGES[page]) + re.findall(r'(?:src|href)="([^"]+)"', PAGES[page])
    for target in targets:
        if target.startswith("https://"):
            continue
        name, _, heading = target.partition("#")
        path = ((ROOT / page).parent / name).resolve() if name else ROOT / page
        assert path.exists(), f"{page}: {target}"
        if heading:
            titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}, target


@pytest.mark.parametrize("page", PAGES)
def test_files_of_the_project_that_are_named_exist(page):
    for name in re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]+)`", PAGES[page]):
        assert (ROOT / name).exists() or (ROOT / "hallo3_core" / name).exists(), f"{page}: {name}"


@pytest.mark.parametrize("page", sorted(PAGES.keys() - WITH_OTHER_OPTIONS))
def test_commands_and_options_that_are_named_exist(page):
    known = parsers()
    for command in re.findall(r"python -m hallo3_core (\w+)", prose(page)):
        assert command in known, f"{page}: {command}"
    options = {option for parser in known.values() for option in parser._option_string_actions} | OTHERS_OPTIONS
    for line in prose(page).splitlines():
        if "pip install" not in line:
            for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", line):
                assert option in options, f"{page}: {option}"


def test_every_command_is_in_the_table_of_commands():
    table = prose("docs/command_line.md").partition("## Commands")[2].partition("## ")[0]
    assert {row.split()[0] for row in re.findall(r"^\| `(.+?)` \|", table, re.MULTILINE)} == parsers().keys()


def test_users_read_video():
    """`film` is the code's word; users meet it only as a key, in quotes, or as part of a path."""
    helps = {name: parser.format_help() for name, parser in (parsers() | {"": build_parser()}).items()}
    pages = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in (ROOT / "docs").rglob("*.md")}
    pages["README.md"] = (ROOT / "README.md").read_text(encoding="utf-8")
    key = r"`film`|\"film\"|has film, sound|[\w/.-]*film\.mp4[\w./]*"
    found = [name for name, text in (helps | pages).items() if re.search(r"(?i)\bfilms?\b", re.sub(key, "", text))]
    assert not found


def test_every_option_of_a_film_is_in_the_tables():
    page = prose("docs/command_line.md")
    for parser in (parsers()["animate"], parsers()["batch"]):
        for option in parser._option_string_actions.keys() - {"-h", "--help"}:
            assert f"`{option}" in page, option


@pytest.mark.parametrize("page", PAGES)
def test_nodes_and_their_inputs_that_are_named_exist(page):
    titles = {node["display_name"] for node in NODES.values()}
    for name in re.findall(r"Hallo3(?:[ \n][A-Z]\w+)+", PAGES[page].replace("**", "")):
        assert re.sub(r"\s+", " ", name) in titles, f"{page}: {name}"


def test_every_node_is_in_the_readme():
    table = PAGES["README.md"].partition("## The nodes")[2].partition("\n## ")[0]
    for node in NODES.values():
        assert node["display_name"].removeprefix("Hallo3 ") in table, node["display_name"]


@pytest.mark.parametrize("page", ["README.md", "docs/portraits.md", "docs/long_videos.md"])
def test_inputs_that_are_named_exist(page):
    inputs = {
        name for node in NODES.values() for name in (*node["inputs"], *(o["name"] for o in node["outputs"].values()))
    }
    others = {"custom_nodes", "text_encoders", "audio_encoders", "hallo3_core"}
    for name in re.findall(r"`([a-z]+_[a-z_]+)`", PAGES[page]):
        if not name.startswith("hallo3_"):
            assert name in inputs | others, f"{page}: {name}"


@pytest.mark.parametrize("page", PAGES)
def test_workflows_that_are_named_exist(page):
    if not (ROOT / "workflows").is_dir():
        pytest.skip("no workflows yet")
    for name in re.findall(r"`(hallo3_[a-z_]+)`", PAGES[page]):
        assert (ROOT / "workflows" / f"{name}.json").is_file() or name == "hallo3_core", f"{page}: {name}"


@pytest.mark.parametrize("page", PAGES)
def test_tables_are_whole(page):
    """A row with more or fewer cells than the header would be shown shifted or cut."""
    for block in re.findall(r"(?:^\|.*\n)+", prose(page), re.MULTILINE):
        assert len({line.count("|") for line in block.splitlines()}) == 1, f"{page}: {block}"


@pytest.mark.parametrize("page", ["docs/portraits.md", "README.md"])
def test_pictures_say_in_words_what_they_show(page):
    for picture in re.findall(r"<img [^>]+>", PAGES[page]):
        assert re.search(r'alt="[^"]{10,}"', picture), picture


def test_pictures_of_pages_are_small():
    assert sum(path.stat().st_size for path in (ROOT / "docs/pictures").glob("*.*g")) < 500_000
