"""Volumes are asked as wholes: whatever their spacing, orientation or axis, the answer lies on their own voxels.

The stand-in is a network whose head is zero: it answers with what it begins from, the ellipsoid in a box, the shape of sections.
"""

import json
import re
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from flood import FloodPrompter

from vesalius.core.errors import InputError, WeightsError
from vesalius.core.image import Grid, Image, Mask, Source
from vesalius.core.prompts import ObjectPrompt
from vesalius.io.files import write
from vesalius.models.solid import Solid, SolidConfig
from vesalius.models.weights import save
from vesalius.pipeline.cubes import Cube
from vesalius.pipeline.prompted import PromptOptions, runs_of, segment_prompted
from vesalius.pipeline.propagation import PropagateOptions
from vesalius.pipeline.session import Session
from vesalius.pipeline.solids import CubeOptions, Found, SolidPrompter, Told, box_of, load_solid, touches

torch.manual_seed(0)
MODEL = Solid(SolidConfig(40, (4, 4, 4), (0, 0, 0))).eval().requires_grad_(False)
torch.nn.init.zeros_(MODEL.head.conv.weight)
torch.nn.init.zeros_(MODEL.head.conv.bias)
PRIOR = SolidPrompter("prior", MODEL, "none")

ORIENTATIONS = [(order, flips) for order in permutations(range(3)) for flips in ((1, 1, 1), (-1, 1, -1))]


