"""What a training sample goes through on its way to the network: one resampling, then intensities.

batchgeneratorsv2 does the work (measured against MONAI in docs/decisions/0002-augmentation.md). It draws from the
global generators of numpy and torch, so `Augmentation` seeds both per sample and puts them back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.intensity.brightness import BrightnessAdditiveTransform, MultiplicativeBrightnessTransform
from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.rot90 import Rot90Transform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from torch.nn.functional import grid_sample, interpolate

from .recipe import Augment

THIN = 3  # nnU-Net's: slices that many times as thick as their pixels are wide, or a patch that much shorter along them


class Augmentation:
    """Turns a crop (C, *crop) and its label map (*crop) into a sample of exactly `patch` voxels; `spacing` is that of its axes.

    Across thick or few slices nothing is turned, scaled, bent or coarsened: they move in their plane, all alike. In voxels a turn
    across them would shear, and would find more border than image. Label maps are resampled to the nearest voxel, so they may
    count objects. Picklable, holds no data.
    """

    def __init__(self, settings: Augment, patch: tuple[int, ...], spacing: tuple[float, ...] | None = None):
        self.settings, self.patch, self.dims = settings, patch, len(patch)
        self.thin = thin_axis(patch, spacing or (1.0,) * len(patch))
        self.border = settings.border or ("reflection" if self.dims == 2 else "zeros")
        self.spatial, self.turns = self._spatial(), self._turns()
        self.intensity = self._intensity()

    @property
    def crop(self) -> tuple[int, ...]:
        """The size of the crop that a patch is made of, so that turning and shrinking find image and not border."""
        s = self.settings
        turned = 1.0 if not s.rotate_deg or not s.rotate_p else (1.42 if s.rotate_deg >= 45 else 1.0 + 0.42 * s.rotate_deg / 45)
        margin = turned * (max(1.0, s.scale[1]) if s.scale_p else 1.0)
        margin += 2 * s.elastic_px / max(self.patch) if s.elastic_p else 0.0
        return tuple(n if n == 1 or axis == self.thin else math.ceil(n * margin) for axis, n in enumerate(self.patch))

    def __call__(self, image: np.ndarray, mask: np.ndarray, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """image float32 (C, *S), mask (*S) -> float32 (C, *patch), int32 (*patch); the same seed, the same sample."""
        data = {"image": torch.from_numpy(image), "segmentation": torch.from_numpy(mask.astype(np.int32))[None]}
        with seeded(seed):
            data = (self._moved if self.thin is None else Planes(self._moved, (self.thin + 1,)))(**data)
            for step in (*self.turns, *self.intensity):
                data = step(**data)
            data["image"] = recolour(data["image"], self.settings)
        return data["image"].float().contiguous(), data["segmentation"][0].contiguous()

    def _moved(self, **data: torch.Tensor) -> dict[str, torch.Tensor]:
        """Bent, turned, scaled, and cut to the patch."""
        if self.settings.elastic_p and np.random.uniform() < self.settings.elastic_p:
            data = elastic(data, self.settings, self.border)
        return self.spatial(**data)

    def _spatial(self) -> BasicTransform:
        s = self.settings
        turn = np.deg2rad(s.rotate_deg)
        return SpatialTransform(
            tuple(n for axis, n in enumerate(self.patch) if axis != self.thin),
            0,
            False,
            p_rotation=s.rotate_p,
            rotation=(-turn, turn),
            p_scaling=s.scale_p,
            scaling=s.scale,
            p_synchronize_scaling_across_axes=s.scale_together_p,
            mode_seg="nearest",
            padding_mode_image=self.border,
            border_mode_seg=self.border,
        )

    def _turns(self) -> list[BasicTransform]:
        s, steps = self.settings, list[BasicTransform]()
        axes = tuple(axis - (3 - self.dims) for axis in s.flip_axes if axis >= 3 - self.dims)
        if s.quarter_turns and self.patch[-1] == self.patch[-2] and self.thin in (None, 0):
            steps.append(RandomTransform(Rot90Transform(1, (1, 2, 3), {self.dims - 2, self.dims - 1}), 0.75))
        return [*steps, MirrorTransform(axes)] if axes else steps

    def _intensity(self) -> list[BasicTransform]:
        s, one, coarse = self.settings, self.settings.channels_together, 1 / max(self.settings.low_resolution[0], 1e-3)
        low = SimulateLowResolutionTransform(s.low_resolution, True, True, (), None, 1)
        steps = [
            (GaussianNoiseTransform(s.noise, 1, one), s.noise_p),
            (self._along(GaussianBlurTransform(s.blur_px, one, True, 1), 3 * s.blur_px[1] + 1), s.blur_p),
            (MultiplicativeBrightnessTransform(BGContrast(s.brightness), one, 1), s.brightness_p),
            (BrightnessAdditiveTransform(0, s.shift, one, 1), s.shift_p if s.shift else 0.0),
            (ContrastTransform(BGContrast(s.contrast), True, one, 1), s.contrast_p),
            (self._along(low, coarse, self.thin), s.low_resolution_p),
            (GammaTransform(BGContrast(s.gamma), 1, one, 1, 1), s.gamma_p * s.gamma_invert_p),
            (GammaTransform(BGContrast(s.gamma), 0, one, 1, 1), s.gamma_p * (1 - s.gamma_invert_p)),
        ]
        return [RandomTransform(step, p) for step, p in steps if p > 0 and step is not None]

    def _along(self, step: BasicTransform, least: float, but: int | None = None) -> Any:
        """The step along the axes of the patch that have `least` voxels, and not along `but`, plane by plane; None along none."""
        short = tuple(axis + 1 for axis, size in enumerate(self.patch) if size < least or axis == but)
        if not short:
            return step
        return Planes(step, short) if len(short) < self.dims else None


@dataclass(frozen=True)
class Planes:
    """A step on arrays (C, *S) that leaves the `short` axes (counted with C) alone: what lies along them are channels to it."""

    step: Callable[..., dict[str, torch.Tensor]]
    short: tuple[int, ...]

    def __call__(self, **data: torch.Tensor) -> dict[str, torch.Tensor]:
        front = tuple(range(1, len(self.short) + 1))
        ahead = {name: array.movedim(self.short, front) for name, array in data.items()}
        done = self.step(**{name: array.flatten(0, len(front)) for name, array in ahead.items()})
        return {
            name: array.unflatten(0, ahead[name].shape[: len(front) + 1]).movedim(front, self.short)
            for name, array in done.items()
        }


def thin_axis(patch: tuple[int, ...], spacing: tuple[float, ...]) -> int | None:
    """The axis of a volume across whose slices nothing moves; None where there is none, and for pictures."""
    thin = [axis for axis, n in enumerate(patch) if spacing[axis] > THIN * min(spacing) or THIN * n < max(patch)]
    return thin[0] if len(patch) == 3 and len(thin) == 1 else None


def elastic(data: dict[str, torch.Tensor], settings: Augment, border: str) -> dict[str, torch.Tensor]:
    """Smooth deformation of a picture or volume: normal displacements on a coarse grid, cubic in between.

    Ronneberger et al. 2015, section 3.1: displacements from a Gaussian of 10 px on a 3 x 3 grid, bicubic per pixel.
    Volumes are interpolated linearly between the nodes (torch has no tricubic).
    """
    shape = data["image"].shape[1:]
    dims = len(shape)
    nodes = torch.from_numpy(np.random.normal(0, settings.elastic_px, (1, dims, *[settings.elastic_nodes] * dims))).float()
    shift = interpolate(nodes, shape, mode="bicubic" if dims == 2 else "trilinear", align_corners=True)[0]
    centres = [torch.linspace(-1 + 1 / n, 1 - 1 / n, n) for n in shape]
    base = torch.stack(torch.meshgrid(*centres, indexing="ij"))
    scale = torch.tensor([2 / n for n in shape]).view(dims, *[1] * dims)
    grid = (base + shift * scale).flip(0).movedim(0, -1)[None]  # grid_sample wants x first
    image = grid_sample(data["image"][None], grid, padding_mode=border, align_corners=False)[0]
    mask = grid_sample(
        data["segmentation"][None].double(), grid.double(), mode="nearest", padding_mode=border, align_corners=False
    )
    return {"image": image, "segmentation": mask[0].to(data["segmentation"].dtype)}


def recolour(image: torch.Tensor, settings: Augment) -> torch.Tensor:
    """Inverted, grey, its channels in another order, or as it was; (C, *S), for inversion in 0..1."""
    if settings.invert_p and np.random.uniform() < settings.invert_p:
        image = 1 - image
    if settings.grey_p and np.random.uniform() < settings.grey_p:
        image = image.mean(0, keepdim=True).expand_as(image)
    if settings.shuffle_p and np.random.uniform() < settings.shuffle_p:
        image = image[torch.from_numpy(np.random.permutation(len(image)))]
    return image


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """numpy and torch drawing from `seed` inside, and undisturbed afterwards."""
    state, torch_state = np.random.get_state(), torch.get_rng_state()
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)
        torch.set_rng_state(torch_state)
