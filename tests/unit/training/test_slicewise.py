"""2D models learn on volumes slice by slice: which planes, how many neighbours, and the same view as in use."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from trainable import volumes

from vesalius.core.errors import DatasetError, InputError
from vesalius.io.datasets import open_dataset
from vesalius.models.contract import Outputs
from vesalius.pipeline.tiled import tiled
from vesalius.tasks.catalog import TASKS
from vesalius.training.augment import Augmentation
from vesalius.training.data import Samples, prepare_case
from vesalius.training.inspect import fingerprint
from vesalius.training.plan import Data, derive, read_plan, write_plan
from vesalius.training.recipe import Augment, Recipe, Slicewise, read_recipe

STILL = Augment(rotate_p=0, scale_p=0, noise_p=0, blur_p=0, brightness_p=0, contrast_p=0, low_resolution_p=0, gamma_p=0)


def plan_of(root, network="unet", said=None, like=None, **recipe):
    data = open_dataset(root)
    about, say = Data(path=str(root), name="d"), (said.append if said is not None else lambda _: None)
    given = {"recipe": Recipe(**recipe), "like": like, "resample": True, "say": say}
    return derive(data, fingerprint(data), about, model=network, **given)


def thick(tmp_path, spacing):
    """Volumes whose voxels are `spacing` (x, y, z) mm."""
    return volumes(tmp_path, 3, (spacing,))


def test_a_2d_model_on_volumes_goes_slice_by_slice_and_says_so(volume_set):
    said = []
    plan = plan_of(volume_set, "attention_unet", slices=Slicewise(), said=said)
    assert plan.dims == 2 and plan.task.dims == 3 and plan.task.context == 1 and plan.patch[0] == 1
    assert plan.task.model.config["in_channels"] == 3 and plan.task.model.config["dims"] == 2
    assert plan.task.inference.patch[0] == 1
    assert said == ["slice by slice, as the recipe says: axial planes, each with 1 neighbour on either side"]
    said.clear()
    plan = plan_of(volume_set, "swin_unet", said=said, model={"width": 12, "depths": [1, 1], "heads": [1, 1], "window": 2})
    assert plan.dims == 2 and plan.task.model.config["in_channels"] == 3
    assert said[0].startswith("slice by slice, since 'swin_unet' is a 2D model: axial planes")


def test_a_model_of_volumes_sees_volumes_unless_the_recipe_asks(volume_set):
    assert plan_of(volume_set).task.slices is None
    assert plan_of(volume_set, slices=Slicewise(context=0)).task.model.config["in_channels"] == 1


@pytest.mark.parametrize("spacing, axis, order", [
    ((1.0, 1.0, 3.0), "axial", (3.0, 1.0, 1.0)),
    ((1.0, 3.0, 0.5), "coronal", (3.0, 0.5, 1.0)),
    ((3.0, 1.0, 0.5), "sagittal", (3.0, 0.5, 1.0)),
    ((1.1, 1.0, 1.0), "axial", (1.0, 1.0, 1.1)),
])  # fmt: skip
def test_slices_lie_across_the_axis_of_the_longest_voxels(tmp_path, spacing, axis, order):
    root = thick(tmp_path, spacing)
    plan = plan_of(root, slices=Slicewise())
    assert plan.task.steps[0].slices == axis and plan.task.steps[1].spacing_mm == order
    data = open_dataset(root)
    case = prepare_case(data, data.cases[0], plan.task)
    where = {"axial": (22, 24, 20), "coronal": (24, 22, 20), "sagittal": (20, 22, 24)}
    assert case.image.shape[1:] == case.mask.shape == where[axis]
    assert plan.patch[1:] <= tuple(-(-n // 8) * 8 for n in where[axis][1:])


def test_the_recipe_may_name_the_axis(volume_set, tmp_path):
    (tmp_path / "r.toml").write_text('[slices]\ncontext = 2\naxis = "coronal"\n')
    recipe = read_recipe(tmp_path / "r.toml")
    plan = plan_of(volume_set, slices=recipe.slices)
    assert plan.task.steps[0].slices == "coronal" and plan.task.model.config["in_channels"] == 5
    write_plan(plan, tmp_path / "plan.toml")
    assert read_plan(tmp_path / "plan.toml") == plan
    (tmp_path / "plan.toml").write_text((tmp_path / "plan.toml").read_text().replace("context = 2", "context = 1"))
    with pytest.raises(DatasetError, match="1 channels of 3 planes are 3 in_channels"):
        read_plan(tmp_path / "plan.toml")


def test_a_shipped_task_learns_slice_by_slice_with_its_own_steps(volume_set):
    plan = plan_of(volume_set, like=TASKS["hippocampus"], slices=Slicewise(), patch=(40, 32, 32))
    assert plan.task.steps == TASKS["hippocampus"].steps and plan.patch == (1, 32, 32) and plan.dims == 2
    assert plan.task.model.config["in_channels"] == 3 and plan.task.inference.patch[0] == 1


def test_slices_that_are_not_there_are_refused(volume_set, picture_set):
    with pytest.raises(InputError, match="these are pictures"):
        plan_of(picture_set, slices=Slicewise())
    with pytest.raises(InputError, match="looks at axial planes, not coronal ones"):
        plan_of(volume_set, like=TASKS["hippocampus"], slices=Slicewise(axis="coronal"))
    data = open_dataset(volume_set)
    found = fingerprint(data)
    bare = replace(found, cases=tuple(replace(case, spacing=None) for case in found.cases))
    with pytest.raises(InputError, match="coronal planes cannot be found"):
        derive(data, bare, Data(path="", name="d"), model="unet", recipe=Recipe(slices=Slicewise(axis="coronal")), like=None,
               resample=True, say=lambda _: None)  # fmt: skip


def test_no_axis_across_the_planes_is_mirrored_in_use(volume_set):
    augment = Augment(flip_axes=(0, 2))
    assert plan_of(volume_set, slices=Slicewise(), flips_at_test=True, augment=augment).task.inference.flips == (2,)
    assert plan_of(volume_set, flips_at_test=True, augment=augment).task.inference.flips == (0, 2)


def test_a_sample_shows_the_planes_that_the_model_sees_in_use(volume_set):
    """Patches as large as the image, so that a sample is a plane of it; the network gives what it is given."""
    data = open_dataset(volume_set)
    plan = plan_of(volume_set, slices=Slicewise(context=2, axis="sagittal"))
    case = prepare_case(data, data.cases[0], plan.task)
    size = case.mask.shape
    samples = Samples([case], plan.task, Augmentation(STILL, size[1:]), patch=(1, *size[1:]), seed=1)
    planes = {}
    for n in range(60):
        sample = samples[n]
        z = int(np.flatnonzero([np.array_equal(sample["image"][2], plane) for plane in case.image[0]])[0])
        planes[z] = sample
        np.testing.assert_array_equal(sample["target"], case.mask[z])
    assert min(planes) == 0 and max(planes) == size[0] - 1  # the ends too, where planes are repeated

    class Same(torch.nn.Module):
        dims = 2

        def forward(self, x):
            return Outputs(x)

    seen = np.concatenate([slab for _, slab in tiled(Same(), case.image, patch=(1, *size[1:]), context=2, precision="fp32")], 1)
    for z, sample in planes.items():
        np.testing.assert_allclose(sample["image"], seen[:, z], atol=1e-5)
