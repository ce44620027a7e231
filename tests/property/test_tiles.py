"""Whatever the image, the tile and the overlap: every plane comes once and in order, and constant tiles blend to a constant."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vesalius.models.contract import Outputs
from vesalius.pipeline.tiled import tiled

LEVELS = (-3.0, 0.25, 1000.0)
sizes = st.tuples(*[st.integers(1, 20)] * 3)


class Constant(nn.Module):
    """The same scores everywhere, `margin` voxels less than it sees at every side."""

    def __init__(self, dims=3, margin=0):
        super().__init__()
        self.dims, self.margin = dims, margin

    def output_size(self, size):
        return tuple(n - 2 * self.margin for n in size)

    def forward(self, x):
        size = self.output_size(x.shape[2:])
        return Outputs(torch.tensor(LEVELS).view(1, -1, *[1] * self.dims).expand(len(x), -1, *size))


class Place(nn.Module):
    """Its own input as its only class: where a voxel goes astray, its number says so."""

    dims = 3

    def forward(self, x):
        return Outputs(x.clone())


def in_order(slabs):
    """All slabs as one array, after a check that each begins where the last one ended."""
    parts, end = [], 0
    for z0, slab in slabs:
        assert z0 == end and slab.shape[1] > 0
        parts.append(slab)
        end += slab.shape[1]
    return np.concatenate(parts, axis=1)


@settings(deadline=None, max_examples=25)
@given(sizes, st.tuples(*[st.integers(4, 12)] * 3), st.floats(0, 0.8), st.integers(0, 1), st.sampled_from([None, 1, 5]))
def test_constant_tiles_blend_to_a_constant(size, patch, overlap, margin, batch):
    model, array = Constant(margin=margin), np.zeros((1, *size), np.float32)
    got = in_order(tiled(model, array, patch=patch, overlap=overlap, batch=batch, precision="fp32"))
    assert got.shape == (len(LEVELS), *size)
    np.testing.assert_allclose(got, np.broadcast_to(np.reshape(LEVELS, (-1, 1, 1, 1)), got.shape), rtol=2e-6)


@settings(deadline=None, max_examples=25)
@given(sizes, st.tuples(*[st.integers(3, 12)] * 3), st.floats(0, 0.8), st.sets(st.integers(0, 2)), st.sampled_from([None, 1, 7]))
def test_every_voxel_comes_back_to_its_own_place(size, patch, overlap, flips, batch):
    array = np.arange(1, np.prod(size) + 1, dtype=np.float32).reshape(1, *size)
    got = in_order(tiled(Place(), array, patch=patch, overlap=overlap, flips=tuple(flips), batch=batch, precision="fp32"))
    np.testing.assert_allclose(got, array, rtol=2e-6)
