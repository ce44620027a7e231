"""vesalius_mini on pictures it was not trained on: mean Dice over objects, one prompt an object, beside the inscribed ellipse.

    python benchmarks/mini.py DATA WEIGHTS [--run RUN] [--sources kvasir_seg,dsb2018] [--objects 12] [--pictures 60] [--out FILE]

DATA is the folder that `vesalius train DATA --model vesalius_mini` had. The pictures are those that the run kept back
(RUN/split.json, by default beside the weights); a data set that the run did not know is looked at whole. Printed: a table, JSON.

    ellipse   the ellipse in the tight box: what knows nothing of the picture
    box       one tight box; box 5 %, 10 %: each side moved by up to so much of it
    1 click   the pixel deepest within the object; 5 clicks: four more, each the deepest pixel of what is wrong
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from vesalius.pipeline.glancer import GlanceLook
from vesalius.pipeline.looks import Asked
from vesalius.pipeline.prompter import load_prompter
from vesalius.training.gallery import Picture, hang, open_sources
from vesalius.training.promptable import dice, ellipse, inner_point
from vesalius.training.prompting import Source
from vesalius.training.recipe import RECIPES
from vesalius.training.split import read_split

COLUMNS = ("ellipse", "box", "box 5 %", "box 10 %", "1 click", "2 clicks", "3 clicks", "4 clicks", "5 clicks")
LEAST_PX = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--sources", type=lambda text: text.split(","))
    parser.add_argument("--objects", type=int, default=12, help="of a picture, at most")
    parser.add_argument("--pictures", type=int, default=60, help="of a source, at most, evenly spread")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    prompter = load_prompter(weights=options.weights)
    recipe = RECIPES["vesalius_mini"]
    joined = {"hippocampus": {"objects": "joined"}}  # both labels are one object in the figures
    known = (recipe.sources or {}).items()
    sources = {name: Source.model_validate(each.model_dump() | joined.get(name, {})) for name, each in known}
    opened = open_sources(options.data, recipe.model_copy(update={"sources": sources}), print)
    split = read_split((options.run or options.weights.parent) / "split.json")
    table = {}
    for source in opened:
        if options.sources and source.name not in options.sources:
            continue
        held = [case for case in source.cases if case.name in split.validation]
        if not held and any(case.name in split.train for case in source.cases):
            continue  # all of it was trained on
        pictures = [picture for case in held or source.cases for picture in hang(source, case, LEAST_PX)]
        if source.name == "hippocampus":
            pictures = [each for each in pictures if ":z" in each.name]  # axial, as stored
        step = max(1, len(pictures) // options.pictures)
        began = time.process_time()
        rows = [row for each in pictures[::step] for row in measured(each, prompter.look, options.objects)]
        means = dict(zip(COLUMNS, np.mean(rows, 0).round(4).tolist(), strict=True))
        table[source.name] = {"objects": len(rows), **means, "seconds": round(time.process_time() - began, 1)}
        show(source.name, table[source.name], first=len(table) == 1)
    print(json.dumps(table, indent=1))
    if options.out:
        options.out.write_text(json.dumps({"weights": str(options.weights), "sources": table}, indent=1), encoding="utf-8")


def measured(picture: Picture, looking, most: int) -> list[list[float]]:
    """A row of COLUMNS for each of some objects."""
    rng = np.random.default_rng(0)
    look = looking(picture.mips.levels[0].numpy().transpose(1, 2, 0))
    things = [picture.things[i] for i in np.linspace(0, len(picture.things) - 1, min(most, len(picture.things))).astype(int)]
    masks = [picture.numbers == thing.number for thing in things]
    boxes = np.array([thing.box for thing in things], float)
    columns = [[dice(ellipse(mask.shape, box), mask) for mask, box in zip(masks, boxes, strict=True)]]
    for share in (0.0, 0.05, 0.1):
        sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
        moved = boxes + rng.uniform(-share, share, boxes.shape) * sides
        columns.append(scores(look, Asked(boxes=moved), masks)[0])
    return np.array(columns + clicked(look, masks, boxes)).T.tolist()


def scores(look: GlanceLook, asked: Asked, masks: list[np.ndarray], multimask: bool = False) -> tuple[list[float], torch.Tensor]:
    """Dice of each answer, and the answers' states."""
    proposals = look.ask(asked, multimask=multimask)
    states = proposals.state[range(len(masks)), proposals.iou.argmax(1)]
    return [dice(look.full(state[None])[0].numpy() > 0, mask) for state, mask in zip(states, masks, strict=True)], states


def clicked(look: GlanceLook, masks: list[np.ndarray], boxes: np.ndarray) -> list[list[float]]:
    """One click, then four that correct; the mask before is shown again each time."""
    points = np.array([[inner_point(mask, tuple(box.astype(int)))] for mask, box in zip(masks, boxes, strict=True)], float)
    labels = np.ones(points.shape[:2], int)
    found, states = scores(look, Asked(points, labels), masks, multimask=True)
    columns = [found]
    for _ in range(4):
        news = [correction(look.full(state[None])[0].numpy() > 0, mask) for state, mask in zip(states, masks, strict=True)]
        points = np.concatenate([points, np.array([[where] for where, _ in news], float)], 1)
        labels = np.concatenate([labels, np.array([[label] for _, label in news])], 1)
        found, states = scores(look, replace(Asked(points, labels), states=states), masks)
        columns.append(found)
    return columns


def correction(found: np.ndarray, wanted: np.ndarray) -> tuple[tuple[int, int], int]:
    """The click that a patient person would make: the deepest pixel of what is wrong; -1 where nothing is."""
    wrong = found != wanted
    if not wrong.any():
        return (0, 0), -1
    rows, columns = np.flatnonzero(wrong.any(1)), np.flatnonzero(wrong.any(0))
    x, y = inner_point(wrong, (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))
    return (x, y), int(wanted[y, x])


def show(name: str, row: dict[str, float], *, first: bool) -> None:
    if first:
        print(f"{'source':18}{'objects':>8}" + "".join(f"{column:>10}" for column in COLUMNS))
    print(f"{name:18}{row['objects']:8}" + "".join(f"{row[column]:10.4f}" for column in COLUMNS), flush=True)


if __name__ == "__main__":
    main()
