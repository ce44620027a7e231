"""Probabilities: the same values from an array or from slabs, on the image's own grid, within the format's precision."""

import nibabel as nib
import numpy as np
import pytest

from vesalius.core.errors import GeometryError, OutputError
from vesalius.core.image import Grid
from vesalius.io.files import read
from vesalius.io.probabilities import write_probabilities

AFFINE = np.array([[0, 0, 0.5, 1], [0, 0.7, 0, 2], [2, 0, 0, 3], [0, 0, 0, 1.0]])
GRID = Grid((9, 6, 7), AFFINE)


def scores(classes=3, grid=GRID):
    raw = np.random.default_rng(0).random((classes, *grid.shape)).astype(np.float32)
    return raw / raw.sum(axis=0)


def slabs(array, depth=4):
    return ((z, array[:, z : z + depth]) for z in range(0, array.shape[1], depth))


@pytest.mark.parametrize("name, error", [("p.npz", 5e-4), ("p.nii.gz", 1e-5), ("p.nii", 1e-5)])
def test_slabs_and_arrays_give_the_same_file_and_the_same_values(tmp_path, name, error):
    array = scores()
    streamed = write_probabilities(slabs(array), GRID, tmp_path / "s" / name)
    at_once = write_probabilities(array, GRID, tmp_path / "a" / name)
    if name == "p.npz":
        with np.load(streamed) as file, np.load(at_once) as other:
            np.testing.assert_allclose(file["probabilities"], array, atol=error)
            np.testing.assert_array_equal(file["probabilities"], other["probabilities"])
            np.testing.assert_array_equal(file["affine"], AFFINE)
    else:
        image = read(streamed)
        np.testing.assert_allclose(image.array, array, atol=error)
        assert image.grid.same_as(GRID) and streamed.read_bytes() == at_once.read_bytes()
    assert [path.name for path in streamed.parent.iterdir()] == [name]


def test_one_class_and_a_picture_keep_their_axes(tmp_path):
    grid = Grid((1, 6, 7), None, 2)
    array = np.random.default_rng(0).random((1, *grid.shape))
    image = read(write_probabilities(array, grid, tmp_path / "p.nii.gz"))
    np.testing.assert_allclose(image.array, array, atol=1e-5)
    with np.load(write_probabilities(array, grid, tmp_path / "p.npz")) as file:
        assert file["probabilities"].shape == (1, 1, 6, 7) and "affine" not in file


def test_the_header_is_the_one_of_the_image(tmp_path):
    source = nib.Nifti1Image(np.zeros((7, 6, 9), np.int16), AFFINE[:, [2, 1, 0, 3]])
    source.set_sform(source.affine, code=4)
    nib.save(source, tmp_path / "i.nii.gz")
    image = read(tmp_path / "i.nii.gz")
    path = write_probabilities(slabs(scores()), image.grid, tmp_path / "p.nii.gz", like=image)
    back = nib.load(path)
    assert int(back.header["sform_code"]) == 4 and back.affine.tobytes() == nib.load(tmp_path / "i.nii.gz").affine.tobytes()
    np.testing.assert_allclose(np.asarray(back.dataobj).T, scores(), atol=1e-5)


def test_slabs_that_do_not_cover_the_grid_leave_no_file(tmp_path):
    array = scores()
    with pytest.raises(GeometryError, match="leave out 5 of 9"):
        write_probabilities([(0, array[:, :4])], GRID, tmp_path / "p.npz")
    with pytest.raises(GeometryError, match="does not lie on the grid"):
        write_probabilities([(6, array[:, :4])], GRID, tmp_path / "p.npz")
    assert list(tmp_path.iterdir()) == []


def test_what_exists_or_has_another_suffix_is_refused(tmp_path):
    write_probabilities(scores(), GRID, tmp_path / "p.npz")
    with pytest.raises(OutputError, match="exists already"):
        write_probabilities(scores(), GRID, tmp_path / "p.npz")
    write_probabilities(scores(), GRID, tmp_path / "p.npz", overwrite=True)
    with pytest.raises(OutputError, match=r"\.npz, \.nii or"):
        write_probabilities(scores(), GRID, tmp_path / "p.png")
