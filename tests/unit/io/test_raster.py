"""PNG, JPEG and TIFF: every depth and colour as stored, what was changed is said, what is damaged is refused."""

import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from vesalius.core.errors import ChannelError, LabelError, OutputError, UnreadableFile
from vesalius.core.image import Grid, Mask
from vesalius.io.files import default_suffix, peek, read, read_mask, write

RNG = np.random.default_rng(0)
GREY8 = RNG.integers(0, 256, (6, 7), dtype=np.uint8)
GREY16 = RNG.integers(0, 65536, (6, 7), dtype=np.uint16)
RGB8 = RNG.integers(0, 256, (6, 7, 3), dtype=np.uint8)
RGB16 = RNG.integers(0, 65536, (6, 7, 3), dtype=np.uint16)


def opaque(array, alpha=None):
    top = np.iinfo(array.dtype).max if alpha is None else alpha
    return np.dstack([array, np.full(array.shape[:2], top, array.dtype)])


def png(path, array):
    import imagecodecs

    path.write_bytes(imagecodecs.png_encode(array))
    return path


def png_of_few_bits(path, array, bits, palette=None, clear=None):
    """A grey (or palette) PNG of 1, 2, 4 or 8 bits, which no library at hand writes; `clear` is its tRNS chunk."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    shifts = np.arange(bits)[::-1]
    rows = [b"\0" + np.packbits((row[:, None] >> shifts) & 1).tobytes() for row in array]
    head = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], bits, 0 if palette is None else 3, 0, 0, 0)
    colours = b"" if palette is None else chunk(b"PLTE", palette)
    colours += b"" if clear is None else chunk(b"tRNS", clear)
    body = chunk(b"IDAT", zlib.compress(b"".join(rows))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + colours + body)
    return path


def agrees(image, array):
    """The voxels are the pixels, and the header alone told the same sizes."""
    expected = array[None, None] if array.ndim == 2 else array.transpose(2, 0, 1)[:, None]
    np.testing.assert_array_equal(image.array, expected)
    assert image.array.dtype == array.dtype
    seen = peek(image.source.path)
    assert seen.grid.shape == image.grid.shape and seen.channels == len(image.array) and image.grid.dims == 2
    return True


@pytest.mark.parametrize("array", [GREY8, GREY16, RGB8, RGB16], ids=["grey8", "grey16", "rgb8", "rgb16"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_pixels_keep_their_depth_and_colours(tmp_path, array, suffix):
    path = tmp_path / f"a{suffix}"
    if suffix == ".png":
        png(path, array)
    else:
        tifffile.imwrite(path, array, photometric="rgb" if array.ndim == 3 else "minisblack")
    image = read(path)
    assert agrees(image, array) and image.grid.affine is None and image.notes == ()
    assert image.channels == (("red", "green", "blue") if array.ndim == 3 else ("grey",))


@pytest.mark.parametrize("array", [GREY8, GREY16, RGB8, RGB16], ids=["grey8", "grey16", "rgb8", "rgb16"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_an_opaque_alpha_is_dropped_and_said_another_is_an_error(tmp_path, array, suffix):
    def save(path, pixels):
        if suffix == ".png":
            return png(path, pixels)
        photometric = "rgb" if pixels.shape[2] == 4 else "minisblack"
        tifffile.imwrite(path, pixels, photometric=photometric, extrasamples=["unassalpha"], planarconfig="contig")
        return path

    image = read(save(tmp_path / f"a{suffix}", opaque(array)))
    assert agrees(image, array) and image.notes == ("an opaque alpha channel was dropped",)
    with pytest.raises(ChannelError, match="not opaque"):
        read(save(tmp_path / f"b{suffix}", opaque(array, 7)))


@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize("kind", ["imagej", "ome", "plain"])
def test_channels_of_a_tiff_are_no_alpha_and_the_header_tells_as_many(tmp_path, channels, kind):
    array = np.random.default_rng(0).integers(0, 9, (channels, 8, 9), np.uint16)
    array[-1] = 65535  # as opaque as can be
    path = tmp_path / ("a.ome.tif" if kind == "ome" else "a.tif")
    if kind == "plain":
        tifffile.imwrite(path, array.transpose(1, 2, 0), photometric="minisblack", planarconfig="contig")
    else:
        tifffile.imwrite(path, array, imagej=kind == "imagej", metadata={"axes": "CYX"}, photometric="minisblack")
    image = read(path)
    np.testing.assert_array_equal(image.array[:, 0], array)
    assert peek(path).channels == channels and not image.notes


def test_a_tiff_that_asks_to_be_turned_is_read_as_stored_and_that_is_said(tmp_path):
    Pillow.fromarray(GREY8).save(tmp_path / "a.tif", tiffinfo={274: 6})
    image = read(tmp_path / "a.tif")
    assert agrees(image, GREY8) and "orientation tag" in image.notes[0]


@pytest.mark.parametrize("compression", ["zlib", "lzw", "packbits", "zstd"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_compressed_and_tiled_tiffs_are_read(tmp_path, compression, tile):
    array = RNG.integers(0, 65536, (40, 50), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", array, compression=compression, tile=tile)
    assert agrees(read(tmp_path / "a.tif"), array)


def test_a_jpeg_in_a_tiff_is_read_in_rgb(tmp_path):
    array = np.zeros((64, 64, 3), np.uint8)
    array[..., 0] = 200
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", compression="jpeg")
    assert np.abs(read(tmp_path / "a.tif").array[:, 0].transpose(1, 2, 0).astype(int) - array).max() < 8


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_the_pages_of_a_tiff_are_the_slices_of_a_volume(tmp_path, dtype, byteorder):
    array = RNG.integers(0, 200, (5, 6, 7)).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack", byteorder=byteorder)
    image = read(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.array, array[None])
    assert image.array.dtype == dtype and image.grid.dims == 3 and peek(tmp_path / "a.tif").grid.shape == (5, 6, 7)


def test_pages_in_colour_keep_pages_and_colours_apart(tmp_path):
    array = RNG.integers(0, 256, (5, 6, 7, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb")
    np.testing.assert_array_equal(read(tmp_path / "a.tif").array, array.transpose(3, 0, 1, 2))
    planar = RNG.integers(0, 256, (3, 6, 7), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "b.tif", planar, photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read(tmp_path / "b.tif").array, planar[:, None])
    hyperstack = RNG.integers(0, 256, (5, 2, 6, 7), dtype=np.uint8)  # z, channel
    tifffile.imwrite(tmp_path / "c.tif", hyperstack, imagej=True, metadata={"axes": "ZCYX"})
    np.testing.assert_array_equal(read(tmp_path / "c.tif").array, hyperstack.transpose(1, 0, 2, 3))


def test_time_and_depth_together_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((2, 3, 6, 7), np.uint8), imagej=True, metadata={"axes": "TZYX"})
    with pytest.raises(UnreadableFile, match="axes TZYX"):
        read(tmp_path / "a.tif")


def test_imagej_and_ome_tell_the_size_of_a_voxel_and_dots_per_inch_do_not(tmp_path):
    stack = np.zeros((3, 6, 7), np.uint16)
    microns = {"axes": "ZYX", "unit": "um", "spacing": 3}
    tifffile.imwrite(tmp_path / "ij.tif", stack, imagej=True, resolution=(4, 2), metadata=microns)
    np.testing.assert_allclose(read(tmp_path / "ij.tif").grid.spacing, (3e-3, 0.5e-3, 0.25e-3))
    sizes = {"PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5, "PhysicalSizeZ": 2.0, "PhysicalSizeXUnit": "mm"}
    plain = {"photometric": "minisblack"}
    tifffile.imwrite(tmp_path / "ome.ome.tif", stack, metadata={"axes": "ZYX", **sizes}, **plain)
    np.testing.assert_allclose(read(tmp_path / "ome.ome.tif").grid.spacing, (2e-3, 0.5e-3, 0.25))
    tifffile.imwrite(tmp_path / "flat.ome.tif", stack[0], metadata={"axes": "YX", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5})
    np.testing.assert_allclose(read(tmp_path / "flat.ome.tif").grid.spacing[1:], (0.5e-3, 0.25e-3))
    tifffile.imwrite(tmp_path / "half.ome.tif", stack, metadata={"axes": "ZYX", "PhysicalSizeX": 1, "PhysicalSizeY": 1}, **plain)
    assert read(tmp_path / "half.ome.tif").grid.affine is None  # nobody knows how far the slices are apart
    tifffile.imwrite(tmp_path / "dpi.tif", stack, resolution=(300, 300), resolutionunit="INCH", **plain)
    Pillow.fromarray(GREY8).save(tmp_path / "dpi.png", dpi=(300, 300))
    assert read(tmp_path / "dpi.tif").grid.affine is None and read(tmp_path / "dpi.png").grid.affine is None


@pytest.mark.parametrize(("unit", "mm"), [("nm", 1e-6), ("µm", 1e-3), ("mm", 1), ("cm", 10), ("m", 1000)])
def test_any_unit_of_length_becomes_millimetres(tmp_path, unit, mm):
    sizes = {f"PhysicalSize{axis}{suffix}": value for axis in "XY" for suffix, value in (("", 4.0), ("Unit", unit))}
    tifffile.imwrite(tmp_path / "a.ome.tif", GREY8, metadata={"axes": "YX", **sizes})
    assert read(tmp_path / "a.ome.tif").grid.spacing[1:] == pytest.approx((4 * mm, 4 * mm))


def test_a_size_of_nothing_is_no_size(tmp_path):
    tifffile.imwrite(tmp_path / "a.ome.tif", GREY8, metadata={"axes": "YX", "PhysicalSizeX": 0.0, "PhysicalSizeY": 0.5})
    assert read(tmp_path / "a.ome.tif").grid.affine is None
    stack = np.zeros((3, 6, 7), np.uint8)
    microns = {"axes": "ZYX", "unit": "um", "spacing": -3}  # slices counted downwards
    tifffile.imwrite(tmp_path / "b.tif", stack, imagej=True, resolution=(4, 2), metadata=microns)
    assert read(tmp_path / "b.tif").grid.spacing == pytest.approx((3e-3, 0.5e-3, 0.25e-3))


def test_pages_of_a_stack_that_no_axis_names_keep_their_distance(tmp_path):
    """Old ImageJ says how many images there are, and nothing of slices or frames."""
    said = "ImageJ=1.34k\nimages=5\nunit=micron\nspacing=3.0\n"
    pages = np.zeros((5, 6, 7), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack", description=said, resolution=(4, 4), metadata=None)
    assert read(tmp_path / "a.tif").grid.spacing == peek(tmp_path / "a.tif").grid.spacing == (0.003, 0.00025, 0.00025)


@pytest.mark.parametrize("kind", ["ome", "imagej"])
def test_time_points_are_slices_without_millimetres(tmp_path, kind):
    frames, microns = RNG.integers(0, 9, (5, 6, 7)).astype(np.uint16), {"axes": "TYX", "unit": "um", "spacing": 3}
    sizes = {"axes": "TYX", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25, "PhysicalSizeZ": 1.5}  # a single plane's, often written
    imagej, ome = {"imagej": True, "resolution": (4, 4), "metadata": microns}, {"ome": True, "metadata": sizes}
    options = imagej if kind == "imagej" else ome
    tifffile.imwrite(tmp_path / "a.tif", frames, photometric="minisblack", **options)
    image = read(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.array[0], frames)
    assert image.grid.affine is None and peek(tmp_path / "a.tif").grid.affine is None and "5 time points" in image.notes[0]


OME = """<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:{here}"><Image ID="Image:0">
<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="7" SizeY="6" SizeZ="2" SizeC="1" SizeT="1">
<TiffData IFD="0" FirstZ="0" PlaneCount="1"><UUID FileName="1.ome.tif">urn:uuid:1</UUID></TiffData>
<TiffData IFD="0" FirstZ="1" PlaneCount="1"><UUID FileName="2.ome.tif">urn:uuid:2</UUID></TiffData></Pixels></Image></OME>"""


def test_an_image_spread_over_files_is_read_whole_or_refused(tmp_path):
    """tifffile fills the planes of a file that is not here with zeros."""
    for here in (1, 2):
        described = OME.format(here=here).encode()
        options = {"description": described, "metadata": None, "photometric": "minisblack"}
        tifffile.imwrite(tmp_path / f"{here}.ome.tif", np.full((6, 7), here, np.uint8), **options)
    image = read(tmp_path / "1.ome.tif")
    assert image.array[0, :, 0, 0].tolist() == [1, 2] and "spread over 2 files" in image.notes[0]
    (tmp_path / "2.ome.tif").unlink()
    with pytest.raises(UnreadableFile, match="1 of its 2 planes lie in other files that are not here"):
        read(tmp_path / "1.ome.tif")


@pytest.mark.parametrize("photometric", ["ycbcr", "cielab", "icclab"])
def test_colours_that_are_no_rgb_are_refused(tmp_path, photometric):
    tifffile.imwrite(tmp_path / "a.tif", RGB8, photometric=photometric)
    with pytest.raises(ChannelError, match=r"the TIFF holds .* colours\. Convert it to RGB"):
        read(tmp_path / "a.tif")


def test_a_palette_whose_colours_were_written_in_8_bits_is_not_black(tmp_path):
    table = np.tile(np.arange(256, dtype=np.uint16), (3, 1))
    tifffile.imwrite(tmp_path / "a.tif", GREY8, photometric="palette", colormap=table)
    np.testing.assert_array_equal(read(tmp_path / "a.tif").array[:, 0], np.stack([GREY8] * 3))


def test_a_palette_is_colours_in_an_image_and_indices_in_a_mask(tmp_path):
    indices = RNG.integers(0, 4, (6, 7), dtype=np.uint8)
    colours = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [9, 8, 7]], np.uint8)
    picture = Pillow.fromarray(indices, mode="P")
    picture.putpalette(colours.ravel().tolist())
    picture.save(tmp_path / "a.png")
    image = read(tmp_path / "a.png")
    assert agrees(image, colours[indices]) and "palette" in image.notes[0]
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png").array[0], indices)
    for widened in (256, 257):  # both are in use
        table = np.zeros((3, 256), np.uint16)
        table[:, :4] = colours.T.astype(np.uint16) * widened
        tifffile.imwrite(tmp_path / "a.tif", indices, photometric="palette", colormap=table)
        image = read(tmp_path / "a.tif")
        np.testing.assert_array_equal(image.array[:, 0], colours[indices].transpose(2, 0, 1))
        np.testing.assert_array_equal(read_mask(tmp_path / "a.tif").array[0], indices)


def test_one_bit_is_black_and_white_in_an_image_and_0_and_1_in_a_mask(tmp_path):
    bits = RNG.integers(0, 2, (6, 7)).astype(bool)
    Pillow.fromarray(bits).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", bits, photometric="minisblack")
    for name in ("a.png", "a.tif"):
        np.testing.assert_array_equal(read(tmp_path / name).array[0, 0], bits * 255)
        np.testing.assert_array_equal(read_mask(tmp_path / name).array[0], bits)


def test_white_stored_as_zero_is_turned_and_said(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", GREY8, photometric="miniswhite")
    image = read(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.array[0, 0], 255 - GREY8)
    assert "inverted" in image.notes[0]


def test_cmyk_becomes_rgb_and_an_exif_rotation_is_said_not_done(tmp_path):
    Pillow.new("CMYK", (7, 6), (0, 255, 255, 0)).save(tmp_path / "ink.jpg")
    image = read(tmp_path / "ink.jpg")
    assert image.array.shape == (3, 1, 6, 7) and "CMYK" in image.notes[0]
    assert image.array[0].mean() > 200 and image.array[1:].mean() < 60
    exif = Pillow.Exif()
    exif[0x0112] = 6
    Pillow.fromarray(RGB8).save(tmp_path / "turned.jpg", exif=exif)
    image = read(tmp_path / "turned.jpg")
    assert image.array.shape == (3, 1, 6, 7) and "rotation" in image.notes[0]


@pytest.mark.parametrize("name", ["a.png", "deep.png", "a.jpg", "plain.tif", "lzw.tif", "tiled.tif", "pages.tif", "jpeg.tif"])
@pytest.mark.parametrize("keep", [0.03, 0.3, 0.7, 0.95])
def test_a_picture_cut_short_is_refused_in_one_line(tmp_path, name, keep):
    path = tmp_path / name
    rgb = RNG.integers(0, 256, (90, 100, 3), dtype=np.uint8)
    if name in ("a.png", "a.jpg"):
        Pillow.fromarray(rgb).save(path)
    elif name == "deep.png":
        png(path, RNG.integers(0, 65536, (90, 100, 3), dtype=np.uint16))
    else:
        kinds = {"lzw.tif": {"compression": "lzw"}, "tiled.tif": {"tile": (32, 32)}, "jpeg.tif": {"compression": "jpeg"}}
        options = kinds.get(name, {})
        tifffile.imwrite(path, np.stack([rgb] * 4) if name == "pages.tif" else rgb, photometric="rgb", **options)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(UnreadableFile) as caught:
        read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp", ".nii", ".nii.gz", ".dcm", ".mha", ".nrrd"])
@pytest.mark.parametrize("content", [b"", b"this is text\n" * 40, bytes(range(256)) * 9], ids=["empty", "text", "noise"])
def test_what_is_no_image_is_refused_whatever_its_name(tmp_path, suffix, content):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    for door in (read, read_mask):
        with pytest.raises((UnreadableFile, LabelError)) as caught:
            door(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_single_pixel_is_no_image(tmp_path):
    Pillow.fromarray(GREY8[:1, :1]).save(tmp_path / "a.png")
    with pytest.raises(UnreadableFile, match="single pixel"):
        read(tmp_path / "a.png")


def test_masks_are_written_grey_8_or_16_bit_and_come_back_as_they_were(tmp_path):
    grid = Grid((1, 6, 7), None, 2)
    for top, mode in ((255, "L"), (256, "I;16")):
        array = np.zeros(grid.shape, np.uint16)
        array[0, 2, 3] = top
        path = write(Mask(array, grid), tmp_path / f"m{top}.png")
        with Pillow.open(path) as picture:
            assert picture.mode == mode
        np.testing.assert_array_equal(read_mask(path).array, array)
        back = read_mask(write(Mask(array, grid), tmp_path / f"m{top}.tif"))
        np.testing.assert_array_equal(back.array, array)


def test_objects_are_always_16_bit_and_beyond_65535_a_png_gives_up(tmp_path):
    grid = Grid((1, 6, 7), None, 2)
    array = np.zeros(grid.shape, np.uint32)
    array[0, 0, 0] = 3
    with Pillow.open(write(Mask(array, grid, instances=True), tmp_path / "few.png")) as picture:
        assert picture.mode == "I;16"
    array[0, 0, 0] = 70000
    with pytest.raises(OutputError, match="65535"):
        write(Mask(array, grid, instances=True), tmp_path / "many.png")
    assert not (tmp_path / "many.png").exists()
    assert read_mask(write(Mask(array, grid, instances=True), tmp_path / "many.tif")).array.max() == 70000


def test_a_volume_is_no_png_but_a_tiff_with_its_spacing(tmp_path):
    affine = np.zeros((4, 4))
    affine[[2, 1, 0, 3], [0, 1, 2, 3]] = [2.5, 0.5, 0.25, 1]
    mask = Mask(RNG.integers(0, 3, (4, 6, 7)).astype(np.uint8), Grid((4, 6, 7), affine))
    with pytest.raises(OutputError, match="one slice"):
        write(mask, tmp_path / "m.png")
    back = read_mask(write(mask, tmp_path / "m.tiff"))
    np.testing.assert_array_equal(back.array, mask.array)
    np.testing.assert_allclose(back.grid.spacing, (2.5, 0.5, 0.25), rtol=1e-6)


def test_a_mask_in_colour_holds_labels_only_if_its_channels_agree(tmp_path):
    png(tmp_path / "same.png", np.dstack([GREY8] * 3))
    np.testing.assert_array_equal(read_mask(tmp_path / "same.png").array[0], GREY8)
    png(tmp_path / "same_alpha.png", opaque(np.dstack([GREY8] * 3)))
    np.testing.assert_array_equal(read_mask(tmp_path / "same_alpha.png").array[0], GREY8)
    png(tmp_path / "colours.png", RGB8)
    with pytest.raises(LabelError, match="colours"):
        read_mask(tmp_path / "colours.png")
    Pillow.fromarray(GREY8).save(tmp_path / "a.jpg")
    with pytest.raises(LabelError, match="JPEG"):
        read_mask(tmp_path / "a.jpg")


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("clear", [None, b"\0\0"], ids=["opaque", "black is clear"])
def test_a_grey_mask_of_few_bits_gives_the_stored_values(tmp_path, bits, clear):
    array = RNG.integers(0, 2**bits, (6, 7), dtype=np.uint8)
    array[0, :2] = 0, 2**bits - 1
    np.testing.assert_array_equal(read_mask(png_of_few_bits(tmp_path / "a.png", array, bits, clear=clear)).array[0], array)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_palette_mask_of_few_bits_gives_its_indices(tmp_path, bits):
    array = RNG.integers(0, 2**bits, (6, 7), dtype=np.uint8)
    palette = bytes(range(256))[::-1][: 3 * 2**bits] * (1 if bits < 8 else 3)  # colours that are no indices
    path = png_of_few_bits(tmp_path / "a.png", array, bits, palette=palette, clear=b"\0")
    np.testing.assert_array_equal(read_mask(path).array[0], array)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("kind", ["png", "minisblack", "miniswhite"])
def test_a_picture_of_few_bits_is_spread_over_8_and_a_mask_of_few_bits_is_not(tmp_path, bits, kind):
    array = RNG.integers(0, 2**bits, (6, 8), dtype=np.uint8)
    if kind == "png":
        path = png_of_few_bits(tmp_path / "a.png", array, bits)
    else:
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, array.astype(bool) if bits == 1 else array, bitspersample=bits, photometric=kind)
    top = 2**bits - 1
    expected = (top - array if kind == "miniswhite" else array) * np.uint8(255 // top)
    np.testing.assert_array_equal(read(path).array[0, 0], expected)
    np.testing.assert_array_equal(read_mask(path).array[0], array)


def test_fractions_and_negative_values_are_no_labels_but_whole_floats_are(tmp_path):
    tifffile.imwrite(tmp_path / "half.tif", np.full((6, 7), 0.5, np.float32))
    tifffile.imwrite(tmp_path / "minus.tif", np.full((6, 7), -1, np.int16))
    tifffile.imwrite(tmp_path / "whole.tif", np.full((6, 7), 3, np.float32))
    with pytest.raises(LabelError, match=r"0\.5"):
        read_mask(tmp_path / "half.tif")
    with pytest.raises(LabelError, match="-1"):
        read_mask(tmp_path / "minus.tif")
    mask = read_mask(tmp_path / "whole.tif")
    assert mask.array.dtype == np.uint8 and (mask.array == 3).all()


def huge(path, side):
    """A black PNG of 1 bit, `side` pixels each way, written row by row."""
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))  # noqa: E731
    packer, row = zlib.compressobj(1), bytes(1 + (side + 7) // 8)
    body = b"".join(packer.compress(row * 100) for _ in range(side // 100)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b""))
    return path


def test_a_picture_above_pillows_limit_is_read_and_the_limit_is_left_to_others(tmp_path):
    limit = Pillow.MAX_IMAGE_PIXELS
    file = huge(tmp_path / "slide.png", 13_500)  # 182 megapixels: twice the limit, where Pillow refuses
    assert peek(file).grid.shape == (1, 13_500, 13_500) and limit == Pillow.MAX_IMAGE_PIXELS
    assert read(file).array.shape == (1, 1, 13_500, 13_500) and limit == Pillow.MAX_IMAGE_PIXELS
    with pytest.raises(Pillow.DecompressionBombError):
        Pillow.open(file)


def test_a_picture_that_memory_cannot_hold_is_told_by_its_size_not_as_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr("vesalius.io.raster._memory_bytes", lambda: 1_000_000)
    with pytest.raises(UnreadableFile, match=r"slide\.png: its 1000 x 1000 pixels need 0\.0 GB.*tiles"):
        read(huge(tmp_path / "slide.png", 1_000))


def pages_one_by_one(path, pages, **options):
    with tifffile.TiffWriter(path) as tiff:
        for page in pages:
            tiff.write(page, photometric="minisblack", **options)
    return path


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_pages_written_one_by_one_are_the_slices_of_one_volume(tmp_path, compression):
    pages = np.stack([GREY16, GREY16 // 2, GREY16 // 3])
    image = read(pages_one_by_one(tmp_path / "a.tif", pages, compression=compression))
    np.testing.assert_array_equal(image.array[0], pages)
    assert not image.notes and peek(tmp_path / "a.tif").grid.shape == (3, 6, 7)
    volumes = pages_one_by_one(tmp_path / "b.tif", [pages, pages + 1])  # two images, not six slices
    np.testing.assert_array_equal(read(volumes).array[0], pages)


@pytest.mark.parametrize("apart", [True, False])
def test_a_large_uncompressed_stack_is_read_wherever_its_pages_lie(tmp_path, monkeypatch, apart):
    monkeypatch.setattr("vesalius.io.raster.MAP_ABOVE", 100)
    pages = np.stack([GREY16, GREY16 // 2, GREY16 // 3])
    if apart:
        Pillow.fromarray(pages[0]).save(tmp_path / "a.tif", save_all=True, append_images=[Pillow.fromarray(p) for p in pages[1:]])
    else:
        tifffile.imwrite(tmp_path / "a.tif", pages, byteorder=">", photometric="minisblack")
    np.testing.assert_array_equal(read(tmp_path / "a.tif").array[0], pages)


@pytest.mark.parametrize("marked", [0, 1])
def test_a_thumbnail_before_its_picture_is_passed_over(tmp_path, marked):
    picture = np.random.default_rng(0).integers(0, 255, (64, 80, 3), np.uint8)
    with tifffile.TiffWriter(tmp_path / "slide.tif") as tiff:
        tiff.write(picture[::4, ::4], photometric="rgb", subfiletype=marked)
        tiff.write(picture, photometric="rgb", tile=(32, 32))
    image = read(tmp_path / "slide.tif")
    np.testing.assert_array_equal(image.array[:, 0], picture.transpose(2, 0, 1))
    assert image.notes == ("the file holds 2 images; the largest is read",)
    assert peek(tmp_path / "slide.tif").grid.shape == (1, 64, 80)


def test_of_several_ome_images_the_largest_keeps_its_own_pixel_size(tmp_path):
    with tifffile.TiffWriter(tmp_path / "two.ome.tif") as tiff:
        for side, microns in ((20, 4.0), (40, 2.0)):
            sizes = {"PhysicalSizeX": microns, "PhysicalSizeY": microns}
            tiff.write(np.zeros((side, side), np.uint8), metadata={"axes": "YX", **sizes})
    image = read(tmp_path / "two.ome.tif")
    assert image.grid.shape == (1, 40, 40) and image.grid.spacing[1:] == pytest.approx((0.002, 0.002))


def test_an_aperio_slide_is_read_with_its_microns_and_its_mask_is_a_tiff(tmp_path):
    told = "Aperio Image Library v11.2.1\r\n64x48 [0,0 64x48] (32x32)|AppMag = 20|MPP = 0.4990|Date = 12/29/09"
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    tifffile.imwrite(tmp_path / "a.svs", pixels, photometric="rgb", tile=(32, 32), description=told, metadata=None)
    image = read(tmp_path / "a.svs")
    assert image.grid.spacing == pytest.approx((0.000499,) * 3) and default_suffix(image) == ".tiff"
    assert peek(tmp_path / "a.svs").grid.same_as(image.grid)
    with pytest.raises(OutputError, match="format"):
        write(Mask(np.zeros((1, 48, 64), np.uint8), image.grid), tmp_path / "mask.svs")
    assert read_mask(write(Mask(np.ones((1, 48, 64), np.uint8), image.grid), tmp_path / "mask.tiff"), like=image).array.all()


def test_a_tiff_that_memory_cannot_hold_is_told_by_its_size(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "big.tif", np.zeros((400, 300), np.uint8), compression="zlib", tile=(64, 64))
    monkeypatch.setattr("vesalius.io.raster._memory_bytes", lambda: 100_000)
    with pytest.raises(UnreadableFile, match=r"its 400 x 300 pixels need 0.0 GB of memory"):
        read(tmp_path / "big.tif")
