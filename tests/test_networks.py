"""The networks at toy sizes: constants may be precomputed, sizes follow from shapes, batch samples do not mix."""

from contextlib import contextmanager

import pytest
import torch

from hallo3_core.errors import InputError
from hallo3_core.model.attention import Folded, is_worth_folding, scaled_dot_product
from hallo3_core.model.config import Grid, TransformerConfig
from hallo3_core.model.denoiser import Conditions
from hallo3_core.model.positions import Rotary, fitted_positions, fitted_table, rotary_table, rotate_
from hallo3_core.pipeline.conditions import stack
from hallo3_core.toy import noise_release as tiny
from hallo3_core.weights import names
from hallo3_core.weights.parts import build, fill, load, sort_official
from tests.noise import noise

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def tensors():
    return tiny.file_tensors(seed=3)


@pytest.fixture(scope="module")
def parts(tensors):
    return sort_official(tensors)


@pytest.fixture(scope="module")
def denoiser(parts):
    return load(parts, names.DENOISER, dtype=torch.float32)


GRID = Grid(3, 2, 4)


def conditions(denoiser, seed=0, batch=1):
    config = denoiser.config
    n = GRID.tokens_per_frame
    bank = [noise(batch, n, config.hidden, seed=seed + i) for i in range(config.layers)]
    return Conditions(
        text=denoiser.embed_text(noise(batch, config.text_tokens, config.text_width, seed=seed + 10)),
        reference=denoiser.reference_keys_values(bank),
        face=denoiser.face_keys_values(noise(batch, 4, config.face, seed=seed + 11)),
        audio=denoiser.audio_keys_values(noise(batch, GRID.frames, 4, config.audio, seed=seed + 12)),
    )


def velocity(denoiser, conditions, latent, step=500.0):
    layout = denoiser.layout(GRID, torch.float32)
    modulation = denoiser.modulate_steps(torch.tensor([step]), torch.float32)
    return denoiser(latent, torch.zeros_like(latent[:1]), conditions, modulation, layout)


def latents(batch=1, seed=99):
    return noise(batch, 16, GRID.frames, 2 * GRID.rows, 2 * GRID.columns, seed=seed)


def test_every_condition_is_heard(denoiser):
    base, other = conditions(denoiser), conditions(denoiser, seed=50)
    x = latents()
    plain = velocity(denoiser, base, x)
    for name in ("text", "reference", "face", "audio"):
        changed = Conditions(**{**vars(base), name: getattr(other, name)})
        assert (velocity(denoiser, changed, x) - plain).abs().max() > 1e-3, name
    assert (velocity(denoiser, base, x, step=100.0) - plain).abs().max() > 1e-3


def test_branches_in_one_batch_equal_one_after_another(denoiser):
    """As in guidance: shared conditions stay a batch of one, others are stacked."""
    a, b = conditions(denoiser), conditions(denoiser, seed=50)
    x = latents()
    both = Conditions(torch.cat((a.text, b.text)), a.reference, stack([a.face, a.face]), stack([a.audio, b.audio]))
    assert both.face is a.face
    turn = [velocity(denoiser, Conditions(c.text, a.reference, a.face, c.audio), x) for c in (a, b)]
    together = velocity(denoiser, both, x.expand(2, -1, -1, -1, -1))
    assert torch.allclose(together, torch.cat(turn), atol=2e-5)


def test_audio_is_heard_in_its_own_frame_first(denoiser):
    """Each latent frame attends to its own audio, so without self-attention no other frame changes."""
    conds, x = conditions(denoiser), latents()
    layout = denoiser.layout(GRID, torch.float32)
    video = denoiser.embed_video(torch.cat((x, x), 1), layout)
    block, audio = denoiser.blocks[0], conds.audio[0]
    louder = Folded(audio.keys, audio.outputs.clone())
    louder.outputs[:, 1] += 1
    difference = (block.attend_audio(video, layout, louder) - block.attend_audio(video, layout, audio)).abs()
    per_frame = difference.unflatten(1, (GRID.frames, -1)).amax((0, 2, 3))
    assert per_frame[1] > 1e-3 and per_frame[0] == 0 and per_frame[2] == 0


