"""Shared layers: the same numbers as PyTorch's own, in the memory layout that is quick."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vesalius.core.errors import UnknownName
from vesalius.models.blocks import (
    ConvUnit,
    CrossAttention,
    DropPath,
    InstanceNorm,
    ResidualUnit,
    SelfAttention,
    ShuffleUp,
    activation,
    attend,
    crop_to,
    entries,
    fold_norms,
    map_of,
    norm,
    pad_to,
    resize_positions,
    tokens_of,
    unwindows,
    windows,
)


@pytest.mark.parametrize("shape", [(3, 4, 6, 5), (2, 4, 3, 6, 5), (1, 4, 8, 8)])
@pytest.mark.parametrize("last", [True, False])
def test_instance_norm_equals_pytorchs_forward_and_backward(shape: tuple[int, ...], last: bool) -> None:
    torch.manual_seed(0)
    theirs = (nn.InstanceNorm2d if len(shape) == 4 else nn.InstanceNorm3d)(4, affine=True)
    nn.init.normal_(theirs.weight)
    nn.init.normal_(theirs.bias)
    ours = InstanceNorm(4)
    ours.load_state_dict(theirs.state_dict())
    memory = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    x = (torch.randn(shape) * 3 + 100).requires_grad_()
    y = x.detach().clone(memory_format=memory if last else torch.contiguous_format).requires_grad_()
    direction = torch.randn(shape)
    (theirs(x) * direction).sum().backward()
    (ours(y) * direction).sum().backward()
    torch.testing.assert_close(ours(y), theirs(x), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(y.grad, x.grad, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, atol=1e-2, rtol=1e-3)
    assert ours(y).is_contiguous(memory_format=memory if last else torch.contiguous_format)


def test_instance_norm_is_exact_far_from_zero() -> None:
    """PyTorch's own group norm is off by 0.1 here in channels_last."""
    x = (torch.randn(2, 8, 32, 32) + 100).to(memory_format=torch.channels_last)
    exact = F.group_norm(x.double(), 8)
    assert (InstanceNorm(8)(x) - exact).abs().max() < 2e-3


@pytest.mark.parametrize("factor", [(2, 2), (1, 3), (2, 1, 2)])
def test_a_shuffle_is_a_transposed_convolution_with_kernel_equal_to_stride(factor: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    dims = len(factor)
    shuffle = ShuffleUp(4, 3, factor)
    up = (nn.ConvTranspose2d if dims == 2 else nn.ConvTranspose3d)(4, 3, factor, factor)
    with torch.no_grad():
        blocks = shuffle.conv.weight.reshape(3, *factor, 4)
        up.weight.copy_(blocks.permute(dims + 1, *range(dims + 1)))
        up.bias.zero_()
        shuffle.conv.bias.zero_()
        x = torch.randn(2, 4, *(5, 6, 7)[:dims])
        torch.testing.assert_close(shuffle(x), up(x), atol=1e-5, rtol=1e-5)


def test_cropping_undoes_padding_and_is_a_view() -> None:
    x = torch.randn(1, 2, 5, 6)
    padded = pad_to(x, (8, 6))
    assert padded.shape == (1, 2, 8, 6) and padded[:, :, 0].abs().sum() == 0
    back = crop_to(padded, (5, 6))
    assert torch.equal(back, x) and back.data_ptr() == padded[:, :, 1:].data_ptr()


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'batch'"):
        norm("bach", 4, 2)
    with pytest.raises(UnknownName, match="leaky_relu"):
        activation("leaky")


def test_windows_come_back_where_they_were_cut() -> None:
    x = torch.randn(2, 7, 10, 3)
    cut = windows(x, 4)
    assert cut.shape == (2 * 2 * 3, 16, 3)
    assert torch.equal(cut[1].unflatten(0, (4, 4)), x[0, :4, 4:8])  # the second window of the first row
    assert torch.equal(unwindows(cut, 4, (7, 10)), x)


def test_tokens_are_a_map_row_by_row() -> None:
    x = torch.randn(2, 3, 4, 5)
    assert torch.equal(tokens_of(x)[:, 7], x[:, :, 1, 2])
    assert torch.equal(map_of(tokens_of(x), (4, 5)), x)


def test_attention_is_the_equation() -> None:
    torch.manual_seed(0)
    attention, x, bias = SelfAttention(8, 2), torch.randn(2, 5, 8), torch.randn(1, 2, 5, 5)
    q, k, v = (part.view(2, 5, 2, 4).transpose(1, 2) for part in attention.qkv(x).split(8, dim=-1))
    scores = (q @ k.transpose(2, 3) / 2 + bias).softmax(-1) @ v
    torch.testing.assert_close(attention(x, bias), attention.proj(scores.transpose(1, 2).reshape(2, 5, 8)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_that_learns_its_bias_is_pytorchs_in_values_and_gradients(dtype):
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, 6, 8, dtype=dtype) for _ in range(3))
    bias = torch.randn(1, 2, 6, 6)
    found = []
    for learn in (True, False):  # without a bias to learn, attend is PyTorch's own
        given = [x.clone().requires_grad_() for x in (q, k, v)]
        own = bias.to(dtype).clone().requires_grad_(learn)
        out = attend(*given, 2, own)
        out.float().square().sum().backward()
        found.append([out, *(x.grad for x in given)])
        assert (own.grad is not None) == learn
    near = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 0.2, "rtol": 0.05}
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, **near)


def test_cross_attention_looks_at_the_others_alone() -> None:
    attention, q, others = CrossAttention(8, 2, inner=4), torch.randn(1, 3, 8), torch.randn(1, 6, 8)
    found = attention(q, others, others)
    assert found.shape == (1, 3, 8)
    torch.testing.assert_close(attention(q[:, :1], others, others), found[:, :1])


def test_drop_path_keeps_the_mean_and_sleeps_in_eval_mode() -> None:
    torch.manual_seed(0)
    path, x = DropPath(0.25), torch.ones(4000, 2)
    assert path(x).unique().tolist() == pytest.approx([0, 4 / 3])
    assert path(x).mean() == pytest.approx(1, abs=0.05)
    assert path.eval()(x) is x


def test_positions_of_the_right_size_are_left_alone() -> None:
    positions = torch.randn(1, 3, 4, 6)
    assert resize_positions(positions, (3, 4)) is positions
    assert resize_positions(positions, (6, 8)).shape == (1, 6, 8, 6)


def test_batch_norms_become_part_of_the_convolutions_before() -> None:
    unit = ConvUnit(3, 5, (3, 3), bias=False)
    model = nn.Sequential(unit, ResidualUnit(5, 4, (3, 3))).eval()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean)
            nn.init.uniform_(part.running_var, 0.3, 2.0)
            nn.init.normal_(part.weight)
    x = torch.randn(2, 3, 8, 8)
    before = model(x)
    assert fold_norms(model) is model and not any(isinstance(part, nn.BatchNorm2d) for part in model.modules())
    assert torch.allclose(model(x), before, atol=1e-5)


def test_entries_of_a_table_lie_as_attention_reads_them():
    table, index = torch.randn(11, 3, requires_grad=True), torch.randint(11, (2, 5, 4))
    found = entries(table, index)
    assert torch.equal(found, table[index].permute(3, 0, 1, 2)) and found.is_contiguous()
    found.sum().backward()
    assert torch.equal(table.grad[:, 0], torch.bincount(index.flatten(), minlength=11).float())
