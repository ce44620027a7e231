"""Where each dataset layout keeps its images, masks, channel names and labels."""

from __future__ import annotations

import filecmp
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ..core.errors import DatasetError, LabelError
from ..core.labels import Label, Labels
from .files import CHANNEL_FILE, case_name, natural
from .formats import is_dicom, suffix_of

MASK_FOLDERS = ("masks", "labels")
VALIDATION_FOLDERS = ("validation", "val")
MASK_ENDINGS = ("_mask", "_seg", "_segmentation", "_label", "_dseg")  # case_mask.png is the mask of case.png as well
JSON, FOLDS = "dataset.json", "splits_final.json"

Fold = tuple[tuple[str, ...], tuple[str, ...]]  # cases to train on, and to validate with


@dataclass(frozen=True)
class Case:
    """One case: its image file, or one file a channel; its mask; whose it is; the split it is fixed to, if any."""

    name: str
    images: tuple[Path, ...]
    mask: Path | None
    patient: str
    split: Literal["train", "validation"] | None = None


@dataclass(frozen=True)
class Found:
    """What a layout says by itself; `channels` empty and `labels` None where it does not."""

    name: str
    layout: Literal["paired", "nnunet", "msd"]
    cases: tuple[Case, ...]
    channels: tuple[str, ...] = ()
    labels: Labels | None = None
    notes: tuple[str, ...] = ()
    folds: tuple[Fold, ...] = ()


def find_layout(root: Path) -> Found:
    """Recognise the layout and list its cases; raises DatasetError, LabelError."""
    if (root / "imagesTr").is_dir():
        if not (root / JSON).is_file():
            raise DatasetError("imagesTr is here, but no dataset.json", file=root, fix="add it")
        described = _described(root / JSON)
        found = _decathlon(root, described) if "channel_names" not in described else _nnunet(root, described)
        return replace(found, folds=_own_folds(root / FOLDS, {case.name for case in found.cases}))
    if (root / "images").is_dir() or (root / "train" / "images").is_dir():
        return _paired(root)
    raise DatasetError("this folder is no dataset Vesalius knows", file=root,
                       fix="give images/ with masks/ or labels/ (also below train/ and validation/), or imagesTr/, labelsTr/ and "
                           "dataset.json of nnU-Net or MSD")  # fmt: skip


def _paired(root: Path) -> Found:
    notes: list[str] = []
    validation = next((root / name for name in VALIDATION_FOLDERS if (root / name / "images").is_dir()), None)
    loose = (root / "images").is_dir()
    if loose and validation is not None and not any((validation / name).is_dir() for name in MASK_FOLDERS):
        notes.append(f"{validation.name}/ has no masks and is left alone")
        validation = None
    train = root if loose else root / "train"
    if loose and (root / "train" / "images").is_dir():
        raise DatasetError("both images/ and train/images/ are here", file=root, fix="keep one of them")
    if validation is not None:
        cases = _told_apart([replace(case, split="train") for case in _pairs(train, notes)],
                            [replace(case, split="validation") for case in _pairs(validation, notes)], notes)  # fmt: skip
        if loose:
            _require_no_copy(cases)
            notes.append(f"{validation.name}/ holds the cases to validate with, images/ those to train on")
    else:
        cases = _pairs(train, notes)
        notes.extend([] if loose else ["there is train/ but no validation/: a part of train is set aside"])
    if (root / "test").is_dir():
        notes.append("test/ is left alone")
    described = _described(root / JSON) if (root / JSON).is_file() else {}
    labels = _declared_labels(described, root / JSON) if "labels" in described else None
    return Found(_name(root, described), "paired", tuple(cases), _channel_names(described), labels, tuple(notes))


def _told_apart(train: list[Case], validation: list[Case], notes: list[str]) -> list[Case]:
    """Both splits; where they number their cases alike, each case carries its split's name in front."""
    if not {case.name for case in train} & {case.name for case in validation}:
        return train + validation
    notes.append("train and validation use the same names: cases are called train_NAME and validation_NAME")
    renamed = [(case, f"{case.split}_{case.name}") for case in train + validation]
    return [replace(case, name=name, patient=name) for case, name in renamed]


