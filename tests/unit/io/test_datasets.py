"""Datasets: every layout opens, every flaw stops here with the name of the file."""

import json
import shutil
from io import BytesIO

import nibabel as nib
import numpy as np
import pytest
from dicom_slices import Series
from PIL import Image as Pillow
from PIL import ImageFilter

from vesalius.core.errors import ChannelError, DatasetError, GeometryError, LabelError, UnreadableFile
from vesalius.core.image import Mask
from vesalius.core.labels import Label, Labels
from vesalius.io.datasets import open_dataset, read_patients
from vesalius.io.files import read, write

AFFINE = np.diag([1.0, 2.0, 3.0, 1.0])


def volume(path, shape=(5, 6, 7), affine=AFFINE, values=(10, 20)):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(0).choice(values, shape).astype(np.int16)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def mask(path, values=(0, 1, 2), **more):
    return volume(path, values=values, **more)


def picture(path, values=None, mode=None, size=(8, 9)):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    array = rng.integers(0, 255, size) if values is None else rng.choice(values, size)
    made = Pillow.fromarray(array.astype(np.uint16 if array.max() > 255 else np.uint8))
    (made.convert(mode) if mode else made).save(path)
    return path


def pairs(root, names=("a", "b", "c"), values=(0, 1, 2), folder="masks", mode=None):
    for name in names:
        picture(root / "images" / f"{name}.png", mode=mode)
        picture(root / folder / f"{name}.png", values)
    return root


def nnunet(root, names=("a", "b"), channels=2, labels=None):
    for name in names:
        for channel in range(channels):
            volume(root / "imagesTr" / f"{name}_{channel:04d}.nii.gz", values=(channel, channel + 5))
        mask(root / "labelsTr" / f"{name}.nii.gz")
    described = {
        "channel_names": {str(i): f"MR{i}" for i in range(channels)},
        "labels": labels or {"background": 0, "liver": 1, "tumour": 2},
        "file_ending": ".nii.gz",
        "numTraining": len(names),
    }
    (root / "dataset.json").write_text(json.dumps(described))
    return root


def regions(root, labels, order):
    described(nnunet(root, labels={"background": 0, **labels}), regions_class_order=order)
    return root


def described(root, **changes):
    file = root / "dataset.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize("folder", ["masks", "labels"])
def test_paired_folders_open_and_their_labels_are_found_in_the_masks(tmp_path, folder):
    dataset = open_dataset(pairs(tmp_path, folder=folder))
    assert dataset.layout == "paired" and [case.name for case in dataset.cases] == ["a", "b", "c"]
    assert dataset.labels.values == (1, 2) and dataset.channels == ("grey",) and dataset.cases[0].split is None
    image, found = dataset.load(dataset.cases[1])
    assert image.grid is found.grid and found.labels is dataset.labels and set(np.unique(found.array)) == {0, 1, 2}
    assert any("each case is its own patient" in note for note in dataset.notes)


def test_train_and_validation_are_a_fixed_split_and_test_is_left_alone(tmp_path):
    pairs(tmp_path / "train", ("a", "b"))
    pairs(tmp_path / "val", ("c",))
    pairs(tmp_path / "test", ("d",))
    dataset = open_dataset(tmp_path)
    assert [(case.name, case.split) for case in dataset.cases] == [("a", "train"), ("b", "train"), ("c", "validation")]
    assert "test/ is left alone" in dataset.notes


def test_validation_beside_loose_images_is_the_fixed_split_and_that_is_said(tmp_path):
    pairs(tmp_path, ("a", "b"))
    pairs(tmp_path / "validation", ("c",))
    dataset = open_dataset(tmp_path)
    assert [(case.name, case.split) for case in dataset.cases] == [("a", "train"), ("b", "train"), ("c", "validation")]
    assert "validation/ holds the cases to validate with, images/ those to train on" in dataset.notes
    pairs(tmp_path / "train", ("d",))
    with pytest.raises(DatasetError, match=r"both images/ and train/images/"):
        open_dataset(tmp_path)


