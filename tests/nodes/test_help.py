"""Help and translations say what the nodes are: every input and output, none that is gone, both languages alike."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools import help
from tools.workflows import blocks

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "web" / "docs"
LANGUAGES = ("en", "zh")
NUMBER = re.compile(r"\d+(?:\.\d+)?")
CHINESE = re.compile(r"[\u4e00-\u9fff]")
SYNTAX = re.compile(r"[{}@|$]")  # of the page's translator: it would read these as placeholders


@pytest.fixture(scope="module")
def nodes(pack):
    return pack().NODE_CLASS_MAPPINGS


@pytest.fixture(scope="module")
def titles(pack):
    return pack().NODE_DISPLAY_NAME_MAPPINGS


def entries(language: str) -> dict:
    """The nodes' entries."""
    return help.of_nodes(help.written(language))


def inputs_of(node: type) -> dict[str, dict]:
    """The options of a node's inputs, by name, in the order of the canvas."""
    return {name: options for name, (_, options) in help.inputs_of(node).items()}


def page_of(key: str) -> str:
    return (PAGES / f"{key}.md").read_text(encoding="utf-8")


def section(page: str, heading: str) -> str:
    """What stands below a heading, up to the next."""
    found = re.search(rf"^## {heading}$(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


def rows(page: str, heading: str) -> list[str]:
    """The names in the first column of a section's table."""
    return re.findall(r"^\| `(\w+)` \|", section(page, heading), re.MULTILINE)


def texts(entry: dict) -> dict[str, str]:
    """Every text of a node's translation by its place in it."""
    found = {"display_name": entry["display_name"], "description": entry["description"]}
    for group in ("inputs", "outputs"):
        for name, words in entry[group].items():
            found |= {f"{group}.{name}.{kind}": text for kind, text in words.items()}
    return found


def test_there_is_a_page_for_every_node_and_no_other(nodes):
    assert {path.stem for path in PAGES.glob("*.md")} == set(nodes)


def test_a_page_names_every_input_and_output(nodes, titles):
    for key, node in nodes.items():
        page = page_of(key)
        assert page.startswith(f"# {titles[key]}\n"), key
        assert rows(page, "Inputs") == list(inputs_of(node)), key
        assert rows(page, "Outputs") == list(node.RETURN_NAMES), key
        assert "\n| you see | do this |\n" in section(page, "When something goes wrong"), key


def test_a_page_pictures_its_node_in_the_wiring(nodes, titles):
    for key in nodes:
        diagram = re.search(r"^```\n(.*?)^```$", page_of(key), re.MULTILINE | re.DOTALL)
        assert diagram and f"[{titles[key]}]" in diagram[1], key


def test_every_node_that_help_mentions_exists(nodes, titles):
    known = set(titles.values())
    for key, node in nodes.items():
        tooltips = [options["tooltip"] for options in inputs_of(node).values()]
        for text in (page_of(key), node.DESCRIPTION, *tooltips, *node.OUTPUT_TOOLTIPS):
            mentioned = re.findall(r"Hallo3(?:[ \n][A-Z]\w+)+", text)  # a name may go on in the next line
            assert {name.replace("\n", " ") for name in mentioned} <= known, key


def test_links_lead_somewhere(nodes):
    for key in nodes:
        for target in re.findall(r"\]\(([^)]+)\)", page_of(key)):
            is_page = target.startswith("https://")
            assert is_page or (PAGES / target.partition("#")[0]).exists(), f"{key}: {target}"


def test_tables_are_whole(nodes):
    """A row of other width than its table's head would be shown shifted, or cut."""
    for key in nodes:
        for block in re.findall(r"(?:^\|.*\n)+", page_of(key), re.MULTILINE):
            widths = {line.count("|") for line in block.splitlines()}
            assert len(widths) == 1, f"{key}: {block}"


@pytest.mark.parametrize("language", LANGUAGES)
def test_translations_are_of_the_nodes_that_exist(nodes, language):
    found = entries(language)
    assert found.keys() == nodes.keys()
    for key, node in nodes.items():
        assert list(found[key]["inputs"]) == list(inputs_of(node)), key
        assert list(found[key]["outputs"]) == [str(i) for i in range(len(node.RETURN_TYPES))], key
        for place, text in texts(found[key]).items():
            assert text and not SYNTAX.search(text), f"{key}.{place}"


def test_pages_and_english_are_what_the_tool_writes(pack, nodes, titles):
    """`python -m tools.help`: old words in a page or translation would hide the class's new ones."""
    for key, node in nodes.items():
        assert page_of(key) == help.page(page_of(key), node), key
    assert help.of_nodes(help.written("en")) == help.english(nodes, titles, pack("nodes.types").SHOWN)


def test_a_page_without_its_table_is_reported(nodes):
    node = nodes["Hallo3Scheduler"]
    with pytest.raises(ValueError, match="0 tables"):
        help.page("# A page\n\n## Inputs\n\n## Outputs\n", node)


def test_a_changed_class_changes_its_page(nodes):
    """The column of each kind of words: meaning, default with what else there is, cost."""

    class Changed:
        @staticmethod
        def INPUT_TYPES():
            many = [str(each) for each in range(20)]
            return {
                "required": {
                    "image": ("IMAGE", {"tooltip": "A file of models/x."}),
                    "count": ("INT", {"default": 2, "min": 1, "max": 4, "tooltip": "How many. Cost: time grows."}),
                    "kind": (["fast", "good"], {"default": "fast", "tooltip": "good is slower."}),
                    "which": (many, {"default": "3", "tooltip": "Which."}),
                    "file": (["auto", "a.pt"], {"tooltip": "A file."}),
                },
                "optional": {
                    "name": ("STRING", {"default": "", "tooltip": "A name."}),
                    "mask": ("MASK", {"tooltip": "A."}),
                },
            }

    assert section(help.page(page_of("Hallo3Scheduler"), Changed), "Inputs").splitlines()[4:11] == [
        "| `image` | A file of `models/x` | required | |",
        "| `count` | How many | `2` (1 to 4) | time grows |",
        "| `kind` | `good` is slower | `fast` (or good) | |",
        "| `which` | Which | `3` | |",
        "| `file` | A file | `auto` | |",
        "| `name` | A name | empty | |",
        "| `mask` | A | not connected | |",
    ]


def test_chinese_is_chinese_with_the_same_numbers(nodes):
    """A default or a range that changes in English has to change in Chinese."""
    english, chinese = entries("en"), entries("zh")
    for key in nodes:
        for place, text in texts(english[key]).items():
            translated = texts(chinese[key])[place]
            if not place.endswith("name"):
                assert CHINESE.search(translated), f"{key}.{place}"
                assert set(NUMBER.findall(translated)) == set(NUMBER.findall(text)), f"{key}.{place}"
                assert ("开销：" in translated) == (help.COST in text), f"{key}.{place}"


def test_no_socket_of_ours_looks_like_one_of_the_hosts(pack, nodes):
    """Its link would be refused without a reason: a socket of ours has a colour and a name that none of core's has."""
    colours = dict(re.findall(r"(HALLO3_\w+): \"(#\w+)\"", (ROOT / "web" / "colours.js").read_text(encoding="utf-8")))
    sockets = {
        (kind, options.get("display_name", name))
        for node in nodes.values()
        for group in ("required", "optional")
        for name, (kind, options) in node.INPUT_TYPES().get(group, {}).items()
        if isinstance(kind, str) and kind.startswith("HALLO3_")
    }
    assert colours.keys() == {kind for kind, _ in sockets} and len(set(colours.values())) == len(colours)
    host = {"audio", "image", "images", "mask", "video", "model", "vae", "clip", "latent", "samples", "conditioning"}
    assert not host & {name for _, name in sockets}


@pytest.mark.parametrize("language", LANGUAGES)
def test_blocks_have_the_tooltips_of_the_nodes_inside(language):
    """`python -m tools.help` writes them; the page has no other place for a subgraph's."""
    assert help.written(language) == entries(language) | blocks.tooltips(entries(language))
    for inside in blocks.all_blocks():
        entry = help.written(language)[inside.id]
        assert set(inside.takes) - set(entry["inputs"]) <= {"text"}  # which is core's
        assert not any(SYNTAX.search(words["tooltip"]) for group in entry.values() for words in group.values())
