"""vesalius_mini and its sibling on volumes that neither was trained on: Dice of the whole hippocampus, both labels joined.

    python benchmarks/mini_volumes.py DATA WEIGHTS [--sibling FILE] [--run RUN] [--cases 19] [--views 1.4,2,1.4] [--out FILE]

DATA is the folder that both were trained on, WEIGHTS those of vesalius_mini, FILE those of vesalius_mini_3d (by default the ones
in the package). The volumes are those that the run kept back (RUN/split.json, by default beside FILE). Printed: a table, JSON.

    box            one tight box in three dimensions
    middle         one tight box on the middle one of the axial slices (as stored) that the object is on
    five, inner    tight boxes on five slices, evenly spread from the object's first to its last; or all of them within it
    1, 3, 5 clicks the first on the voxel deepest within the object, each more on the deepest of what is wrong, in 3D;
                   each way is corrected for its own mistakes, and told all clicks anew each time
    shape          what knows nothing of the picture: the ellipsoid in the box; one as deep as the ellipse on the slice is wide on
                   average; ellipses between those on the slices; a click suggests none
    slice to slice vesalius_mini alone, each mask prompting for the next (and, for one box, within it)
    volume         with the sibling
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.ndimage import distance_transform_edt

from vesalius.core.image import Image
from vesalius.core.prompts import ObjectPrompt
from vesalius.io.datasets import open_dataset
from vesalius.pipeline.cubes import lengths
from vesalius.pipeline.prompter import load_prompter
from vesalius.pipeline.session import Session
from vesalius.pipeline.solids import CubeOptions, SolidPrompter, sibling_of
from vesalius.training.solid_sitting import dice, ellipsoid
from vesalius.training.split import read_split

CLICKS = (1, 3, 5)
PROTOCOLS = ("box", "middle", "five", "inner", *(f"{count} click{'s' if count > 1 else ''}" for count in CLICKS))
WAYS = ("shape", "slice to slice", "volume")
SOURCE = "hippocampus"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--sibling", type=Path)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--cases", type=int, help="at most, evenly spread")
    parser.add_argument("--views", type=lambda text: CubeOptions(*map(float, text.split(","))))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    prompter = load_prompter(weights=options.weights)
    sibling = sibling_of(prompter, options.sibling)
    if sibling is None:
        parser.error("no weights of vesalius_mini_3d are in the package: name some with --sibling")
    if options.views:
        sibling = replace(sibling, options=options.views)
    run = options.run or (options.sibling or options.weights).parent
    held = {name.partition("/")[2] for name in read_split(run / "split.json").validation if name.startswith(SOURCE)}
    dataset = open_dataset(options.data / SOURCE)
    cases = [case for case in dataset.cases if case.name in held]
    cases = cases[:: -(-len(cases) // (options.cases or len(cases)))]
    rows, began = [], time.process_time()
    for case in cases:
        image, mask = dataset.load(case)
        rows.append(measured(image, mask.array > 0, prompter, sibling))
    values = np.array(rows)  # (cases, protocols, ways)
    means = [[None if np.isnan(one) else round(float(one), 4) for one in row] for row in values.mean(0)]
    table = {one: dict(zip(WAYS, row, strict=True)) for one, row in zip(PROTOCOLS, means, strict=True)}
    show(table, len(rows))
    worst = {one: round(float(values[:, i, -1].min()), 4) for i, one in enumerate(PROTOCOLS)}
    report = {"cases": [case.name for case in cases], "dice": table, "worst with the sibling": worst}
    report["seconds"] = round(time.process_time() - began, 1)
    print(json.dumps(report, indent=1))
    if options.out:
        options.out.write_text(json.dumps(report, indent=1), encoding="utf-8")


def measured(image: Image, wanted: np.ndarray, prompter, sibling: SolidPrompter) -> list[list[float]]:
    """Dice by protocol and way."""
    sessions = [Session(image, prompter, cache=False, sibling=other) for other in (False, sibling)]
    rows = []
    for prompts, shape in asked(wanted):
        found = [session.follow(prompts).mask(image.grid) for session in sessions]
        rows.append([dice(mask, wanted) for mask in (shape, *found)])
    each = [clicked(session, wanted) for session in sessions]
    return rows + [[np.nan, *(found[count - 1] for found in each)] for count in CLICKS]


def clicked(session: Session, wanted: np.ndarray) -> list[float]:
    """Dice after the first click, and after each of those that correct it."""
    points, labels, found = [deepest(wanted, session)], [1], []
    while len(found) < max(CLICKS):
        mask = session.follow([ObjectPrompt(points, labels)]).mask(session.image.grid)
        found.append(dice(mask, wanted))
        if not (mask ^ wanted).any():
            return found + [found[-1]] * (max(CLICKS) - len(found))
        x, y, z = deepest(mask ^ wanted, session)
        points.append((x, y, z))
        labels.append(int(wanted[z, y, x]))
    return found


def deepest(region: np.ndarray, session: Session) -> tuple[int, int, int]:
    """x, y, z of the voxel of a region that is farthest from what lies around it, in mm."""
    depth = distance_transform_edt(np.pad(region, 1), sampling=lengths(session.image.grid))[1:-1, 1:-1, 1:-1]
    z, y, x = map(int, np.unravel_index(depth.argmax(), region.shape))
    return x, y, z


def asked(wanted: np.ndarray) -> list[tuple[list[ObjectPrompt], np.ndarray]]:
    """The prompts of each protocol, and the shape that they suggest by themselves."""
    filled = np.flatnonzero(wanted.any((1, 2)))
    y, x = (np.flatnonzero(wanted.any(axis)) for axis in ((0, 2), (0, 1)))
    low, high = np.array([filled[0], y[0], x[0]], float), np.array([filled[-1], y[-1], x[-1]], float) + 1
    whole = ObjectPrompt(box=(*low[::-1], *high[::-1]))
    middle, ends = int(filled[len(filled) // 2]), (filled[0], filled[-1])
    spread = [
        np.unique(np.linspace(*ends, count).round().astype(int))[part] for count, part in ((5, slice(None)), (7, slice(1, -1)))
    ]
    found = [([whole], ellipsoid(wanted.shape, low, high)), ([on_slice(wanted, middle)], one_deep(wanted, middle))]
    return found + [([on_slice(wanted, int(z)) for z in places], between(wanted, places)) for places in spread]


def on_slice(wanted: np.ndarray, z: int) -> ObjectPrompt:
    """The tight box on a slice."""
    return ObjectPrompt(box=tuple(flat_box(wanted, z)), slice=z, axis="axial")


def flat_box(wanted: np.ndarray, z: int) -> np.ndarray:
    """(4,) x0, y0, x1, y1 of the object on a slice."""
    y, x = (np.flatnonzero(wanted[z].any(axis)) for axis in (1, 0))
    return np.array([x[0], y[0], x[-1] + 1, y[-1] + 1], float)


def one_deep(wanted: np.ndarray, z: int) -> np.ndarray:
    """The ellipsoid around a slice's box that is as deep as the box is wide on average."""
    x0, y0, x1, y1 = flat_box(wanted, z)
    deep = (x1 - x0 + y1 - y0) / 4
    return ellipsoid(wanted.shape, np.array([z + 0.5 - deep, y0, x0]), np.array([z + 0.5 + deep, y1, x1]))


def between(wanted: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Ellipses in boxes that move from those on one slice to those on the next."""
    boxes, found = np.array([flat_box(wanted, int(z)) for z in places]), np.zeros_like(wanted)
    for z in range(places[0], places[-1] + 1):
        x0, y0, x1, y1 = (np.interp(z, places, side) for side in boxes.T)
        found[z] = ellipsoid(wanted.shape[1:], np.array([y0, x0]), np.array([y1, x1]))
    return found


def show(table: dict[str, dict[str, float | None]], count: int) -> None:
    print(f"{count} volumes".ljust(16) + "".join(f"{way:>16}" for way in WAYS))
    for protocol, row in table.items():
        values = ("-" if value is None else f"{value:.4f}" for value in row.values())
        print(protocol.ljust(16) + "".join(value.rjust(16) for value in values), flush=True)


if __name__ == "__main__":
    main()