def _require_no_copy(cases: list[Case]) -> None:
    """Raises DatasetError where a case to validate with is a copy of the one of its name among those to train on."""
    known = {case.name.removeprefix("train_"): case for case in cases if case.split == "train"}
    for case in cases:
        twin = known.get(case.name.removeprefix("validation_")) if case.split == "validation" else None
        if twin and twin.images[0].is_file() and filecmp.cmp(twin.images[0], case.images[0], shallow=False):
            told = f"this is among the cases to train on too: {twin.images[0]}"
            raise DatasetError(told, file=case.images[0], fix="keep it in one of the two")


def _pairs(folder: Path, notes: list[str]) -> list[Case]:
    """Images matched with masks by stem, or by stem and one of MASK_ENDINGS."""
    places = [folder / name for name in MASK_FOLDERS if (folder / name).is_dir()]
    if len(places) != 1:
        told = "both masks/ and labels/ are here" if places else "neither masks/ nor labels/ is here"
        raise DatasetError(told, file=folder, fix="keep one of them beside images/")
    masks = _by_name(places[0])
    used, cases, missing, ending_used = set(), [], [], ""
    for name, images in _channel_groups(_by_name(folder / "images"), set(masks)).items():
        fitting = [name + ending for ending in ("", *MASK_ENDINGS) if name + ending in masks]
        if len(fitting) > 1:
            raise DatasetError(f"case '{name}' has two masks: {masks[fitting[0]].name} and {masks[fitting[1]].name}",
                               file=places[0], fix="keep one")  # fmt: skip
        if not fitting:
            missing.append(name)
            continue
        used.add(fitting[0])
        ending_used = ending_used or fitting[0][len(name) :]
        cases.append(Case(name, images, masks[fitting[0]], name))
    if missing:
        raise DatasetError(f"{len(missing)} images have no mask, the first is '{missing[0]}'",
                           file=places[0], fix="give each mask the name of its image")  # fmt: skip
    if ending_used:
        notes.append(f"masks are matched by '{ending_used}' behind the image's name")
    if len(used) < len(masks):
        notes.append(f"{len(masks) - len(used)} masks in {places[0].name}/ have no image and are left out")
    return cases


def _channel_groups(images: dict[str, Path], masks: set[str]) -> dict[str, tuple[Path, ...]]:
    """case -> image files. case_0000, case_0001 belong together where the mask is called by the case alone."""
    endings = ("", *MASK_ENDINGS)
    groups: dict[str, dict[int, Path]] = {}
    for name, file in images.items():
        match = CHANNEL_FILE.match(name)
        own = any(name + ending in masks for ending in endings)
        if match and not own and any(match["case"] + ending in masks for ending in endings):
            groups.setdefault(match["case"], {})[int(match["channel"])] = file
        elif name in groups:
            raise DatasetError(f"two images are called '{name}'", file=file, fix="rename one")
        else:
            groups[name] = {0: file}
    for name, members in groups.items():
        if sorted(members) != list(range(len(members))):
            told = ", ".join(f"_{index:04d}" for index in sorted(members))
            raise DatasetError(f"case '{name}' lacks a channel: it has {told}", file=min(members.values()).parent)
    return {name: tuple(members[i] for i in sorted(members)) for name, members in groups.items()}


def _nnunet(root: Path, described: dict[str, Any]) -> Found:
    ending = str(described.get("file_ending") or ".nii.gz")
    channels, labels = _channel_names(described), _declared_labels(described, root / JSON)
    files = {file.name[: -len(ending)]: file for file in _files(root / "imagesTr") if file.name.endswith(ending)}
    masks = {file.name[: -len(ending)]: file for file in _files(root / "labelsTr") if file.name.endswith(ending)}
    cases, missing = [], []
    cases_by_name = {match["case"] if (match := CHANNEL_FILE.match(name)) else name for name in files}
    for name, images in _channel_groups(files, cases_by_name).items():
        if name not in masks:
            missing.append(name)
        elif len(images) not in (1, len(channels)):
            told = f"case '{name}' has {len(images)} channel files, dataset.json declares {len(channels)}"
            raise DatasetError(told, file=root / JSON)
        else:
            cases.append(Case(name, images, masks[name], name))
    _require_masks(root / "labelsTr", missing)
    return Found(_name(root, described), "nnunet", tuple(cases), channels, labels, _test_note(root))


