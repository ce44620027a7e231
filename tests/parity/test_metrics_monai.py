"""Our metrics against MONAI's, wherever both are defined."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from vesalius.core.image import Grid, Mask
from vesalius.io.files import read_mask
from vesalius.metrics.score import Scoring, score_case
from vesalius.metrics.surface import SurfaceDistances

monai = pytest.importorskip("monai.metrics")
CLOSE = {"abs": 1e-4, "rel": 1e-6}


def one_hot(labels, values):
    return torch.from_numpy(np.stack([labels == value for value in values])[None])


def theirs(pred, ref, values, spacing, tolerance):
    """dice, iou, hd95, hd, assd, nsd (6, K) by MONAI; `spacing` None counts voxels."""
    y_pred, y = one_hot(pred, values), one_hot(ref, values)
    rest = {"include_background": True, "spacing": list(spacing)}
    return np.stack([
        monai.compute_dice(y_pred, y)[0].numpy(),
        monai.compute_iou(y_pred, y)[0].numpy(),
        monai.compute_hausdorff_distance(y_pred, y, percentile=95, **rest)[0].numpy(),
        monai.compute_hausdorff_distance(y_pred, y, **rest)[0].numpy(),
        monai.compute_average_surface_distance(y_pred, y, symmetric=True, **rest)[0].numpy(),
        monai.compute_surface_dice(y_pred, y, [tolerance] * len(values), **rest)[0].numpy(),
    ])  # fmt: skip


def blobs(shape, seed):
    """A smooth label map of 0, 1, 2 that touches the borders."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 3)
    return np.digitize(noise, np.quantile(noise, (0.6, 0.85))).astype(np.uint8)


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((24, 40, 36), (2.5, 0.7, 0.9)), ((30, 30, 30), (1.0, 1.0, 1.0)), ((5, 60, 50), (6.0, 0.4, 0.4)), ((64, 80), (0.5, 0.8))],
)
def test_every_metric_equals_monais(shape, spacing):
    seeds = np.random.default_rng(len(shape)).integers(1000, size=2)
    ref, other = (blobs(shape, seed) for seed in seeds)
    pred = np.where(ndimage.gaussian_filter(np.random.default_rng(9).normal(size=shape), 4) > 0, np.roll(ref, 2, -1), other)
    dims = len(shape)
    volume = (1,) * (3 - dims) + tuple(shape)
    grid = Grid(volume, np.diag([*(1.0,) * (3 - dims), *spacing, 1.0]), dims)
    scoring = Scoring(nsd_tolerance_mm=1.5)
    scores = score_case(Mask(pred.reshape(volume), grid), Mask(ref.reshape(volume), grid), scoring=scoring)
    expected = theirs(pred, ref, (1, 2), spacing, 1.5)
    for k, name in enumerate(("1", "2")):
        metrics = scores[name].metrics
        found = SurfaceDistances.of(pred == k + 1, ref == k + 1, spacing)
        ours = [metrics["dice"], metrics["iou"], metrics["hd95_mm"], found.hd, metrics["assd_mm"], metrics["nsd"]]
        assert ours == pytest.approx(expected[:, k], **CLOSE)


def test_tolerances_that_equal_a_distance_count_as_monais_do():
    ref, pred = np.zeros((30, 30), np.uint8), np.zeros((30, 30), np.uint8)
    ref[5:20, 5:20], pred[5:20, 8:23] = 1, 1
    for spacing in ((1.0, 1.0), (0.5, 2.0), (1.5, 0.75)):
        for voxels in (1, 2, 3):
            expected = theirs(pred, ref, (1,), spacing, voxels * spacing[1])[5, 0]
            assert SurfaceDistances.of(pred == 1, ref == 1, spacing).nsd(voxels * spacing[1]) == pytest.approx(expected, **CLOSE)


def test_real_hippocampi_score_as_with_monai(shared_data):
    paths = sorted((shared_data / "hippocampus" / "labels").glob("*.nii.gz"))[:2]
    for path in paths:
        ref = read_mask(path)
        pred = Mask(np.roll(ref.array, (1, 2, 1), (0, 1, 2)), ref.grid)
        scores = score_case(pred, ref)
        expected = theirs(pred.array, ref.array, (1, 2), ref.grid.spacing, 1.0)
        for k, name in enumerate(("1", "2")):
            ours = [scores[name].metrics[metric] for metric in ("dice", "iou", "hd95_mm", "assd_mm", "nsd")]
            assert ours == pytest.approx(expected[[0, 1, 2, 4, 5], k], **CLOSE)


def test_panoptic_quality_equals_monais(shared_data):
    from monai.metrics.panoptic_quality import compute_panoptic_quality

    path = sorted((shared_data / "dsb2018" / "labels").iterdir())[0]
    ref = read_mask(path).array
    pred = ndimage.grey_erosion(ref, size=(1, 3, 3))
    pred[pred == ref.max()] = 0
    masks = (Mask(a, Grid(ref.shape, None, 2)) for a in (pred, ref))
    found = score_case(*masks, scoring=Scoring(instances=True))["objects"].metrics
    pair = (torch.from_numpy(_in_order(a)[0].astype(np.int64)) for a in (pred, ref))
    expected = compute_panoptic_quality(*pair, metric_name="pq", match_iou_threshold=0.5)
    assert found["pq"] == pytest.approx(float(expected), **CLOSE)


def _in_order(labels):
    """Object numbers without gaps, as MONAI needs them."""
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape)
