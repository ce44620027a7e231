"""Where masks go, and what may be skipped."""

from pathlib import Path

import numpy as np
import pytest

from vesalius.core.errors import InputError, OutputError, UnknownName
from vesalius.core.image import Grid, Image, Source
from vesalius.pipeline.outputs import Outputs, fingerprint, parse_size


def image(path, format, dims=3):
    from vesalius.io.files import case_name

    shape = (1, 4, 4) if dims == 2 else (4, 4, 4)
    grid = Grid(shape, None if dims == 2 else np.eye(4), dims)
    return Image(np.zeros((1, *shape), np.uint8), grid, source=Source(Path(path), format, case_name(path)))


@pytest.mark.parametrize(
    "source, format, dims, chosen, want",
    [
        ("in/case.png", "png", 2, None, "case.png"),
        ("in/case.jpg", "jpeg", 2, None, "case.png"),
        ("in/case.tif", "tiff", 2, None, "case.tif"),
        ("in/case.nii.gz", "nifti", 3, None, "case.nii.gz"),
        ("in/study", "dicom", 3, None, "study.nii.gz"),
        ("in/case.png", "png", 2, "tiff", "case.tiff"),
        ("in/study", "dicom", 3, "dicom-seg", "study.dcm"),
    ],
)
def test_a_mask_has_the_stem_of_its_image(source, format, dims, chosen, want, tmp_path):
    assert Outputs.of(tmp_path, [Path(source)], chosen).mask_path(image(source, format, dims)) == tmp_path / want


def test_a_known_suffix_names_the_file_itself(tmp_path):
    outputs = Outputs.of(tmp_path / "new" / "mask.nii.gz", [Path("case.nii.gz")], None)
    assert outputs.mask_path(image("in/case.nii.gz", "nifti")) == tmp_path / "new" / "mask.nii.gz"
    assert outputs.beside("report.html") == tmp_path / "new" / "mask.report.html"
    with pytest.raises(OutputError, match="2 cases"):
        Outputs.of(tmp_path / "mask.png", [Path("a"), Path("b")], None)
    with pytest.raises(OutputError, match=r"jpg"):
        Outputs.of(tmp_path / "mask.jpg", [Path("a")], None)
    with pytest.raises(OutputError, match="the format is nifti"):
        Outputs.of(tmp_path / "mask.png", [Path("a")], "nifti")
    with pytest.raises(UnknownName, match="Did you mean 'nifti'"):
        Outputs.of(tmp_path, [Path("a")], "nifty")


def test_a_mask_never_replaces_its_image(tmp_path):
    with pytest.raises(OutputError, match="its own image"):
        Outputs.of(tmp_path, [tmp_path / "case.png"], None).mask_path(image(tmp_path / "case.png", "png", 2))


def test_only_the_same_mask_of_the_same_fingerprint_is_remembered(tmp_path):
    outputs, mask = Outputs.of(tmp_path, [Path("case.png")], None), tmp_path / "case.png"
    mask.write_bytes(b"mask")
    outputs.note("case", "abc", mask, {"shape": [1, 2, 3]})
    assert outputs.recall("case", "abc")["result"] == {"shape": [1, 2, 3]}
    assert outputs.recall("case", "abd") is None and outputs.recall("other", "abc") is None
    mask.write_bytes(b"cut")
    assert outputs.recall("case", "abc") is None
    outputs.note("case", "abc", mask, {})
    mask.unlink()
    assert outputs.recall("case", "abc") is None
    outputs.ledger("case").write_text("{broken")
    assert outputs.recall("case", "abc") is None


def test_a_fingerprint_changes_with_any_part_and_not_with_order():
    same = fingerprint("a", {"x": 1, "y": 2})
    assert same == fingerprint("a", {"y": 2, "x": 1})
    assert len({same, fingerprint("b", {"x": 1, "y": 2}), fingerprint("a", {"x": 1, "y": 3})}) == 3


SIZES = [("1.5GB", 1_500_000_000), ("800 mb", 800_000_000), ("2GiB", 2**31), ("1000", 1000), (77, 77)]


@pytest.mark.parametrize("text, size", SIZES)
def test_memory_is_written_as_people_write_it(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "many", "-1GB", "0", "1TBB", "inf", "nan"])
def test_what_is_no_amount_of_memory_is_refused(text):
    with pytest.raises(InputError, match="no amount of memory"):
        parse_size(text)
