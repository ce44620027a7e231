"""NRRD and MHA: the same voxels in the same place, and a clear word where SimpleITK is missing."""

import sys

import numpy as np
import pytest

from vesalius.core.errors import GeometryError, InputError, OutputError
from vesalius.core.image import Grid, Mask
from vesalius.io.files import default_suffix, peek, read, read_mask, write

sitk = pytest.importorskip("SimpleITK")
TURN = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1.0]])


def saved(path, array, vector=False):
    picture = sitk.GetImageFromArray(array, isVector=vector)
    picture.SetSpacing([0.5, 0.75, 2.0])
    picture.SetOrigin([10.0, -20.0, 30.0])
    picture.SetDirection(TURN.ravel().tolist())
    sitk.WriteImage(picture, str(path))
    return path, picture


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_voxels_lie_where_itk_puts_them(tmp_path, suffix):
    array = np.random.default_rng(0).integers(-99, 999, (4, 5, 6)).astype(np.int16)
    path, picture = saved(tmp_path / f"a{suffix}", array)
    image = read(path)
    np.testing.assert_array_equal(image.array[0], array)
    there = np.array(picture.TransformIndexToPhysicalPoint([3, 2, 1])) * [-1, -1, 1]  # LPS -> RAS
    np.testing.assert_allclose((image.grid.affine @ [1, 2, 3, 1])[:3], there, atol=1e-5)
    seen = peek(path)
    assert seen.channels == 1 and seen.grid.same_as(image.grid) and default_suffix(image) == suffix

    mask = Mask((array[:] > 0).astype(np.uint8), image.grid)
    back = sitk.ReadImage(str(write(mask, tmp_path / f"m{suffix}", like=image)))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), mask.array)
    for ask in ("GetSpacing", "GetOrigin", "GetDirection", "GetSize"):
        np.testing.assert_allclose(getattr(back, ask)(), getattr(picture, ask)(), atol=1e-6)
    np.testing.assert_array_equal(read_mask(tmp_path / f"m{suffix}", like=image).array, mask.array)


def test_an_nrrd_that_counts_in_microns_becomes_millimetres(tmp_path):
    header = """NRRD0005
type: uint8
dimension: 3
space: left-posterior-superior
sizes: 4 3 2
space directions: (5,0,0) (0,5,0) (0,0,20)
space origin: (100,0,0)
space units: "µm" "µm" "µm"
encoding: raw

"""
    (tmp_path / "a.nrrd").write_bytes(header.encode() + bytes(24))
    grid = read(tmp_path / "a.nrrd").grid
    np.testing.assert_allclose(grid.spacing, (0.02, 0.005, 0.005))
    np.testing.assert_allclose(grid.affine[:3, 3], (-0.1, 0, 0))
    (tmp_path / "b.nrrd").write_bytes(header.replace('"µm"', '"mm"', 1).encode() + bytes(24))
    with pytest.raises(GeometryError, match="different units: mm, µm"):
        read(tmp_path / "b.nrrd")


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_components_are_channels(tmp_path, suffix):
    array = np.random.default_rng(0).integers(0, 99, (4, 5, 6, 3)).astype(np.uint8)
    path, _ = saved(tmp_path / f"a{suffix}", array, vector=True)
    np.testing.assert_array_equal(read(path).array, array.transpose(3, 0, 1, 2))
    assert peek(path).channels == 3
    assert read(path).channels == ("red", "green", "blue")
    assert read(saved(tmp_path / f"v{suffix}", array.astype(np.float32), vector=True)[0]).channels[0] == "channel_0"  # vectors


def test_a_header_without_spacing_never_becomes_one_millimetre(tmp_path):
    data = np.arange(24, dtype=np.uint8)
    header = b"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 4 3 2\nencoding: raw\n\n"
    (tmp_path / "a.nrrd").write_bytes(header + data.tobytes())
    image = read(tmp_path / "a.nrrd")
    np.testing.assert_array_equal(image.array[0], data.reshape(2, 3, 4))
    assert image.grid.affine is None
    (tmp_path / "b.nrrd").write_bytes(header.replace(b"encoding", b"spacings: 1 2 3\nencoding") + data.tobytes())
    assert read(tmp_path / "b.nrrd").grid.spacing == (3, 2, 1)


def test_a_sheared_grid_is_refused(tmp_path):
    affine = np.array([[0, 0.4, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])
    with pytest.raises(OutputError, match="sheared"):
        write(Mask(np.zeros((2, 3, 4), np.uint8), Grid((2, 3, 4), affine)), tmp_path / "m.mha")


def test_without_simpleitk_the_command_to_install_it_is_told(tmp_path, monkeypatch):
    path, _ = saved(tmp_path / "a.mha", np.zeros((2, 3, 4), np.uint8))
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(InputError, match=r"pip install 'vesalius\[itk\]'"):
        read(path)