def affine_of(order, flips, spacing):
    """Stored axis i runs along world axis order[i]; `flips` says which way."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (world, flip, mm) in enumerate(zip(order, flips, spacing, strict=True)):
        affine[world, axis] = flip * mm
    return affine


def scan(shape=(24, 40, 32), spacing=(2.5, 1.0, 1.5), order=(2, 1, 0), flips=(1, 1, 1), known=True):
    """A bright ellipsoid of 12 x 24 x 16 voxels that does not lie in the middle; the image and its mask."""
    middle, half = np.array([10.0, 22, 14]), np.array([6.0, 12, 8])
    z, y, x = (((np.arange(n) + 0.5 - m) / h) ** 2 for n, m, h in zip(shape, middle, half, strict=True))
    mask = z[:, None, None] + y[:, None] + x <= 1
    grid = Grid(shape, affine_of(order, flips, spacing) if known else None, dims=3)
    return Image((200 * mask).astype(np.uint8)[None], grid), mask


def dice(found, wanted):
    return 2 * (found & wanted).sum() / (found.sum() + wanted.sum())


def session(image, **rest):
    return Session(image, FloodPrompter(), cache=False, sibling=PRIOR, **rest)


WHOLE = (6, 10, 4, 22, 34, 16)  # x0, y0, z0, x1, y1, z1


@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS)
def test_a_box_is_answered_on_the_volumes_own_voxels_however_it_is_stored(order, flips):
    image, mask = scan(order=order, flips=flips)
    found = session(image).predict(box=WHOLE)
    assert found.shape == mask.shape and dice(found, mask) > 0.95


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (5.0, 0.8, 0.8), (0.5, 3.0, 1.0), None])
def test_any_spacing_and_none_give_the_same_object(spacing):
    image, mask = scan(spacing=spacing or (1, 1, 1), known=spacing is not None)
    assert dice(session(image).predict(box=WHOLE), mask) > 0.93


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS[::5])
def test_boxes_on_several_slices_of_any_axis_are_joined_to_one_object(axis, order, flips):
    image, mask = scan(order=order, flips=flips)
    one = session(image)
    house = next(
        i for i, letter in enumerate(image.grid.orientation) if letter in {"axial": "SI", "coronal": "AP", "sagittal": "RL"}[axis]
    )
    filled = np.flatnonzero(mask.any(tuple(i for i in range(3) if i != house)))
    for index in np.linspace(filled[0], filled[-1], 5).round().astype(int):
        section = np.take(mask, index, house)
        rows, columns = np.flatnonzero(section.any(1)), np.flatnonzero(section.any(0))
        one.add(box=(columns[0], rows[0], columns[-1] + 1, rows[-1] + 1), slice=int(index), axis=axis)
    found = one.propagate()
    assert found.shape == mask.shape and dice(found, mask) > 0.9
    assert np.array_equal(np.take(found, filled[0], house), np.take(mask, filled[0], house))  # prompted slices keep their answers


def test_one_slice_goes_beyond_itself_and_keeps_its_own_answer():
    image, mask = scan(spacing=(1, 1, 1))
    one = session(image)
    assert np.array_equal(one.add(box=(6, 10, 22, 34), slice=9).any((1, 2)).nonzero()[0], [9])
    found = one.propagate()
    assert np.array_equal(found[9], mask[9]) and found[6].any() and found[12].any() and not found[23].any()


def test_points_in_three_dimensions_are_searched_for_on_a_ladder_of_cubes():
    image, _ = scan()
    sides = []

    class Watching(SolidPrompter):
        def look(self, volume, told, cube, earlier=None):
            sides.append(cube.sides[1])
            assert told.points.tolist() == [[10.5, 22.5, 14.5]]
            return Found(torch.where(torch.arange(40)[:, None, None] < 20, 5.0, -5.0).expand(40, 40, 40), 0.5, cube)

    Session(image, FloodPrompter(), cache=False, sibling=Watching("w", MODEL, "none")).predict(points=[(14, 22, 10)])
    assert sides[:2] == [60, 30] and len(sides) >= 3


def test_a_volumes_mask_is_where_the_model_begins():
    image, mask = scan()
    assert dice(session(image).predict(mask=mask), mask) > 0.93


def test_a_point_beside_the_object_alone_says_nowhere():
    with pytest.raises(InputError, match="nothing says where"):
        PRIOR.find(np.zeros((9, 9, 9), np.uint8), np.ones(3), Told(points=np.ones((1, 3)), labels=np.zeros(1, int)))


def test_what_reaches_the_end_of_the_view_is_looked_at_again_further_out():
    looks = []

    class Growing(SolidPrompter):
        def look(self, volume, told, cube, earlier=None):
            looks.append(cube)
            low = cube.cells(np.array([4.0, 10, 10]), 40)[0]
            high = cube.cells(np.array([60.0, 20, 20]), 40)[0]
            z = torch.arange(40)[:, None, None] + 0.5
            return Found(torch.where((z > low) & (z < high), 5.0, -5.0).expand(40, 40, 40), 0.9, cube)

    disc = np.zeros((64, 64), bool)
    disc[10:20, 10:20] = True
    found = Growing("g", MODEL, "none").find(np.zeros((64, 64, 64), np.uint8), np.ones(3), Told(sections={32: disc}))
    assert looks[0].sides[0] == 20 and found.cube.sides[0] > 20 and len(looks) == 4
    assert box_of(found) is not None


def test_an_end_of_the_volume_is_no_end_of_the_view():
    logits = torch.full((8, 8, 8), 5.0)
    assert not touches(Found(logits, 1.0, Cube(np.full(3, 5.0), np.full(3, 12.0))), (10, 10, 10))
    assert touches(Found(logits, 1.0, Cube(np.full(3, 5.0), np.full(3, 8.0))), (10, 10, 10))


def test_sections_that_are_empty_are_left_out():
    image, mask = scan()
    sections = {9: mask[9], 20: np.zeros_like(mask[0])}
    found = PRIOR.find(image.array[0], np.ones(3), Told(sections=sections))
    assert torch.equal(found.logits, PRIOR.find(image.array[0], np.ones(3), Told(sections={9: mask[9]})).logits)


def test_slices_on_which_nothing_was_found_end_there_and_stop_no_other_object(tmp_path):
    image, _ = scan()
    assert not session(image).add(box=(0, 0, 3, 3), slice=2).any()
    one = session(image)
    one.add(box=(0, 0, 3, 3), slice=2)
    assert not one.propagate().any()
    assert not one.add(points=[(1, 1, 2)], labels=[0]).any()


def test_a_click_in_three_dimensions_belongs_to_what_was_said_of_its_slice():
    image, mask = scan()
    array = image.array.copy()
    array[0, :, :, 20:] = np.where(mask[:, :, 20:], 180, 0)
    one = session(Image(array, image.grid))
    assert one.add(box=(0, 0, 32, 40), slice=10)[10, 22, 20]
    found = one.add(points=[(20, 22, 10)], labels=[0])
    assert np.array_equal(found[10], array[0, 10] == 200)


def test_options_about_slices_go_from_slice_to_slice_and_so_do_frames_and_models_without_a_sibling():
    image, _ = scan()
    refuse = SolidPrompter("refuse", None, "none")  # type: ignore[arg-type]
    one = Session(image, FloodPrompter(), cache=False, sibling=refuse)
    one.add(box=(6, 10, 22, 34), slice=9)
    assert one.propagate(least_iou=0.1).any() and one.propagate(PropagateOptions()).any()
    with pytest.raises(AttributeError):
        one.propagate()
    frames = Image(image.array, Grid(image.grid.shape, None, dims=3), source=Source(Path("video"), "frames", "video"))
    assert Session(frames, FloodPrompter(), cache=False, sibling=refuse).sibling is None
    assert Session(image, FloodPrompter(), cache=False).sibling is None
    assert Session(image, FloodPrompter(), cache=False, sibling=False).sibling is None


def test_prompts_along_different_axes_are_refused():
    image, _ = scan()
    one = session(image)
    one.add(box=(6, 10, 22, 34), slice=9)
    with pytest.raises(InputError, match="different axes"):
        one.add(box=(6, 4, 22, 16), slice=20, axis="coronal")


def test_weights_name_the_cubes_that_belong_to_them_and_others_are_refused(tmp_path):
    about = {"name": "vesalius_mini_3d", "model": "vesalius_mini_3d", "views": {"spread": 1.5}}
    config = {"size": 16, "widths": [4, 4, 4], "depths": [0, 0, 0]}
    model = Solid(SolidConfig(16, (4, 4, 4), (0, 0, 0)))
    save(tmp_path / "ours.safetensors", model, {"vesalius_cubes": json.dumps(about | {"config": config})}, half=True)
    save(tmp_path / "other.safetensors", model, {})
    assert load_solid(tmp_path / "ours.safetensors").options == CubeOptions(spread=1.5)
    with pytest.raises(WeightsError, match="do not go through volumes"):
        load_solid(tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="never trained"):
        CubeOptions(section=9)


class Leaking(FloodPrompter):
    """It goes on by its mask alone, as `vesalius_mini` does, and so beyond any box."""

    carries = "mask"


def test_a_box_of_six_numbers_bounds_the_object_from_slice_to_slice_too(tmp_path):
    image, mask = scan()
    one = Session(image, Leaking(), cache=False, sibling=False)
    box = (9, 15, 6, 17, 27, 14)  # less than the object along every axis
    found, inside = one.predict(box=box), np.zeros(mask.shape, bool)
    inside[6:14, 15:27, 9:17] = True
    assert np.array_equal(found, mask & inside)
    write(Mask((200 * mask).astype(np.uint8), image.grid, None), tmp_path / "scan.nii.gz")
    options = PromptOptions((ObjectPrompt(box=box),), model=Leaking(), cache=False, sibling=False)
    assert segment_prompted(tmp_path / "scan.nii.gz", tmp_path / "out", options).objects[0].voxels == found.sum()


def test_an_object_that_stays_on_its_slice_and_a_picture_without_slices_are_told(tmp_path):
    image, mask = scan()
    alone = mask & (np.arange(len(mask)) == 10)[:, None, None]
    write(Mask((200 * alone).astype(np.uint8), image.grid, None), tmp_path / "scan.nii.gz")
    options = PromptOptions((ObjectPrompt(box=(6, 10, 22, 34), slice=10),), model=FloodPrompter(), cache=False, sibling=False)
    done = segment_prompted(tmp_path / "scan.nii.gz", tmp_path / "out", options)
    assert "'object 1' is on slice 10 alone: beside it nothing was found to go on by" in done.notes
    nothing = PromptOptions((ObjectPrompt(box=(0, 0, 3, 3), slice=2),), model=FloodPrompter(), cache=False, sibling=False)
    told = segment_prompted(tmp_path / "scan.nii.gz", tmp_path / "nothing", nothing).notes
    assert any("nowhere" in note for note in told) and not any("alone" in note for note in told)
    write(Mask((200 * mask[10:11]).astype(np.uint8), Grid(mask[10:11].shape, None, dims=2), None), tmp_path / "picture.png")
    picture = PromptOptions((ObjectPrompt(box=(6, 10, 22, 34)),), model=FloodPrompter(), cache=False, sibling=False)
    with pytest.raises(InputError, match="a picture has no slices to go through one by one"):
        segment_prompted(tmp_path / "picture.png", tmp_path / "out", picture)


def test_frames_are_told_in_runs():
    assert runs_of([0, 1, 2, 3, 5, 7, 8]) == "0 to 3, 5, 7 to 8" and runs_of([4]) == "4"


class Saying(SolidPrompter):
    """The stand-in with another predicted IoU, and logits moved by `more`."""

    def __init__(self, iou, more=0.0):
        super().__init__("saying", MODEL, "none")
        self.__dict__.update(said=iou, more=more)

    def find(self, volume, voxel, told):
        found = super().find(volume, voxel, told)
        return found._replace(iou=self.said, logits=found.logits + self.more)


@pytest.mark.parametrize(
    ("sibling", "doubts"),
    [
        (Saying(0.9), None),
        (Saying(0.6), None),  # 0.6 is not less than 0.6
        (Saying(0.59), "its predicted IoU is 0.59"),
        (Saying(0.9, -100.0), "on prompted slices it agrees with their masks by 0.00 alone"),
        (Saying(0.9, 100.0), r"on prompted .* by 0\.\d+ alone; elsewhere a slice of it is \d\.\d times as large as where"),
    ],
)
def test_a_doubtful_mask_of_a_volume_is_told(tmp_path, sibling, doubts):
    image, mask = scan()
    rows, columns = np.flatnonzero(mask[10].any(1)), np.flatnonzero(mask[10].any(0))
    box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    seen = Session(image, FloodPrompter(), cache=False, sibling=sibling)
    seen.add(box=box, slice=10)
    assert seen.doubt is None  # of one slice nothing is said
    seen.propagate()
    assert (seen.doubt is None) == (doubts is None) and (doubts is None or re.fullmatch(doubts + ".*", seen.doubt))
    write(Mask((200 * mask).astype(np.uint8), image.grid, None), tmp_path / "scan.nii.gz")
    options = PromptOptions((ObjectPrompt(box=box, slice=10, name="lump"),), model=FloodPrompter(), cache=False, sibling=sibling)
    done = segment_prompted(tmp_path / "scan.nii.gz", tmp_path / "out", options)
    assert done.objects[0].predicted_iou == sibling.said
    assert [note for note in done.notes if "lump" in note] == (
        [] if doubts is None else [f"'lump' is doubtful, look at every slice of it: {seen.doubt}"]
    )
    seen.propagate(least_iou=0.1)  # from slice to slice, which has its own ways to stop
    assert seen.doubt is None


def test_where_the_siblings_weights_are_missing_it_is_said(tmp_path, monkeypatch):

    image, mask = scan()
    write(Mask((200 * mask).astype(np.uint8), image.grid, None), tmp_path / "scan.nii.gz")
    prompter = FloodPrompter(name="vesalius_mini")
    monkeypatch.setattr("vesalius.pipeline.solids.files", lambda package: tmp_path)
    given = {"objects": (ObjectPrompt(box=WHOLE),), "model": prompter, "cache": False}
    told = segment_prompted(tmp_path / "scan.nii.gz", tmp_path / "a", PromptOptions(**given))
    assert any("slice to slice" in note for note in told.notes)
    told = segment_prompted(tmp_path / "scan.nii.gz", tmp_path / "b", PromptOptions(**given, sibling=Saying(0.9)))
    assert not told.notes and told.objects[0].voxels > 0
