"""The way home: from the grid a model saw to the grid the image came on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..core.errors import VesaliusError
from ..core.image import Grid, Shape3
from .moves import Fill, Resize, Turn, Undo
from .resample import Slabs


@dataclass(frozen=True, eq=False)
class Restore:
    """Carries scores and labels from the `prepared` grid back to the `original` one.

        prepared --stream--> lattice --finish--> original
                 (interpolates, slab by slab)    (exact: uncrop, unorient)

    `undos` stand in the order in which they are applied. Turns wait until the end, since whatever acts
    along axes may as well act before a turn as after it; that is what lets everything else be streamed.
    """

    original: Grid
    prepared: Grid
    undos: tuple[Undo, ...]

    @staticmethod
    def of(original: Grid, prepared: Grid, undos: Sequence[Undo]) -> Restore:
        """From the undos in the order in which the steps gave them."""
        home: list[Undo] = []
        turns: list[Turn] = []
        for undo in (u for u in reversed(undos) if not u.idle):
            if isinstance(undo, Turn):
                turns.append(undo)
                continue
            for turn in reversed(turns):
                undo = undo.turned(turn.inverse())
            home.append(undo)
        shape = home[-1].target if home else prepared.shape
        for i, turn in enumerate(turns):
            turns[i] = Turn(shape, turn.axes, turn.flips)
            shape = turns[i].target
        return Restore(original, prepared, (*home, *turns))

    @property
    def _streamed(self) -> int:
        """How many undos there are up to and including the last that interpolates."""
        return max((i + 1 for i, undo in enumerate(self.undos) if isinstance(undo, Resize)), default=0)

    @property
    def lattice(self) -> Shape3:
        """Shape of what `stream` yields in all."""
        return self.undos[self._streamed - 1].target if self._streamed else self.prepared.shape

    def stream(self, slabs: Slabs, *, max_slices: int = 8, fill: Fill = 0) -> Iterator[tuple[int, np.ndarray]]:
        """Slabs (z0, (K, dz, Y, X)) in order of z on the prepared grid, as slabs in order of z on the lattice.

        No slab is thicker than `max_slices`; besides it only the planes that linear interpolation along z needs are
        held. What interpolates comes out as float32. Without an interpolating undo the slabs pass through as views.
        A slab is valid until the next one is asked for, and the same goes for the slabs that come in. `fill`, one value
        or one a class, is what an area has that was cropped away before the interpolation.
        """
        flow: Slabs = _in_order(slabs, self.prepared.shape, max_slices)
        for undo in self.undos[: self._streamed]:
            flow = undo.stream(flow, max_slices, fill)  # type: ignore[union-attr]
        return iter(flow)

    def finish(self, array: np.ndarray, fill: Fill = 0) -> np.ndarray:
        """The exact rest: `array` on the lattice, (Z, Y, X) or (K, Z, Y, X), to the original grid; `fill` outside the crop."""
        if array.shape[-3:] != self.lattice:
            raise VesaliusError(f"{array.shape} does not lie on the lattice {self.lattice}")
        whole = array if array.ndim == 4 else array[None]
        for undo in self.undos[self._streamed :]:
            whole = undo.apply(whole, 0, fill)
        return np.ascontiguousarray(whole if array.ndim == 4 else whole[0])

    def scores(self, array: np.ndarray, fill: Fill = 0) -> np.ndarray:
        """Scores (K, *prepared) to (K, *original), linearly; `fill`, one value or one a class, outside the crop.

        The default 0 in all classes decides for background in an argmax, whose ties go to class 0.
        """
        if not self._streamed:
            return self.finish(array, fill)
        out = np.empty((len(array), *self.lattice), np.float32)
        fills = np.broadcast_to(fill, len(array))
        for k in range(len(array)):
            for z0, slab in self.stream([(0, array[k : k + 1])], fill=float(fills[k])):
                out[k, z0 : z0 + slab.shape[1]] = slab[0]
        return self.finish(out, fill)

    def labels(self, array: np.ndarray) -> np.ndarray:
        """A label map (*prepared) to (*original), by nearest neighbour; 0 outside the crop."""
        if array.shape != self.prepared.shape:
            raise VesaliusError(f"{array.shape} does not lie on the prepared grid {self.prepared.shape}")
        whole = array[None]
        for undo in self.undos:
            whole = undo.apply(whole, 0, 0)
        return np.ascontiguousarray(whole[0])


def _in_order(slabs: Slabs, shape: Shape3, max_slices: int) -> Iterator[tuple[int, np.ndarray]]:
    """The slabs in pieces of at most `max_slices`, after a check that each follows on the one before."""
    expected = 0
    for z0, slab in slabs:
        if z0 != expected or slab.shape[2:] != shape[1:]:
            raise VesaliusError(f"slab {slab.shape} at z = {z0}, where one at z = {expected} of {shape} was due")
        for z in range(0, slab.shape[1], max_slices):
            yield z0 + z, slab[:, z : z + max_slices]
        expected = z0 + slab.shape[1]
    if expected != shape[0]:
        raise VesaliusError(f"the slabs end at z = {expected} of {shape[0]}")