def test_the_attention_function_and_the_layers_are_arguments(parts):
    calls, made = [], []

    def attention(q, k, v):
        calls.append((q.shape, k.shape))
        return scaled_dot_product(q, k, v)

    class Operations:
        LayerNorm, Conv1d, Conv2d = torch.nn.LayerNorm, torch.nn.Conv1d, torch.nn.Conv2d

        class Linear(torch.nn.Linear):
            def __init__(self, *args, **kw):
                super().__init__(*args, **kw)
                made.append(self)

    module = build(parts, names.DENOISER, attention=attention, operations=Operations)
    fill(module, parts.tensors[names.DENOISER], dtype=torch.float32)
    assert made and all(type(m) is not torch.nn.Linear for m in module.modules())
    velocity(module, conditions(module), latents())
    text, portrait = module.config.text_tokens, GRID.tokens_per_frame
    # the portrait's tokens are keys, never queries; nor is the text in the last layer, where nothing reads it
    queries = [text + GRID.tokens] * (module.config.layers - 1) + [GRID.tokens]
    assert [(q[2], k[2]) for q, k in calls] == [(n, text + GRID.tokens + portrait) for n in queries]


def test_text_that_ends_changes_nothing_for_the_video(denoiser):
    """The last block skips the text's queries and MLP, in the reference network too."""
    conds, x = conditions(denoiser), latents()
    layout = denoiser.layout(GRID, torch.float32)
    modulation = denoiser.modulate_steps(torch.tensor([500.0]), torch.float32)
    video, text = denoiser.embed_video(torch.cat((x, x), 1), layout), conds.text + layout.text
    block, args = denoiser.blocks[0], (modulation.layer(0), layout, conds.of_layer(0))
    goes_on, _ = block(video, text, *args)
    ends, nothing = block(video, text, *args, text_ends=True)
    assert nothing is None and torch.allclose(ends, goes_on, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 2])
def test_folded_values_are_the_output_matrix_applied(denoiser, batch):
    """Face and audio: each head's values are multiplied by its part of the matrix, and the bias is added once."""
    config, block = denoiser.config, denoiser.blocks[0]
    layout = denoiser.layout(GRID, torch.float32)
    video = noise(2, GRID.tokens, config.hidden)
    with parametrised_bias(block.face_attention), parametrised_bias(block.audio_attention):
        for tokens, made, attend in (
            (noise(batch, 4, config.face, seed=1), block.face_keys_values, block.attend_face),
            (noise(batch, GRID.frames, 4, config.audio, seed=2), block.audio_keys_values, block.attend_audio),
        ):
            plain, folded = made(tokens), made(tokens, fold=True)
            assert isinstance(folded, Folded) and not isinstance(plain, Folded)
            assert torch.allclose(attend(video, layout, folded), attend(video, layout, plain), atol=5e-6)


@contextmanager
def parametrised_bias(attention):
    """A bias as large as the result, so that omitting it or adding it per head is detected."""
    before = attention.out.bias.clone()
    attention.out.bias.add_(1)
    yield
    attention.out.bias.copy_(before)


def test_what_is_folded_follows_from_sizes():
    """Folding pays off for the released model's face, but not for its audio, where it takes 5.2 GB per clip."""
    sizes = dict(vars(tiny.CONFIG), layers=42, hidden=3072, heads=48)
    released, small = (
        TransformerConfig(**sizes),
        TransformerConfig(**{**sizes, "hidden": 768, "heads": 12, "layers": 4}),
    )
    face, sound = torch.empty(1, 4, 1, dtype=torch.bfloat16), torch.empty(1, 13, 32, 1, dtype=torch.bfloat16)
    assert is_worth_folding(released, face) and not is_worth_folding(released, sound)
    assert is_worth_folding(small, face) and is_worth_folding(small, sound)
    assert not is_worth_folding(small, torch.empty(1, 64, 1))


