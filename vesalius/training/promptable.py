"""Training a promptable model: sources instead of one data set, exercises instead of patches; the rest is the one loop.

RUN holds what any run holds; weights.safetensors (16 bit) is what `vesalius segment --model FILE --box ...` takes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ConfigDict, Field, ValidationError
from torch import nn

from ..core.errors import DatasetError, InputError, OutputError, UnreadableFile
from ..core.greys import USUAL
from ..models.catalog import CATALOG, entry, make_config, plain
from ..pipeline.glancer import VIEWS_KEY, GlanceOptions, GlancePrompter
from ..pipeline.looks import Asked
from ..pipeline.predictor import choose_device
from ..pipeline.runs import RUN_WEIGHTS
from ..pipeline.solids import CUBES_KEY, CubeOptions
from ..tasks.task import ModelSpec
from . import solids
from .bodies import raise_bodies
from .checkpoint import CHECKPOINT, state_of
from .data import Order, batches
from .exercises import Exercises
from .gallery import Opened, Picture, Say, hang, open_sources
from .interactive import teach
from .plan import Data, write_plan
from .prompting import Prompting
from .recipe import Recipe, first_problem
from .record import Record
from .session import RunSummary, Session, TrainOptions
from .solid_sitting import SolidSitting
from .split import Split, read_split, split_cases, write_split
from .trainer import Limit, Teach, Trainer
from .validate import Examination, Scores

LimitOf = Callable[[Recipe], Limit]
ENDS = ("epochs", "steps", "minutes")
MAY_DIFFER = (*ENDS, "batch", "workers", "start")  # of a recipe named again when a run is resumed
OBJECTS = 12  # of a kept-back picture that are looked at
HELD = 60  # of a source's kept-back pictures, evenly spread: volumes have thousands of slices
CLICKED = 2  # of these, how many are also clicked


class PromptPlan(Record):
    """Where the sources are, which network, how it is trained: enough to repeat the run."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
    kind: Literal["promptable"] = "promptable"
    data: Data
    model: ModelSpec
    views: dict[str, Any] = Field(default_factory=lambda: asdict(GlanceOptions()))
    recipe: Recipe

    dims: int = 2
    half: bool = True  # 16 bit weights: as they are shipped

    @property
    def prompting(self) -> Prompting:
        return self.recipe.prompting or Prompting()

    @property
    def patch(self) -> tuple[int, int, int]:
        size = self.prompting.size
        return 1 if self.dims == 2 else size, size, size

    @property
    def title(self) -> str:
        return f"{self.model.name}, prompted, on {self.data.name}"

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def metadata(self) -> dict[str, str]:
        """What the weights file says of itself, for `load_prompter`."""
        about = {"name": self.name, "model": self.model.name, "config": self.model.config, "views": self.views}
        sources = {name: each.licence for name, each in (self.recipe.sources or {}).items() if each.share}
        return {lesson_of(self.name).key: json.dumps(about | {"percentiles": USUAL[:2], "sources": sources})}


def read_prompt_plan(path: Path) -> PromptPlan:
    """The plan of a run. Raises UnreadableFile, or DatasetError that names the first thing that does not fit."""
    import tomllib

    try:
        return PromptPlan.model_validate(tomllib.loads(path.read_text(encoding="utf-8-sig")))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UnreadableFile("there is no readable plan", file=path, fix="make one with --plan-only") from error
    except ValidationError as error:
        raise DatasetError(f"this plan does not fit: {first_problem(error)}", file=path, fix="mend that line") from error


