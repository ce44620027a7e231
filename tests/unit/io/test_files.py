"""The one door: which inputs there are, what they are called, and writing whole or not at all."""

import errno
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dicom_slices import Series, save
from PIL import Image as Pillow

from vesalius.core.errors import (
    ChannelError,
    DatasetError,
    GeometryError,
    InputError,
    LabelError,
    OutputError,
    UnknownName,
    UnreadableFile,
)
from vesalius.core.image import Grid, Image, Mask
from vesalius.core.labels import Label, Labels
from vesalius.io.decoding import Peek
from vesalius.io.files import case_name, content_hash, default_suffix, find_inputs, lost, peek, read, read_mask, write

AFFINE = np.diag([1.0, 2.0, 3.0, 1.0])


def volume(path, shape=(5, 6, 7), affine=AFFINE, value=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(0).integers(0, 99, shape) if value is None else np.full(shape, value)
    nib.save(nib.Nifti1Image(array.astype(np.int16), affine), path)
    return path


def picture(path, mode="L", size=(8, 9)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.fromarray(np.random.default_rng(0).integers(0, 255, size, dtype=np.uint8)).convert(mode).save(path)
    return path


@pytest.mark.parametrize(
    "name, stem",
    [("case.nii.gz", "case"), ("case.NII.GZ", "case"), ("a.b.png", "a.b"), ("scan.tiff", "scan"), ("x.dcm", "x"),
     ("1.2.840.113", "1.2.840.113"), ("notes.txt", "notes.txt"), ("case.nii", "case")],
)  # fmt: skip
def test_a_case_is_called_by_its_stem(tmp_path, name, stem):
    assert case_name(tmp_path / name) == stem


def test_a_folder_is_called_as_it_is_and_channel_files_by_their_case(tmp_path):
    (tmp_path / "study.nii").mkdir()
    assert case_name(tmp_path / "study.nii") == "study.nii"
    assert case_name((tmp_path / "a_0000.nii.gz", tmp_path / "a_0001.nii.gz")) == "a"
    assert case_name(tmp_path / "a_0000.nii.gz") == "a_0000"


def test_a_mask_is_called_by_default_as_its_image_asks(tmp_path):
    import tifffile

    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 9), np.uint8))
    assert default_suffix(read(picture(tmp_path / "a.jpg"))) == ".png"
    assert default_suffix(read(tmp_path / "a.tif")) == ".tif"
    assert default_suffix(read(volume(tmp_path / "a.nii"))) == ".nii.gz"
    assert default_suffix(read(volume(tmp_path / "flat.nii.gz", (5, 6, 1)))) == ".nii.gz"


def test_a_folder_of_cases_may_mix_and_hold_other_files(tmp_path):
    volume(tmp_path / "b.nii.gz")
    picture(tmp_path / "case_10.png")
    picture(tmp_path / "case_9.png")
    Series().stack(tmp_path / "study", [0, 1])
    for name in ("SOURCE.txt", "cases.csv", ".hidden.png", "Thumbs.db", "DICOMDIR"):
        (tmp_path / name).write_bytes(b"\0" * 128 + b"DICM" if name == "DICOMDIR" else b"x")
    (tmp_path / "empty").mkdir()
    assert [path.name for path in find_inputs(tmp_path)] == ["b.nii.gz", "case_9.png", "case_10.png", "study"]


def test_a_dicom_folder_is_one_case_and_a_file_is_one_case(tmp_path):
    Series().stack(tmp_path / "study", [0, 1])
    assert find_inputs(tmp_path / "study") == [tmp_path / "study"]
    file = next((tmp_path / "study").iterdir())
    assert find_inputs(file) == [file]


def test_inputs_that_cannot_be_told_apart_are_refused(tmp_path):
    picture(tmp_path / "a" / "case.png")
    volume(tmp_path / "a" / "case.nii.gz")
    with pytest.raises(DatasetError, match="called 'case'") as caught:
        find_inputs(tmp_path / "a")
    assert "case.png" in str(caught.value) and "case.nii.gz" in str(caught.value)
    Series().stack(tmp_path / "b", [0, 1])
    picture(tmp_path / "b" / "case.png")
    with pytest.raises(DatasetError, match="loose among other images"):
        find_inputs(tmp_path / "b")