def test_validation_beside_loose_images_needs_masks_and_cases_of_its_own(tmp_path):
    pairs(tmp_path, ("a", "b"))
    pairs(tmp_path / "val", ("a",))
    shutil.copytree(tmp_path / "images", tmp_path / "val/images", dirs_exist_ok=True)
    shutil.copytree(tmp_path / "masks", tmp_path / "val/masks", dirs_exist_ok=True)
    with pytest.raises(DatasetError, match=r"val/images/a.png: this is among the cases to train on too: .*images/a.png"):
        open_dataset(tmp_path)
    shutil.rmtree(tmp_path / "val/masks")
    dataset = open_dataset(tmp_path)
    assert [case.name for case in dataset.cases] == ["a", "b"] and "val/ has no masks and is left alone" in dataset.notes


def test_splits_that_number_their_cases_alike_are_told_apart(tmp_path):
    pairs(tmp_path / "train", ("1", "2"))
    pairs(tmp_path / "validation", ("1",))
    (tmp_path / "validation" / "cases.csv").write_text("case,patient\n1,V\n")
    (tmp_path / "train" / "cases.csv").write_text("case,patient\n1,T\n2,T\n")
    dataset = open_dataset(tmp_path)
    assert [(case.name, case.patient) for case in dataset.cases] == [("train_1", "T"), ("train_2", "T"), ("validation_1", "V")]


@pytest.mark.parametrize("values, binary", [((0, 255), True), ((0, 1), False), ((0, 1, 255), False)])
def test_0_and_255_mean_class_1_and_that_is_said(tmp_path, values, binary):
    dataset = open_dataset(pairs(tmp_path, values=values))
    _, found = dataset.load(dataset.cases[0])
    assert dataset.binary255 == binary == any("255 is read as label 1" in note for note in dataset.notes)
    assert set(np.unique(found.array)) == ({0, 1} if binary else set(values))


def test_masks_of_0_and_1_may_stand_among_masks_of_0_and_255(tmp_path):
    root = pairs(tmp_path, values=(0, 255))
    Pillow.fromarray(np.eye(8, 9, dtype=np.uint8)).save(root / "masks" / "b.png")
    dataset = open_dataset(root)
    assert dataset.labels.values == (1,) and any("others only 0 and 1: 255 is read as label 1" in n for n in dataset.notes)
    assert [set(np.unique(dataset.load(case)[1].array)) for case in dataset.cases] == [{0, 1}] * 3


@pytest.mark.parametrize("soften", [lambda mask: mask.filter(ImageFilter.GaussianBlur(0.7)), lambda mask: as_jpeg(mask)],
                         ids=["blurred", "jpeg"])  # fmt: skip
def test_masks_of_one_class_with_soft_edges_are_no_labels(tmp_path, soften):
    root, mask = pairs(tmp_path), np.zeros((40, 40), np.uint8)
    mask[8:30, 10:32] = 255
    for name in "abc":
        for folder, picture_ in (("images", Pillow.fromarray(mask)), ("masks", soften(Pillow.fromarray(mask)))):
            picture_.save(root / folder / f"{name}.png")
    with pytest.raises(LabelError, match="soft edges of one class"):
        open_dataset(root)
    (root / "dataset.json").write_text(json.dumps({"labels": {"background": 0, **{f"grey {v}": v for v in range(1, 256)}}}))
    assert len(open_dataset(root).labels) == 255  # who declares them wants them


def test_a_few_greys_spread_for_the_eye_are_classes_though_the_brightest_covers_most(tmp_path):
    root, mask = pairs(tmp_path), np.full((40, 40), 255, np.uint8)
    for i, value in enumerate((0, 51, 102, 153, 204)):
        mask[8 * i : 8 * i + 8, :6] = value
    for name in "abc":
        for folder in ("images", "masks"):
            Pillow.fromarray(mask).save(root / folder / f"{name}.png")
    assert open_dataset(root).labels.values == (51, 102, 153, 204, 255)


def as_jpeg(mask):
    file = BytesIO()
    mask.save(file, format="JPEG", quality=75)
    return Pillow.open(file).copy()


@pytest.mark.parametrize("values, told", [((0, 1, 255), True), ((0, 1, 2), False), ((0, 128, 255), False), ((0, 255), False)])
def test_255_beside_small_values_may_be_what_nobody_labelled_and_that_is_said(tmp_path, values, told):
    root = pairs(tmp_path, values=values)
    assert any('"ignore": 255' in note for note in open_dataset(root).notes) == told
    if told:
        (root / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "lesion": 1, "ignore": 255}}))
        assert open_dataset(root).labels.ignore == 255


