"""The picture of a ranking: what a model scores against what it costs, and those that no other beats in both."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from ..metrics.summary import Estimate
from .ranking import Ranking

Point = tuple[str, float, float]  # name, cost, score
Box = tuple[float, float, float, float]  # left, bottom, right, top
COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown", "tab:pink", "tab:olive", "tab:cyan")
SIDES = ((1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1), (0, 1), (0, -1))  # where a name may stand, the best first
SIZE_PT, WIDTH_PT, HEIGHT_PT = 10, 6.4, 12  # of a name: its letters, the width of a bold one, the height of a line


def front(points: Sequence[Point], *, cheap_is_low: bool = True) -> list[str]:
    """The names that no other point beats or equals in both, better in one, the cheapest first."""
    best = -float("inf")
    names: list[str] = []
    for name, _, score in sorted(points, key=lambda p: (p[1] if cheap_is_low else -p[1], -p[2])):
        if score > best:
            best = score
            names.append(name)
    return names


def pareto(ranking: Ranking, title: str) -> bytes:
    """PNG: Dice with its 95 % interval against GFLOPs (left) and against images a second (right), the fronts drawn."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    plot = Figure(figsize=(12, 5.2), dpi=110, layout="constrained")
    left, right = plot.subplots(1, 2, sharey=True)
    plot.suptitle(title)
    shown = [entrant for entrant in ranking.order if ranking.dice[entrant.name].cases]
    scores = {entrant.name: ranking.dice[entrant.name] for entrant in shown}
    ends = [end for found in scores.values() for end in (found.low, found.mean, found.high) if end == end] or [0.0, 1.0]
    margin = max(0.01, 0.08 * (max(ends) - min(ends)))
    left.set_ylim(min(ends) - margin, max(ends) + margin)
    left.set_ylabel("Dice on the kept-back cases, 95 % interval")
    size = " x ".join(str(n) for n in shown[0].cost.size if n > 1) if shown else ""
    work = [(entrant.name, entrant.cost.gflops, scores[entrant.name].mean) for entrant in shown]
    speed = [(entrant.name, entrant.cost.images_per_second, scores[entrant.name].mean) for entrant in shown]
    panels = ((left, work, f"GFLOPs at {size} (cheaper to the left)"), (right, speed, "images a second (cheaper to the right)"))
    for axes, points, label in panels:
        draw(axes, points, scores, label, cheap_is_low=axes is left)
    plot.draw_without_rendering()  # from here on it is known where everything lies
    for axes, points, _ in panels:
        write_names(axes, points, front(points, cheap_is_low=axes is left), scores)
    picture = io.BytesIO()
    plot.savefig(picture, format="png")
    return picture.getvalue()


def draw(axes: Any, points: Sequence[Point], scores: Mapping[str, Estimate], label: str, *, cheap_is_low: bool) -> None:
    """One panel: points with their intervals, and the front as a staircase."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.set_xlabel(label)
    axes.grid(alpha=0.25)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    costs = [cost for _, cost, _ in points] or [1.0]
    aside = max(1.8, (max(costs) / min(costs)) ** 0.3)  # room for the names
    axes.set_xlim(min(costs) / aside, max(costs) * aside)
    best = front(points, cheap_is_low=cheap_is_low)
    steps = sorted((cost, score) for name, cost, score in points if name in best)
    if steps:
        axes.step(*zip(*steps, strict=True), where="post" if cheap_is_low else "pre", color="0.7", zorder=1)
    for i, (name, cost, score) in enumerate(points):
        colour, found = COLOURS[i % len(COLOURS)], scores[name]
        if found.low == found.low:
            axes.errorbar(cost, score, [[score - found.low], [found.high - score]], color=colour, capsize=3, alpha=0.6, zorder=2)
        axes.plot(cost, score, "o", color=colour, markersize=8, markeredgecolor="black" if name in best else colour, zorder=3)


def write_names(axes: Any, points: Sequence[Point], best: Sequence[str], scores: Mapping[str, Estimate]) -> None:
    """Each name beside its point, where it covers least of the others; those on the front in bold."""
    from matplotlib.patheffects import withStroke

    pixel = axes.figure.dpi / 72
    spots = [axes.transData.transform((cost, score)) for _, cost, score in points]
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in spots]
    bars = []
    for name, cost, _ in points:
        if scores[name].low == scores[name].low:
            (x, low), (_, high) = (axes.transData.transform((cost, end)) for end in (scores[name].low, scores[name].high))
            bars.append((x - 1, low, x + 1, high))
    for i, (name, _, _) in enumerate(points):
        width, height = WIDTH_PT * pixel * len(name), HEIGHT_PT * pixel
        boxes = [beside(spots[i], side, width, height, 8 * pixel) for side in SIDES]
        hidden = [covered(box, [*taken, *bars]) + 10 * outside(box, axes.bbox.extents) for box in boxes]
        box = boxes[hidden.index(min(hidden))]
        taken.append(box)
        axes.annotate(
            name,
            ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2),
            xycoords="figure pixels",
            ha="center",
            va="center",
            fontsize=SIZE_PT,
            color=COLOURS[i % len(COLOURS)],
            weight="bold" if name in best else "normal",
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
            zorder=4,
        )


def beside(spot: Sequence[float], side: tuple[int, int], width: float, height: float, gap: float) -> Box:
    """The box of a label on a `side` (right, up) of its point, in pixels."""
    x = spot[0] + side[0] * (gap + width / 2)
    y = spot[1] + side[1] * (gap * (0.5 if side[0] else 1) + height / 2)
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def covered(box: Box, others: Sequence[Box]) -> float:
    """How many pixels of `others` the box covers."""
    return sum(
        max(0.0, min(box[2], other[2]) - max(box[0], other[0])) * max(0.0, min(box[3], other[3]) - max(box[1], other[1]))
        for other in others
    )


def outside(box: Box, panel: Sequence[float]) -> float:
    """How many pixels of the box lie outside the panel."""
    return (box[2] - box[0]) * (box[3] - box[1]) - covered(box, [(panel[0], panel[1], panel[2], panel[3])])
