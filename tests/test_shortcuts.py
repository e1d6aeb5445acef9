"""Accuracy of the networks' shortcuts in half precision: folded rows, fused norm and rotation, convolved pairs."""

import copy

import pytest
import torch

from hallo3_core.model.attention import CrossAttention, KeysValues, join_heads, scaled_dot_product, split_heads
from hallo3_core.model.config import Grid
from hallo3_core.model.in_place import normed_and_rotated_wide, rotate_last
from hallo3_core.model.positions import rotary_table
from hallo3_core.model.projectors import pair_convolution
from tests.noise import noise

pytestmark = pytest.mark.usefixtures("no_gradients")
GRID = Grid(3, 2, 4)


@pytest.mark.parametrize("bias", [0.0, 0.3, 1.0, 3.0])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.bfloat16, 2e-3), (torch.float16, 3e-4)])
def test_a_large_bias_costs_folded_rows_nothing(bias, dtype, limit):
    """Limits the error that all tokens share, which averaging does not remove, at the released heads and widths.

    Measured in bfloat16 with 512 queries, in percent of the branch without its bias, by the bias's size relative to it:

        bias   shared part: plain, rows with the bias in them, folded     all: plain, with the bias in them, folded
        0      0.011  0.133  0.133                                        0.249  0.287  0.287
        0.3    0.011  0.395  0.133                                        0.254  0.500  0.292
        1      0.013  0.620  0.133                                        0.300  0.824  0.332
        3      0.025  1.728  0.136                                        0.560  2.255  0.578
    """
    found = fold_errors(bias, dtype)
    assert found["folded constant"] < limit
    assert found["folded"] < 1.5 * found["plain"]


def fold_errors(bias, dtype, width=3072, heads=48, queries=64):
    torch.manual_seed(0)
    attention = CrossAttention(width, 8)
    attention.out.weight.data.normal_(0, width**-0.5)
    attention.out.bias.data.normal_(0, 1)
    q, keys, values = torch.randn(1, heads, queries, 64), torch.randn(1, heads, 4, 64), torch.randn(1, heads, 4, 64)
    signal = attention.out(join_heads(scaled_dot_product(q, keys, values))) - attention.out.bias
    attention.out.bias.data.mul_(bias * signal.square().mean().sqrt())
    attention.to(dtype)
    q, keys, values = (x.to(dtype) for x in (q, keys, values))
    wide = copy.deepcopy(attention).double()
    exact = wide.out(join_heads(scaled_dot_product(q.double(), keys.double(), values.double())))
    signal = (exact - wide.out.bias).square().mean().sqrt()
    found = {}
    for name, result in (
        ("plain", attention.out(join_heads(scaled_dot_product(q, keys, values)))),
        ("folded", attention.fold(KeysValues(keys, values)).attend(q)),
    ):
        error = result.double() - exact
        found[name] = float(error.square().mean().sqrt() / signal)
        found[f"{name} constant"] = float(error.mean(dim=1).square().mean().sqrt() / signal)
    return found


@pytest.mark.parametrize(("dtype", "limit"), [(torch.bfloat16, 2e-3), (torch.float16, 2.5e-4)])
@pytest.mark.parametrize("text", [0, 5])
def test_norm_and_rotation_in_one_are_rounded_once(dtype, limit, text):
    """CUDA's half-precision path, on a CPU: more accurate than two operations, and equal for a view and its copy."""
    rotary = rotary_table(GRID, GRID, 64)
    norm = torch.nn.LayerNorm(64, eps=1e-6)
    norm.weight.data.normal_(1, 0.1), norm.bias.data.normal_(0, 0.1)
    x = split_heads((3 * noise(2, text + GRID.tokens, 3 * 640) + 1).to(dtype).chunk(3, dim=-1)[1], 10)
    low = copy.deepcopy(norm).to(dtype)
    exact = copy.deepcopy(low).double()(x.double())
    video = exact[..., text:, :].unflatten(-1, (-1, 2))
    turned = torch.view_as_real(torch.view_as_complex(video) * torch.view_as_complex(rotary.turns.double()))
    exact = torch.cat((exact[..., :text, :], turned.flatten(-2)), dim=-2)
    before = x.clone()
    found = normed_and_rotated_wide(low, x, rotary, GRID.tokens)
    two = rotate_last(low(x), rotary, GRID.tokens)
    error, other = ((y.double() - exact).norm() / exact.norm() for y in (found, two))
    assert error < limit and error < other and torch.equal(x, before)


def test_pairs_of_frames_are_convolved_by_a_linear_layer():
    own = pair_convolution(torch.nn.Conv1d)(12, 10, kernel_size=2, stride=2)
    theirs = torch.nn.Conv1d(12, 10, kernel_size=2, stride=2)
    assert {k: v.shape for k, v in own.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    theirs.load_state_dict(own.state_dict())
    x = noise(2, 12, 8)
    assert torch.allclose(own(x), theirs(x), atol=1e-6)
    own.bias.data.zero_()
    assert torch.allclose(
        own(x.transpose(1, 2).contiguous().transpose(1, 2)), theirs(x) - theirs.bias[:, None], atol=1e-6
    )