def test_instances_are_objects_of_one_kind(tmp_path):
    dataset = open_dataset(pairs(tmp_path, values=(0, 3, 17, 300)), instances=True)
    _, found = dataset.load(dataset.cases[0])
    assert dataset.labels.values == (1,) and found.instances and found.array.max() == 300
    with pytest.raises(DatasetError, match="no mask tells one object from another"):
        open_dataset(pairs(tmp_path / "flat", values=(0, 255)), instances=True)
    many = pairs(tmp_path / "many")
    Pillow.fromarray(np.arange(72, dtype=np.uint8).reshape(8, 9)).save(many / "masks" / "a.png")
    many = open_dataset(many)
    assert any("--instances" in note for note in many.notes)


def test_masks_may_end_in_a_word_of_their_own_and_that_is_said(tmp_path):
    pairs(tmp_path)
    for file in (tmp_path / "masks").iterdir():
        file.rename(file.with_name(f"{file.stem}_seg.png"))
    dataset = open_dataset(tmp_path)
    assert [case.name for case in dataset.cases] == ["a", "b", "c"] and any("'_seg'" in note for note in dataset.notes)


def test_grey_among_rgb_is_repeated_and_said_other_counts_are_refused(tmp_path):
    pairs(tmp_path, mode="RGB")
    picture(tmp_path / "images" / "b.png", mode="L")
    dataset = open_dataset(tmp_path)
    assert dataset.channels == ("red", "green", "blue")
    image, _ = dataset.load(dataset.cases[1])
    assert image.array.shape[0] == 3 and "grey was repeated to RGB" in image.notes
    root = nnunet(tmp_path / "n", channels=1)
    volume(root / "imagesTr" / "b_0000.nii.gz", (5, 6, 7, 2))
    with pytest.raises(DatasetError, match=r"'b' has 2 channels, dataset\.json declares 1"):
        open_dataset(root)


def test_nnunet_stacks_its_channels_in_order(tmp_path):
    dataset = open_dataset(nnunet(tmp_path, labels={"background": 0, "tumour": 2, "liver": 1, "ignore": 3}))
    assert dataset.layout == "nnunet" and dataset.channels == ("MR0", "MR1")
    assert [label.name for label in dataset.labels] == ["liver", "tumour"] and dataset.labels.ignore == 3
    image, _ = dataset.load(dataset.cases[0])
    assert image.channels == ("MR0", "MR1") and image.array[0].max() == 5 and image.array[1].max() == 6
    mask(tmp_path / "labelsTr" / "a.nii.gz", (0, 3))
    assert dataset.load(dataset.cases[0])[1].array.max() == 3


def test_nested_regions_of_nnunet_name_what_each_value_stands_for(tmp_path):
    labels = {"whole tumour": [1, 2, 3], "tumour core": [2, 3], "enhancing": 3, "ignore": 4}
    dataset = open_dataset(regions(tmp_path, labels, [1, 2, 3]))
    assert [(label.value, label.name, label.region) for label in dataset.labels] == [
        (1, "whole tumour without tumour core", "whole tumour"), (2, "tumour core without enhancing", "tumour core"),
        (3, "enhancing", "enhancing")]  # fmt: skip
    assert dataset.labels.nested and dataset.labels.ignore == 4
    assert set(np.unique(dataset.load(dataset.cases[0])[1].array)) <= {0, 1, 2, 3, 4}


def test_a_channel_that_dataset_json_calls_ct_holds_hounsfield_units(tmp_path):
    for name, units in (("CT", "HU"), ("T1", None)):
        described(nnunet(tmp_path / name, channels=1), channel_names={"0": name})
        dataset = open_dataset(tmp_path / name)
        assert dataset.image(dataset.cases[0]).units == units


@pytest.mark.parametrize("counts, told", [((3, 9, 2), True), ((9, 9, 9), False), ((3, 5, 2), False)])
def test_masks_that_number_objects_are_noticed(tmp_path, counts, told):
    for i, count in enumerate(counts):
        picture(tmp_path / "images" / f"c{i}.png", size=(40, 40))
        picture(tmp_path / "masks" / f"c{i}.png", range(count + 1), size=(40, 40))
    assert any("--instances" in note for note in open_dataset(tmp_path).notes) is told


