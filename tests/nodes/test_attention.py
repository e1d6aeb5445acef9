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
    """The keys passed to the host's function, call by call."""
    keys, attention = [], pack("nodes.host.attention")
    host = attention.optimized_attention
    monkeypatch.setattr(
        attention,
        "optimized_attention",
        lambda q, k, *rest, **kwargs: keys.append(k.shape[-2]) or host(q, k, *rest, **kwargs),
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
    """As core's nodes put it into the model's options; it receives what the host's own models pass."""
    calls = []

    def override(function, q, k, v, heads, *args, **kwargs):
        calls.append((q.shape[-2], k.shape[-2]))
        return function(q, k, v, heads, *args, **kwargs)

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
    options["optimized_attention_override"] = lambda function, q, *rest, **kwargs: torch.zeros_like(q)
    assert not torch.allclose(replace(sampler_of(STEPS), patcher=patched).sample(0, None), expected, atol=1e-3)
    assert "optimized_attention_override" not in loaded.model.model_options["transformer_options"]


def equal_lengths_only(function, q, k, v, heads, **kwargs):
    if q.shape != k.shape:
        raise ValueError("query and key lengths differ")
    return function(q, k, v, heads, **kwargs)


def as_many_as_keys(function, q, k, v, heads, **kwargs):
    return torch.zeros_like(k)


def square_mask(function, q, k, v, heads, **kwargs):
    return torch.softmax(q @ k.transpose(-1, -2), dim=-1) * torch.ones(q.shape[-2], q.shape[-2]) @ v


@pytest.mark.parametrize("override", [equal_lengths_only, as_many_as_keys, square_mask])
def test_a_function_that_wants_as_many_keys_as_queries_is_refused_by_name(pack, loaded, sampler_of, override):
    """Sparse kernels do. The portrait's keys are more than the queries."""
    patched = loaded.model.clone()
    patched.model_options["transformer_options"]["optimized_attention_override"] = override
    words = f"the attention of {override.__name__} does not work here .*keys for .* queries, the portrait's among them"
    with pytest.raises(pack("hallo3_core.errors").InputError, match=words.replace("here .", "here.")):
        replace(sampler_of(STEPS), patcher=patched).sample(0, None)


def test_memory_that_runs_out_in_a_node_s_function_is_passed_on(loaded, sampler_of):
    def hungry(function, *args, **kwargs):
        raise torch.OutOfMemoryError("out of memory")

    patched = loaded.model.clone()
    patched.model_options["transformer_options"]["optimized_attention_override"] = hungry
    with pytest.raises(torch.OutOfMemoryError):
        replace(sampler_of(STEPS), patcher=patched).sample(0, None)


def test_core_s_sparse_attention_is_refused_since_it_would_do_nothing(pack, loaded, sampler_of):
    """Its kernels decline heads of 64 and keys that are not the queries', without a word."""
    override = lambda function, *args, **kwargs: function(*args, **kwargs)  # noqa: E731
    override.__module__ = "comfy_extras.nodes_sparse_attention"
    patched = loaded.model.clone()
    patched.model_options["transformer_options"]["optimized_attention_override"] = override
    with pytest.raises(pack("hallo3_core.errors").InputError, match="Model Sparse Attention .*heads of 64"):
        replace(sampler_of(STEPS), patcher=patched).sample(0, None)


# SageAttention --------------------------------------------------------------------------------------------------


@pytest.fixture
def lossy_sage(pack, monkeypatch):
    """A host that was started with sage: keys keep 8 bits of the largest. `lossy_sage[0]` changes its results."""
    pack()
    attention, spoil = pack("nodes.host.attention"), [lambda result: result]

    def sage(q, k, v, heads, **kwargs):
        k = (k / (step := k.abs().amax() / 127)).round() * step
        return spoil[0](F.scaled_dot_product_attention(q, k, v))

    monkeypatch.setattr(attention, "optimized_attention", sage)
    monkeypatch.setattr(attention.management, "sage_attention_enabled", lambda: True)
    return spoil


def joint(pack, layers=2):
    """The function that a run computes self-attention with."""
    function = pack("nodes.host.attention").RunAttention(layers).joint({})
    return lambda *qkv: function(None, list(qkv), None)


def test_keys_without_their_mean_keep_sage_exact(pack, lossy_sage):
    """A mean that is shared by all keys changes nothing in the softmax, but takes the 8 bits of what differs."""
    q, k, v = heads(300), heads(300) + 200, heads(300)
    exact = F.scaled_dot_product_attention(q, k, v)
    plain = pack("nodes.host.attention").optimized(q, k, v)
    found = joint(pack)(q, k, v)
    error = lambda x: (x - exact).square().mean().sqrt() / exact.square().mean().sqrt()  # noqa: E731
    assert error(found) < 0.03 < 10 * error(found) < error(plain)


def test_sage_that_is_too_inexact_is_replaced_with_a_warning(pack, lossy_sage, caplog):
    lossy_sage[0] = torch.zeros_like
    attend, qkv = joint(pack), (heads(300), heads(300), heads(300))
    torch.testing.assert_close(attend(*qkv), F.scaled_dot_product_attention(*qkv), atol=1e-5, rtol=0)
    assert "attention sage does not work here" in caplog.text


def test_only_the_first_results_of_a_run_are_compared(pack, lossy_sage):
    attend, qkv = joint(pack, layers=1), (heads(300), heads(300), heads(300))
    attend(*qkv)
    lossy_sage[0] = torch.zeros_like
    assert not attend(*qkv).any()


def test_a_run_with_sage_makes_the_same_clip(pack, lossy_sage, sampler_of, monkeypatch):
    found = sampler_of(STEPS).sample(0, None)
    monkeypatch.setattr(pack("nodes.host.attention").management, "sage_attention_enabled", lambda: False)
    monkeypatch.setattr(
        pack("nodes.host.attention"),
        "optimized_attention",
        lambda q, k, v, heads, **kwargs: F.scaled_dot_product_attention(q, k, v),
    )
    expected = sampler_of(STEPS).sample(0, None)
    assert (found - expected).std() < 0.2 * expected.std() and not torch.equal(found, expected)


def test_a_node_that_brings_it_is_known_by_its_name(pack):
    attention = pack("nodes.host.attention")

    def sageattn(q, k, v):
        return v

    def attention_override(function, *args, **kwargs):
        return sageattn(*args)

    def other(function, *args, **kwargs):
        return function(*args, **kwargs)

    assert attention.is_sage(attention_override) and not attention.is_sage(other)
