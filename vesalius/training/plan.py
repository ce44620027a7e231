"""The plan of a run: what will be done to which data, derived from the fingerprint and written down before it starts.

    plan.toml = [data] where the cases are  +  [task] what the weights will need to be used  +  [recipe] how to train

It is meant to be read and edited: `--plan FILE` starts from an edited one.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tomlkit
import torch
from pydantic import ValidationError
from tomlkit.items import Table

from ..core.atomic import atomic
from ..core.errors import ChannelError, DatasetError, InputError, LabelError, UnreadableFile, WeightsError
from ..core.image import Shape3, Spacing
from ..core.labels import Labels
from ..models.catalog import build, derived, entry, make_config, plain
from ..models.checkpoints import MODEL_KEY, laid_over
from ..models.contract import Segmenter
from ..models.needs import SMALLEST_EDGE, Needs
from ..models.pretrained import family_of, read_weights
from ..models.weights import read_metadata
from ..pipeline.predictor import TASK_KEY
from ..tasks.decide import Argmax, Decision, Objects, Regions
from ..tasks.task import Inference, ModelSpec, Slices, Task
from ..transforms.intensity import Percentile, Scale, Window, ZScore
from ..transforms.spatial import Orient, Resample, Slicing
from .inspect import Fingerprint, by
from .losses import check_loss
from .recipe import Recipe, Record, first_problem
from .slicewise import choose_slices, turned

VOXELS = {2: 256 * 256, 3: 96 * 96 * 32}  # of a patch, where the recipe names none: what a CPU turns over in about a second
BATCH_VOXELS = {2: 4 * 256 * 256, 3: 2 * 40 * 56 * 40}  # in a limited time more steps teach more than steadier ones
RGB = ("red", "green", "blue")
PER_LEVEL = ("pools", "kernels", "decoder_kernels", "decoder_widths", "convs", "decoder_convs")  # of a U-Net

COMMENTS = {
    "data.path": "the dataset folder; mixed spacings are resampled to the task's Resample step",
    "data.cases": "by which a run that goes on knows the files it began with",
    "data.frequencies": "voxels per class, background first",
    "task.steps": "what every image goes through, in training and in use",
    "task.slices": "a 2D model on volumes: planes along z of the prepared grid, `context` neighbours on either side as channels",
    "task.model.config": "the network; see `vesalius models`",
    "task.inference.patch": "tiles (Z, Y, X) in use; overlap as a part of the tile",
    "recipe.patch": "training patches (Z, Y, X) in voxels after the task's steps",
    "recipe.batch": "patches a step, over all processes",
    "recipe.lr": "peak learning rate; it falls to zero at the end of the run",
    "recipe.foreground": "part of the patches centred on a foreground voxel",
    "recipe.keep": "'last': a schedule that ends at zero ends at its best; 'best': by validation Dice",
    "recipe.augment": "probabilities and ranges of the changes made to each patch",
}


class Data(Record):
    """Where the cases are, and what was found in them."""

    path: str
    name: str
    instances: bool = False
    patients: str | None = None
    folds: int | None = None
    fold: int = 0
    cases: str | None = None
    frequencies: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


class Plan(Record):
    """Data, task and recipe: enough to repeat the run."""

    data: Data
    task: Task
    recipe: Recipe

    @property
    def model(self) -> ModelSpec:
        return self.task.model

    @property
    def dims(self) -> int:
        return self.task.model_dims

    @property
    def name(self) -> str:
        return self.task.name

    @property
    def title(self) -> str:
        return self.task.title

    @property
    def half(self) -> bool:
        return False

    @property
    def metadata(self) -> dict[str, str]:
        """What the weights file says of itself, for `pipeline.predictor.load`."""
        return {TASK_KEY: self.task.model_dump_json()}

    @property
    def patch(self) -> Shape3:
        assert self.recipe.patch is not None  # derive() and read_plan() see to it
        return self.recipe.patch

    @property
    def loss(self) -> str:
        assert self.recipe.loss is not None
        return self.recipe.loss


def derive(
    dataset: Any,
    found: Fingerprint,
    data: Data,
    *,
    model: str,
    recipe: Recipe,
    like: Task | None,
    resample: bool,
    say: Callable[[str], None],
) -> Plan:
    """The plan for `dataset`; `like` is a shipped task, taken over but for what the recipe says of the network.

    Raises DatasetError for mixed spacings where `resample` is False, UnknownName for a model or loss.
    """
    listed = entry(model)
    if like:
        check_like(like, dataset, found)
    nested = Regions() if dataset.labels.nested else Argmax()
    decide: Decision = like.decide if like else (Objects() if dataset.instances else nested)
    slices, axis = choose_slices(model, found, recipe, like, say)
    labels = replace(like.labels, ignore=dataset.labels.ignore) if like else dataset.labels
    asked, recipe = recipe, unmirrored(recipe, labels, axis)
    if recipe != asked:
        say("labels tell left from right: samples are not mirrored from one side to the other (recipe.augment.flip_axes)")
    found, dims = turned(found, axis), 2 if slices else found.dims
    steps = like.steps if like else (*spatial_steps(found, recipe, resample, axis, say), normalisation(found))
    shapes = prepared_shapes(found, recipe)
    middle = tuple(int(n) for n in np.median(shapes, 0))
    patch = recipe.patch or choose_patch((middle[0], middle[1], middle[2]), dims, spacing_of(found, recipe))
    if like and like.model.name == model and not slices:
        config = plain(make_config(listed.config, {**fitting(like.model.config, recipe.model), **recipe.model}))
    else:
        config = network(model, patch, found, decide.channels(len(labels)), recipe, slices)
        if recipe.start is not None and (own := network_in(recipe.start, model)):
            config = continued(model, config, own, recipe)
            said = own.get("classes", config["classes"])
            anew = f"; its head begins anew, for {config['classes']} outputs in place of {said}, background included"
            say(f"the network is that of {recipe.start}{anew if said != config['classes'] else ''}")
    patch = fit_patch(patch, model, config, dims)
    batch = recipe.batch or max(2, min(8, BATCH_VOXELS[dims] // math.prod(patch)))
    loss = recipe.loss or {"objects": "objects", "regions": "dice_bce"}.get(decide.kind, listed.loss)
    check_loss(loss, decide.kind, listed.loss)
    task = Task(
        name=like.name if like else data.name,
        title=like.title if like else f"{data.name}, trained with Vesalius",
        dims=found.dims,  # type: ignore[arg-type]
        channels=like.channels if like and len(like.channels) != len(dataset.channels) else tuple(dataset.channels),
        labels=labels,
        steps=tuple(steps),
        model=ModelSpec(name=model, config=config),
        inference=like.inference if like and not slices else inference(patch, shapes, model, config, recipe),
        slices=slices,
        decide=decide,
        clean=like.clean if like else (),
        nsd_tolerance_mm=like.nsd_tolerance_mm if like else None,
    )
    return Plan(data=data, task=task, recipe=recipe.model_copy(update={"patch": patch, "batch": batch, "loss": loss}))


def unmirrored(recipe: Recipe, labels: Labels, axis: Slicing) -> Recipe:
    """The recipe without the flips that turn a left structure into a right one, where labels tell these apart.

    That is the axis from side to side; with turns by 90 degrees and more also any other in its plane: mirrored there and
    turned by 180 degrees is mirrored from side to side.
    """
    augment = recipe.augment
    if not labels.sided:
        return recipe
    turns = augment.quarter_turns or (augment.rotate_p > 0 and augment.rotate_deg >= 90)
    across = (0,) if axis == "sagittal" else (0, 1, 2) if turns else (2,)
    kept = tuple(flip for flip in augment.flip_axes if flip not in across)
    return recipe.model_copy(update={"augment": augment.model_copy(update={"flip_axes": kept})})


def check_like(like: Task, dataset: Any, found: Fingerprint) -> None:
    """Raises DatasetError, ChannelError or LabelError where these data cannot teach the task `like`."""
    kind = {2: "pictures", 3: "volumes"}
    if like.dims != found.dims:
        told = f"these are {kind[found.dims]}, the task '{like.name}' is one of {kind[like.dims]}"
        raise DatasetError(told, file=dataset.root, fix="train without --task")
    if found.channels not in (1 if like.channels == RGB else len(like.channels), len(like.channels)):
        told = f"{found.channels} channels, where the task '{like.name}' has {len(like.channels)} ({', '.join(like.channels)})"
        raise ChannelError(told, file=dataset.root, fix="train without --task")
    check_labels(like, dataset)


def check_labels(like: Task, dataset: Any) -> None:
    """Raises LabelError where the masks hold what the task `like` does not know, or mean something else by its values."""
    if like.instances:
        return
    fix = f"map them to {', '.join(f'{label.value} {label.name}' for label in like.labels)}, or begin without this task"
    if extra := set(dataset.labels.values) - {*like.labels.values, like.labels.ignore}:
        raise LabelError(
            f"the masks hold {sorted(extra)}, which the task '{like.name}' does not know", file=dataset.root, fix=fix
        )
    if dataset.labels.ignore in like.labels.values:
        raise LabelError(f"the masks ignore {dataset.labels.ignore}, a label of '{like.name}'", file=dataset.root, fix=fix)
    known = {label.name.lower(): label.value for label in like.labels}
    for label in dataset.labels:
        if (value := known.get(label.name.lower(), label.value)) != label.value:
            told = f"'{label.name}' is {label.value} in these masks, and {value} in the task '{like.name}'"
            raise LabelError(told, file=dataset.root, fix=fix)


def spatial_steps(found: Fingerprint, recipe: Recipe, resample: bool, axis: Slicing, say: Callable[[str], None]) -> list[Any]:
    """Orient and Resample where the data carry their geometry; pictures of one spacing stay as they are."""
    spacing = found.median_spacing
    if spacing is None:
        if recipe.spacing_mm:
            raise DatasetError(
                "the recipe asks for a spacing in mm, but these images carry none", fix="leave spacing_mm out of the recipe"
            )
        return []
    target = recipe.spacing_mm or spacing
    if found.mixed_spacing:
        if not resample:
            raise DatasetError("the cases have different spacings", fix="allow resampling, or bring them to one spacing first")
        say(f"spacings differ: everything is resampled to {by(target[3 - found.dims :])} mm")
    if found.dims == 2:
        return [Resample(spacing_mm=target)] if found.mixed_spacing or recipe.spacing_mm else []
    return [Orient(slices=axis), Resample(spacing_mm=target)]


def prepared_shapes(found: Fingerprint, recipe: Recipe) -> np.ndarray:
    """Sizes (cases, 3) after resampling."""
    sizes = np.array([case.shape for case in found.cases], float)
    target = recipe.spacing_mm or found.median_spacing
    if target is None or (found.dims == 2 and not found.mixed_spacing and not recipe.spacing_mm):
        return sizes.astype(int)
    return np.maximum(1, np.rint(sizes * np.array([case.spacing for case in found.cases]) / np.array(target))).astype(int)


def normalisation(found: Fingerprint) -> Any:
    """CT: the foreground's window; 8-bit pictures: 0..1; other pictures: percentiles; MR and the rest: z-score."""
    if found.units == "HU":  # DICOM says so, or a dataset.json that calls its channel CT
        return Window(low=float(found.intensity[:, 0].min()), high=float(found.intensity[:, 3].max()))
    if found.dims == 2:
        return Scale() if found.kinds == {"uint8"} else Percentile()
    return ZScore()