def test_ten_and_more_channels_keep_their_numbers(tmp_path):
    dataset = open_dataset(nnunet(tmp_path, names=("a",), channels=12))
    assert dataset.channels == tuple(f"MR{i}" for i in range(12))
    assert dataset.load(dataset.cases[0])[0].array[10].max() == 15


def test_the_decathlon_lists_its_pairs(tmp_path):
    for name in ("x_1", "x_2"):
        volume(tmp_path / "imagesTr" / f"{name}.nii.gz", (5, 6, 7, 2))
        mask(tmp_path / "labelsTr" / f"{name}.nii.gz")
    listed = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in ("x_1", "x_2")]
    described_as = {"name": "Brain", "modality": {"0": "FLAIR", "1": "T1w"}, "training": listed,
                    "labels": {"0": "background", "1": "edema", "2": "core"}}  # fmt: skip
    (tmp_path / "dataset.json").write_text(json.dumps(described_as))
    (tmp_path / "imagesTr" / "._x_1.nii.gz").write_bytes(b"resource fork")
    dataset = open_dataset(tmp_path)
    assert (dataset.layout, dataset.name, dataset.channels) == ("msd", "Brain", ("FLAIR", "T1w"))
    assert [(label.value, label.name) for label in dataset.labels] == [(1, "edema"), (2, "core")]
    assert dataset.load(dataset.cases[0])[0].array.shape == (2, 7, 6, 5)
    described(tmp_path, training=[*listed, {"image": "./imagesTr/x_9.nii.gz", "label": "./labelsTr/x_9.nii.gz"}])
    with pytest.raises(DatasetError, match=r"x_9\.nii\.gz, which is not there"):
        open_dataset(tmp_path)


def test_dicom_folders_may_be_images_and_dicom_seg_their_masks(tmp_path):
    for name in ("p1", "p2"):
        Series().stack(tmp_path / "images" / name, [0, 2, 4, 6])
        image = read(tmp_path / "images" / name)
        array = np.zeros(image.grid.shape, np.uint8)
        array[1:3, 2:4, 1:5] = 2
        made = Mask(array, image.grid, Labels((Label(2, "x"),)))
        write(made, tmp_path / "masks" / f"{name}.dcm", like=image)
    dataset = open_dataset(tmp_path)
    image, found = dataset.load(dataset.cases[0])
    assert image.units == "HU" and found.array.shape == (4, 6, 7) and (found.array == 2).sum() == 16


def test_patients_come_from_the_table_beside_the_images(tmp_path):
    pairs(tmp_path)
    table = "\ufeffCase, patient ,grade\na,7,high\nb.png,7,low\nc,9,\nnot_here,1,x\n"
    (tmp_path / "cases.csv").write_text(table, encoding="utf-8")
    assert [case.patient for case in open_dataset(tmp_path).cases] == ["7", "7", "9"]
    (tmp_path / "other.csv").write_text("case;patient\na;1\nb;2\nc;2\n")
    assert [case.patient for case in open_dataset(tmp_path, patients=tmp_path / "other.csv").cases] == ["1", "2", "2"]


@pytest.mark.parametrize(
    "table, said",
    [("case,patient\na,1\nb,2\n", "1 of 3 cases.*c"), ("case,who\na,1\n", "columns"),
     ("case,patient\na,1\na,2\n", "second patient"), ("case,patient\na\n", "line 2"), ("", "columns"),
     ('case,patient\na,"1\n' + 20000 * "case_1,1\n", "cannot be read.*quotation mark")],
)  # fmt: skip
def test_a_table_of_patients_with_holes_is_refused(tmp_path, table, said):
    pairs(tmp_path)
    (tmp_path / "cases.csv").write_text(table)
    with pytest.raises(DatasetError, match=said):
        open_dataset(tmp_path)
    with pytest.raises(DatasetError, match="cannot be read"):
        read_patients(tmp_path / "nowhere.csv")


def test_a_patient_in_both_splits_is_said(tmp_path):
    pairs(tmp_path / "train", ("a", "b"))
    pairs(tmp_path / "validation", ("c",))
    (tmp_path / "cases.csv").write_text("case,patient\na,1\nb,2\nc,1\n")
    assert any("1 patients are in train and in validation" in note for note in open_dataset(tmp_path).notes)