def test_places_without_an_image_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UnreadableFile, match="no such file"):
        find_inputs(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="holds no image"):
        find_inputs(tmp_path)
    with pytest.raises(UnreadableFile, match="no image format"):
        find_inputs(tmp_path / "notes.txt")
    with pytest.raises(UnreadableFile, match="no such file"):
        read(tmp_path / "nowhere.png")


def test_channel_files_become_one_input_and_one_image(tmp_path):
    first, second = volume(tmp_path / "a_0000.nii.gz", value=1), volume(tmp_path / "a_0001.nii.gz", value=2)
    volume(tmp_path / "b.nii.gz")
    assert find_inputs(tmp_path, channels=2) == [(first, second), tmp_path / "b.nii.gz"]
    assert find_inputs(tmp_path) == [first, second, tmp_path / "b.nii.gz"]
    image = read((first, second))
    assert image.name == "a" and (image.array[0] == 1).all() and (image.array[1] == 2).all()
    assert peek((first, second)).channels == 2
    assert content_hash((first, second)) not in (content_hash(first), content_hash((second, first)))
    mask = Mask(np.ones(image.grid.shape, np.uint8), image.grid)
    np.testing.assert_array_equal(nib.load(write(mask, tmp_path / "m.nii.gz", like=image)).affine, AFFINE)


def test_a_missing_channel_is_named_and_another_grid_too(tmp_path):
    volume(tmp_path / "a_0000.nii.gz")
    volume(tmp_path / "a_0002.nii.gz")
    (found,) = find_inputs(tmp_path, channels=3)
    for told in (read, content_hash):
        with pytest.raises(ChannelError, match=r"a_0001\.nii\.gz: channel _0001 of 3 is missing"):
            told(found)
    other = volume(tmp_path / "a_0001.nii.gz", affine=np.diag([1.0, 2, 4, 1]))
    with pytest.raises(GeometryError, match="a_0001"):
        read((tmp_path / "a_0000.nii.gz", other))


def test_numbered_frames_are_not_taken_for_channels(tmp_path):
    for i in range(3):
        picture(tmp_path / "colour" / f"f_{i:04d}.png", "RGB")
    for i in range(5):
        picture(tmp_path / "grey" / f"f_{i:04d}.png")
    assert len(find_inputs(tmp_path / "colour", channels=3)) == 3
    assert len(find_inputs(tmp_path / "grey", channels=3)) == 5


def test_the_hash_follows_the_content_not_the_name_or_the_time(tmp_path):
    a, b = picture(tmp_path / "a.png"), picture(tmp_path / "b.png")
    assert content_hash(a) == content_hash(b)
    os.utime(b, (0, 0))
    assert content_hash(a) == content_hash(b)
    folder = tmp_path / "study"
    Series().stack(folder, [0, 1, 2])
    before = content_hash(folder)
    (folder / ".DS_Store").write_text("x")
    assert content_hash(folder) == before
    next(path for path in folder.iterdir() if path.name.startswith("IM")).rename(folder / "other")
    assert content_hash(folder) != before


def test_a_file_that_may_not_be_read_or_is_gone_is_told_in_words_by_the_hash_too(tmp_path, monkeypatch):
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(UnreadableFile, match=r"link\.png: there is no such file"):
        content_hash(tmp_path / "link.png")

    def forbidden(path, *_):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    kept = picture(tmp_path / "kept.png")
    monkeypatch.setattr("vesalius.io.files.open", forbidden, raising=False)
    with pytest.raises(UnreadableFile, match=r"kept\.png: this file may not be read"):
        content_hash(kept)