@dataclass(frozen=True, eq=False)
class Sitting:
    """Kept-back pictures, looked at as in use: `dice` with one tight box an object, the `ellipse` in it beside, `click` alone."""

    pictures: tuple[Picture, ...]

    @classmethod
    def of(cls, pictures: Sequence[Picture], most: int) -> Sitting:
        """At most so many pictures of each source."""
        return cls(tuple(each for row in by_source(pictures, most) for each in row))

    def __len__(self) -> int:
        return len(self.pictures)

    def some(self, most: int) -> Sitting:
        """`most` pictures in all, the sources in turn."""
        rows = by_source(self.pictures, most)
        turns = [row[i] for i in range(max(map(len, rows), default=0)) for row in rows if i < len(row)]
        return Sitting(tuple(turns[:most]))

    def examine(self, model: nn.Module, plan: Any) -> dict[str, Scores]:
        """Scores per picture; its source is the label."""
        device = next(model.parameters()).device
        options = replace(make_config(GlanceOptions, plan.views), mirrored=False)
        prompter = GlancePrompter(plan.name, model.eval(), "in training", options, device)  # type: ignore[arg-type]
        return {f"{each.name} {i}": {each.source: scored(each, prompter)} for i, each in enumerate(self.pictures)}


def by_source(pictures: Sequence[Picture], most: int) -> list[list[Picture]]:
    """The pictures of each source, at most so many, evenly spread over them."""
    found: dict[str, list[Picture]] = {}
    for each in pictures:
        found.setdefault(each.source, []).append(each)
    return [row[:: -(-len(row) // most)] for row in found.values()]


def scored(picture: Picture, prompter: GlancePrompter) -> dict[str, float]:
    """Mean Dice over some of a picture's objects."""
    look = prompter.look(picture.mips.levels[0].numpy().transpose(1, 2, 0))
    things = [picture.things[i] for i in np.linspace(0, len(picture.things) - 1, min(OBJECTS, len(picture.things))).astype(int)]
    masks = [picture.numbers == thing.number for thing in things]
    boxes = np.array([thing.box for thing in things], float)
    found = look.full(look.ask(Asked(boxes=boxes), multimask=False).state[:, 0]).numpy() > 0
    clicks = np.array([[inner_point(mask, thing.box)] for mask, thing in zip(masks, things, strict=True)][:CLICKED], float)
    proposals = look.ask(Asked(points=clicks, labels=np.ones(clicks.shape[:2], int)), multimask=True)
    best = proposals.state[range(len(clicks)), proposals.iou.argmax(1)]
    clicked = look.full(best).numpy() > 0
    return {
        "dice": mean(dice(one, mask) for one, mask in zip(found, masks, strict=True)),
        "ellipse": mean(dice(ellipse(mask.shape, box), mask) for mask, box in zip(masks, boxes, strict=True)),
        "click": mean(dice(one, mask) for one, mask in zip(clicked, masks[:CLICKED], strict=True)),
    }


def mean(values: Any) -> float:
    return float(np.mean(list(values)))


def dice(found: np.ndarray, wanted: np.ndarray) -> float:
    """Of two boolean masks, the second not empty."""
    return float(2 * np.count_nonzero(found & wanted) / (np.count_nonzero(found) + np.count_nonzero(wanted)))


def ellipse(size: Sequence[int], box: np.ndarray) -> np.ndarray:
    """(H, W) boolean: the ellipse inscribed in a box x0, y0, x1, y1, the opponent that knows nothing of the picture."""
    y, x = np.ogrid[: size[0], : size[1]]
    middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    return ((x + 0.5 - middle[0]) / half[0]) ** 2 + ((y + 0.5 - middle[1]) / half[1]) ** 2 <= 1


def inner_point(mask: np.ndarray, box: tuple[int, int, int, int]) -> tuple[int, int]:
    """x, y of the pixel deepest within a mask: what a person would click."""
    from scipy.ndimage import distance_transform_edt

    x0, y0, x1, y1 = box
    deep = distance_transform_edt(np.pad(mask[y0:y1, x0:x1], 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(deep.argmax()), deep.shape)
    return x0 + int(column), y0 + int(row)


def train_promptable(
    root: Path, run: Path, options: TrainOptions, recipe: Recipe, limit_of: LimitOf, say: Say
) -> list[RunSummary]:
    """Train on the sources below `root` into `run`. `recipe` is complete; a resumed run keeps what it began with but for its end.

    Raises OutputError, DatasetError and InputError as `train` does, and InputError for several processes.
    """
    plan, split, opened = begin(root, run, options, recipe, say)
    if options.plan_only:
        return []
    lesson, state = lesson_of(plan.name), state_of(run, plan) if options.resume else None
    trainer = Trainer(plan, choose_device(options.device), limit_of(plan.recipe), lesson.teach(plan.prompting))
    if trainer.accelerator.num_processes > 1:
        raise InputError("a promptable model is trained in one process", fix="start it without a launcher")
    sides = {side: hung(opened, set(getattr(split, side)), plan) for side in ("train", "validation")}
    for side, found in sides.items():
        say(f"{side}: {len(found)} {lesson.what}, {sum(map(lesson.count, found))} objects")
    session = Session(plan, trainer, lesson.sitting(sides["validation"]), run, options, say)
    if state is not None:
        session.restore(state)
        say(f"going on from step {trainer.step}")
    elif plan.recipe.start is not None:
        say(trainer.begin(plan.recipe.start))
    samples = lesson.exercises(sides["train"], plan.recipe.sources or {}, plan.prompting, plan.recipe.seed)
    return [session.train(batches(samples, Order(trainer.step, plan.recipe.batch or 1), plan.recipe.workers))]


def begin(root: Path, run: Path, options: TrainOptions, recipe: Recipe, say: Say) -> tuple[PromptPlan, Split, list[Opened]]:
    """The plan and split of the run: those it began with when it is resumed, else new ones, written before anything starts."""
    for name in ("task", "plan", "folds", "patients"):
        if getattr(options, name) is not None:
            raise InputError(f"a promptable model is trained without --{name}", fix="leave it out")
    if options.resume:
        if not (run / "plan.toml").is_file():
            raise OutputError("there is no run to resume here", file=run, fix="start it without --resume")
        plan = read_prompt_plan(run / "plan.toml")
        require_same(plan.recipe, recipe, run, options)
        ends = {key: getattr(recipe, key) for key in ENDS}
        if any((options.epochs, options.steps, options.minutes)):
            plan = plan.model_copy(update={"recipe": plan.recipe.model_copy(update=ends)})
        return plan, read_split(run / "split.json"), open_sources(root, plan.recipe, say)
    if any((run / name).exists() for name in (CHECKPOINT, "metrics.jsonl", RUN_WEIGHTS)):
        raise OutputError("a run lies here already", file=run, fix="go on with --resume, or choose another folder")
    if run.is_file():
        raise OutputError("a file stands where the run should go", file=run, fix="choose another folder")
    opened = open_sources(root, recipe, say)
    split = split_sources(opened, recipe, say)
    config = plain(make_config(entry(options.model).config, {"size": (recipe.prompting or Prompting()).size, **recipe.model}))
    data = Data(path=str(root.resolve()), name=root.resolve().name)
    recipe = recipe.model_copy(update={"batch": recipe.batch or 32})
    lesson, model = lesson_of(options.model), ModelSpec(name=options.model, config=config)
    views = asdict(lesson.views(recipe.prompting or Prompting()))
    plan = PromptPlan(data=data, model=model, views=views, recipe=recipe, dims=lesson.dims)
    write_split(split, run / "split.json")
    write_plan(plan, run / "plan.toml")
    say(f"the plan is in {run / 'plan.toml'}")
    return plan, split, opened


def require_same(began: Recipe, recipe: Recipe, run: Path, options: TrainOptions) -> None:
    """Raises InputError where a run to be resumed is asked for another recipe than it began with."""
    wants, has = recipe.model_dump(), began.model_dump()
    if options.recipe is None:  # then only what was named by itself counts
        wants = {key: getattr(options, key) for key in ("seed", "precision") if getattr(options, key) is not None}
    if differing := [key for key, value in wants.items() if key not in MAY_DIFFER and value != has[key]]:
        raise InputError(f"this run began with another {differing[0]}", file=run, fix="leave it out to go on, or start a new run")


def split_sources(opened: Sequence[Opened], recipe: Recipe, say: Say) -> Split:
    """Every source split by patient; one of a single patient is trained on and not looked at."""
    sides: tuple[list[str], list[str]] = ([], [])
    for each in opened:
        if len({case.patient for case in each.cases}) == 1:
            sides[0].extend(case.name for case in each.cases)
            say(f"{each.name}: one patient, all of it to train ({licence(each)})")
            continue
        told: list[str] = []
        part, seed = recipe.validation_fraction, recipe.seed
        split = split_cases(each.cases, fraction=part, seed=seed, folds=None, fold=0, say=told.append)
        sides[0].extend(split.train)
        sides[1].extend(split.validation)
        say(f"{each.name}: {told[-1]} ({licence(each)})")
    return Split(tuple(sides[0]), tuple(sides[1]))


def licence(opened: Opened) -> str:
    return opened.settings.licence + ("; RESEARCH ONLY" if opened.settings.research_only else "")


def hung(opened: Sequence[Opened], names: set[str], plan: PromptPlan) -> list[Any]:
    """The pictures, or bodies, of one side of the split. Raises DatasetError where a case of it is gone."""
    there = {case.name for each in opened for case in each.cases}
    if gone := sorted(names - there):
        raise DatasetError(f"case {gone[0]} of the run's split is gone", fix="restore it, or start anew")
    least, open_case = plan.prompting.least_area_px, lesson_of(plan.name).open_case
    wanted = [(each, case) for each in opened for case in each.cases if case.name in names]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding leaves Python's lock
        return [each for found in pool.map(lambda pair: open_case(pair[0], pair[1], least), wanted) for each in found]


def is_promptable(options: TrainOptions, run: Path) -> bool:
    """Whether the run is a promptable model's: by its name, or by the plan of the run that is resumed."""
    if options.model in CATALOG and CATALOG[options.model].kind in ("prompts", "solid"):
        if CATALOG[options.model].loss not in LESSONS:
            raise InputError(f"'{options.model}' is not trained here yet", fix="train vesalius_mini")
        return True
    plan = run / "plan.toml"
    return options.resume and plan.is_file() and 'kind = "promptable"' in plan.read_text(encoding="utf-8")


@dataclass(frozen=True)
class Lesson:
    """How one kind of promptable model is taught, by the loss that its catalog entry names.

    `open_case` gives a case's pictures (or bodies: `what`), `exercises` the samples, `teach` the loss of a batch, `sitting` what
    kept-back ones are tried on; `views` and `key` are what a weights file says of where the model looks, and under which name.
    """

    dims: int
    what: str
    key: str
    views: Callable[[Prompting], Any]
    open_case: Callable[[Opened, Any, int], list[Any]]
    count: Callable[[Any], int]
    exercises: Callable[..., Any]
    teach: Callable[[Prompting], Teach]
    sitting: Callable[[Sequence[Any]], Examination]


LESSONS = {
    "interactive": Lesson(
        2, "pictures", VIEWS_KEY, lambda prompting: GlanceOptions(large=prompting.large),
        hang, lambda picture: len(picture.things), Exercises,
        lambda prompting: partial(teach, rounds=prompting.rounds), lambda found: Sitting.of(found, HELD),
    ),
    "solid": Lesson(
        3, "volumes", CUBES_KEY, lambda prompting: CubeOptions(),
        raise_bodies, lambda body: len(body.parts), solids.SolidExercises,
        lambda prompting: solids.teach, lambda found: SolidSitting(tuple(found)),
    ),
}  # fmt: skip


def lesson_of(model: str) -> Lesson:
    """The lesson of a model of the catalog; raises UnknownName."""
    return LESSONS[entry(model).loss]
