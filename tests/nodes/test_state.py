"""Films in the host: A, B, A gives the first again, also after Cancel or a failure in B."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

SETTINGS = dict(steps=2, audio_cfg=3.5, text_cfg=3.5, reference_cfg=1.0, sampler="sde-dpmpp-2m")


@pytest.fixture
def film(pack, loaded, scene):
    def run(**changes) -> bytes:
        given = dict(model=loaded.model, vae=loaded.vae, seed=11, **vars(scene), **SETTINGS)
        node = pack("nodes.film").Hallo3LongVideo()
        return Path(node.execute(**{**given, **changes})[0].get_stream_source()).read_bytes()

    return run


def test_a_film_after_any_other_is_the_first_again(pack, film, scene, loaded, press_cancel, monkeypatch):
    first, weights = film(), {name: value.clone() for name, value in loaded.model.model.state_dict().items()}
    lora = loaded.model.clone()
    name = "diffusion_model.blocks.0.mlp.up.weight"
    rows, columns = loaded.model.model.state_dict()[name].shape
    pair = (torch.ones(rows, 1), torch.ones(1, columns), 1.0)
    if hasattr(lora, "patched"):  # the fake host's own form
        lora.add_patches({(name, (0, 0, rows)): pair}, 0.5)
    for changes in (dict(seed=12), dict(reference_cfg=2.0, steps=3), dict(color_hold=1.0), dict(model=lora)):
        film(**changes)
        assert film() == first, changes
    with pytest.raises(press_cancel(3)):
        film(model=lora, seed=12)
    assert film() == first
    with monkeypatch.context() as patch:
        patch.setattr(pack("nodes.host.film"), "finish_clip", lambda *given: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            film(model=lora)
    assert film() == first
    assert all(torch.equal(value, weights[name]) for name, value in loaded.model.model.state_dict().items())


def test_the_worlds_dice_are_not_touched(film):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = film()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert film() == first
