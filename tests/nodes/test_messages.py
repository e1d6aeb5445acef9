"""What stands on a node: its own line, the pack's warnings, and how a run ended that did not end well."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch


@pytest.fixture
def said(pack, monkeypatch):
    """What is sent to the page: (text, node), in order."""
    messages, texts = pack("nodes.host.messages"), []
    monkeypatch.setattr(messages, "_send", lambda text, node_id: texts.append((text, node_id)))
    monkeypatch.setattr(messages, "_board", messages._Board())
    return texts


@pytest.fixture
def running(pack, monkeypatch):
    """`running("9")`: the host says that it runs that node now, one of core's."""
    messages = pack("nodes.host.messages")

    def run(node_id, prompt_id="run 1"):
        context = SimpleNamespace(node_id=node_id, prompt_id=prompt_id)
        monkeypatch.setattr(messages, "_context", lambda: context)

    return run


SILENT = {"waveform": torch.zeros(1, 1, 16_000), "sample_rate": 16_000}


def test_a_silent_recording_is_shown_on_the_node(pack, loaded, said):
    pack().NODE_CLASS_MAPPINGS["Hallo3AudioEncode"]().execute(audio=SILENT, wav2vec=loaded.wav2vec, node_id="4")
    text, node = said[-1]
    assert node == "4" and "loudest sample 0%" in text.splitlines()[0]
    assert text.splitlines()[1] == "Warning: audio is silent: the portrait will hardly move its mouth."


@pytest.mark.parametrize(
    ("prompt", "words"), [("", "the prompt is empty"), ("  ", "the prompt is empty"), ("word " * 300, "225")]
)
def test_a_fault_of_the_prompt_is_shown_on_core_s_node(loaded, said, running, prompt, words):
    running("7")
    loaded.clip.tokenize(prompt)
    text, node = said[-1]
    assert node == "7" and text.startswith("Warning: the prompt") and words in text


@pytest.mark.parametrize("place", ["inputs.face", "release.lora.applying", "runtime.fallback", "film.clip_store"])
def test_every_warning_of_the_pack_does(pack, said, place):
    log = pack(f"hallo3_core.{place}").log
    with pack("nodes.host.messages").speaking("5"):
        log.warning("%s went wrong", place)
        log.warning("%s went wrong", place)
        log.info("and this is of no interest")
    assert said == [(f"Warning: {place} went wrong", "5")]


def test_warnings_stay_below_the_line_that_changes(pack, said):
    messages = pack("nodes.host.messages")
    with messages.speaking("5"):
        messages.show_text("step 1", "5")
        pack("hallo3_core.inputs.face").log.warning("upside down")
        messages.show_text("step 2", "5")
    assert said[-1] == ("step 2\nWarning: upside down", "5")


def test_a_node_in_a_subgraph_shows_its_messages_outside_too(pack, said, running):
    messages, log = pack("nodes.host.messages"), pack("hallo3_core.inputs.face").log
    running("12:3")
    with messages.speaking("12:3"):
        log.warning("upside down")
    with messages.speaking("12:5"):
        messages.show_text("step 1", "12:5")
    assert said[:2] == [("Warning: upside down", "12:3"), ("Warning: upside down", "12")]
    assert said[2:] == [("step 1", "12:5"), ("step 1\nWarning: upside down", "12")]
    running("12:5", "run 2")
    with messages.speaking("12:5"):
        messages.show_text("step 1", "12:5")
    assert said[-1] == ("step 1", "12")


def test_cancel_and_errors_take_the_place_of_the_last_line(pack, film, said, press_cancel, monkeypatch):
    with pytest.raises(press_cancel(2)):
        film(node_id="5")
    assert said[-1] == ("cancelled", "5")
    with monkeypatch.context() as patch:
        patch.setattr(pack("hallo3_core.pipeline.clip").Conductor, "finish", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            film(node_id="5")
    assert said[-1] == ("stopped by an error", "5")
    with pytest.raises(pack("hallo3_core.errors").InputError):
        film(node_id="5", color_hold=7.0)
    assert said[-1][0].startswith("color_hold is 7")


def test_what_an_earlier_run_left_is_taken_away(pack, said):
    messages, error = pack("nodes.host.messages"), pack("hallo3_core.errors").InputError
    with pytest.raises(error), messages.speaking("5"):
        raise error("no such file")
    with messages.speaking("5"):
        pass
    with messages.speaking("6"):
        pass
    assert said == [("no such file", "5"), (" ", "5")]


def test_an_error_is_headed_by_its_name_alone(pack):
    """The host writes an error's module before its name; a pack's module is a path on the disk."""
    error = pack("hallo3_core.errors").InputError
    assert f"{error.__module__}.{error.__qualname__}" == "builtins.InputError"


def test_every_node_shows_its_messages(pack, said):
    for key, node in pack().NODE_CLASS_MAPPINGS.items():
        assert hasattr(getattr(node, node.FUNCTION), "__wrapped__"), key