def test_a_value_that_dataset_json_does_not_declare_is_refused_with_its_file(tmp_path):
    root = nnunet(tmp_path)
    mask(root / "labelsTr" / "b.nii.gz", (0, 1, 7))
    dataset = open_dataset(root)
    dataset.load(dataset.cases[0])
    with pytest.raises(LabelError, match=r"b\.nii\.gz: the mask holds the value 7"):
        dataset.load(dataset.cases[1])


def test_an_image_and_a_mask_that_do_not_fit_are_both_named(tmp_path):
    root = nnunet(tmp_path / "shape")
    mask(root / "labelsTr" / "b.nii.gz", shape=(5, 6, 8))
    with pytest.raises(GeometryError, match=r"labelsTr/b\.nii\.gz.*imagesTr/b_0000"):
        open_dataset(root)
    root = nnunet(tmp_path / "place")
    mask(root / "labelsTr" / "b.nii.gz", affine=np.diag([-1.0, 2, 3, 1]))
    with pytest.raises(GeometryError, match="lies elsewhere"):
        open_dataset(root)


def test_channels_on_different_grids_are_refused_when_they_are_read(tmp_path):
    root = nnunet(tmp_path)
    volume(root / "imagesTr" / "a_0001.nii.gz", (5, 6, 9))
    dataset = open_dataset(root)
    with pytest.raises(GeometryError, match="a_0001"):
        dataset.load(dataset.cases[0])


def test_spacing_in_some_cases_only_is_refused(tmp_path):
    root = nnunet(tmp_path, channels=1)
    volume(root / "imagesTr" / "b_0000.nii.gz", affine=None)
    mask(root / "labelsTr" / "b.nii.gz", affine=None)
    with pytest.raises(DatasetError, match=r"1 of 2 cases carry no voxel size \(b\)"):
        open_dataset(root)


def test_pictures_and_volumes_do_not_mix(tmp_path):
    pairs(tmp_path)
    import tifffile

    tifffile.imwrite(tmp_path / "images" / "d.tif", np.zeros((5, 8, 9), np.uint8))
    tifffile.imwrite(tmp_path / "masks" / "d.tif", np.ones((5, 8, 9), np.uint8))
    with pytest.raises(DatasetError, match="are pictures, the others volumes"):
        open_dataset(tmp_path)


def lone_image(root):
    picture(pairs(root) / "images" / "d.png")


def twin(root):
    picture(pairs(root) / "images" / "a.jpg")


def two_masks(root):
    picture(pairs(root) / "masks" / "a_seg.png", (0, 1))


def both_folders(root):
    pairs(root, folder="masks")
    pairs(root, folder="labels")


def no_masks(root):
    picture(root / "images" / "a.png")


def no_images(root):
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()


def channel_gap(root):
    (nnunet(root, channels=3) / "imagesTr" / "b_0001.nii.gz").unlink()


def channel_short(root):
    (nnunet(root, channels=3) / "imagesTr" / "b_0002.nii.gz").unlink()


def bad_json(root):
    (nnunet(root) / "dataset.json").write_text("{")


FLAWS = [
    (lone_image, "1 images have no mask, the first is 'd'"),
    (twin, "two files are called 'a'"),
    (two_masks, "case 'a' has two masks"),
    (both_folders, "both masks/ and labels/"),
    (no_masks, "neither masks/ nor labels/"),
    (no_images, "holds no case"),
    (channel_gap, "case 'b' lacks a channel"),
    (channel_short, "'b' has 2 channel files, dataset.json declares 3"),
    (bad_json, "no readable JSON"),
    (lambda root: root.mkdir(), "no dataset Vesalius knows"),
    (lambda root: None, "no such folder"),
    (lambda root: (nnunet(root) / "dataset.json").unlink(), "no dataset.json"),
    (lambda root: (nnunet(root) / "labelsTr" / "b.nii.gz").unlink(), "1 cases have no mask"),
    (lambda root: nnunet(root, labels={"background": 0, "whole": [1, 2], "core": [2]}), "regions_class_order of 2 values"),
    (lambda root: regions(root, {"core": [2], "whole": [1, 2]}, [1, 2]), "'core' holds [2], where the order"),
    (lambda root: regions(root, {"left": [1], "right": [2]}, [1, 2]), "only nested regions"),
    (lambda root: regions(root, {"whole": [1, 2], "core": 1}, [2, 1]), "values rising"),
    (lambda root: regions(root, {"whole": [], "core": [2]}, [1, 2]), "'whole' has the value []"),
    (lambda root: regions(root, {"whole": [1, "x"], "core": [2]}, [1, 2]), "no whole number"),
    (lambda root: nnunet(root, labels={"background": 0, "a": 1, "b": 1}), "share a value"),
    (lambda root: pairs(root, values=(0,)), "all masks are empty"),
    (lambda root: nnunet(root, labels={"background": 0, "ignore": 1}), "no label beside background"),
]


