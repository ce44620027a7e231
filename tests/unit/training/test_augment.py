"""Augmentation does what its numbers say; appearance groups what looks alike."""

import numpy as np
import pytest
import torch

from vesalius.training.appearance import shares
from vesalius.training.augment import Augmentation, elastic, recolour, seeded
from vesalius.training.recipe import Augment

STILL = {
    "rotate_p": 0,
    "scale_p": 0,
    "noise_p": 0,
    "blur_p": 0,
    "brightness_p": 0,
    "contrast_p": 0,
    "low_resolution_p": 0,
    "gamma_p": 0,
}


def test_nothing_asked_is_the_middle_of_the_crop():
    image = np.random.default_rng(0).normal(size=(2, 12, 14)).astype(np.float32)
    mask = np.arange(168).reshape(12, 14)
    changed, numbers = Augmentation(Augment(**STILL), (8, 8))(image, mask, 0)
    assert np.array_equal(changed.numpy(), image[:, 2:10, 3:11]) and np.array_equal(numbers.numpy(), mask[2:10, 3:11])


@pytest.mark.parametrize("patch", [(2, 20, 24), (20, 24, 3), (1, 24, 20), (3, 20), (2, 2, 20), (2, 3), (3, 2, 1)])
@pytest.mark.parametrize("one", ["blur_p", "low_resolution_p"])
def test_a_patch_of_few_slices_is_blurred_along_its_other_axes(patch, one):
    changing = Augmentation(Augment(**{**STILL, one: 1.0}), patch)
    image = np.random.default_rng(0).random((2, *patch)).astype(np.float32)
    for seed in range(5):
        changed, _ = changing(image.copy(), np.zeros(patch, np.int16), seed)
        assert changed.shape == image.shape and torch.isfinite(changed).all()
        assert max(patch) <= 3 or changed.std() < image.std()
    means = changed.mean((0, *(axis + 1 for axis, size in enumerate(patch) if size > 3)))
    before = image.mean((0, *(axis + 1 for axis, size in enumerate(patch) if size > 3)))
    assert one != "blur_p" or np.allclose(means, before, atol=0.02)  # slices, rows and columns stay in their places


@pytest.mark.parametrize("patch", [(16, 16), (10, 12, 14)])
@pytest.mark.parametrize(
    "one",
    [
        "rotate_p",
        "scale_p",
        "noise_p",
        "blur_p",
        "brightness_p",
        "contrast_p",
        "low_resolution_p",
        "gamma_p",
        "shift_p",
        "elastic_p",
    ],
)
def test_each_change_changes_the_image_and_keeps_its_shape(patch, one):
    settings = Augment(**{**STILL, "shift": 0.2, "elastic_px": 1.0, one: 1.0})
    size = tuple(n + 6 for n in patch)
    image = np.random.default_rng(0).random((3, *size)).astype(np.float32)
    still, _ = Augmentation(Augment(**STILL), patch)(image.copy(), np.zeros(size, np.int16), 3)
    changed, mask = Augmentation(settings, patch)(image.copy(), np.zeros(size, np.int16), 3)
    assert changed.shape == (3, *patch) and mask.shape == patch
    assert torch.isfinite(changed).all() and not torch.allclose(changed, still)


