"""Milliseconds a training sample costs in MONAI and in batchgeneratorsv2, for the same list of changes, in one thread.

    python benchmarks/augmentation.py            prints JSON: {patch: {library: ms}}

Both get the same crop, the same strengths and the same probabilities; both compose rotation and scaling into one resampling.
"""

from __future__ import annotations

import json
import time

import numpy as np
import torch

PATCHES = {"3d 40x56x40x1": (1, 40, 56, 40), "2d 256x256x3": (3, 256, 256)}
ROUNDS = 60


def monai_steps(dims: int):
    from monai import transforms as T

    both = ["image", "mask"]
    turn, linear = np.pi / 12, "bilinear" if dims == 2 else "trilinear"
    return T.Compose([
        T.RandAffined(both, prob=0.36, rotate_range=[turn] * (3 if dims == 3 else 1), scale_range=[0.3] * dims,
                      mode=("bilinear", "nearest"), padding_mode="zeros"),
        T.RandGaussianNoised("image", prob=0.1, std=0.1),
        T.RandGaussianSmoothd("image", prob=0.2, sigma_x=(0.5, 1), sigma_y=(0.5, 1), sigma_z=(0.5, 1)),
        T.RandScaleIntensityd("image", prob=0.15, factors=0.25),
        T.RandScaleIntensityFixedMeand("image", prob=0.15, factors=0.25, preserve_range=True),
        T.RandSimulateLowResolutiond("image", prob=0.25, zoom_range=(0.5, 1), upsample_mode=linear),
        T.RandAdjustContrastd("image", prob=0.3, gamma=(0.7, 1.5), retain_stats=True),
        *[T.RandFlipd(both, prob=0.5, spatial_axis=axis) for axis in range(dims)],
    ])


def batchgenerators_steps(shape: tuple[int, ...]):
    from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
    from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
    from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
    from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
    from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
    from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
    from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
    from batchgeneratorsv2.transforms.utils.random import RandomTransform as Maybe

    dims = len(shape) - 1
    return ComposeTransforms([
        SpatialTransform(shape[1:], 0, False, p_rotation=0.2, rotation=(-np.pi / 12, np.pi / 12), p_scaling=0.2,
                         scaling=(0.7, 1.3), p_synchronize_scaling_across_axes=1, mode_seg="nearest"),
        Maybe(GaussianNoiseTransform((0, 0.1), 1, True), 0.1),
        Maybe(GaussianBlurTransform((0.5, 1), True, True, 1), 0.2),
        Maybe(MultiplicativeBrightnessTransform(BGContrast((0.75, 1.25)), True, 1), 0.15),
        Maybe(ContrastTransform(BGContrast((0.75, 1.25)), True, True, 1), 0.15),
        Maybe(SimulateLowResolutionTransform((0.5, 1), True, True, (), None, 1), 0.25),
        Maybe(GammaTransform(BGContrast((0.7, 1.5)), 0, True, 1, 1), 0.3),
        MirrorTransform(tuple(range(dims))),
    ])


def milliseconds(run) -> float:
    for _ in range(5):
        run()
    start = time.perf_counter()
    for _ in range(ROUNDS):
        run()
    return round(1000 * (time.perf_counter() - start) / ROUNDS, 2)


def main() -> None:
    torch.set_num_threads(1)
    result: dict[str, dict[str, float]] = {}
    for name, shape in PATCHES.items():
        image, mask = torch.rand(shape), torch.randint(0, 3, (1, *shape[1:]), dtype=torch.int16)
        one, two = monai_steps(len(shape) - 1), batchgenerators_steps(shape)
        result[name] = {
            "monai": milliseconds(lambda one=one, i=image, m=mask: one({"image": i.clone(), "mask": m.clone()})),
            "batchgeneratorsv2": milliseconds(lambda two=two, i=image, m=mask: two(image=i.clone(), segmentation=m.clone())),
        }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
