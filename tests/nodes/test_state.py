"""Films in the host: A, B, A gives the first again, also after Cancel or a failure in B."""

from __future__ import annotations

import pytest
import torch


def test_a_film_after_any_other_is_the_same_again(pack, film, scene, loaded, press_cancel, monkeypatch):
    first = film().read_bytes()
    weights = {name: value.clone() for name, value in loaded.model.model.state_dict().items()}
    lora = loaded.model.clone()
    name = "diffusion_model.blocks.0.mlp.up.weight"
    rows, columns = loaded.model.model.state_dict()[name].shape
    pair = (torch.ones(rows, 1), torch.ones(1, columns), 1.0, None)
    if hasattr(lora, "patched"):  # the fake host's own form
        lora.add_patches({(name, (0, 0, rows)): pair}, 0.5)
    for changes in (
        dict(seed=12),
        dict(reference_cfg=2.0, steps=3),
        dict(color_hold=1.0),
        dict(seam_fade=8),
        dict(model=lora),
    ):
        film(**changes)
        assert film().read_bytes() == first, changes
    with pytest.raises(press_cancel(3)):
        film(model=lora, seed=12)
    assert film().read_bytes() == first
    with monkeypatch.context() as patch:
        patch.setattr(pack("hallo3_core.pipeline.clip").Conductor, "finish", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            film(model=lora)
    assert film().read_bytes() == first
    assert all(torch.equal(value, weights[name]) for name, value in loaded.model.model.state_dict().items())


def test_the_global_generators_are_not_touched(film):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = film().read_bytes()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert film().read_bytes() == first