def spacing_of(found: Fingerprint, recipe: Recipe) -> Spacing:
    """The voxels (mm) of prepared cases; ones where nobody knows."""
    return recipe.spacing_mm or found.median_spacing or (1.0, 1.0, 1.0)


def choose_patch(shape: Shape3, dims: int, spacing: Spacing = (1.0, 1.0, 1.0)) -> Shape3:
    """The median image, cut where it is longest in mm until VOXELS are not exceeded, so that it reaches equally far (nnU-Net)."""
    patch = [1 if dims == 2 else shape[0], *shape[1:]]
    while math.prod(patch) > VOXELS[dims]:
        longest = max((axis for axis in range(3 - dims, 3) if patch[axis] > SMALLEST_EDGE), key=lambda i: patch[i] * spacing[i])
        patch[longest] -= max(1, patch[longest] // 16)
    return patch[0], patch[1], patch[2]


def network(model: str, patch: Shape3, found: Fingerprint, outputs: int, recipe: Recipe, slices: Slices | None) -> dict[str, Any]:
    """The network's configuration: what its catalog entry derives from the data; `recipe.model` has the last word."""
    spacing = spacing_of(found, recipe)
    dims, channels = (2, found.channels * slices.planes) if slices else (found.dims, found.channels)
    first = 3 - dims
    pretrained = recipe.start is not None and family_of(read_weights(recipe.start)) is not None
    needs = Needs(channels, outputs, dims, patch[first:], spacing[first:], recipe.deep_supervision, pretrained, recipe.model)
    return derived(model, needs)


def network_in(file: str, model: str) -> dict[str, Any]:
    """The configuration of the network that a weights file says it holds; {} where it says none.

    Raises WeightsError for another model than `model`, and for a damaged file.
    """
    metadata = read_metadata(file) if file.endswith(".safetensors") else {}
    said = json.loads(metadata[TASK_KEY])["model"] if TASK_KEY in metadata else json.loads(metadata.get(MODEL_KEY, "{}"))
    name = said.get("name") or said.get("model")
    if name and name != model:
        raise WeightsError(f"these are weights of a '{name}', not of a '{model}'", file=file, fix=f"give --model {name}")
    return said.get("config", {})


def continued(model: str, config: dict[str, Any], own: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """The configuration `own` of the weights that a run begins with, for data that `config` was derived from.

    Its head is for the classes of these data. The recipe has the last word here too. Raises WeightsError where the network has
    other channels or dimensions than the data, or the recipe asks for other sizes than the weights have.
    """
    grey = config.get("in_channels") == 1 and own.get("in_channels") == 3 and getattr(entry(model).builder, "repeats_grey", False)
    for key, what in (("dims", "dimensions"), ("in_channels", "channels")):
        if key in config and own.get(key, config[key]) != config[key] and not (grey and key == "in_channels"):
            told = f"these weights are for {own[key]} {what}, this run needs {config[key]}"
            raise WeightsError(told, file=recipe.start, fix="begin with others, or leave out --weights")
    own = {**own, "classes": config["classes"]}
    own = plain(make_config(entry(model).config, own))  # what it does not say is as it is where nothing is said
    wanted = plain(make_config(entry(model).config, laid_over(own, recipe.model)))
    if len({tuple((name, t.shape) for name, t in outline(model, each).state_dict().items()) for each in (own, wanted)}) > 1:  # type: ignore[attr-defined]
        differing = ", ".join(key for key in recipe.model if wanted[key] != own.get(key))
        told = f"the recipe asks for another network than that of these weights, in {differing}"
        raise WeightsError(told, file=recipe.start, fix="name another recipe (--recipe default), or leave these out of [model]")
    return wanted


def fitting(config: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A task's network `config` without what counts its levels, where `changes` give it another number of them."""
    if len(changes.get("widths", config.get("widths", ()))) == len(config.get("widths", ())):
        return config
    return {key: value for key, value in config.items() if key not in PER_LEVEL}


def outline(model: str, config: dict[str, Any]) -> Segmenter:
    """The network without its numbers: enough to ask it about sizes, whatever its own size."""
    with torch.device("meta"):
        return build(model, config)  # type: ignore[return-value]


def fit_patch(patch: Shape3, model: str, config: dict[str, Any], dims: int) -> Shape3:
    """The nearest patch that the network takes. Raises InputError for a network whose answer fits no image."""
    network = outline(model, config)
    size = network.nearest_size(patch[3 - dims :])
    network.output_size(size)
    return (1, size[0], size[1]) if dims == 2 else (size[0], size[1], size[2])


def inference(patch: Shape3, shapes: np.ndarray, model: str, config: dict[str, Any], recipe: Recipe) -> Inference:
    """Tiles and flips in use."""
    first = 1 if patch[0] == 1 else 0  # a picture, or a plane, is not mirrored along z
    flips = tuple(axis for axis in recipe.augment.flip_axes if axis >= first) if recipe.flips_at_test else ()
    return Inference(patch=tile(patch, shapes, model, config), flips=flips)


def tile(patch: Shape3, shapes: np.ndarray, model: str, config: dict[str, Any]) -> Shape3:
    """The tile in use: the largest image in one piece where that is at most four patches and a size that fits, else the patch."""
    network = outline(model, config)
    dims = network.dims
    if network.output_size(patch[3 - dims :]) != patch[3 - dims :]:  # valid convolutions
        return patch
    largest = [-(-int(n) // d) * d for n, d in zip(shapes.max(0)[3 - dims :], network.divisor, strict=True)]
    if math.prod(largest) > 4 * math.prod(patch) or network.nearest_size(tuple(largest)) != tuple(largest):
        return patch
    return (1, largest[0], largest[1]) if dims == 2 else (largest[0], largest[1], largest[2])


def write_plan(plan: Record, path: Path) -> None:
    """The plan as TOML with comments. Raises OutputError."""
    document = tomlkit.document()
    document.add(tomlkit.comment("What Vesalius will do, derived from the data. Edit it and start with --plan."))
    values = plan.model_dump(mode="json", exclude_none=True)
    for key, value in sorted(values.items(), key=lambda item: isinstance(item[1], dict)):
        document.add(key, table(value, key) if isinstance(value, dict) else value)
    with atomic(path) as part:
        part.write_text(tomlkit.dumps(document), encoding="utf-8")


def table(values: dict[str, Any], prefix: str) -> Table:
    """A TOML table; it, and its keys, say what they are where COMMENTS names them. Tables within come last, as TOML asks."""
    result = tomlkit.table()
    if prefix in COMMENTS:
        result.add(tomlkit.comment(COMMENTS[prefix]))
    for key, value in sorted(values.items(), key=lambda item: holds_tables(item[1])):
        name = f"{prefix}.{key}"
        if not holds_tables(value) or name == "recipe.model":
            if name in COMMENTS:
                result.add(tomlkit.comment(COMMENTS[name]))
            result.add(key, value)
        elif isinstance(value, dict):
            result.add(key, table(value, name))
        else:
            several = tomlkit.aot()
            for k, each in enumerate(value):
                several.append(table(each, name if k == 0 else ""))
            result.add(key, several)
    return result


def holds_tables(value: Any) -> bool:
    """Whether TOML writes it as a table, or as several of one name."""
    return isinstance(value, dict) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))


def read_plan(path: str | Path) -> Plan:
    """The plan in a TOML file. Raises UnreadableFile, or DatasetError that names the first thing that does not fit."""
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UnreadableFile("there is no such plan", file=path, fix="make one with --plan-only") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UnreadableFile(f"this is not TOML: {error}", file=path, fix="mend that line") from error
    try:
        plan = Plan.model_validate(values)
    except ValidationError as error:
        raise DatasetError(f"this plan does not fit: {first_problem(error)}", file=path, fix="mend that line") from error
    missing = [key for key in ("patch", "batch", "loss") if getattr(plan.recipe, key) is None]
    if missing:
        raise DatasetError(f"recipe.{missing[0]} is missing", file=path, fix="make a plan with --plan-only and edit that")
    check_loss(plan.loss, plan.task.decide.kind, entry(plan.task.model.name).loss)
    if plan.dims == 2 and plan.patch[0] != 1:
        what = "slices" if plan.task.slices else "pictures"
        raise DatasetError(f"recipe.patch is {by(plan.patch)}, for {what}", file=path, fix=f"patches of {what} have Z = 1")
    require_network(plan, path)
    return plan


def require_network(plan: Plan, path: str | Path) -> None:
    """Raises DatasetError, naming the key, where the network of an edited plan cannot be built or does not fit its task."""
    task, key = plan.task, "task.model.config"
    try:
        network = outline(task.model.name, task.model.config)
        patch = fit_patch(plan.patch, task.model.name, task.model.config, plan.dims)
    except InputError as error:
        raise DatasetError(f"{key}: {error.problem}", file=path, fix=error.fix or "mend that line") from error
    except (TypeError, RuntimeError, OverflowError) as error:  # PyTorch's, of sizes beyond all numbers
        raise DatasetError(f"{key}: a network of such sizes cannot be built", file=path, fix="set them back") from error
    channels = len(task.channels) * (2 * task.context + 1)
    wanted = (("classes", network.classes, task.outputs, f"the {len(task.labels)} labels of the task need"),
              ("in_channels", network.in_channels, channels, "the images have"),
              ("dims", network.dims, plan.dims, "the task has"))  # fmt: skip
    for name, has, needs, why in wanted:
        if name == "in_channels" and (has, needs) == (3, 1) and getattr(network, "repeats_grey", False):
            continue
        if has != needs:
            raise DatasetError(f"{key}.{name} is {has}, and {why} {needs}", file=path, fix=f"set it to {needs}")
    if patch != plan.patch:
        told = f"recipe.patch is {by(plan.patch)}, which {task.model.name} does not take"
        raise DatasetError(told, file=path, fix=f"the nearest is {list(patch)}")
