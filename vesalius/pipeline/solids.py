"""The sibling of `vesalius_mini` for volumes at work: it looks at a cube around what was said, and again around what it found.

    a box              one cube around it
    an earlier mask    one cube around it
    sections           masks on slices along one axis: a cube around them, then one around what was found; of one, which tells
                       little of how far the object reaches, twice
    points alone       a ladder of cubes, from the whole volume down by halves; the most trusted answer, then a cube around it

Places are z, y, x in voxel edges, so that voxel i reaches from i to i + 1.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..core.errors import InputError, WeightsError
from ..models.catalog import build, make_config
from ..models.solid import Hints, Solid
from ..models.weights import file_hash, load_into, load_state, read_metadata
from .cubes import Cube, around, carry, inside, normalised, take
from .glancer import GlancePrompter
from .hints import CERTAIN, known_layers, shaped, signed_distance

SIBLINGS = {"vesalius_mini": "vesalius_mini_3d"}  # who goes through volumes for a model that sees slices
CUBES_KEY = "vesalius_cubes"  # of a weights file's metadata: JSON with name, model, config, views, sources
LEAST_SIDE = 16.0  # of the ladder's smallest cube, in voxels of the finest axis
LOOKS = 4  # at most, where what is found reaches the end of the view


@dataclass(frozen=True)
class CubeOptions:
    """Sides of cubes over the longest side of what they lie around: a box, or what was found; one section; several."""

    spread: float = 1.4
    section: float = 2.0
    sections: float = 1.4

    def __post_init__(self) -> None:
        for value in (self.spread, self.section, self.sections):
            if not 1 <= value <= 4:
                raise InputError(f"a cube of {value:g} times the object was never trained", fix="give 1.2 to 2.5")


@dataclass(frozen=True, eq=False)
class Told:
    """All that was said about one object: box `low`, `high` (3,), points (N, 3) with labels 1 or 0, masks (H, W) boolean of
    slices along `axis` by their index, an earlier mask (Z, Y, X) boolean."""

    box: tuple[np.ndarray, np.ndarray] | None = None
    points: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    axis: int = 0
    sections: Mapping[int, np.ndarray] = field(default_factory=dict)
    mask: np.ndarray | None = None


class Found(NamedTuple):
    """Logits (S, S, S) in a cube, and the IoU that the model predicts."""

    logits: Tensor
    iou: float
    cube: Cube


@dataclass(frozen=True, eq=False)
class SolidPrompter:
    """A Solid with the cubes that belong to its weights."""

    name: str
    model: Solid
    identity: str
    options: CubeOptions = CubeOptions()
    device: torch.device = torch.device("cpu")  # noqa: RUF009
    bf16: bool = False

    def find(self, volume: np.ndarray, voxel: np.ndarray, told: Told) -> Found:
        """The object in a volume (Z, Y, X) uint8 whose voxels have the sides `voxel`.

        Raises InputError where nothing says where it is.
        """
        sections = {index: mask for index, mask in told.sections.items() if mask.any()}
        told = replace(told, sections=sections)
        if told.mask is not None and told.mask.any():
            cube = around(*joined(told.box or bounds(told.mask), told), voxel, self.options.spread)
            return self.look(volume, told, cube, 2 * CERTAIN * take(told.mask, cube, self.model.frame_size) - CERTAIN)
        if told.box is not None:
            return self.look(volume, told, around(*told.box, voxel, self.options.spread))
        if sections:
            found = self.look(volume, told, self._around_sections(told, voxel))
        elif (told.labels == 1).any():
            found = self._searched(volume, voxel, told)
        else:
            raise InputError("nothing says where in the volume the object is", fix="give a point on it, a box or a mask")
        return self._again(volume, voxel, told, found)

    def look(self, volume: np.ndarray, told: Told, cube: Cube, earlier: Tensor | None = None) -> Found:
        """What the model says of one cube."""
        size = self.model.frame_size
        view = normalised(take(volume, cube, size), inside(volume.shape, cube, size))
        hints = self._hints(told, cube, size, earlier)
        with self.computing():
            image = view[None, None].to(self.device).contiguous(memory_format=torch.channels_last_3d)
            answers = self.model(image, Hints(*(part.to(self.device) for part in hints)))
        return Found(answers.logits[0, 0].float().cpu(), float(answers.iou[0, 0]), cube)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Inference in the arithmetic chosen."""
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            yield

    def _hints(self, told: Told, cube: Cube, size: int, earlier: Tensor | None) -> Hints:
        """What was said, in the cells of the view."""
        boxes, known, start = np.zeros((1, 6)), torch.zeros(1, 1, size, size, size), torch.zeros(1, 1, size, size, size)
        if told.box is not None:
            boxes = cube.cells(np.stack(told.box), size).reshape(1, 6)
        if told.sections:
            layers = layers_of(told, cube, size)
            known[0, 0] = known_layers(layers, told.axis, size)
            start[0, 0] = shaped({layer: signed_distance(mask) for layer, mask in layers.items()}, told.axis, size)
        if earlier is not None:
            start[0, 0] = earlier
        points = cube.cells(np.asarray(told.points, float).reshape(1, -1, 3), size)
        labels = np.asarray(told.labels, np.int64).reshape(1, -1)
        if not labels.size:
            points, labels = np.zeros((1, 1, 3)), np.full((1, 1), -1)
        return Hints(torch.from_numpy(boxes).float(), torch.from_numpy(points).float(), torch.from_numpy(labels), known, start)

    def _around_sections(self, told: Told, voxel: np.ndarray) -> Cube:
        """Around one section, which lies in its middle; around several, half of what is between them beyond the last."""
        low, high = extent_of(told)
        if len(told.sections) == 1:
            flat = low.copy(), high.copy()
            flat[0][told.axis] = flat[1][told.axis] = (low[told.axis] + high[told.axis]) / 2
            return around(*flat, voxel, self.options.section)
        between = (high[told.axis] - low[told.axis] - 1) / (len(told.sections) - 1)
        low[told.axis], high[told.axis] = low[told.axis] - between / 2, high[told.axis] + between / 2
        return around(low, high, voxel, self.options.sections)

    def _again(self, volume: np.ndarray, voxel: np.ndarray, told: Told, found: Found) -> Found:
        """Around what was found, until it lies within the view; after a single section twice."""
        least = 2 if len(told.sections) == 1 else 1
        for count in range(1, LOOKS):
            box = box_of(found)
            if box is None:
                break
            cube = around(*joined(box, told), voxel, self.options.spread)
            found = self.look(volume, told, cube, carry(found.logits, found.cube, cube))
            if count >= least and not touches(found, volume.shape):
                break
        return found

    def _searched(self, volume: np.ndarray, voxel: np.ndarray, told: Told) -> Found:
        """The most trusted answer of a ladder of cubes around the points."""
        on = told.points[told.labels == 1]
        middle, side = (on.min(0) + on.max(0)) / 2, float((np.array(volume.shape) * voxel).max())
        reach, least = float((np.abs(told.points - middle) * voxel).max()), LEAST_SIDE * float(voxel.min())
        rungs: list[Found] = []
        while not rungs or (side >= least and reach < 0.45 * side):
            rungs.append(self.look(volume, told, Cube(middle, side / voxel)))
            side /= 2
        return max(rungs, key=lambda each: each.iou - 0.3 * touches(each, volume.shape) - (box_of(each) is None))


