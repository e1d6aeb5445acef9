"""Streaming: the same results as a resident model, and at most two blocks on the device."""

from __future__ import annotations

import pytest
import torch

from hallo3_core.model.config import Grid
from hallo3_core.model.denoiser import Conditions
from hallo3_core.release.lora.applying import apply_lora
from hallo3_core.release.lora.matching import match_lora
from hallo3_core.runtime.streaming import ALIGNMENT, PlainTransfer, StreamedBlocks, pack, streamed
from hallo3_core.toy import noise_release as tiny
from hallo3_core.weights import fp8, names
from hallo3_core.weights.parts import Parts, load, sort_official
from tests.noise import noise

pytestmark = pytest.mark.usefixtures("no_gradients")

GRID = Grid(2, 2, 3)
CONFIG = type(tiny.CONFIG)(**{**vars(tiny.CONFIG), "layers": 5})


def plain(dtype=torch.float32):
    return load(sort_official(tiny.file_tensors(3, CONFIG)), names.DENOISER, dtype=dtype)


def in_fp8():
    tensors = sort_official(tiny.file_tensors(3, CONFIG)).tensors[names.DENOISER]
    for name in [name for name in tensors if fp8.is_rounded(name)]:
        tensors[name], tensors[f"{name.removesuffix('weight')}weight_scale"] = fp8.quantise(tensors[name])
    return load(Parts({names.DENOISER: tensors}), names.DENOISER, dtype=torch.float32)


def with_lora(denoiser):
    stem = "transformer.transformer_blocks.1.attn1.to_v"
    pair = {f"{stem}.lora_A.weight": noise(4, 64), f"{stem}.lora_B.weight": noise(64, 4, seed=1)}
    apply_lora(denoiser, match_lora(pair, CONFIG, label="style", metadata={}))
    return denoiser


MODELS = {
    "float32": plain,
    "bfloat16": lambda: plain(torch.bfloat16),
    "fp8": in_fp8,
    "LoRA": lambda: with_lora(plain()),
    "LoRA in fp8": lambda: with_lora(in_fp8()),  # one block is larger than the others
}


def evaluate(denoiser, seed=0, step=500.0):
    dtype = denoiser.text_embed.weight.dtype

    def values(*shape, seed):
        return noise(*shape, seed=seed).to(dtype)

    bank = [values(1, GRID.tokens_per_frame, CONFIG.hidden, seed=seed + i) for i in range(CONFIG.layers)]
    conditions = Conditions(
        text=denoiser.embed_text(values(1, CONFIG.text_tokens, CONFIG.text_width, seed=seed + 10)),
        reference=denoiser.reference_keys_values(bank),
        face=denoiser.face_keys_values(values(1, 4, CONFIG.face, seed=seed + 11)),
        audio=denoiser.audio_keys_values(values(1, GRID.frames, 4, CONFIG.audio, seed=seed + 12)),
    )
    latent = values(2, 16, GRID.frames, 2 * GRID.rows, 2 * GRID.columns, seed=seed + 13)
    modulation = denoiser.modulate_steps(torch.tensor([step]), dtype)
    return denoiser(latent, torch.zeros_like(latent[:1]), conditions, modulation, denoiser.layout(GRID, dtype))


@pytest.mark.parametrize("model", MODELS)
def test_a_streamed_model_computes_what_a_resident_one_does(model):
    expected = [evaluate(MODELS[model](), seed) for seed in (0, 50)]
    with streamed(MODELS[model](), "cpu") as denoiser:
        found = [evaluate(denoiser, seed) for seed in (0, 50)]
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


class Watched(PlainTransfer):
    """Records copies and completes them as late as allowed, in `wait`."""

    def __init__(self):
        self.sent, self.waiting = [], []

    def start(self, slot, packed):
        self.wait()
        self.sent.append(packed)
        slot.fill_(255)  # the old content is overwritten from here on
        self.waiting.append((slot, packed))

    def wait(self):
        for slot, packed in self.waiting:
            slot.copy_(packed)
        self.waiting.clear()


def layers(count, sizes=None):
    sizes = sizes or [4] * count
    return [torch.nn.Linear(3, size) for size in sizes]


def resident(blocks):
    return [i for i, block in enumerate(blocks) if not next(block.parameters()).is_meta]


