"""Probabilities kept beside the mask: on the image's own grid, and what they are where nobody looked."""

import numpy as np
import pytest

from vesalius.core.image import Grid, Image
from vesalius.core.labels import Label, Labels
from vesalius.pipeline.probabilities import keep_probabilities, probabilities
from vesalius.tasks.decide import Argmax, Regions
from vesalius.tasks.task import Inference, ModelSpec, Task
from vesalius.transforms.spatial import CropForeground, prepare


@pytest.mark.parametrize(("rule", "outside"), [(Argmax(), [1, 0, 0]), (Regions(), [0, 0])])
def test_beyond_a_crop_all_is_background(rule, outside, tmp_path):
    task = Task(
        name="t", title="t", dims=3, channels=("one",), labels=Labels((Label(1, "a"), Label(2, "b"))), steps=(),
        model=ModelSpec(name="unet"), inference=Inference(patch=(8, 8, 8)), decide=rule,
    )  # fmt: skip
    array = np.zeros((1, 6, 7, 8), np.float32)
    array[0, 2:4, 3:6, 1:5] = 1
    image = Image(array, Grid((6, 7, 8), np.eye(4)))
    prepared, restore = prepare(image, [CropForeground()])
    scores = np.random.default_rng(0).normal(size=(len(outside), *prepared.grid.shape)).astype(np.float32)
    with keep_probabilities(task, image, tmp_path / "p.npz") as keep:
        handed_on = [slab for _, slab in keep([(0, scores[:, :1]), (1, scores[:, 1:])], restore, 0)]
    assert (np.concatenate(handed_on, 1) == scores).all()
    kept = np.load(tmp_path / "p.npz")["probabilities"].astype(np.float32)
    np.testing.assert_allclose(kept[:, 2:4, 3:6, 1:5], probabilities(scores, task), atol=1e-3)
    kept[:, 2:4, 3:6, 1:5] = np.reshape(outside, (-1, 1, 1, 1))
    assert (kept == np.reshape(outside, (-1, 1, 1, 1))).all()
