"""Samples: the same number gives the same sample, patches lie where they should, objects stay objects."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vesalius.core.labels import Label, Labels
from vesalius.tasks.decide import Argmax, Objects
from vesalius.tasks.task import Inference, ModelSpec, Task
from vesalius.training.augment import Augmentation, seeded
from vesalius.training.data import Order, Prepared, Samples, batches, cut, indices, on_disk, spots_of
from vesalius.training.losses import IGNORED
from vesalius.training.recipe import Augment

STILL = Augment(rotate_p=0, scale_p=0, noise_p=0, blur_p=0, brightness_p=0, contrast_p=0, low_resolution_p=0, gamma_p=0)


def task(dims=3, decide=None, ignore=None) -> Task:
    return Task(
        name="t", title="t", dims=dims, channels=("a",), labels=Labels((Label(3, "x"), Label(7, "y")), ignore), steps=(),
        model=ModelSpec(name="unet"), inference=Inference(patch=(1, 8, 8)), decide=decide or Argmax(),
    )  # fmt: skip


def case(shape=(12, 14, 16), name="c", seed=0, dims=3, objects=False) -> Prepared:
    rng = np.random.default_rng(seed)
    mask = np.zeros(shape, np.int32 if objects else np.int16)
    mask[..., 4:7, 5:9] = 1
    mask[..., 9:11, 2:4] = 2
    which = task(dims, Objects() if objects else None)
    return Prepared(name, rng.normal(size=(1, *shape)).astype(np.float32), mask, spots_of(mask, which))


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_sample_depends_on_its_number_alone():
    strong = Augment(rotate_p=1, scale_p=1, elastic_p=1, elastic_px=1.0, noise_p=1, gamma_p=1, flip_axes=(0, 1, 2))
    samples = Samples([case(seed=i) for i in range(3)], task(), Augmentation(strong, (8, 8, 8)), patch=(8, 8, 8), seed=4)
    first = [samples[n] for n in range(6)]
    np.random.seed(99)
    torch.manual_seed(99)
    assert all(same(samples[n], first[n]) for n in (5, 0, 3))
    assert not same(first[0], first[1])
    other = Samples(samples.cases, task(), samples.augmentation, patch=(8, 8, 8), seed=5)
    assert not same(other[0], first[0])


def test_sampling_leaves_the_global_generators_alone():
    np.random.seed(1)
    torch.manual_seed(1)
    expected = np.random.rand(), torch.rand(1)
    np.random.seed(1)
    torch.manual_seed(1)
    with seeded(7):
        np.random.rand()
        torch.rand(3)
    assert (np.random.rand(), torch.rand(1)) == expected


def test_any_number_of_workers_and_ranks_sees_the_same_samples():
    samples = Samples([case(seed=i) for i in range(3)], task(), Augmentation(STILL, (8, 8, 8)), patch=(8, 8, 8), seed=4)
    alone, helped = batches(samples, Order(2, 4), 0), batches(samples, Order(2, 4), 2)
    whole = [next(alone) for _ in range(3)]
    assert all(same(next(helped), batch) for batch in whole)
    ranks = [batches(samples, Order(2, 4, rank, 2), 0) for rank in (0, 1)]
    for batch in whole:
        parts = [next(rank)["image"] for rank in ranks]
        assert torch.equal(torch.stack(parts, 1).flatten(0, 1), batch["image"])


def test_cases_are_drawn_by_their_shares():
    which = [Prepared("c", np.full((1, 4, 4, 4), i, np.float32), np.zeros((4, 4, 4), np.int16), ()) for i in range(3)]
    shares = np.array([2.0, 0.0, 6.0])
    samples = Samples(which, task(), Augmentation(STILL, (4, 4, 4)), patch=(4, 4, 4), seed=0, shares=shares)
    drawn = np.bincount([int(samples[n]["image"][0, 0, 0, 0]) for n in range(200)], minlength=3) / 200
    np.testing.assert_allclose(drawn, (0.25, 0, 0.75), atol=0.08)


def test_foreground_patches_hold_their_foreground():
    samples = Samples([case()], task(), Augmentation(STILL, (6, 6, 6)), patch=(6, 6, 6), seed=0, foreground=1.0)
    assert all(bool((samples[n]["target"] > 0).any()) for n in range(20))
    assert {int(samples[n]["target"][3, 3, 3]) for n in range(30)} >= {1, 2}  # each class has its turn


def test_image_and_target_move_together():
    one = case(seed=1)
    image = one.mask.astype(np.float32)[None]
    turning = Augment(
        **{**STILL.model_dump(), "rotate_p": 1, "rotate_deg": 40, "flip_axes": (0, 1, 2), "elastic_p": 1, "elastic_px": 1.5}
    )
    samples = Samples(
        [Prepared("c", image, one.mask, one.spots)], task(), Augmentation(turning, (12, 12, 12)), patch=(12, 12, 12), seed=0
    )
    for n in range(5):
        sample = samples[n]
        agree = (sample["image"][0].round() == sample["target"]).float().mean()
        assert agree > 0.9


def test_label_values_become_class_indices_and_the_ignore_label_is_ignored():
    mask = np.array([[[0, 3, 7, 255]]], np.uint8)
    assert indices(mask, task(ignore=255)).tolist() == [[[0, 1, 2, IGNORED]]]


def test_ignored_voxels_stay_ignored_when_they_are_turned():
    turning = Augment(**{**STILL.model_dump(), "rotate_p": 1, "rotate_deg": 40, "elastic_p": 1, "elastic_px": 1.5})
    one = case(seed=1)
    mask = np.where(one.mask == 2, IGNORED, one.mask).astype(np.int16)
    image = np.where(mask == IGNORED, 5, mask).astype(np.float32)[None]
    which = task(ignore=255)
    cases, patch = [Prepared("c", image, mask, spots_of(mask, which))], (12, 12, 12)
    samples = Samples(cases, which, Augmentation(turning, patch), patch=patch, seed=0)
    seen = [samples[n] for n in range(6)]
    assert {int(v) for sample in seen for v in sample["target"].unique()} == {IGNORED, 0, 1}
    for sample in seen:
        hidden = sample["target"] == IGNORED
        assert not hidden.any() or float(sample["image"][0][hidden].mean()) > 2.5  # they lie where the fives went


def test_objects_are_encoded_after_they_were_turned():
    which = task(2, Objects())
    turning = Augment(**{**STILL.model_dump(), "rotate_p": 1, "quarter_turns": True, "flip_axes": (1, 2)})
    one, still = case((1, 40, 40), dims=2, objects=True), Augmentation(turning, (32, 32))
    samples = Samples([one], which, still, patch=(1, 32, 32), seed=0, foreground=1.0)
    for n in range(4):
        target = samples[n]["target"]
        assert target.shape == (2, 32, 32) and target.dtype == torch.float32
        inside = target[0] > 0
        assert bool((target[1][~inside] == 0).all()) and float(target[1].max()) == pytest.approx(1)


@pytest.mark.parametrize("foreground", [0.0, 1.0])
def test_a_patch_of_odd_size_stays_inside_and_reaches_both_ends(foreground):
    one = case((1, 9, 10), dims=2)
    image = np.arange(1, 91, dtype=np.float32).reshape(1, 1, 9, 10)
    one = Prepared("c", image, np.ones_like(one.mask), (np.argwhere(np.ones((1, 9, 10))),))
    samples = Samples([one], task(2), Augmentation(STILL, (5, 5)), patch=(1, 5, 5), seed=0, foreground=foreground)
    first = {float(samples[n]["image"][0, 0, 0]) for n in range(300)}
    assert first == {1.0 + 10 * y + x for y in range(5) for x in range(6)}


def test_a_patch_beyond_the_image_is_zero_or_mirrored():
    array = np.arange(1, 6, dtype=np.float32).reshape(1, 1, 1, 5)
    assert cut(array, (0, 0, 0), (1, 1, 4), "zeros").ravel().tolist() == [0, 0, 1, 2]
    assert cut(array, (0, 0, 0), (1, 1, 4), "reflection").ravel().tolist() == [3, 2, 1, 2]
    assert cut(array, (0, 0, 0), (1, 1, 4), "border").ravel().tolist() == [1, 1, 1, 2]
    assert cut(array[..., :1], (0, 0, 0), (1, 1, 4), "reflection").ravel().tolist() == [1, 1, 1, 1]
    inside = cut(array, (0, 0, 2), (1, 1, 3), "zeros")
    inside[:] = 0
    assert array.min() == 1  # a copy: augmentation works in place


def test_valid_convolutions_reach_beyond_the_border():
    one = case((1, 20, 20), dims=2)
    samples = Samples([one], task(2), Augmentation(STILL, (16, 16)), patch=(1, 16, 16), seed=0, foreground=0, overhang=(0, 6, 6))
    rng = np.random.default_rng(0)
    centres = np.array([samples._centre(one, rng) for _ in range(300)])
    assert centres[:, 1].min() == 2 and centres[:, 1].max() == 18  # the middle 4 x 4 then covers every pixel


def test_cases_beyond_the_memory_limit_are_mapped(tmp_path):
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    back = on_disk(array, tmp_path / "cache" / "a.npy")
    assert isinstance(back, np.memmap) and np.array_equal(back, array)


def test_gather_keeps_to_its_limit(tmp_path, volume_set):
    from vesalius.io.datasets import open_dataset
    from vesalius.training.data import gather

    data = open_dataset(volume_set)
    which = SimpleNamespace(steps=(), labels=data.labels, channels=data.channels, instances=False, name="t")
    said = []
    ready = gather(data, data.cases[:3], which, cache=tmp_path / "cache", limit_gb=70e-6, say=said.append)
    assert [isinstance(one.image, np.memmap) for one in ready] == [False, True, True] and "mapped" not in said[0]
    assert all(np.asarray(one.mask).max() == 2 for one in ready)
