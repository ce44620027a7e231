"""2D models on volumes: every plane with its neighbours, along the right axis, however the volume is stored."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from vesalius.core.errors import ChannelError, GeometryError, ShapeError
from vesalius.core.image import Grid, Image
from vesalius.core.labels import Label, Labels
from vesalius.models.catalog import build
from vesalius.models.contract import Outputs
from vesalius.pipeline.predictor import Predictor
from vesalius.pipeline.segment import SegmentOptions, flips_of, segment_image
from vesalius.pipeline.tiled import plan_tiles, tiled
from vesalius.tasks.task import Inference, ModelSpec, Slices, Task
from vesalius.transforms.spatial import Orient, Resample

CPU = torch.device("cpu")


class Rising(nn.Module):
    """Class 1 where the plane behind is brighter than the plane in front: it sees neighbours, and nothing within the plane."""

    dims, in_channels, classes = 2, 3, 2

    def forward(self, x):
        return Outputs(torch.cat([torch.full_like(x[:, :1], 1.0), x[:, 2:] - x[:, :1]], 1))


def net(channels, classes=3):
    torch.manual_seed(0)
    config = {"dims": 2, "in_channels": channels, "classes": classes, "widths": [4, 8], "norm": "instance"}
    return build("unet", config).eval()


def noise(*shape):
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def whole(slabs):
    return np.concatenate([slab for _, slab in slabs], axis=1)


def by_hand(model, array, context):
    """(K, Z, Y, X): each plane with its neighbours stacked as channels, one after the other."""
    depth, found = array.shape[1], []
    for z in range(depth):
        planes = [array[:, min(max(k, 0), depth - 1)] for k in range(z - context, z + context + 1)]
        with torch.inference_mode():
            found.append(model(torch.from_numpy(np.concatenate(planes))[None]).main[0].numpy())
    return np.stack(found, 1)


def task(steps=(), context=1, channels=("MRI",), patch=(1, 32, 32), **changes):
    return Task(
        name="t", title="t", dims=3, channels=channels, labels=Labels((Label(1, "rising"),)), steps=steps,
        model=ModelSpec(name="unet"), inference=Inference(patch=patch), slices=Slices(context=context), **changes,
    )  # fmt: skip


@pytest.mark.parametrize("context, depth, batch", [(0, 5, None), (1, 5, 2), (1, 1, None), (2, 7, 3), (3, 2, None)])
def test_slices_seen_in_batches_equal_slices_done_by_hand(context, depth, batch):
    array, model = noise(2, depth, 16, 24), net(2 * (2 * context + 1))
    got = whole(tiled(model, array, patch=(1, 32, 32), context=context, batch=batch, precision="fp32"))
    np.testing.assert_allclose(got, by_hand(model, array, context), atol=1e-5)


def test_tiles_of_a_large_slice_see_their_neighbours_at_the_same_place():
    array, model = noise(1, 4, 40, 24), net(3)
    got = whole(tiled(model, array, patch=(1, 16, 16), context=1, precision="fp32"))
    stacked = np.concatenate([array[:, [0, 0, 1, 2]], array, array[:, [1, 2, 3, 3]]])  # the neighbours as channels beforehand
    np.testing.assert_allclose(got, whole(tiled(model, stacked, patch=(1, 16, 16), precision="fp32")), atol=1e-5)


def test_what_is_held_does_not_grow_with_the_depth():
    plans = [plan_tiles([net(3)], (1, depth, 64, 64), patch=(1, 64, 64), context=1) for depth in (1000, 4000)]
    assert plans[0].held_bytes == plans[1].held_bytes and plans[1].open < 500
    assert plans[0].batch == 64  # planes go through the network together
    slabs = tiled(net(3), noise(1, 600, 16, 16), patch=(1, 16, 16), context=1, ram_bytes=700_000)
    assert all(slab.nbytes < 700_000 for _, slab in slabs)


def test_a_model_of_volumes_takes_no_context():
    model = build("unet", {"dims": 3, "widths": [4, 8]})
    with pytest.raises(ShapeError, match="sees its neighbouring planes already"):
        tiled(model, noise(1, 16, 16, 16), patch=(8, 8, 8), context=1)


def test_a_model_with_channels_for_another_context_is_refused():
    with pytest.raises(ChannelError, match="3 channels, this U-Net takes 5"):
        list(tiled(net(5), noise(1, 4, 16, 16), patch=(1, 16, 16), context=1))
    with pytest.raises(ValueError, match="1 channels of 5 planes are 5 in_channels"):
        task(context=2).model_validate(task(context=2).model_dump() | {"model": {"name": "unet", "config": {"in_channels": 3}}})
    with pytest.raises(ValueError, match="patches"):
        task(patch=(8, 32, 32))


SAR = {"S": (0, 1), "I": (0, -1), "A": (1, 1), "P": (1, -1), "R": (2, 1), "L": (2, -1)}  # axis of (S, A, R), direction
SHAPE, SPACING = (9, 14, 11), (1.0, 1.5, 2.0)  # along S, A, R


def stored(codes, field):
    """The volume of `field` (S, A, R), stored along `codes`, with the affine that says so."""
    axes, signs = [SAR[c][0] for c in codes], [SAR[c][1] for c in codes]
    array = np.transpose(field, axes)[tuple(slice(None, None, sign) for sign in signs)]
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for column, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
        row = {0: 2, 1: 1, 2: 0}[axis]  # RAS+ mm
        affine[row, column] = sign * SPACING[axis]
        affine[row, 3] += 0 if sign > 0 else (SHAPE[axis] - 1) * SPACING[axis]
    return Image(np.ascontiguousarray(array)[None], Grid(array.shape, affine))


def back(codes, array):
    """A mask stored along `codes`, turned to (S, A, R)."""
    straight = array[tuple(slice(None, None, SAR[c][1]) for c in codes)]
    return np.transpose(straight, np.argsort([SAR[c][0] for c in codes]))


CODES = ["SAR", "RAS", "IPL", "LPS", "ASR", "PIR", "RSA", "LIP", "SRA", "ARI"]


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("axis, number", [("axial", 0), ("coronal", 1), ("sagittal", 2)])
def test_a_slices_neighbours_are_those_along_its_own_axis_however_stored(codes, axis, number):
    field = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32) * 20
    ahead, behind = (np.take(field, np.clip(np.arange(SHAPE[number]) + step, 0, SHAPE[number] - 1), number) for step in (1, -1))
    want = (ahead - behind > 1).astype(np.uint8)
    predictor = Predictor(task((Orient(slices=axis),)), (Rising(),), "", CPU, "fp32")
    image = stored(codes, field)
    mask = segment_image(image, predictor).mask
    assert mask.grid is image.grid and 0 < want.mean() < 1
    np.testing.assert_array_equal(back(codes, mask.array), want)


def test_resampled_slices_come_home_to_the_scanners_grid():
    """A field that rises along A alone, at twice the planes: coronal slices rise everywhere, sagittal ones nowhere."""
    field = np.broadcast_to(100.0 * np.arange(SHAPE[1], dtype=np.float32)[:, None], SHAPE)
    for axis, spacing, share in (("coronal", (0.75, 1.0, 2.0), 1.0), ("sagittal", (2.0, 0.5, 1.5), 0.0)):
        predictor = Predictor(task((Orient(slices=axis), Resample(spacing))), (Rising(),), "", CPU, "fp32")
        for codes in ("LPS", "ARI"):
            mask = segment_image(stored(codes, field), predictor).mask
            assert mask.array.shape == stored(codes, field).grid.shape and mask.array.mean() == share


def test_planes_of_an_unknown_orientation_are_not_guessed():
    image = Image(noise(1, 6, 8, 8), Grid((6, 8, 8), None))
    with pytest.raises(GeometryError, match="nothing says how this volume lies, but the model looks at coronal planes"):
        segment_image(image, Predictor(task((Orient(slices="coronal"),)), (Rising(),), "", CPU, "fp32"))


def test_slices_are_mirrored_within_their_plane():
    assert flips_of(task(), True) == (1, 2)
    model, array = net(3, classes=2), noise(1, 4, 16, 16)
    image = Image(array, Grid(array.shape[1:], np.eye(4)))
    predictor = Predictor(task(patch=(1, 16, 16)), (model,), "", CPU, "fp32")
    got = segment_image(image, predictor, SegmentOptions(flips=True)).mask.array
    total = 0
    for n in range(3):
        for axes in itertools.combinations((2, 3), n):
            total = total + np.flip(by_hand(model, np.ascontiguousarray(np.flip(array, axes)), 1), axes)
    assert (got == total.argmax(0)).mean() > 0.999


def test_the_orders_of_planes_undo_each_other():
    field = noise(*SHAPE)
    for codes, axis in itertools.product(CODES, ("axial", "coronal", "sagittal")):
        image = stored(codes, field)
        turned, undo = Orient(slices=axis).apply(image)
        assert turned.grid.orientation == {"axial": "SAR", "coronal": "ASR", "sagittal": "RSA"}[axis]
        np.testing.assert_array_equal(undo.apply(turned.array), image.array)
