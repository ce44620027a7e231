"""What a promptable model reaches on kinds of images it has never seen: each set left out in turn, from one start.

    python benchmarks/left_out.py DATA OUT [--start 6] [--minutes 6] [--sets kvasir_seg,...] --split RUN [--seen WEIGHTS]

OUT/start is trained on drawn shapes alone, then OUT/SET goes on from it on everything but SET, OUT/all on everything, and
OUT/free on everything that is not for research only. Finished runs are kept, unfinished ones resumed. All are looked at on the
cases that RUN kept back (RUN/split.json), with one tight box and one click an object, beside the inscribed ellipse, the start,
and with --seen the weights that were trained long on all sets.

Short runs: they compare what is seen with what is not at one budget, and say little of what a long training reaches.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from vesalius.training.recipe import RECIPES

BENCHMARK = Path(__file__).with_name("mini.py")
SETS = ("kvasir_seg", "dsb2018", "glas", "cpm15", "hippocampus")
NONE, FREE = "all", "free"  # the runs that leave nothing out, and whatever is for research only
CHEAP = "[prompting]\nhalf_p = 0.9\nlarge = 0\n"  # short runs: most views at half the size, a quarter of the time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--start", type=float, default=6, help="minutes of drawn shapes alone")
    parser.add_argument("--minutes", type=float, default=6, help="of each run")
    parser.add_argument("--sets", type=lambda text: tuple(text.split(",")), default=SETS)
    parser.add_argument("--split", type=Path, required=True, help="the run whose kept-back cases are looked at")
    parser.add_argument("--seen", type=Path, help="weights that were trained on all sets")
    parser.add_argument("--pictures", type=int, default=30, help="of a set, at most")
    options = parser.parse_args()
    sources = RECIPES["vesalius_mini"].sources or {}
    drawn = [name for name, each in sources.items() if each.made != "shapes"]
    trained(options.data, options.out / "start", drawn, options.start, None)
    start = options.out / "start" / "weights.safetensors"
    without = {name: [name] for name in options.sets}
    without |= {NONE: [], FREE: [name for name, each in sources.items() if each.research_only]}
    for name, left_out in without.items():
        trained(options.data, options.out / name, left_out, options.minutes, start)
    table = {}
    for name in options.sets:
        runs = {"left out": name, "same budget, seen": NONE, "same budget, no research-only set": FREE}
        seen = {"start": start} | {how: options.out / run / start.name for how, run in runs.items()}
        table[name] = {how: measured(options, name, weights) for how, weights in seen.items()}
        if options.seen:
            table[name]["full training, seen"] = measured(options, name, options.seen)
        show(name, table[name])
    (options.out / "left_out.json").write_text(json.dumps(table, indent=1), encoding="utf-8")


def trained(data: Path, run: Path, without: list[str], minutes: float, start: Path | None) -> None:
    """A run without these sources, unless it is there."""
    if (run / "report.html").is_file():
        return
    recipe = run.with_suffix(".toml")
    recipe.parent.mkdir(parents=True, exist_ok=True)
    left_out = "".join(f"[sources.{name}]\nshare = 0\n" for name in without)
    recipe.write_text('base = "vesalius_mini"\n' + CHEAP + left_out, encoding="utf-8")
    words = ["train", data, "-o", run, "--model", "vesalius_mini", "--recipe", recipe, "--minutes", minutes, "--workers", 1]
    more = ["--resume"] if (run / "checkpoint.pt").is_file() else ["--weights", start] if start else []
    subprocess.run([sys.executable, "-m", "vesalius", *map(str, words), *map(str, more), "--quiet"], check=True)


def measured(options: argparse.Namespace, name: str, weights: Path) -> dict[str, float]:
    """One row of benchmarks/mini.py."""
    out = options.out / f"{name}.json"
    words = [options.data, weights, "--run", options.split, "--sources", name, "--pictures", options.pictures, "--out", out]
    subprocess.run([sys.executable, BENCHMARK, *map(str, words)], check=True, stdout=subprocess.DEVNULL)
    row = json.loads(out.read_text(encoding="utf-8"))["sources"][name]
    out.unlink()
    return row


def show(name: str, rows: dict[str, dict[str, float]]) -> None:
    """A set's rows: how it was trained, objects, ellipse, box, click."""
    print(f"{name}: {next(iter(rows.values()))['objects']} objects, ellipse {next(iter(rows.values()))['ellipse']:.3f}")
    for how, row in rows.items():
        print(f"  {how:34} box {row['box']:.3f}   1 click {row['1 click']:.3f}   5 clicks {row['5 clicks']:.3f}", flush=True)


if __name__ == "__main__":
    main()
