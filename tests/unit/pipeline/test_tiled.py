"""Tiles blended on the fly equal the plain weighted mean, whatever the size, the batch, the model and the memory allowed."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from vesalius.core.errors import InputError, ShapeError, UnknownName
from vesalius.models.catalog import build
from vesalius.models.contract import Outputs
from vesalius.pipeline.tiled import plan_tiles, tiled
from vesalius.transforms.tiles import gaussian, starts


class Valid(nn.Module):
    """Two valid 3x3 convolutions: gives 4 pixels less than it sees, and knows no place."""

    dims = 2

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))

    def output_size(self, size):
        return tuple(n - 4 for n in size)

    def forward(self, x):
        return Outputs(self.body(x))


def net(dims=3, classes=3, channels=1, seed=0):
    torch.manual_seed(seed)
    config = {"dims": dims, "in_channels": channels, "classes": classes, "widths": [4, 8], "norm": "instance"}
    return build("unet", config).eval()


def noise(*shape):
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def whole(slabs):
    """All slabs as one array, after a check that they follow on each other."""
    slabs = list(slabs)
    assert [z0 for z0, _ in slabs] == [sum(s.shape[1] for _, s in slabs[:i]) for i in range(len(slabs))]
    return np.concatenate([slab for _, slab in slabs], axis=1)


@torch.inference_mode()
def plainly(model, array, patch, overlap=0.5, axes=()):
    """The weighted mean written out: every tile into a full volume, and a division at the end."""
    size, patch = array.shape[1:], plan_tiles([model], array.shape, patch=patch).patch  # no larger than the image needs
    padded = [max(n, p) for n, p in zip(size, patch, strict=True)]
    before = [(m - n) // 2 for m, n in zip(padded, size, strict=True)]
    margins = [(0, 0), *((b, m - n - b) for b, m, n in zip(before, padded, size, strict=True))]
    big = np.pad(array, margins, mode="reflect" if model.dims == 2 else "constant")
    total, weight = 0, np.zeros(padded)
    for tile in itertools.product(*(starts(m, p, overlap) for m, p in zip(padded, patch, strict=True))):
        at = tuple(slice(s, s + p) for s, p in zip(tile, patch, strict=True))
        x = torch.from_numpy(big[(slice(None), *at)].copy())[None]
        x = x.flip([a + 2 for a in axes]) if axes else x
        scores = model(x.squeeze(2) if model.dims == 2 else x).main
        scores = scores.unsqueeze(2) if model.dims == 2 else scores
        scores = (scores.flip([a + 2 for a in axes]) if axes else scores)[0].numpy()
        total = np.zeros((len(scores), *padded)) if weight.max() == 0 else total
        total[(slice(None), *at)] += scores * gaussian(patch)
        weight[at] += gaussian(patch)
    inside = tuple(slice(b, b + n) for b, n in zip(before, size, strict=True))
    return (total / weight)[(slice(None), *inside)]


@pytest.mark.parametrize("size", [(16, 16, 16), (33, 20, 27), (9, 40, 16), (5, 6, 7)])
@pytest.mark.parametrize("batch", [1, 3, None])
def test_streamed_tiles_equal_the_plain_weighted_mean(size, batch):
    model, array = net(), noise(1, *size)
    got = whole(tiled(model, array, patch=(16, 16, 16), batch=batch, precision="fp32"))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, plainly(model, array, (16, 16, 16)), atol=2e-5)


@pytest.mark.parametrize("overlap", [0, 0.25, 0.7])
def test_any_overlap_covers_every_voxel_once(overlap):
    model, array = net(), noise(1, 21, 18, 24)
    got = whole(tiled(model, array, patch=(16, 8, 16), overlap=overlap, precision="fp32"))
    np.testing.assert_allclose(got, plainly(model, array, (16, 8, 16), overlap), atol=2e-5)


def test_a_2d_model_walks_plane_by_plane():
    model, array = net(dims=2, channels=2), noise(2, 5, 20, 30)
    got = whole(tiled(model, array, patch=(1, 16, 16), precision="fp32"))
    np.testing.assert_allclose(got, plainly(model, array, (1, 16, 16)), atol=2e-5)
    alone = whole(tiled(model, array[:, 3:4], patch=(1, 16, 16), precision="fp32"))
    np.testing.assert_allclose(got[:, 3:4], alone, atol=2e-5)


def test_flips_are_averaged_over_all_their_combinations():
    model, array = net(), noise(1, 16, 20, 16)
    got = whole(tiled(model, array, patch=(16, 16, 16), flips=(0, 2), precision="fp32"))
    each = [plainly(model, array, (16, 16, 16), axes=axes) for axes in ((), (0,), (2,), (0, 2))]
    np.testing.assert_allclose(got, np.mean(each, axis=0), atol=2e-5)
    assert np.abs(got - each[0]).max() > 0.01, "the flips changed nothing: this test could not fail"


def test_folds_are_averaged():
    models, array = [net(seed=1), net(seed=2)], noise(1, 16, 20, 16)
    got = whole(tiled(models, array, patch=(16, 16, 16), precision="fp32"))
    np.testing.assert_allclose(got, np.mean([plainly(m, array, (16, 16, 16)) for m in models], axis=0), atol=2e-5)


@pytest.mark.parametrize("size", [(40, 50), (20, 20), (7, 33)])
def test_valid_convolutions_see_mirrored_borders_and_join_without_a_seam(size):
    torch.manual_seed(0)
    model, array = Valid().eval(), noise(1, 1, *size)
    got = whole(tiled(model, array, patch=(1, 24, 24), precision="fp32"))
    with torch.inference_mode():
        mirrored = np.pad(array[0, 0], 2, mode="reflect")
        want = model(torch.from_numpy(mirrored)[None, None]).main[0].numpy()
    np.testing.assert_allclose(got[:, 0], want, atol=2e-5)


def test_a_valid_unet_gives_what_it_gives_on_the_mirrored_picture():
    torch.manual_seed(0)
    model = build("unet", {"widths": [4, 8], "padding": "valid", "down": "max", "norm": "none"}).eval()
    sees = model.nearest_size((60, 60))
    gives, array = model.output_size(sees), noise(1, 1, *model.output_size(sees))
    with torch.inference_mode():
        mirrored = np.pad(array[0, 0], (sees[0] - gives[0]) // 2, mode="reflect")
        want = model(torch.from_numpy(mirrored)[None, None]).main[0].numpy()
    np.testing.assert_allclose(whole(tiled(model, array, patch=(1, *sees), precision="fp32"))[:, 0], want, atol=2e-5)


def test_a_memory_map_is_read_tile_by_tile(tmp_path):
    array = noise(1, 24, 20, 16)
    mapped = np.memmap(tmp_path / "volume", np.float32, "w+", shape=array.shape)
    mapped[:] = array
    model = net()
    got = whole(tiled(model, mapped, patch=(16, 16, 16), precision="fp32"))
    np.testing.assert_array_equal(got, whole(tiled(model, array, patch=(16, 16, 16), precision="fp32")))


def test_what_is_held_does_not_grow_with_depth():
    model = net()
    short, long = (plan_tiles([model], (1, depth, 512, 512), patch=(16, 16, 16), batch=1) for depth in (40, 4000))
    assert long.held_bytes == short.held_bytes < 4 * 3 * 512 * 512 * 40


def test_tight_memory_makes_thin_slabs_and_the_same_scores():
    model, array = net(), noise(1, 40, 20, 20)
    roomy = plan_tiles([model], array.shape, patch=(16, 16, 16), precision="fp32", batch=1)
    tight = plan_tiles([model], array.shape, patch=(16, 16, 16), precision="fp32", ram_bytes=roomy.held_bytes - 1)
    assert tight.held_bytes < roomy.held_bytes
    slabs = list(tiled(model, array, patch=(16, 16, 16), precision="fp32", ram_bytes=roomy.held_bytes - 1))
    assert max(slab.shape[1] for _, slab in slabs) == tight.slab == 1 < roomy.slab
    np.testing.assert_allclose(whole(slabs), plainly(model, array, (16, 16, 16)), atol=2e-5)


def test_the_tightest_memory_holds_half_precision():
    model, array = net(), noise(1, 40, 20, 20)
    roomy = plan_tiles([model], array.shape, patch=(16, 16, 16), precision="fp32", batch=1)
    thin = plan_tiles([model], array.shape, patch=(16, 16, 16), precision="fp32", ram_bytes=roomy.held_bytes - 1)
    tightest = {"patch": (16, 16, 16), "precision": "fp32", "ram_bytes": thin.held_bytes - 1}
    assert thin.dtype == torch.float32 and plan_tiles([model], array.shape, **tightest).dtype == torch.float16
    np.testing.assert_allclose(whole(tiled(model, array, **tightest)), plainly(model, array, (16, 16, 16)), atol=5e-3)


def test_too_little_memory_is_an_error_that_states_the_least():
    model, shape = net(), (1, 40, 20, 20)
    with pytest.raises(InputError, match=r"at least .*B beside image .*--max-ram"):
        plan_tiles([model], shape, patch=(16, 16, 16), ram_bytes=1000)


def test_half_precision_keeps_the_decision_of_bf16():
    model, array = net(), noise(1, 32, 20, 20)
    got = whole(tiled(model, array, patch=(16, 16, 16), precision="bf16"))
    want = plainly(model, array, (16, 16, 16))
    assert np.abs(got - want).max() < 0.05 * np.abs(want).max()


def test_progress_counts_every_tile():
    seen = []
    slabs = tiled(net(), noise(1, 16, 40, 16), patch=(16, 16, 16), batch=2, progress=lambda *now: seen.append(now))
    assert seen == [], "nothing runs before the first slab is asked for"
    whole(slabs)
    assert seen == [(2, 4), (4, 4)]


def test_yielded_slabs_stay_as_they_were():
    slabs, copies = [], []
    for _, slab in tiled(net(), noise(1, 64, 16, 16), patch=(16, 16, 16), ram_bytes=700_000):
        slabs.append(slab)
        copies.append(slab.copy())
    assert len(slabs) > 2
    for slab, copy in zip(slabs, copies, strict=True):
        np.testing.assert_array_equal(slab, copy)


def test_what_does_not_exist_is_refused_before_anything_runs():
    model, array = net(), noise(1, 16, 16, 16)
    with pytest.raises(UnknownName, match="fp16"):
        tiled(model, array, patch=(16, 16, 16), precision="fp16")
    with pytest.raises(UnknownName, match="axis"):
        tiled(model, array, patch=(16, 16, 16), flips=(3,))
    with pytest.raises(ShapeError, match="16"):
        tiled(model, array, patch=(15, 16, 16))
    with pytest.raises(ShapeError):
        tiled(model, array, patch=(16, 16))
