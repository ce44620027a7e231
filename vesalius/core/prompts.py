"""What a user points at: points, a box, an earlier mask or words, for one object; and where on the image that lies.

Prompts are a door of the house: x comes before y, as the user says them.

    on a picture, or on one slice   points (x, y), box (x0, y0, x1, y1)
    in a volume                     points (x, y, z), box (x0, y0, z0, x1, y1, z1), along the stored axes i, j, k

Coordinates are pixels as stored, the middle of the first pixel at (0, 0); x1, y1, z1 are exclusive. A slice is counted along the
stored axis nearest to its anatomical name (axial: superior-inferior); x and y are the indices along the two other
stored axes, in their order. So the array of a slice is [y, x], however the volume is stored.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from .errors import GeometryError, InputError, UnreadableFile, unknown_name
from .image import Grid

AXES = {"axial": "SI", "coronal": "AP", "sagittal": "RL"}  # and the letters of Grid.orientation


@dataclass(frozen=True)
class Plane:
    """One slice: `index` along house axis `axis` of (Z, Y, X). A picture's is Plane(0, 0)."""

    axis: int
    index: int

    def take(self, array: np.ndarray) -> np.ndarray:
        """The slice (..., H, W), a view of an array (..., Z, Y, X)."""
        return self._view(array)

    def put(self, array: np.ndarray, values: np.ndarray) -> None:
        """Write a slice (H, W) into (Z, Y, X)."""
        self._view(array)[...] = values

    def size(self, grid: Grid) -> tuple[int, int]:
        """(H, W) of the slice."""
        h, w = (n for axis, n in enumerate(grid.shape) if axis != self.axis)
        return h, w

    def at(self, index: int) -> Plane:
        """The parallel slice `index`."""
        return Plane(self.axis, index)

    def _view(self, array: np.ndarray) -> np.ndarray:
        return array[(..., *(self.index if axis == self.axis else slice(None) for axis in range(3)))]


@dataclass(frozen=True, eq=False)
class ObjectPrompt:
    """All that is said about one object. `labels`: 1 for a point on the object, 0 for one beside it; without labels all are 1.

    `mask` is a boolean array on the image's pixels, or the file of one; `slice` and `axis` say where in a volume a prompt lies.
    Raises InputError for anything that can be seen to be wrong without the image: NaN, a reversed or empty box,
    labels that do not fit, nothing prompted at all, a prompt of mixed dimensions.
    """

    points: tuple[tuple[float, ...], ...] = ()
    labels: tuple[int, ...] = ()
    box: tuple[float, ...] | None = None
    mask: np.ndarray | Path | None = None
    text: str | None = None
    name: str | None = None
    slice: int | None = None
    axis: str | None = None

    def __post_init__(self) -> None:
        points = tuple(
            _numbers(point, (2, 3), "a point", "x,y, in a volume also x,y,z") for point in _listed(self.points, "points")
        )
        labels = tuple(_label(label) for label in _listed(self.labels, "labels")) or (1,) * len(points)
        box = None if self.box is None else _numbers(self.box, (4, 6), "a box", "x0,y0,x1,y1, in a volume x0,y0,z0,x1,y1,z1")
        for name, value in (("points", points), ("labels", labels), ("box", box)):
            object.__setattr__(self, name, value)
        if len(labels) != len(points):
            raise InputError(
                f"{len(points)} points have {len(labels)} labels", fix="give one label a point: 1 on the object, 0 beside it"
            )
        if isinstance(self.mask, str):
            object.__setattr__(self, "mask", Path(self.mask))
        if self.text is not None and not (isinstance(self.text, str) and self.text.strip()):
            raise InputError("the text prompt is empty", fix="say in words what to segment, or leave it out")
        if not points and box is None and self.mask is None and self.text is None:
            raise InputError("nothing is prompted", fix="give points, a box, a mask or a text")
        if box is not None:
            _require_volume_of(box)
        if len(_dims(self)) > 1:
            raise InputError(
                "a prompt mixes two and three dimensions", fix="give points and box all on a slice, or all in the volume"
            )
        if self.axis is not None and str(self.axis) not in AXES:
            raise unknown_name("axis", str(self.axis), AXES)
        if self.slice is not None and (isinstance(self.slice, bool) or not isinstance(self.slice, int | np.integer)):
            raise InputError(f"the slice {self.slice!r} is no whole number", fix="count slices from 0")
        if self.dims == 3 and self.slice is not None:
            raise InputError("a prompt in three dimensions lies on no single slice", fix="leave out the slice")

    @property
    def dims(self) -> int | None:
        """2 or 3, from its points and box; None where it has neither."""
        return next(iter(_dims(self)), None)

    @property
    def lone_click(self) -> bool:
        """One point on the object, and nothing else: it may mean a part or the whole, so the model is asked for three masks."""
        return len(self.points) == 1 and self.labels == (1,) and self.box is None and self.mask is None and self.text is None

    def plane(self, grid: Grid) -> Plane | None:
        """The slice the prompt lies on; None for a prompt in three dimensions, or with no place (a mask, words) in a volume.

        Raises GeometryError where it lies outside the image, InputError where the slice is missing or not there, and where all
        that is said of the object on its slice is what it is not.
        """
        if grid.dims == 2:
            if self.dims == 3:
                raise InputError("a prompt in three dimensions was given for a picture", fix="give x,y and x0,y0,x1,y1")
            if self.slice not in (None, 0) or self.axis is not None:
                raise InputError("a picture has no slices", fix="leave out the slice and the axis")
            return self._inside(Plane(0, 0), grid)
        if self.dims == 3:
            self._inside_volume(grid)
            return None
        if self.slice is None:
            if self.dims is None and self.axis is None:
                return None
            raise InputError("a point or box x,y in a volume needs its slice", fix="give the slice (--slice K), or x,y,z")
        return self._inside(find_plane(grid, self.slice, self.axis or "axial"), grid)

    def _inside(self, plane: Plane, grid: Grid) -> Plane:
        height, width = plane.size(grid)
        self._require((width, height), "picture" if grid.dims == 2 else "slice")
        if self.points and 1 not in self.labels and self.box is None and self.mask is None and self.text is None:
            fix = "give a point on it, or a box around it, too"
            if grid.dims == 3:
                fix += "; one that corrects what lies on other slices is given in three dimensions, x,y,z"
            raise InputError("only points beside the object are given", fix=fix)
        return plane

    def _inside_volume(self, grid: Grid) -> None:
        self._require(grid.shape[::-1], "volume")

    def _require(self, sizes: Sequence[int], what: str) -> None:
        """Points within 0 <= x < size, boxes within 0 <= x0 < x1 <= size, along every axis in the order x, y(, z)."""
        told = " x ".join(map(str, sizes))
        for point in self.points:
            if not all(0 <= value < size for value, size in zip(point, sizes, strict=True)):
                raise GeometryError(f"the point {_told(point)} lies outside the {what} ({told} px)", fix="count pixels from 0")
        if self.box is None:
            return
        low, high = self.box[: len(sizes)], self.box[len(sizes) :]
        if not all(a >= 0 and b <= size for a, b, size in zip(low, high, sizes, strict=True)):
            raise GeometryError(
                f"the box {_told(self.box)} reaches outside the {what} ({told} px)", fix="keep it within the image"
            )


