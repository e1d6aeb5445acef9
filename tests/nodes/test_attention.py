"""Which attention the host computes with: its own over many keys, a node's in its place, torch's over a few."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

STEPS = 2


def heads(tokens: int) -> torch.Tensor:
    return torch.randn(1, 4, tokens, 16)


@pytest.fixture
def hosts(pack, monkeypatch):
    """The keys that the host's function was given, call by call."""
    keys, attention = [], pack("nodes.host.attention")
    host = attention.optimized_attention
    monkeypatch.setattr(
        attention,
        "optimized_attention",
        lambda q, k, *rest, **told: keys.append(k.shape[-2]) or host(q, k, *rest, **told),
    )
    return keys


@pytest.mark.parametrize(
    ("queries", "keys", "asked"), [(300, 300, True), (300, 310, True), (300, 32, False), (300, 4, False)]
)
def test_the_few_keys_of_face_and_sound_are_left_to_torch(pack, hosts, queries, keys, asked):
    """The host's may be one that rounds to eight bits, which gains nothing there."""
    q, k, v = heads(queries), heads(keys), heads(keys)
    found = pack("nodes.host.attention").host_attention(q, k, v)
    torch.testing.assert_close(found, F.scaled_dot_product_attention(q, k, v), atol=1e-5, rtol=0)
    assert hosts == [keys] * asked


def test_a_node_s_own_function_computes_self_attention(pack, loaded, sampler_of):
    """As core's nodes put it into the model's options; what it is given is what the host's own models give."""
    calls = []

    def override(function, q, k, v, heads, *args, **told):
        calls.append((q.shape[-2], k.shape[-2]))
        return function(q, k, v, heads, *args, **told)

    expected = sampler_of(STEPS).sample(0, None)
    patched = loaded.model.clone()
    patched.model_options["transformer_options"]["optimized_attention_override"] = override
    found = replace(sampler_of(STEPS), patcher=patched).sample(0, None)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    config = loaded.model.model.diffusion_model.config
    text, video, portrait = config.text_tokens, 13 * 2, 2
    layers = [(text + video, text + video + portrait)] * (config.layers - 1) + [(video, text + video + portrait)]
    assert calls[: len(layers)] == layers and len(calls) == STEPS * config.layers


def test_a_function_that_changes_the_picture_does(pack, loaded, sampler_of):
    expected = sampler_of(STEPS).sample(0, None)
    patched = loaded.model.clone()
    options = patched.model_options["transformer_options"]
    options["optimized_attention_override"] = lambda function, q, *rest, **told: torch.zeros_like(q)
    assert not torch.allclose(replace(sampler_of(STEPS), patcher=patched).sample(0, None), expected, atol=1e-3)
    assert "optimized_attention_override" not in loaded.model.model_options["transformer_options"]