@pytest.mark.parametrize(
    ("patch", "spacing", "thin"),
    [
        ((10, 60, 60), None, 0),  # few slices
        ((40, 60, 60), (5, 0.8, 0.8), 0),  # thick ones
        ((40, 60, 60), (0.8, 0.8, 3), 2),
        ((40, 60, 60), (2, 0.8, 0.8), None),
        ((20, 60, 60), None, None),
        ((10, 60), None, None),
    ],
)
def test_thick_or_few_slices_move_in_their_plane_all_alike(patch, spacing, thin):
    settings = Augment(**{**STILL, "rotate_p": 1, "scale_p": 1, "elastic_p": 1, "elastic_px": 2})
    changing = Augmentation(settings, patch, spacing)
    assert changing.thin == thin
    if thin is None:
        return
    plane = [n for axis, n in enumerate(changing.crop) if axis != thin]
    assert changing.crop[thin] == patch[thin] and min(plane) > 60
    drawn = np.random.default_rng(0).integers(0, 5, [n // 4 + 1 for n in plane]).repeat(4, 0).repeat(4, 1)[: plane[0], : plane[1]]
    mask = np.expand_dims(drawn, thin) + 5 * np.arange(patch[thin]).reshape([-1 if axis == thin else 1 for axis in range(3)])
    for seed in range(4):
        image, found = changing(mask[None].astype(np.float32) + 1, mask, seed)
        assert image.shape == (1, *patch) and found.shape == patch
        slices = found.movedim(thin, 0)
        assert all(torch.equal(slices[z] - 5 * z, slices[0]) for z in range(patch[thin]))  # each in its place
        assert (image > 0.99).float().mean() > 0.9  # little border: a turn across the slices left 0.28 of the image


def test_thick_slices_are_coarsened_one_by_one():
    striped = np.zeros((1, 20, 24, 24), np.float32)
    striped[:, ::2] = 1
    settings = Augment(**{**STILL, "low_resolution_p": 1, "low_resolution": (0.5, 0.5)})
    for spacing, kept in (((5, 1, 1), True), ((1, 1, 1), False)):
        image, _ = Augmentation(settings, (20, 24, 24), spacing)(striped.copy(), np.zeros((20, 24, 24), int), 0)
        assert np.allclose(image, striped, atol=1e-4) == kept


def test_numbers_of_objects_survive_every_spatial_change():
    numbers = np.kron(np.arange(1, 26).reshape(5, 5), np.ones((12, 12), int)) * 1000
    settings = Augment(
        **{**STILL, "rotate_p": 1, "scale_p": 1, "elastic_p": 1, "elastic_px": 3, "flip_axes": (1, 2), "quarter_turns": True}
    )
    for seed in range(5):
        _, found = Augmentation(settings, (40, 40))(np.zeros((1, 60, 60), np.float32), numbers, seed)
        assert set(np.unique(found)) <= set(np.unique(numbers))


def test_elastic_displacements_have_the_deviation_asked_for():
    ramp = torch.arange(200.0).expand(1, 200, 200).clone()
    moved = []
    with seeded(1):
        for _ in range(40):
            data = {"image": ramp, "segmentation": torch.zeros(1, 200, 200, dtype=torch.int32)}
            moved.append(float((elastic(data, Augment(elastic_px=10, elastic_p=1), "reflection")["image"] - ramp)[0, 100, 100]))
    assert 6 < np.std(moved) < 14  # the middle pixel lies on the middle node of 3 x 3


def test_colours_are_inverted_greyed_and_shuffled():
    image = torch.rand(3, 4, 4)
    assert torch.allclose(recolour(image, Augment(invert_p=1)), 1 - image)
    assert torch.allclose(recolour(image, Augment(grey_p=1)), image.mean(0, keepdim=True).expand(3, 4, 4))
    orders = set()
    with seeded(0):
        for _ in range(40):
            found = recolour(image, Augment(shuffle_p=1))
            orders.add(tuple(next(k for k in range(3) if torch.equal(channel, image[k])) for channel in found))
    assert len(orders) == 6


def test_rare_appearances_are_drawn_more_often_than_they_are():
    rng = np.random.default_rng(0)
    dark = [rng.normal(0.1, 0.02, (3, 1, 32, 32)).astype(np.float32) for _ in range(64)]
    pink = [
        rng.normal(0.7, 0.1, (3, 1, 32, 32)).astype(np.float32) * np.array([1, 0.5, 0.9]).reshape(3, 1, 1, 1) for _ in range(4)
    ]
    drawn = shares([*dark, *pink], 0)
    assert drawn.sum() == pytest.approx(1) and (shares([*dark, *pink], 0) == drawn).all()
    assert drawn[64:].sum() > 2.5 * 4 / 68
    assert (shares(dark[:3], 0) == 1 / 3).all()
