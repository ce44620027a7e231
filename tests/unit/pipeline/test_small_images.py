"""An image smaller than the tile must not be judged amid a wide empty border."""

import numpy as np
import torch

from vesalius.models.catalog import build
from vesalius.pipeline.tiled import plan_tiles, tiled


def network(dims):
    torch.manual_seed(0)
    return build("unet", {"in_channels": 1, "classes": 2, "dims": dims, "widths": [4, 8, 8], "norm": "instance"}).eval()


def whole(slabs):
    return np.concatenate([slab for _, slab in slabs], axis=1)


def test_the_tile_shrinks_to_what_the_image_needs():
    plan = plan_tiles([network(2)], (1, 1, 30, 200), patch=(1, 64, 64), precision="fp32")
    assert plan.patch == (1, 32, 64)
    assert plan_tiles([network(3)], (1, 9, 30, 200), patch=(32, 32, 32), precision="fp32").patch == (12, 32, 32)


def test_a_small_picture_gets_the_scores_of_its_mirrored_self():
    model, rng = network(2), np.random.default_rng(0)
    picture = 0.9 + 0.1 * rng.random((1, 1, 30, 27)).astype(np.float32)  # bright: a black border would show
    found = whole(tiled(model, picture, patch=(1, 512, 512), precision="fp32"))
    padded = np.pad(picture[0, 0], ((1, 1), (0, 1)), mode="reflect")
    with torch.inference_mode():
        expected = model(torch.from_numpy(padded)[None, None]).main[0].numpy()[:, 1:31, :27]
    assert found.shape == (2, 1, 30, 27)
    assert np.allclose(found[:, 0], expected, atol=1e-5)