def test_a_folder_that_may_not_be_read_is_told_when_its_turn_comes(tmp_path, monkeypatch):
    hidden = tmp_path / "hidden"
    hidden.mkdir()

    def guarded(real):
        def listed(folder):
            if Path(folder) == hidden:
                raise PermissionError(errno.EACCES, "Permission denied", str(folder))
            return real(folder)

        return listed

    for name in ("listdir", "scandir"):
        monkeypatch.setattr(os, name, guarded(getattr(os, name)))
    assert find_inputs(tmp_path) == [hidden]
    for told in (content_hash, find_inputs):
        with pytest.raises(UnreadableFile, match="hidden: this file may not be read"):
            told(hidden)


def test_a_mask_must_lie_on_the_grid_of_its_image(tmp_path):
    image = read(volume(tmp_path / "a.nii.gz"))
    smaller = volume(tmp_path / "small.nii.gz", (5, 6, 6), value=1)
    with pytest.raises(GeometryError, match=r"small.nii.gz.*\(6, 6, 5\).*a.nii.gz.*\(7, 6, 5\)"):
        read_mask(smaller, like=image)
    with pytest.raises(GeometryError, match="lies elsewhere"):
        read_mask(volume(tmp_path / "moved.nii.gz", affine=np.diag([1.0, 2, 3.4, 1]), value=1), like=image)
    nudged = AFFINE.copy()
    nudged[0, 3] = 0.02  # within a tenth of a voxel: rounding of another program
    assert read_mask(volume(tmp_path / "near.nii.gz", affine=nudged, value=1), like=image).grid is image.grid
    with pytest.raises(LabelError, match="-4"):
        read_mask(volume(tmp_path / "minus.nii.gz", value=-4))


def test_write_refuses_what_exists_unless_told(tmp_path):
    grid = Grid((1, 5, 6), None, 2)
    mask = Mask(np.ones(grid.shape, np.uint8), grid)
    path = write(mask, tmp_path / "m.png")
    with pytest.raises(OutputError, match="exists already"):
        write(mask, path)
    write(Mask(2 * mask.array, grid), path, overwrite=True)
    assert read_mask(path).array.max() == 2


def test_the_format_gives_the_suffix_and_must_not_contradict_it(tmp_path):
    grid = Grid((1, 5, 6), None, 2)
    mask = Mask(np.ones(grid.shape, np.uint8), grid)
    assert write(mask, tmp_path / "v1.2", format="png").name == "v1.2.png"
    assert write(mask, tmp_path / "x", format="nifti").name == "x.nii.gz"
    assert write(mask, tmp_path / "deep" / "er" / "x.tif").is_file()
    with pytest.raises(OutputError, match=r"ends in \.png, the format is tiff"):
        write(mask, tmp_path / "y.png", format="tiff")
    with pytest.raises(OutputError, match="does not tell a format"):
        write(mask, tmp_path / "y.jpg")
    with pytest.raises(OutputError, match="does not tell a format"):
        write(mask, tmp_path / "y")
    with pytest.raises(UnknownName, match="Did you mean 'nifti'"):
        write(mask, tmp_path / "y", format="nifty")


def test_suffixes_count_in_capitals_too(tmp_path):
    image = read(volume(tmp_path / "a.nii.gz"))
    mask = Mask(np.ones(image.grid.shape, np.uint8), image.grid)
    path = write(mask, tmp_path / "M.NII.GZ", like=image)
    assert path.read_bytes()[:2] == b"\x1f\x8b" and read_mask(path, like=image).array.all()
    assert default_suffix(read(picture(tmp_path / "P.PNG"))) == ".png"


def test_declared_labels_decide_the_width_so_that_a_folder_agrees(tmp_path):
    grid = Grid((1, 5, 6), None, 2)
    labels = Labels((Label(1, "a"), Label(300, "b")))
    path = write(Mask(np.ones(grid.shape, np.uint8), grid, labels), tmp_path / "m.png")
    with Pillow.open(path) as picture_:
        assert picture_.mode == "I;16"


