"""The U-Net paper's own method against the plain recipe, on the paper's data (ISBI 2012 EM challenge). Prints JSON.

    python benchmarks/isbi2012.py [--data FOLDER] [--out FOLDER] [--minutes N] [--only RECIPE] [--threads N]

The last quarter of the sections, by number, is kept back: neighbouring sections look alike, so a random split would flatter.
Each recipe trains for the same minutes from seed 0; a run that exists is resumed, and a finished one is only scored. Scored are
the kept-back sections: pixel Dice of the cells, and the challenge's foreground-restricted V_rand and V_info
(Arganda-Carreras et al. 2015) of membrane probabilities at the best of nine thresholds.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np

RECIPES = ("ronneberger", "default")
HERE = Path(__file__).resolve().parent
CELL = 255  # the labels' value inside cells; membranes are 0


def main() -> None:
    """Train what is asked for, score it, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data" / "isbi2012")
    parser.add_argument("--out", type=Path, default=Path("runs") / "isbi2012")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--only", choices=RECIPES)
    parser.add_argument("--threads", type=int, help="threads of the training; the others of this machine stay free")
    given = parser.parse_args()
    if not (given.data / "images").is_dir():
        sys.exit(f"{given.data}: no images/ here. Give the ISBI 2012 sections with --data")
    if given.threads:
        os.environ["OMP_NUM_THREADS"] = str(given.threads)
    dataset = split(given.data, given.out / "dataset")
    recipes = [given.only] if given.only else RECIPES
    print(json.dumps({recipe: measure(dataset, given.out / recipe, recipe, given.minutes) for recipe in recipes}, indent=2))


def split(data: Path, target: Path) -> Path:
    """The sections with a fixed split, as links: train/ and validation/, each with images/ and labels/."""
    names = sorted((path.name for path in (data / "images").glob("*.png")), key=lambda name: int(Path(name).stem))
    first = len(names) - len(names) // 4
    for part, chosen in (("train", names[:first]), ("validation", names[first:])):
        for kind in ("images", "labels"):
            folder = target / part / kind
            folder.mkdir(parents=True, exist_ok=True)
            for name in chosen:
                if not (folder / name).exists():
                    (folder / name).symlink_to((data / kind / name).resolve())
    return target


def measure(dataset: Path, run: Path, recipe: str, minutes: float) -> dict:
    """Train one recipe, segment the kept-back sections, score them."""
    from PIL import Image

    import vesalius
    from vesalius.metrics.boundary import best_v_scores
    from vesalius.models.catalog import build, parameter_count
    from vesalius.pipeline.predictor import load

    if not (run / "report.html").exists():
        resume = (run / "checkpoint.pt").exists()
        vesalius.train(dataset, run, recipe=recipe, minutes=minutes, resume=resume, say=lambda line: print(line, file=sys.stderr))
    images, found = dataset / "validation" / "images", run / "found"
    vesalius.segment(images, found, model=str(run), save_probabilities=True, overwrite=True)
    sections = sorted(path.stem for path in images.glob("*.png"))
    inside = np.stack([np.asarray(Image.open(dataset / "validation" / "labels" / f"{s}.png")) == CELL for s in sections])
    membrane = np.stack([1 - cell_probability(found / "probabilities" / f"{s}.npz") for s in sections])
    guess = membrane < 0.5
    rand, info = best_v_scores(membrane, inside)
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    task = load(str(run)).task
    return {
        "sections": len(sections),
        "steps": last["step"],
        "minutes": round(last["seconds"] / 60, 1),
        "parameters": parameter_count(build(task.model.name, task.model.config)),
        "dice_cells": round(float(2 * (guess & inside).sum() / (guess.sum() + inside.sum())), 4),
        "v_rand": round(rand.v_rand, 4),
        "v_rand_threshold": round(rand.threshold or 0, 1),
        "v_info": round(info.v_info, 4),
        "v_info_threshold": round(info.threshold or 0, 1),
    }


def cell_probability(path: Path) -> np.ndarray:
    """(Y, X) of the file that `--save-probabilities` leaves: classes are membrane, cell."""
    with np.load(path, allow_pickle=False) as file:
        return file["probabilities"][1, 0].astype(np.float32)


if __name__ == "__main__":
    main()