def _decathlon(root: Path, described: dict[str, Any]) -> Found:
    """MSD lists its pairs; nnU-Net v1 lists them alike but keeps channel files case_0000."""
    channels, labels = _channel_names(described), _declared_labels(described, root / JSON)
    listed = described.get("training")
    if not isinstance(listed, list) or not all(isinstance(pair, dict) and {"image", "label"} <= set(pair) for pair in listed):
        raise DatasetError("dataset.json has neither channel_names (nnU-Net) nor a list 'training' of image and label (MSD)",
                           file=root / JSON, fix="add the one your layout asks for")  # fmt: skip
    cases, missing = [], []
    for pair in listed:
        image, mask = root / str(pair["image"]), root / str(pair["label"])
        name, suffix = case_name(image), suffix_of(image) or ""
        parts = [image.with_name(f"{name}_{i:04d}{suffix}") for i in range(max(len(channels), 1))]
        files = tuple(parts) if any(part.is_file() for part in parts) and not image.is_file() else (image,)
        absent = [file for file in files if not file.is_file()]
        if absent:
            raise DatasetError(f"dataset.json lists {absent[0].name}, which is not there", file=root / JSON)
        missing.extend([] if mask.is_file() else [name])
        cases.append(Case(name, files, mask, name))
    _require_masks(root / "labelsTr", missing)
    return Found(_name(root, described), "msd", tuple(cases), channels, labels, _test_note(root))


def _own_folds(file: Path, known: set[str]) -> tuple[Fold, ...]:
    """The folds of nnU-Net's splits_final.json, a list of {"train": [...], "val": [...]}; none where it is not there."""
    if not file.is_file():
        return ()
    try:
        read = json.loads(file.read_text(encoding="utf-8-sig"))
        folds = tuple((tuple(map(str, fold["train"])), tuple(map(str, fold["val"]))) for fold in read)
    except (OSError, ValueError, TypeError, KeyError) as error:
        told = 'this is no list of folds {"train": [...], "val": [...]}'
        raise DatasetError(told, file=file, fix="mend it, or move it away") from error
    for k, (train, validation) in enumerate(folds):
        strange = sorted({*train, *validation} - known)
        doubled = sorted(set(train) & set(validation))
        if strange or doubled or not train or not validation:
            told = f"names {strange[0]}, which is no case here" if strange else "leaves one side empty"
            told = f"has {doubled[0]} on both sides" if doubled else told
            raise DatasetError(f"fold {k} {told}", file=file, fix="mend it, or move it away")
    return folds


def _require_masks(folder: Path, missing: list[str]) -> None:
    if missing:
        raise DatasetError(f"{len(missing)} cases have no mask, the first is '{missing[0]}'", file=folder, fix="add the masks")


def _test_note(root: Path) -> tuple[str, ...]:
    return ("imagesTs/ is left alone",) if (root / "imagesTs").is_dir() else ()


def _name(root: Path, described: dict[str, Any]) -> str:
    return str(described.get("name") or root.resolve().name)


def _described(file: Path) -> dict[str, Any]:
    try:
        described = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DatasetError("this is no readable JSON", file=file, fix="check its commas and brackets") from error
    if not isinstance(described, dict):
        raise DatasetError("a dataset.json holds one object { ... }", file=file)
    return described


def _channel_names(described: dict[str, Any]) -> tuple[str, ...]:
    """{"0": "T1", "1": "T2"} (or a list) -> names in the order of their numbers."""
    names = described.get("channel_names") or described.get("modality") or {}
    if isinstance(names, list):
        return tuple(str(name) for name in names)
    return tuple(str(names[key]) for key in sorted(names, key=natural))