@pytest.mark.parametrize("suffix", [".png", ".tif", ".nii.gz", ".nii", ".dcm", ".mha"])
@pytest.mark.parametrize("code, said", [(errno.ENOSPC, "disk is full"), (errno.EACCES, "may not be written")])
def test_a_disk_that_refuses_leaves_nothing_behind(tmp_path, monkeypatch, suffix, code, said):
    Series().stack(tmp_path / "study", [0])
    image = read(tmp_path / "study")
    mask = Mask(np.ones(image.grid.shape, np.uint8), image.grid)

    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OutputError, match=said):
        write(mask, tmp_path / "out" / f"m{suffix}", like=image)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_file_in_the_place_of_a_folder_is_an_output_error(tmp_path):
    (tmp_path / "out").write_text("x")
    grid = Grid((1, 5, 6), None, 2)
    with pytest.raises(OutputError):
        write(Mask(np.ones(grid.shape, np.uint8), grid), tmp_path / "out" / "m.png")


def test_a_series_is_asked_of_dicom_only(tmp_path):
    with pytest.raises(InputError, match="only DICOM"):
        read(picture(tmp_path / "a.png"), series="1.2")


def test_a_dicom_file_without_suffix_is_recognised(tmp_path):
    path = save(Series().slice(np.ones((4, 5), np.uint16)), tmp_path / "1.2.840.1")
    assert find_inputs(path) == [path] and read(path).source.format == "dicom"


def test_a_format_is_one_entry_in_one_table(tmp_path, monkeypatch):
    """A made-up format is read, peeked at, found in folders, told in messages and written once it is listed."""
    from vesalius.core.image import Source
    from vesalius.io import formats

    def read_npy(path, name):
        array = np.load(path)
        return Image(array, Grid(array.shape[1:], None, 3), source=Source(path, "npy", name))

    def write_npy(mask, path, source):
        with open(path, "wb") as file:
            np.save(file, mask.array[None])

    listed = formats.Format((".npy",), read_npy, lambda path: Peek(read_npy(path, "").grid, 1), write_npy)
    monkeypatch.setitem(formats.FORMATS, "npy", listed)
    made = ((formats.SUFFIXES, ".npy", "npy"), (formats.OUTPUTS, "npy", "npy"), (formats.WRITERS, "npy", ".npy"))
    for table, key, value in made:
        monkeypatch.setitem(table, key, value)  # made from FORMATS when the module is loaded
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "case.npy", np.arange(24).reshape(1, 2, 3, 4))
    (found,) = find_inputs(tmp_path / "in")
    image = read(found)
    assert image.array[0, 1, 2, 3] == 23 and peek(found).grid.shape == (2, 3, 4) and default_suffix(image) == ".npy"
    out = write(Mask((image.array[0] > 5).astype(np.uint8), image.grid), tmp_path / "out", format="npy")
    assert out.name == "out.npy" and read_mask(out).array.sum() == 18


TILTED = np.array([[0, 0.6, -2.0, 40], [0, 0.8, 1.5, -60], [3, 0, 0, 12], [0, 0, 0, 1.0]])  # columns x, y, z of a NIfTI


def test_a_tiff_mask_of_a_volume_lies_on_its_image_though_it_cannot_say_where_that_is(tmp_path):
    image = read(volume(tmp_path / "v.nii.gz", affine=TILTED))
    array = np.zeros(image.grid.shape, np.uint8)
    array[0, 1:, :2] = 2
    back = read_mask(write(Mask(array, image.grid), tmp_path / "m.tiff", like=image), like=image)
    assert np.array_equal(back.array, array) and back.grid is image.grid
    other = read(volume(tmp_path / "w.nii.gz", affine=TILTED @ np.diag([1, 1, 2, 1])))
    with pytest.raises(GeometryError, match="voxels have another size"):
        read_mask(tmp_path / "m.tiff", like=other)


def test_what_a_tiff_loses_of_where_an_image_lies_is_said_and_only_where_it_loses_it():
    placed = Grid((2, 3, 4), np.diag([1.0, 1, 1, 1]))
    assert "no origin and no orientation" in lost("tiff", placed)[0]
    assert lost("nifti", placed) == lost(None, placed) == lost("tiff", Grid((2, 3, 4))) == ()
