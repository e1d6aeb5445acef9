"""What the user sees while a film is made."""

from __future__ import annotations

import pytest
import torch


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (7, "0:07"), (750, "12:30"), (3723, "1:02:03")])
def test_time_is_told_as_people_read_it(pack, seconds, text):
    assert pack("nodes.host.progress").span(seconds) == text


def test_the_text_counts_clips_and_steps(pack, loaded, monkeypatch):
    progress, texts = pack("nodes.host.progress"), []
    monkeypatch.setattr(progress, "show_text", lambda text, node_id: texts.append((text.rsplit(",", 1)[0], node_id)))
    bar = progress.StepBar(loaded.model, steps=2, clips=2, node_id="7")
    for _ in range(4):
        bar.callback()(0, torch.zeros(1, 16, 13, 2, 4), None, 2)
    counted = [
        "clip 1 of 2, step 1 of 2",
        "clip 1 of 2, step 2 of 2",
        "clip 2 of 2, step 1 of 2",
        "clip 2 of 2, step 2 of 2",
    ]
    assert texts == [(text, "7") for text in counted]


def test_cancel_takes_effect_at_the_next_step(pack, loaded, press_cancel):
    bar, cancelled = pack("nodes.host.progress").StepBar(loaded.model, steps=5), press_cancel(2)
    bar.step(torch.zeros(1, 16, 13, 2, 4))
    with pytest.raises(cancelled):
        bar.step(torch.zeros(1, 16, 13, 2, 4))