def find_plane(grid: Grid, index: int, axis: str) -> Plane:
    """Slice `index` along the stored axis nearest to `axis`; raises InputError where there is no such slice or axis.

    Where a file states no orientation, axial means the slices as stored, and the other two are unknown.
    """
    if axis not in AXES:
        raise unknown_name("axis", axis, AXES)
    orientation = grid.orientation
    if orientation is None and axis != "axial":
        raise InputError(
            f"the image does not say how it lies, so nobody knows which slices are {axis}", fix="use axial: as stored"
        )
    house = 0 if orientation is None else next(i for i, letter in enumerate(orientation) if letter in AXES[axis])
    if not 0 <= index < grid.shape[house]:
        last = grid.shape[house] - 1
        raise InputError(f"there is no {axis} slice {index}", fix=f"count from 0 to {last}")
    return Plane(house, int(index))


def read_prompts(path: str | Path) -> tuple[ObjectPrompt, ...]:
    """The objects of a JSON file: a list of objects, each with any of box, points, labels, mask, text, name, slice, axis; what is
    null is not said.

    A mask's path is taken from the file's own folder. Raises UnreadableFile (missing, no JSON), InputError naming the object
    that is wrong.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors on Windows begin with a mark
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableFile("the prompts cannot be read", file=path, fix="give a JSON file") from error
    try:
        listed = json.loads(text, object_pairs_hook=lambda pairs: _once(pairs, path))
    except (ValueError, RecursionError) as error:
        where = f" at line {error.lineno}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise UnreadableFile(f"this is no JSON: it breaks off{where}", file=path, fix="write a list of objects") from None
    if not isinstance(listed, list) or not listed:
        raise InputError(
            "the prompts are no list of objects, or an empty one", file=path, fix='write [{"box": [x0, y0, x1, y1]}, ...]'
        )
    return tuple(_object(entry, number, path) for number, entry in enumerate(listed, start=1))


def _once(pairs: list[tuple[str, Any]], path: Path) -> dict[str, Any]:
    """A JSON object; of two boxes in one, the first would be lost in silence."""
    said: dict[str, Any] = {}
    for key, value in pairs:
        if key in said:
            raise InputError(f"'{key}' is said twice of one object", file=path, fix="write an object of its own for each")
        said[key] = value
    return said


def _object(entry: Any, number: int, path: Path) -> ObjectPrompt:
    """One entry of the list; what is wrong with it is told with its number and the file."""
    if not isinstance(entry, dict):
        raise InputError(f"object {number} is no JSON object", file=path, fix='write {"box": [x0, y0, x1, y1]}')
    known = {field.name for field in fields(ObjectPrompt)}
    try:
        for key in entry:
            if key not in known:
                raise unknown_name("key", key, known)
        said = {key: value for key, value in entry.items() if value is not None}
        for key in ("mask", "name"):
            _require_text(said.get(key, ""), key)
        if "mask" in said:
            said["mask"] = path.parent / said["mask"]
        return ObjectPrompt(**said)
    except InputError as error:
        raise type(error)(f"object {number}: {error.problem}", file=path, fix=error.fix) from None


def _require_text(value: Any, key: str) -> None:
    """Text that names a file or an object: no control characters, and none of the halves of characters that JSON can say."""
    if not isinstance(value, str):
        raise InputError(f"'{key}' is no text")
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in value):
        raise InputError(f"'{key}' holds characters that cannot be written", fix="leave out line breaks and the like")


def _listed(values: Any, what: str) -> list[Any]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise InputError(
            f"the {what} {values!r} are no list", fix="give [[x, y], ...]" if what == "points" else "give [1, 0, ...]"
        )
    return list(values)


def _numbers(values: Any, counts: tuple[int, ...], what: str, form: str) -> tuple[float, ...]:
    """`values` as finite numbers, one of `counts` of them; `form` is how to write them."""
    fix = f"write it as {form}"
    try:
        if isinstance(values, str) or any(isinstance(value, str | bool) for value in values):
            raise TypeError
        found = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        raise InputError(f"{what} {values!r} is no list of numbers", fix=fix) from None
    except OverflowError:
        raise InputError(f"{what} holds a number beyond any image", fix=fix) from None
    if len(found) not in counts:
        raise InputError(f"{what} has {' or '.join(map(str, counts))} numbers, not {len(found)}", fix=fix)
    if not all(map(math.isfinite, found)):
        raise InputError(f"{what} holds {next(v for v in found if not math.isfinite(v))}, which is no place", fix=fix)
    return found


def _label(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value not in (0, 1):
        raise InputError(f"the label {value!r} of a point is neither 1 nor 0", fix="give 1 on the object, 0 beside it")
    return int(value)


def _require_volume_of(box: tuple[float, ...]) -> None:
    half = len(box) // 2
    if not all(a < b for a, b in zip(box[:half], box[half:], strict=True)):
        corners = "x0,y0,x1,y1" if half == 2 else "x0,y0,z0,x1,y1,z1"
        raise InputError(
            f"the box {_told(box)} is reversed or empty", fix=f"give {corners} with x0 < x1 and so on; the last are exclusive"
        )


def _dims(prompt: ObjectPrompt) -> set[int]:
    found = {len(point) for point in prompt.points}
    return found if prompt.box is None else found | {len(prompt.box) // 2}


def _told(values: Iterable[float]) -> str:
    return ",".join(f"{value:g}" for value in values)


def parse_prompts(
    *,
    points: Sequence[str] = (),
    not_points: Sequence[str] = (),
    boxes: Sequence[str] = (),
    mask: Path | None = None,
    text: str | None = None,
    slice: int | None = None,
    axis: str | None = None,
) -> tuple[ObjectPrompt, ...]:
    """Objects from the words of a command line, such as "12,40": points and at most one box are one, several boxes several.

    Raises InputError for words that are no numbers, and for several boxes together with anything that would belong to one object.
    """
    clicks = [(_parse(word), label) for words, label in ((points, 1), (not_points, 0)) for word in words]
    if len(boxes) > 1:
        if clicks or mask is not None or text is not None:
            problem = "several boxes are several objects, and nobody knows whose the other prompts are"
            raise InputError(problem, fix="give one box, or say which belongs to which in a --prompts file")
        return tuple(ObjectPrompt(box=_parse(box), slice=slice, axis=axis) for box in boxes)
    box = _parse(boxes[0]) if boxes else None
    places, labels = tuple(place for place, _ in clicks), tuple(label for _, label in clicks)
    return (ObjectPrompt(places, labels, box, mask, text, None, slice, axis),)


def parse_window(text: str) -> tuple[float, float]:
    """Two rising grey values, such as "-160,240"; raises InputError."""
    values = _parse(text)
    if len(values) != 2 or not all(map(math.isfinite, values)) or not values[0] < values[1]:
        raise InputError(f"'{text}' is no window", fix="write it as low,high with low < high, such as -160,240")
    return values[0], values[1]


def _parse(word: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in word.split(","))
    except ValueError:
        raise InputError(f"'{word}' is no list of numbers", fix="write numbers with commas between, such as 12,40") from None