def test_one_block_is_loaded_and_the_next_is_copied():
    blocks, transfer = layers(5), Watched()
    own = [[p.clone() for p in block.parameters()] for block in blocks]
    stream = StreamedBlocks(blocks, "cpu", transfer)
    packed = [pack_.data_ptr() for pack_ in stream._packed]
    assert resident(blocks) == [] and transfer.sent == []
    for turn in range(2):
        for i, block in enumerate(stream):
            assert block is blocks[i] and resident(blocks) == [i]
            assert all(torch.equal(p, q) for p, q in zip(block.parameters(), own[i], strict=True))
            sent = [packed.index(p.data_ptr()) for p in transfer.sent]
            assert sent == [n % 5 for n in range(5 * turn + i + 2)]  # each block once, in order, one ahead
            assert len(stream.slots) == 2
    stream.close()
    assert resident(blocks) == []


def test_any_order_is_served():
    blocks = layers(4, [4, 7, 2, 5])
    own = [[p.clone() for p in block.parameters()] for block in blocks]
    stream = StreamedBlocks(blocks, "cpu", Watched())
    for i in (0, 0, 3, -1, 1, 1, 2, 0, 3, 2, 1):
        block = stream[i]
        assert resident(blocks) == [i % 4]
        assert all(torch.equal(p, q) for p, q in zip(block.parameters(), own[i], strict=True))
    with pytest.raises(IndexError):
        stream[4]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_blocks(count):
    blocks = layers(count)
    own = [block.weight.clone() for block in blocks]
    stream = StreamedBlocks(blocks, "cpu", Watched())
    for _ in range(3):
        assert all(torch.equal(block.weight, weight) for block, weight in zip(stream, own, strict=True))


def test_a_block_that_is_not_loaded_cannot_be_used():
    blocks = layers(3)
    stream = StreamedBlocks(blocks, "cpu")
    first = stream[0]
    stream[1]
    assert first(torch.zeros(1, 3, device="meta")).is_meta  # it has shapes, but no values
    with pytest.raises(RuntimeError):
        first(torch.zeros(1, 3))


def test_only_blocks_stay_behind_when_the_model_moves():
    """The meta device stands in for a GPU: everything needed at every step is on it, and no block is."""
    with streamed(plain(), "meta") as denoiser:
        assert all(p.is_meta for p in denoiser.parameters())
        assert not [name for name, _ in denoiser.named_parameters() if name.startswith("blocks.")]
        denoiser.modulation.to("meta")
        held = sum(place.nbytes for place in denoiser.blocks.slots)
        assert held == 2 * max(packed.nbytes for packed in denoiser.blocks._packed)
        assert not any(packed.is_meta for packed in denoiser.blocks._packed)


def test_packed_weights_are_aligned_and_whole():
    block = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.LayerNorm(5).bfloat16())
    pieces, packed = pack(block)
    assert [piece.start % ALIGNMENT for piece in pieces] == [0] * 4
    assert all(a.stop <= b.start for a, b in zip(pieces, pieces[1:], strict=False))
    for piece in pieces:
        assert torch.equal(piece.of(packed), block.get_parameter(piece.name))
        assert piece.of(packed).dtype == block.get_parameter(piece.name).dtype


def test_other_networks_are_streamed_by_the_name_of_their_blocks(tiny_release):
    from hallo3_core.inputs.text import load_text_encoder

    encoder = load_text_encoder(tiny_release / "t5-v1_1-xxl")
    expected = encoder.encode("A person talks.")
    with streamed(encoder.model, "cpu", "encoder.block"):
        assert torch.equal(encoder.encode("A person talks."), expected)
    reference_net = load(sort_official(tiny.file_tensors(3)), names.REFERENCE_NET, dtype=torch.float32)
    latent = noise(1, 16, 4, 6)
    expected = reference_net(latent)
    with streamed(reference_net, "cpu"):
        assert all(torch.equal(a, b) for a, b in zip(reference_net(latent), expected, strict=True))


def test_a_compiled_block_is_not_compiled_again():
    """Each load creates new parameters of the same sizes, so nothing recompiles after the first model call."""
    torch._dynamo.reset()
    expected, denoiser = evaluate(plain()), plain()
    for block in denoiser.blocks:
        block.compile(backend="eager")
    with streamed(denoiser, "cpu"):
        assert torch.equal(evaluate(denoiser), expected)
        with torch._dynamo.config.patch(error_on_recompile=True):
            assert torch.equal(evaluate(denoiser), expected)