def layers_of(told: Told, cube: Cube, size: int) -> dict[int, np.ndarray]:
    """The sections (S, S) boolean on the view's layers: those whose middle lies in the slice, or the nearest one."""
    others = [axis for axis in range(3) if axis != told.axis]
    middles, found = cube.middles(told.axis, size), {}
    for index, mask in told.sections.items():
        flat = Cube(np.array([0.5, *cube.middle[others]]), np.array([1.0, *cube.sides[others]]))
        section = take_flat(mask, flat, size).numpy() > 0.5
        layers = np.flatnonzero(np.floor(middles) == index)
        nearest = int(np.abs(middles - index - 0.5).argmin())
        if abs(middles[nearest] - index - 0.5) > max(1.0, cube.sides[told.axis] / size):
            continue  # outside the view
        for layer in layers if len(layers) else [nearest]:
            found[int(layer)] = section
    return found


def take_flat(mask: np.ndarray, cube: Cube, size: int) -> Tensor:
    """(S, S) share of a mask (H, W) in the view's cells."""
    return take(mask[None].astype(np.uint8), cube, size)[size // 2]


def extent_of(told: Told) -> tuple[np.ndarray, np.ndarray]:
    """The box around all sections."""
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    others = [axis for axis in range(3) if axis != told.axis]
    for index, mask in told.sections.items():
        first, last = bounds(mask)
        low[told.axis], high[told.axis] = min(low[told.axis], index), max(high[told.axis], index + 1)
        low[others], high[others] = np.minimum(low[others], first), np.maximum(high[others], last)
    return low, high


def bounds(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The box around a mask that is not empty."""
    places = [np.flatnonzero(mask.any(tuple(i for i in range(mask.ndim) if i != axis))) for axis in range(mask.ndim)]
    return np.array([each[0] for each in places], float), np.array([each[-1] + 1 for each in places], float)


def joined(box: tuple[np.ndarray, np.ndarray], told: Told) -> tuple[np.ndarray, np.ndarray]:
    """The box, grown to hold all sections and points on the object."""
    low, high = box
    if told.sections:
        first, last = extent_of(told)
        low, high = np.minimum(low, first), np.maximum(high, last)
    if len(on := told.points[told.labels == 1]):
        low, high = np.minimum(low, on.min(0)), np.maximum(high, on.max(0))
    return low, high


def box_of(found: Found) -> tuple[np.ndarray, np.ndarray] | None:
    """The box around what is above 0; None where nothing is."""
    mask, size = found.logits.numpy() > 0, len(found.logits)
    if not mask.any():
        return None
    low, high = bounds(mask)
    return found.cube.voxels(low, size), found.cube.voxels(high, size)


def touches(found: Found, shape: tuple[int, ...]) -> bool:
    """Whether what is above 0 reaches an end of the view that is not the volume's."""
    box, cube = box_of(found), found.cube
    if box is None:
        return False
    cell = 1.5 * cube.sides / len(found.logits)
    low, high = np.maximum(cube.low, 0), np.minimum(cube.low + cube.sides, shape)
    cut = (box[0] < low + cell) & (cube.low > 0) | (box[1] > high - cell) & (cube.low + cube.sides < shape)
    return bool(cut.any())


def sibling_of(prompter: Any, chosen: SolidPrompter | str | Path | bool | None = None) -> SolidPrompter | None:
    """Who goes through volumes in a Prompter's place: the one chosen (as it is, or a weights file), or else its own of SIBLINGS.

    None for False, and where it has none, or the weights are not in this installation. Raises WeightsError for a file that does
    not fit.
    """
    if isinstance(chosen, SolidPrompter):
        return chosen
    ours = isinstance(prompter, GlancePrompter)
    device, bf16 = (prompter.device, prompter.bf16) if ours else (torch.device("cpu"), False)
    if isinstance(chosen, str | Path):
        return load_solid(Path(chosen), device, bf16)
    if chosen is False or prompter.name not in SIBLINGS:
        return None
    path = Path(str(files("vesalius") / "weights" / f"{SIBLINGS[prompter.name]}.safetensors"))
    return load_solid(path, device, bf16) if path.is_file() else None


def read_cubes(path: Path) -> dict[str, Any] | None:
    """What a weights file says of the cubes that belong to it; None where it says nothing."""
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    metadata = read_metadata(path)
    return json.loads(metadata[CUBES_KEY]) if CUBES_KEY in metadata else None


def load_solid(path: Path, device: torch.device | None = None, bf16: bool = False) -> SolidPrompter:
    """The model in a weights file. Raises WeightsError where it is none for volumes, or its tensors do not fit."""
    entry, place = read_cubes(path), device or torch.device("cpu")
    if entry is None:
        fix = f"give weights of vesalius train DATA -o RUN --model {next(iter(SIBLINGS.values()))}"
        raise WeightsError("these weights do not go through volumes", file=path, fix=fix)
    model: Any = build(entry["model"], entry["config"])
    load_into(model, load_state(path)[0], file=path)
    settled = model.eval().requires_grad_(False).to(place).to(memory_format=torch.channels_last_3d)
    return SolidPrompter(entry["name"], settled, file_hash(path), make_config(CubeOptions, entry["views"]), place, bf16)
