"""Shared layers: the same numbers as PyTorch's own, in the memory layout that is quick."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vesalius.core.errors import UnknownName
from vesalius.models.blocks import InstanceNorm, ShuffleUp, activation, crop_to, norm, pad_to


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