def test_step_in_low_precision_stays_as_near(parts):
    """With folding and float32 scores, bfloat16's error is no larger than without folding."""
    exact, low = (load(parts, names.DENOISER, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    x, errors = noise(1, GRID.tokens, exact.config.hidden), {}
    for fold in (False, True):
        found = []
        for network, dtype in ((exact, torch.float32), (low, torch.bfloat16)):
            block, layout = network.blocks[0], network.layout(GRID, dtype)
            tokens = noise(1, GRID.frames, 4, network.config.audio, seed=2).to(dtype)
            found.append(block.attend_audio(x.to(dtype), layout, block.audio_keys_values(tokens, fold)).float())
        errors[fold] = (found[0] - found[1]).abs().mean()
    assert errors[True] <= 1.1 * errors[False]


def test_no_state_between_calls(denoiser):
    before = {name: value.clone() for name, value in denoiser.state_dict().items()}
    attributes = {id(m): set(vars(m)) for m in denoiser.modules()}
    x = latents()
    first = velocity(denoiser, conditions(denoiser), x)
    velocity(denoiser, conditions(denoiser, seed=50), latents(seed=1))
    assert torch.equal(first, velocity(denoiser, conditions(denoiser), x))
    assert all(torch.equal(before[name], value) for name, value in denoiser.state_dict().items())
    assert attributes == {id(m): set(vars(m)) for m in denoiser.modules()}


def test_modulation_of_all_steps_is_that_of_each(denoiser):
    steps = torch.tensor([999.0, 500.0, 19.0])
    together = denoiser.modulate_steps(steps, torch.float32)
    for i, t in enumerate(steps):
        alone = denoiser.modulate_steps(t[None], torch.float32)
        assert torch.allclose(together.step(i).blocks, alone.blocks, atol=1e-5)
        assert torch.allclose(together.step(i).head, alone.head, atol=1e-5)


@pytest.mark.parametrize("part", [names.DENOISER, names.REFERENCE_NET])
def test_the_configuration_is_read_from_the_shapes(parts, part):
    found = TransformerConfig.from_shapes(parts.shapes(part))
    expected = tiny.CONFIG
    if part == names.REFERENCE_NET:
        expected = type(expected)(**{**vars(expected), "face": None, "audio": None})
    assert found == expected
    module = build(parts, part)
    assert {n: tuple(p.shape) for n, p in module.named_parameters()} == parts.shapes(part)
    assert all(p.is_meta for p in module.parameters())


def test_every_official_tensor_has_a_place(parts, tensors):
    assert not parts.unknown
    assert all(
        "reference network" in why or "computed here" in why or "never read" in why for why in parts.unused.values()
    )
    taken = sum(len(t) for t in parts.tensors.values())
    assert taken + len(parts.unused) == len(tensors) + 2  # two position tables become text and video halves


def test_another_grid_is_read_off_the_rotary_table():
    config = type(tiny.CONFIG)(**{**vars(tiny.CONFIG), "grid": Grid(5, 3, 7)})
    assert TransformerConfig.from_shapes(sort_official(tiny.file_tensors(0, config)).shapes(names.DENOISER)) == config


def test_what_is_missing_or_misshapen_is_named(parts):
    tensors = dict(parts.tensors[names.FACE_PROJECTOR])
    module = build(parts, names.FACE_PROJECTOR)
    missing = {k: v for k, v in tensors.items() if k != "proj.bias"}
    with pytest.raises(InputError, match=r"toy.pt: .*1 missing \(proj.bias\)"):
        fill(module, missing, label="toy.pt")
    with pytest.raises(InputError, match=r"1 unknown \(more\)"):
        fill(module, {**tensors, "more": torch.zeros(1)})
    with pytest.raises(InputError, match=r"proj.bias has shape \[3\], expected \[224\]"):
        fill(module, {**tensors, "proj.bias": torch.zeros(3)})
    with pytest.raises(InputError, match="no reference net: it has"):
        only = type(parts)(tensors={names.FACE_PROJECTOR: tensors})
        build(only, names.REFERENCE_NET)


# Positions


def test_the_trained_grid_has_whole_positions():
    rows, columns = fitted_positions(Grid(13, 30, 45), Grid(13, 30, 45))
    assert rows.tolist() == list(range(30)) and columns.tolist() == list(range(45))


def test_a_square_film_sits_where_a_padded_square_sat():
    rows, columns = fitted_positions(Grid(13, 30, 30), Grid(13, 30, 45))
    assert rows.tolist() == list(range(30))
    assert columns.tolist() == [7.5 + i for i in range(30)]


@pytest.mark.parametrize("grid", [Grid(2, 4, 6), Grid(2, 9, 5), Grid(1, 1, 1), Grid(2, 3, 20)])
def test_a_fitted_grid_stays_inside_and_keeps_its_shape(grid):
    trained = Grid(2, 6, 9)
    rows, columns = fitted_positions(grid, trained)
    for positions, count in ((rows, trained.rows), (columns, trained.columns)):
        assert -0.5 <= positions.min() and positions.max() <= count - 0.5
        assert positions.mean() == pytest.approx((count - 1) / 2)
    steps = {round(float(s), 9) for p in (rows, columns) for s in p.diff()}
    assert len(steps) <= 1


def test_a_table_that_is_linear_is_read_exactly_between_its_entries():
    trained, grid = Grid(2, 6, 9), Grid(2, 3, 4)
    t, r, c = torch.meshgrid(*(torch.arange(float(n)) for n in (2, 6, 9)), indexing="ij")
    table = torch.stack((t, r, c), -1)
    assert torch.equal(fitted_table(table, trained, trained), table.flatten(0, 2))
    rows, columns = fitted_positions(grid, trained)
    found = fitted_table(table, grid, trained).unflatten(0, (2, 3, 4))
    assert torch.allclose(found[1, :, 0, 1].double(), rows, atol=1e-6)
    assert torch.allclose(found[1, 0, :, 2].double(), columns, atol=1e-6)


def test_more_frames_than_were_trained_are_refused():
    with pytest.raises(ValueError, match="14 latent frames"):
        fitted_table(torch.zeros(13, 2, 2, 4), Grid(14, 2, 2), Grid(13, 2, 2))


def test_rotation_depends_on_distance_alone():
    grid = Grid(4, 5, 6)
    table = rotary_table(grid, grid, 16)
    q, k = noise(16, seed=1).expand(1, 1, grid.tokens, 16), noise(16, seed=2).expand(1, 1, grid.tokens, 16)
    rotated = [rotate_(x.clone(), table) for x in (q, k)]
    scores = (rotated[0] @ rotated[1].transpose(-1, -2))[0, 0].unflatten(0, (4, 5, 6)).unflatten(-1, (4, 5, 6))
    assert torch.allclose(scores[1, 1, 2, 2, 3, 4], scores[2, 2, 3, 3, 4, 5], atol=1e-5)
    assert torch.equal(table.first_frame(grid).turns, table.turns[: grid.tokens_per_frame])
    still = Rotary(torch.tensor([1.0, 0.0]).expand(grid.tokens, 8, 2))
    assert torch.equal(rotate_(q.clone(), still), q)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_rotation_is_the_formula(dtype):
    """With complex numbers (eager) and in pairs (compiled), in place, also on part of a tensor."""
    grid = Grid(2, 3, 4)
    table, x = rotary_table(grid, grid, 16), noise(2, 3, 5 + grid.tokens, 16).to(dtype)
    a, b = x[:, :, 5:].double().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = table.cos.double(), table.sin.double()
    expected = torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2).to(dtype)
    compiled = torch.compile(rotate_, backend="eager", fullgraph=True)
    for rotate in (rotate_, compiled):
        found = x.clone()
        rotate(found[:, :, 5:], table)
        assert torch.equal(found[:, :, :5], x[:, :, :5])
        tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-6
        assert torch.allclose(found[:, :, 5:], expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("part", ["denoiser", "reference_net"])
def test_a_missing_rotary_table_is_no_more_than_a_warning(tiny_release, caplog, part):
    """The released grid, 13 frames of 2:3, is assumed if the positions fit it."""
    from hallo3_core.release.layout import Release
    from hallo3_core.weights import names
    from hallo3_core.weights.parts import sort_tensors
    from hallo3_core.weights.reading import read_tensors

    tensors = read_tensors(Release(tiny_release).transformer_file)
    wanted = sort_tensors(tensors).tensors[part]
    without = {name: tensor for name, tensor in tensors.items() if not name.endswith(names.ROTARY)}
    found = sort_tensors(without).tensors[part]
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert "the released 13 frames of 2:3 are assumed" in caplog.text
    key = f"{next(p for p, q in names.PREFIXES.items() if q == part)}{names.POSITIONS}"
    for tokens in (7, 225, 226, 500):
        with pytest.raises(InputError, match="fit no grid"):
            sort_tensors(without | {key: without[key][:, :tokens]})