def read_dataset_labels(file: Path) -> Labels:
    """The labels, or nested regions, that a dataset.json of nnU-Net or MSD declares. Raises DatasetError."""
    return _declared_labels(_described(file), file)


def _declared_labels(described: dict[str, Any], file: Path) -> Labels:
    """nnU-Net {"name": value} or MSD {"value": "name"} -> Labels; background 0 is implied, 'ignore' marks unlabelled.

    nnU-Net's regions are lists of values, {"whole": [1, 2], "core": [2]} with "regions_class_order": [1, 2].
    """
    declared = described.get("labels")
    if not isinstance(declared, dict) or not declared:
        raise DatasetError("dataset.json declares no labels", file=file, fix='add "labels": {"background": 0, "name": 1}')
    pairs: list[tuple[frozenset[int], str]] = []
    for key, value in declared.items():
        number, name = (key, value) if str(key).isdigit() and not str(value).isdigit() else (value, key)
        numbers = number if isinstance(number, list) else [number]
        strange = [one for one in numbers if not str(one).isdigit()]
        if strange or not numbers:
            told = repr(strange[0]) if strange else "[]"
            raise DatasetError(f"label '{name}' has the value {told}, which is no whole number", file=file)
        pairs.append((frozenset(map(int, numbers)), str(name)))
    ignore = next((min(numbers) for numbers, name in pairs if name == "ignore"), None)
    kept = [(numbers, name) for numbers, name in pairs if numbers != {0} and name != "ignore"]
    if not kept:
        raise DatasetError("dataset.json declares no label beside background", file=file, fix='add it, such as "name": 1')
    try:
        if any(isinstance(value, list) for value in declared.values()):
            return Labels(_nested(kept, described.get("regions_class_order")), ignore)
        return Labels(tuple(Label(*pair) for pair in sorted((min(numbers), name) for numbers, name in kept)), ignore)
    except LabelError as error:
        raise DatasetError(error.problem, file=file, fix=error.fix) from error


def _nested(regions: list[tuple[frozenset[int], str]], order: Any) -> tuple[Label, ...]:
    """Labels of nested regions, each painted over the one around it; LabelError where they are not nested that way.

        whole [1, 2, 3], core [2, 3], active [3], order [1, 2, 3]   ->   1 whole without core, 2 core without active, 3 active
    """
    if not isinstance(order, list) or len(order) != len(regions):
        raise LabelError(f"regions need a regions_class_order of {len(regions)} values", fix="add it, one value a region")
    labels = []
    for k, (numbers, name) in enumerate(regions):
        if numbers != set(order[k:]) or (k and order[k] <= order[k - 1]):
            told = f"region '{name}' holds {sorted(numbers)}, where the order {order} asks for {sorted(order[k:])}"
            fix = "list regions from the outermost in, values rising; or give each value a name of its own"
            raise LabelError(f"only nested regions can be read: {told}", fix=fix)
        inner = f" without {regions[k + 1][1]}" if k + 1 < len(regions) else ""
        labels.append(Label(order[k], name + inner, region=name))
    return tuple(labels)


def _files(folder: Path) -> Iterable[Path]:
    if not folder.is_dir():
        raise DatasetError("there is no such folder", file=folder)
    return sorted((each for each in folder.iterdir() if not each.name.startswith(".")), key=lambda each: natural(each.name))


def _by_name(folder: Path) -> dict[str, Path]:
    """case -> image file or DICOM folder, in natural order; DatasetError for two of one name."""
    found: dict[str, Path] = {}
    for entry in _files(folder):
        if not (entry.is_dir() or suffix_of(entry) or is_dicom(entry)):
            continue
        twin = found.setdefault(case_name(entry), entry)
        if twin is not entry:
            raise DatasetError(f"two files are called '{case_name(entry)}': {twin.name} and {entry.name}",
                               file=folder, fix="rename or remove one")  # fmt: skip
    return found