@pytest.mark.parametrize("flaw, said", FLAWS, ids=[said for _, said in FLAWS])
def test_a_flawed_dataset_is_refused_in_one_line_with_its_place(tmp_path, flaw, said):
    flaw(tmp_path / "dataset")
    with pytest.raises(DatasetError) as caught:
        open_dataset(tmp_path / "dataset")
    assert said in str(caught.value) and str(tmp_path / "dataset") in str(caught.value) and "\n" not in str(caught.value)


def test_a_damaged_file_is_named(tmp_path):
    root = pairs(tmp_path)
    (root / "masks" / "b.png").write_bytes((root / "masks" / "b.png").read_bytes()[:50])
    with pytest.raises(UnreadableFile, match=r"masks/b\.png"):
        open_dataset(root)
    picture(root / "masks" / "b.png", (0, 1))
    (root / "images" / "c.png").write_bytes((root / "images" / "c.png").read_bytes()[:80])
    dataset = open_dataset(root)
    with pytest.raises(UnreadableFile, match=r"images/c\.png"):
        dataset.load(dataset.cases[2])


def test_another_number_of_channels_is_refused_when_the_image_is_read(tmp_path):
    dataset = open_dataset(nnunet(tmp_path))
    case = dataset.cases[0]
    volume(case.images[1], (5, 6, 7, 2))
    with pytest.raises(ChannelError, match="3 channels where the dataset has 2"):
        dataset.image(case)


REAL = {  # folder: cases, patients, labels, channels
    "hippocampus": (160, 160, (1, 2), 1),
    "pelvic_fracture": (9, 9, (1, 2, 3), 1),
    "ct_lesion": (2, 2, (1,), 1),
    "isbi2012": (24, 24, (1,), 1),
    "kvasir_seg": (900, 900, (1,), 3),
    "glas": (15, 6, (1,), 3),
    "dsb2018": (320, 320, (1,), 3),
    "cpm15": (5, 5, (1,), 3),
}


@pytest.mark.parametrize("name", REAL)
def test_the_real_datasets_open(shared_data, name):
    cases, patients, labels, channels = REAL[name]
    dataset = open_dataset(shared_data / name, instances=name in ("glas", "dsb2018", "cpm15"))
    assert (len(dataset.cases), len({case.patient for case in dataset.cases})) == (cases, patients)
    assert dataset.labels.values == labels and len(dataset.channels) == channels
    image, found = dataset.load(dataset.cases[-1])
    assert len(image.array) == channels and found.array.any()
    assert dataset.binary255 == (name in ("isbi2012", "kvasir_seg"))


def test_the_folds_of_nnunet_are_those_of_the_dataset(tmp_path):
    root = nnunet(tmp_path / "set", names=("a", "b", "c"))
    assert open_dataset(root).folds == ()
    file = root / "splits_final.json"
    file.write_text(json.dumps([{"train": ["a", "b"], "val": ["c"]}, {"train": ["c"], "val": ["a", "b"]}]))
    assert open_dataset(root).folds == ((("a", "b"), ("c",)), (("c",), ("a", "b")))
    for broken, told in (
        ([{"train": ["a", "x"], "val": ["c"]}], "fold 0 names x, which is no case here"),
        ([{"train": [["a"]], "val": ["c"]}], r"fold 0 names \['a'\], which is no case here"),
        ([{"train": ["a", "b"], "val": ["b"]}], "fold 0 has b on both sides"),
        ([{"train": ["a"], "val": []}], "fold 0 leaves one side empty"),
        ([{"train": [["a"]], "val": ["c"]}], r"names \['a'\], which is no case here"),
        ({"train": ["a"]}, "no list of folds"),
    ):
        file.write_text(json.dumps(broken))
        with pytest.raises(DatasetError, match=told):
            open_dataset(root)
