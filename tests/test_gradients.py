"""The networks in training: gradients equal those of the plain formulas, also with memory-saving options."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hallo3_core.model.attention import Folded
from hallo3_core.model.config import Grid
from hallo3_core.model.hallo3 import Hallo3
from hallo3_core.model.in_place import gelu, rotate_last
from hallo3_core.model.positions import rotary_table
from hallo3_core.runtime.checkpointing import checkpoint_blocks
from hallo3_core.toy import noise_release as tiny
from hallo3_core.weights import names
from hallo3_core.weights.parts import load, sort_official
from tests.noise import noise
from tools.testbed import plain
from tools.testbed.presets import Inputs, Networks

GRID = Grid(2, 2, 3)  # smaller than the trained grid, so positions are interpolated, with gradients
BATCH, STEP = 2, 437.0


def toy_networks() -> Hallo3:
    parts = sort_official(tiny.file_tensors(5, type(tiny.CONFIG)(**{**vars(tiny.CONFIG), "text_tokens": 5})))
    built = (names.DENOISER, names.REFERENCE_NET, names.FACE_PROJECTOR, names.AUDIO_PROJECTOR)
    return Hallo3(*(load(parts, part, dtype=torch.float32) for part in built))


@pytest.fixture(scope="module")
def released():
    return toy_networks()


@pytest.fixture
def hallo3(released):
    return trained(released)


def trained(network: Hallo3, dtype: torch.dtype = torch.float32) -> Hallo3:
    """A copy with every weight trainable."""
    return deepcopy(network).to(dtype).requires_grad_(True)


def inputs(config, dtype=torch.float32):
    h, w, frames = 2 * GRID.rows, 2 * GRID.columns, 4 * GRID.frames - 3
    return [
        noise(BATCH, 16, GRID.frames, h, w, seed=1).to(dtype),
        noise(BATCH, 16, GRID.frames, h, w, seed=2).to(dtype),
        torch.full((BATCH,), STEP),  # in bfloat16 it would be another one
        noise(BATCH, config.text_tokens, config.text_width, seed=3).to(dtype),
        noise(BATCH, 16, h, w, seed=4).to(dtype),
        noise(BATCH, tiny.FACE_EMBEDDING, seed=5).to(dtype),
        noise(BATCH, frames, tiny.WINDOW, tiny.AUDIO_LAYERS, tiny.AUDIO_WIDTH, seed=6).to(dtype),
    ]


def loss_of(velocity):
    return (velocity.double() - noise(*velocity.shape, seed=9).double()).square().mean()


def gradients(network: nn.Module, loss) -> dict[str, torch.Tensor]:
    found = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
    return {name: grad for (name, _), grad in zip(network.named_parameters(), found, strict=True)}


def largest_difference(found, expected) -> float:
    """Largest difference over all tensors, each relative to its tensor's largest value."""
    assert found.keys() == expected.keys()
    missing = [name for name, grad in expected.items() if (grad is None) != (found[name] is None)]
    assert not missing
    return max(
        float((found[name].double() - grad.double()).abs().max() / grad.double().abs().max().clamp_min(1e-6))
        for name, grad in expected.items()
        if grad is not None
    )


def plain_loss(network: Hallo3, batch):
    """Loss computed the original's way (tools/testbed/plain.py): nothing in place, portrait tokens also as queries."""
    latent, concat, _, text, portrait, face, audio = batch
    bank = plain_bank(network.reference_net, portrait, text)
    networks = Networks(network.denoiser, network.audio_projector, network.face_projector)
    layout = network.denoiser.layout(GRID, latent.dtype)
    plain_inputs = Inputs(latent, concat, text, audio, face, bank)
    return loss_of(plain.velocity(networks, plain_inputs, latent, STEP, layout))


def plain_bank(network, portrait, text):
    """The reference network's features by the same plain formulas, without extra tokens."""
    frame = portrait[:, :, None]
    layout = network.layout(Grid(1, GRID.rows, GRID.columns), portrait.dtype)
    video, stream = plain.embed(network, frame, Inputs(frame, frame, text, None, None, []), layout)
    embedding = F.silu(network.modulation.embed(torch.zeros(BATCH), portrait.dtype))
    bank, nothing = [], video[:, :0]
    for block, linear in zip((*network.blocks, None), network.modulation.blocks, strict=True):
        rows = linear(embedding).unflatten(-1, (12, -1))[:, :, None]
        norm = network.last_norm if block is None else block.attention_norm
        bank.append(plain.modulated(norm(video), rows[:, 0], rows[:, 1]))
        if block is not None:
            video, stream = plain.self_attention(block, video, stream, nothing, rows, layout)
            video, stream = plain.feed_forward(block, video, stream, rows)
    return bank


def test_gradients_are_the_plain_formulas_in_float64(hallo3, released):
    exact = trained(released, torch.float64)
    expected = gradients(exact, plain_loss(exact, inputs(exact.denoiser.config, torch.float64)))
    double = gradients(exact, loss_of(exact(*inputs(exact.denoiser.config, torch.float64))))
    assert largest_difference(double, expected) < 1e-5  # angles and the timestep's sinusoid are float32
    single = gradients(hallo3, loss_of(hallo3(*inputs(hallo3.denoiser.config))))
    assert largest_difference(single, expected) < 1e-4


