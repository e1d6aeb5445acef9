"""Every input of every node, by its declaration: what comes through a link and is none is refused in one sentence."""

from __future__ import annotations

import math

import pytest
import torch

NUMBERS = ("INT", "FLOAT")


@pytest.fixture(scope="module")
def nodes(pack):
    return pack().NODE_CLASS_MAPPINGS


@pytest.fixture(scope="module")
def sockets(pack, loaded, scene) -> dict:
    """A right value for each type of socket."""
    types = pack("nodes.types")
    return {
        "IMAGE": torch.zeros(1, 64, 64, 3),
        "MASK": torch.ones(1, 64, 64),
        "AUDIO": {"waveform": torch.zeros(1, 1, 99), "sample_rate": 16_000},
        "MODEL": loaded.model,
        "VAE": loaded.vae,
        "CONDITIONING": scene.text,
        types.AUDIO: scene.audio,
        types.FACE: scene.face,
        types.REFERENCE: scene.reference,
        types.MOTION: types.Motion(torch.zeros(2, 3, 16, 32)),
        types.FACE_ANALYSIS: pack("hallo3_core.inputs.face").FaceAnalyser(None, None, None),
        types.WAV2VEC: loaded.wav2vec,
        types.REFERENCE_NET: loaded.reference_net,
    }


def declared(node: type) -> dict[str, tuple[str, object, dict]]:
    """Inputs by name: required or optional, type, options."""
    groups = node.INPUT_TYPES()
    return {
        name: (group, kind, options)
        for group in ("required", "optional")
        for name, (kind, options) in groups.get(group, {}).items()
    }


def right_values(node: type, sockets: dict) -> dict:
    found = {}
    for name, (_, kind, options) in declared(node).items():
        first = kind[0] if isinstance(kind, list) else sockets.get(kind)
        found[name] = options.get("default", first)
    return found


def misshapen(kind: str) -> list:
    return {
        "IMAGE": [torch.zeros(64, 64, 3), torch.zeros(1, 64, 64), torch.zeros(1, 0, 64, 3), torch.zeros(1, 64, 64, 5)],
        "MASK": [torch.zeros(64), torch.zeros(1, 1, 64, 64), torch.zeros(0, 64, 64), torch.ones(1, 9, 9).int()],
        "AUDIO": [{}, {"waveform": None, "sample_rate": 1}, {"waveform": torch.zeros(2, 1, 9), "sample_rate": 8_000}],
        "CONDITIONING": [[torch.zeros(1)], [[torch.zeros(1)]], [["text", {}]], [[torch.zeros(1), None]]],
    }.get(kind, [])


def wrong_values(group: str, kind, options: dict, sockets: dict) -> list:
    """Values that no input of this type may take, whatever the node is."""
    if isinstance(kind, str) and kind in sockets:
        others = [value for name, value in sockets.items() if name != kind and {name, kind} != {"IMAGE", "MASK"}]
        return [*others, object(), "text", 5, torch.zeros(2), *misshapen(kind), *[None] * (group == "required")]
    wrong = [None, object(), sockets["AUDIO"], torch.zeros(2), [1]]
    if kind in NUMBERS:
        steps = [math.nan, math.inf, -math.inf, "1", *[0.5] * (kind == "INT")]
        return wrong + steps + [options["min"] - 1, options["max"] + 1]
    return [*wrong, 5]  # text, or a choice


def test_every_wrong_value_of_every_input_is_refused_in_one_sentence(pack, nodes, sockets):
    checked, error = pack("nodes.checking").checked, pack("hallo3_core.errors").InputError
    for key, node in nodes.items():
        values = right_values(node, sockets)
        for name, (group, kind, options) in declared(node).items():
            for wrong in wrong_values(group, kind, options, sockets):
                with pytest.raises(error) as found:
                    checked(node, {**values, name: wrong})
                    pytest.fail(f"{key}.{name} takes {wrong!r}")
                said = str(found.value)
                shown = options.get("display_name", name)
                assert said.startswith(shown) and "\n" not in said and said.endswith("."), f"{key}.{name}: {said}"


def test_right_values_arrive_as_they_are(pack, nodes, sockets):
    checked = pack("nodes.checking").checked
    for key, node in nodes.items():
        values = right_values(node, sockets)
        found = checked(node, values)
        assert found.keys() == values.keys(), key
        assert all(found[name] is value or found[name] == value for name, value in values.items()), key
        for name, (group, kind, _) in declared(node).items():
            if group == "optional" and isinstance(kind, str) and kind in sockets:
                assert checked(node, {**values, name: None})[name] is None, f"{key}.{name}"


def test_every_type_that_a_node_takes_is_known(pack, nodes, sockets):
    known = {*pack("nodes.checking").SOCKETS, *NUMBERS, "STRING", "BOOLEAN"}
    taken = {kind for node in nodes.values() for _, kind, _ in declared(node).values() if isinstance(kind, str)}
    assert taken <= known and sockets.keys() == pack("nodes.checking").SOCKETS.keys()


def test_a_choice_that_is_not_offered_is_refused_unless_the_node_looks_itself(pack, nodes, sockets):
    checked, error = pack("nodes.checking").checked, pack("hallo3_core.errors").InputError
    for key, node in nodes.items():
        for name, (_, kind, _) in declared(node).items():
            if not isinstance(kind, list) or hasattr(node, "VALIDATE_INPUTS"):
                continue
            with pytest.raises(error, match=f"{name} is 'elsewhere': choose "):
                checked(node, {**right_values(node, sockets), name: "elsewhere"})
            assert key


def test_a_node_checks_before_it_runs(pack, nodes, sockets):
    """Through the node's own function, with its first socket left without a value."""
    error = pack("hallo3_core.errors").InputError
    for key, node in nodes.items():
        required = [name for name, (group, kind, _) in declared(node).items() if group == "required"]
        if not required:
            continue
        with pytest.raises(error, match=f"^{required[0]}"):
            getattr(node(), node.FUNCTION)(**{**right_values(node, sockets), required[0]: None})
            pytest.fail(key)


@pytest.mark.parametrize(("value", "expected"), [(2.0, 2), (True, 1), (torch.tensor(3).numpy()[()], 3)])
def test_a_whole_number_of_another_type_is_taken(pack, nodes, sockets, value, expected):
    node = nodes["Hallo3SampleClip"]
    found = pack("nodes.checking").checked(node, {**right_values(node, sockets), "steps": value})["steps"]
    assert found == expected and type(found) is int


def test_a_wrong_link_is_named_by_what_it_brings(pack, nodes, sockets):
    node = nodes["Hallo3SampleClip"]
    values = right_values(node, sockets)
    for wrong, words in (
        (
            {"audio": sockets["AUDIO"]},
            "voice features: found AUDIO, expected HALLO3_AUDIO. Connect Hallo3 Audio Encode.",
        ),
        ({"face": scene_of(sockets, "REFERENCE")}, "face: found HALLO3_REFERENCE, expected HALLO3_FACE."),
        ({"vae": None}, "vae: found nothing .None., expected VAE. Connect Hallo3 VAE Loader."),
        ({"reference": {"samples": 0}}, "reference: found a LATENT, expected HALLO3_REFERENCE."),
    ):
        with pytest.raises(pack("hallo3_core.errors").InputError, match=words):
            pack("nodes.checking").checked(node, values | wrong)


def scene_of(sockets: dict, kind: str):
    return sockets[f"HALLO3_{kind}"]
