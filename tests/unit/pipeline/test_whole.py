"""Where one tile sees everything, tiling changes nothing; and bf16 decides as fp32 does where the scores are smooth."""

import numpy as np
import pytest
import torch
from torch import nn

from vesalius.models.catalog import build
from vesalius.models.contract import Outputs
from vesalius.pipeline.tiled import plan_tiles, tiled


def network(dims=3, seed=0):
    torch.manual_seed(seed)
    return build("unet", {"dims": dims, "in_channels": 1, "classes": 4, "widths": [4, 8, 16], "norm": "instance"}).eval()


def wave(*size):
    """(1, *size) float32, smooth."""
    z, y, x = np.ogrid[tuple(slice(n) for n in size)]
    return (np.sin(z / 5) + np.cos(y / 7) * np.sin(x / 6)).astype(np.float32)[None]


def whole(slabs):
    return np.concatenate([slab for _, slab in slabs], axis=1)


@pytest.mark.parametrize("size, patch", [((16, 24, 32), (16, 24, 32)), ((16, 24, 32), (64, 64, 64)), ((1, 40, 56), (1, 64, 64))])
def test_one_tile_over_all_is_the_plain_forward_pass(size, patch):
    model, array = network(dims=2 if size[0] == 1 else 3), wave(*size)
    assert plan_tiles([model], array.shape, patch=patch).tiles == 1
    with torch.inference_mode():
        x = torch.from_numpy(array)
        want = model(x if size[0] == 1 else x[None]).main[0].numpy().reshape(4, *size)
    np.testing.assert_allclose(whole(tiled(model, array, patch=patch, precision="fp32")), want, atol=1e-5)


def test_bf16_decides_as_fp32_on_a_smooth_volume():
    model, array = network(), wave(40, 48, 48)
    scores = {name: whole(tiled(model, array, patch=(32, 32, 32), precision=name)) for name in ("fp32", "bf16")}
    decided = {name: each.argmax(axis=0) for name, each in scores.items()}
    assert len(np.unique(decided["fp32"])) > 1, "one label everywhere: this test could not fail"
    spread = scores["fp32"].std()
    difference = np.abs(scores["fp32"] - scores["bf16"])
    assert 0 < difference.mean() < 0.02 * spread, "bf16 keeps 8 bits: not the same, and not far"
    alike = (decided["fp32"] == decided["bf16"]).mean()
    assert alike > 0.98, f"{alike:.4f}: untrained scores lie close together, trained ones agree to 0.999"


class Many(nn.Module):
    """The picture itself as each of 64 classes: a plane of scores is as large as a slab."""

    dims = 2

    def forward(self, x):
        return Outputs(x.repeat(1, 64, 1, 1))


def test_planes_of_a_batch_that_reaches_over_several_of_them_have_room():
    array = np.random.default_rng(0).standard_normal((1, 9, 256, 256), dtype=np.float32)
    plan = plan_tiles([Many()], array.shape, patch=(1, 256, 256), batch=4, precision="fp32")
    assert (plan.slab, plan.batch, plan.open) == (1, 4, 1 + 3 + 1)
    for z0, slab in tiled(Many(), array, patch=(1, 256, 256), batch=4, precision="fp32"):
        assert slab.shape == (64, 1, 256, 256)
        np.testing.assert_allclose(slab[[0, 63], 0], array[[0, 0], z0], rtol=1e-6)