def test_half_precision_trains_and_stays_near(hallo3):
    """With autocast on float32 weights, and with bfloat16 weights, where an in-place write would raise an error."""
    batch, config = inputs(hallo3.denoiser.config), hallo3.denoiser.config
    exact = gradients(hallo3, loss_of(hallo3(*batch)))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = gradients(hallo3, loss_of(hallo3(*batch)))
    low = trained(hallo3, torch.bfloat16)
    coarse = gradients(low, loss_of(low(*inputs(config, torch.bfloat16))))
    for name, grad in exact.items():
        assert all((found[name] is None) == (grad is None) for found in (mixed, coarse)), name
    for found in (mixed, coarse):
        assert direction(found, exact) > 0.9995


def direction(found, expected) -> float:
    """Cosine of the angle between two gradients."""
    a, b = (torch.cat([g.double().flatten() for g in each.values() if g is not None]) for each in (found, expected))
    return float(F.cosine_similarity(a, b, dim=0))


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_checkpointed_layers_have_equal_gradients(released, dtype, frozen):
    """Also if only audio layers are trained and the first layers' inputs need no gradient."""
    found = []
    for checkpointed in (False, True):
        network = trained(released, dtype)
        if frozen:
            for name, parameter in network.named_parameters():
                parameter.requires_grad_("audio" in name)
        if checkpointed:
            checkpoint_blocks(network.denoiser)
            checkpoint_blocks(network.reference_net)
        loss = loss_of(network(*inputs(network.denoiser.config, dtype)))
        loss.backward()
        found.append({name: p.grad for name, p in network.named_parameters() if p.grad is not None})
    plain_, again = found
    assert plain_.keys() == again.keys() and plain_
    assert all(torch.equal(grad, again[name]) for name, grad in plain_.items())


def test_a_checkpointed_layer_keeps_its_inputs_alone(hallo3):
    """A layer saves only its inputs. Keys and values of portrait, face and audio are recomputed too."""

    def kept(network) -> int:
        sizes = {}

        def pack(tensor):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        own = {p.untyped_storage().data_ptr() for p in network.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            velocity = network(*inputs(network.denoiser.config))
        assert velocity.requires_grad
        return sum(size for place, size in sizes.items() if place not in own)

    before = kept(hallo3)
    checkpoint_blocks(hallo3.denoiser)
    checkpoint_blocks(hallo3.reference_net)
    assert kept(hallo3) < before / 3


def test_every_weight_has_a_gradient(hallo3):
    found = gradients(hallo3, loss_of(hallo3(*inputs(hallo3.denoiser.config))))
    assert not [name for name, grad in found.items() if grad is None or not grad.any()]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_training_computes_what_inference_does(hallo3, dtype):
    """Inference caches keys and values, folds them if worthwhile, and works in place; training does none of these."""
    network = trained(hallo3, dtype)
    batch = inputs(network.denoiser.config, dtype)
    live = network(*batch).detach()
    latent, concat, steps, text, portrait, face, audio = batch
    with torch.inference_mode():
        assert torch.equal(network(*batch), live) or dtype != torch.float64
        denoiser = network.denoiser
        conditions = type(denoiser.live_conditions(text))(
            denoiser.embed_text(text),
            denoiser.reference_keys_values(network.reference_net(portrait, text)),
            denoiser.face_keys_values(network.face_projector(face)),
            denoiser.audio_keys_values(network.audio_projector(audio)),
        )
        assert isinstance(conditions.face[0], Folded)
        kept = denoiser(latent, concat, conditions, denoiser.modulate_steps(steps, dtype), denoiser.layout(GRID, dtype))
    error = (kept - live).abs().max() / live.abs().max()
    assert error < {torch.float64: 1e-6, torch.float32: 1e-5, torch.bfloat16: 3e-2}[dtype]


def test_folded_keys_and_values_pass_gradients_too(released):
    """Inference methods that are called with gradients enabled return correct gradients."""
    exact = trained(released, torch.float64)
    denoiser, config = exact.denoiser, exact.denoiser.config
    tokens = noise(1, 4, config.face).double().requires_grad_(True)
    block, layout = denoiser.blocks[0], denoiser.layout(GRID, torch.float64)
    video = noise(1, GRID.tokens, config.hidden, seed=1).double()
    found = []
    for fold in (False, True):
        out = block.attend_face(video, layout, block.face_keys_values(tokens, fold))
        found.append(torch.autograd.grad(out.square().sum(), (tokens, *block.face_attention.parameters())))
    for plain_, folded in zip(*found, strict=True):
        assert torch.allclose(plain_, folded, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_inference_writes_over_its_input_and_training_does_not(dtype):
    grid = Grid(1, 2, 3)
    rotary, x = rotary_table(grid, grid, 16), noise(1, 2, 3 + grid.tokens, 16).to(dtype)
    for operation in (gelu, lambda x: rotate_last(x, rotary, grid.tokens)):
        before, over = x.clone(), x.clone()
        new = operation(before)
        assert torch.equal(before, x) and new.data_ptr() != before.data_ptr()
        with torch.no_grad():
            written = operation(over)
        assert written.data_ptr() == over.data_ptr()
        assert torch.allclose(new, written, atol=1e-2 if dtype == torch.bfloat16 else 1e-6)


def test_rotation_has_the_gradient_of_the_formula():
    grid = Grid(1, 2, 2)
    rotary = rotary_table(grid, grid, 16)
    x = noise(1, 2, 1 + grid.tokens, 16).double().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: rotate_last(x, rotary, grid.tokens), (x,))
