"""CogVideoX in diffusers' names as the start of phase 1: the mapped weights compute what diffusers computes."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import save_file

from hallo3_core.errors import InputError
from hallo3_core.model.conditioning import Conditioning
from hallo3_core.train.config import Stop
from hallo3_core.train.loop import train
from hallo3_core.train.start import InputSizes, Maker, networks_of, read_start
from hallo3_core.weights.reading import read_tensors
from tests.train import toys

diffusers = pytest.importorskip("diffusers")
GRID, TEXT, WIDTH, HEAD = (13, 2, 3), 6, 12, 16
SIZES = dict(
    num_attention_heads=2,
    attention_head_dim=HEAD,
    in_channels=32,
    out_channels=16,
    time_embed_dim=16,
    text_embed_dim=WIDTH,
    num_layers=3,
    sample_width=2 * GRID[2],
    sample_height=2 * GRID[1],
    sample_frames=49,
    max_text_seq_length=TEXT,
    use_rotary_positional_embeddings=True,
    use_learned_positional_embeddings=True,
)


@pytest.fixture(scope="module")
def model():
    """Diffusers' own, with random values in every tensor, of the sizes that trained ones have."""
    made = diffusers.CogVideoXTransformer3DModel(**SIZES).eval()
    generator = torch.Generator().manual_seed(0)
    for name, tensor in made.state_dict().items():
        values = torch.randn(tensor.shape, generator=generator)
        is_gain = tensor.ndim == 1 and name.endswith("weight")
        tensor.copy_(1 + 0.1 * values if is_gain else values / (tensor[0].numel() ** 0.5 if tensor.ndim > 1 else 5))
    return made


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """A pipeline's folder with the transformer in shards."""
    path = tmp_path_factory.mktemp("cogvideox")
    model.save_pretrained(path / "transformer", max_shard_size="60KB")
    assert len(list((path / "transformer").glob("*.safetensors"))) > 2
    return path


def theirs(model, latent, concat, text, timestep) -> torch.Tensor:
    """Diffusers' prediction ``1 16 t h w``."""
    frames, rows, columns = GRID
    crops = ((0, 0), (rows, columns))
    rotary = diffusers.models.embeddings.get_3d_rotary_pos_embed(HEAD, crops, (rows, columns), frames)
    x = torch.cat((latent, concat), dim=1).transpose(1, 2)
    with torch.no_grad():
        return model(x, text, timestep, image_rotary_emb=rotary, return_dict=False)[0].transpose(1, 2)


def ours(start, latent, concat, text, timestep) -> torch.Tensor:
    network = toys.configuration(None).network
    inputs = InputSizes((TEXT, WIDTH), 0, 0, GRID, 16)
    maker = Maker(network, torch.Generator().manual_seed(0))
    networks = networks_of(start, "base", network, Conditioning(), inputs, maker)
    with torch.no_grad():
        return networks(latent, concat, timestep, text)


@pytest.mark.parametrize("form", ["pipeline", "folder", "shard", "one file"])
def test_it_computes_what_diffusers_computes(model, folder, tmp_path, form):
    path = folder if form == "pipeline" else folder / "transformer"
    if form == "shard":
        path = sorted(path.glob("*.safetensors"))[1]
    elif form == "one file":
        model.save_pretrained(tmp_path)
        path = tmp_path / "diffusion_pytorch_model.safetensors"
    latent, concat = (toys.noise(1, 16, GRID[0], 2 * GRID[1], 2 * GRID[2], seed=seed) for seed in (1, 2))
    inputs = latent, concat, toys.noise(1, TEXT, WIDTH, seed=3), torch.tensor([437])
    expected, found = theirs(model, *inputs), ours(read_start([path]), *inputs)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert expected.std() > 0.1


def test_phase_1_starts_from_it(folder, tmp_path):
    """Both networks begin with it; what does not train stays as it was."""
    config = toys.configuration(tmp_path, "identity", start=folder, stop=Stop(steps=1))
    result = train(config, encoders=toys.encoders(), entries=toys.entries())
    before, after = read_start([folder]).tensors, read_tensors(result.path)
    assert before.keys() <= after.keys() and any(name.startswith("ref_model.") for name in after)
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert changed and all("attention" in name for name in changed)


def test_other_transformers_are_refused_in_one_sentence(model, folder, tmp_path):
    whole = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    patch, positions = "patch_embed.proj.weight", "patch_embed.pos_embedding"
    cases = {
        "is a text-to-video model: it reads 16 channels": whole | {patch: whole[patch][:, :16].clone()},
        "is CogVideoX without learned positions": {n: t for n, t in whole.items() if n != positions},
        "is CogVideoX 1.5": whole | {patch: torch.zeros(32, 256)},
        "without transformer_blocks.1.attn1.to_k.weight": {n: t for n, t in whole.items() if "1.attn1.to_k" not in n},
        "without transformer_blocks.2.norm2.norm.bias": {n: t for n, t in whole.items() if "2.norm2.norm.b" not in n},
    }
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file(whole, path)
    with pytest.raises(InputError, match=r"84 positions are not those of the released size. Put .*config.json beside"):
        read_start([path])
    shutil.copy(folder / "transformer" / "config.json", tmp_path)
    for words, tensors in cases.items():
        save_file(tensors, path)
        with pytest.raises(InputError) as refused:
            read_start([path])
        said = str(refused.value)
        assert words in said and said.startswith(str(path)) and said.endswith("CogVideoX-5B-I2V's transformer.")
        assert "\n" not in said
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="holds no diffusion_pytorch_model"):
        read_start([tmp_path / "none"])
