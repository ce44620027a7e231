"""Exercises in three dimensions: what is said is true of the object that is asked for, and each follows from its number."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from vesalius.core.image import Grid, Mask
from vesalius.io.files import write
from vesalius.models.solid import Solid, SolidConfig
from vesalius.models.weights import read_metadata
from vesalius.pipeline.solids import load_solid
from vesalius.training.bodies import Body, Part, halved, raise_bodies
from vesalius.training.gallery import open_sources
from vesalius.training.loop import train
from vesalius.training.lumps import lump
from vesalius.training.prompting import Prompting, Source
from vesalius.training.recipe import RECIPES
from vesalius.training.solid_sitting import SolidSitting, ellipsoid
from vesalius.training.solids import SECTIONS, SolidExercises, box_of, disturbed, jittered, said, teach, turned

SIZE = 16
PROMPTING = Prompting(size=SIZE, spread=(1.2, 1.8), wide=3.0, turn_p=0.3)


def ball_body(joined_shape=(20, 30, 24)) -> Body:
    """A bright ellipsoid in the dark, and a second object in a corner."""
    z, y, x = np.mgrid[: joined_shape[0], : joined_shape[1], : joined_shape[2]] + 0.5
    numbers = (((z - 10) / 6) ** 2 + ((y - 16) / 9) ** 2 + ((x - 12) / 7) ** 2 < 1).astype(np.uint16)
    numbers[:4, :4, :4] = 2
    image = (40 + 150 * (numbers == 1)).astype(np.uint8)
    parts = (Part(1, np.array([4.0, 7, 5]), np.array([16.0, 25, 19])), Part(2, np.zeros(3), np.full(3, 4.0)))
    return Body("balls", "ball", image, numbers, parts, np.array([1.5, 1.0, 1.0]))


def exercises(seed=0) -> SolidExercises:
    return SolidExercises([ball_body()], {"balls": Source(share=1.0)}, PROMPTING, seed)


def test_an_exercise_follows_from_seed_and_number():
    first, again, other = exercises()[5], exercises()[5], exercises(1)[5]
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["image"], other["image"])


def test_every_kind_of_exercise_is_drawn_and_says_something():
    drawn = [exercises()[n] for n in range(40)]
    kinds = {(bool(one["box"].any()), bool(one["known"].any()), bool((one["labels"] >= 0).any())) for one in drawn}
    assert {(True, False, False), (False, True, False), (False, False, True)} <= kinds
    assert all(one["box"].any() or one["known"].any() or (one["labels"] == 1).any() for one in drawn)
    assert all(one["image"].shape == one["target"].shape == one["known"].shape == (1, SIZE, SIZE, SIZE) for one in drawn)


def test_what_is_said_fits_the_object():
    for n in range(40):
        one = exercises()[n]
        wanted = one["target"][0] > 0.5
        if one["known"].any():
            said_so = one["known"][0]
            assert (said_so[wanted] > 0).sum() >= (said_so[wanted] < 0).sum() - 6
        for point, label in zip(one["points"], one["labels"], strict=True):
            if label >= 0:
                assert wanted[tuple(int(v) for v in point)] == bool(label)
        if one["box"].any():
            places = wanted.nonzero() + 0.5
            within = ((places > one["box"][:3] - 1.5) & (places < one["box"][3:] + 1.5)).all(1)
            assert within.float().mean() > 0.9


def test_a_first_look_lies_around_its_section_whatever_is_turned():
    seen = 0
    for n in range(90):
        one = exercises()[n]
        layers = [[i for i in range(SIZE) if one["known"][0].select(axis, i).all()] for axis in range(3)]
        if one["known"].any() and sum(map(len, layers)) == 1:
            layer = next(found[0] for found in layers if found)
            seen += abs(layer - SIZE / 2 + 0.5) <= 1
    assert seen >= 5


def test_boxes_end_where_the_object_fills_a_cell_in_part():
    target = torch.zeros(8, 8, 8)
    target[2:5, 3:6, 1:4] = 1
    target[5, 3:6, 1:4] = 0.25
    assert box_of(target).tolist() == [2, 3, 1, 5.25, 6, 4]


def test_jittered_boxes_stay_near():
    boxes = np.array([jittered(np.array([0.0, 0, 0, 10, 10, 10]), np.random.default_rng(n)) for n in range(200)])
    moved = np.abs(boxes - [0, 0, 0, 10, 10, 10]).max(1)
    assert 0.3 < (moved == 0).mean() < 0.6 and moved.max() <= 1.0 + 1e-9


def test_turning_keeps_view_and_axis_together():
    for seed in range(20):
        parts = torch.zeros(1, 8, 8, 8)
        parts[0, 2] = 1  # a layer across axis 0
        moved, axis = turned(parts, 0, 0.0, np.random.default_rng(seed))
        layer = 2 if moved[0].select(axis, 2).all() else 5
        assert moved[0].select(axis, layer).all() and moved.sum() == 64


def test_an_earlier_answer_resembles_the_object_and_is_not_it():
    target = torch.zeros(24, 24, 24)
    target[6:18, 6:18, 6:18] = 1
    scores = []
    for seed in range(20):
        found = disturbed(target, np.random.default_rng(seed)) > 0
        scores.append(float(2 * (found & (target > 0)).sum() / (found.sum() + target.sum())))
    assert 0.6 < np.mean(scores) < 0.98 and max(scores) <= 1


def test_sections_are_known_on_as_few_layers_as_were_given():
    target = torch.zeros(16, 16, 16)
    target[4:12, 4:12, 4:12] = 1
    counts = set()
    for seed in range(30):
        known = said(target, SECTIONS, 1, False, np.random.default_rng(seed))["known"][0]
        counts.add(int((known != 0).any(2).any(0).sum()))
    assert min(counts) == 1 and max(counts) <= 15 and len(counts) > 3


def test_drawn_bodies_are_seen_whole_enough_to_learn_from():
    for seed in range(6):
        view, mask = lump(16, np.random.default_rng(seed))
        assert view.shape == mask.shape == (16, 16, 16) and view.min() >= 0 and view.max() <= 255
        assert 0.005 < (mask > 0.5).mean() < 0.6


def test_halving_averages_and_keeps_what_is_left_over_at_the_end():
    grey = np.arange(3 * 4 * 4, dtype=np.uint8).reshape(3, 4, 4)
    small = halved(grey)
    assert (
        small.shape == (2, 2, 2)
        and small[0, 0, 0] == round(float(grey[:2, :2, :2].mean()))
        and small[1, 0, 0] == round(float(grey[2, :2, :2].mean()))
    )


def test_the_network_learns_a_single_batch():
    torch.manual_seed(0)
    drawn = [exercises()[n] for n in range(4)]
    batch = {key: torch.stack([one[key] for one in drawn]) for key in drawn[0]}
    model = Solid(SolidConfig(SIZE, (8, 12, 16), (1, 1, 1)))
    optimiser = torch.optim.AdamW(model.parameters(), 1e-2)
    losses = []
    for _ in range(14):
        loss = teach(model, batch, torch.enable_grad)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.75 * losses[0]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Four volumes with two labels, and a folder of pictures that a model for volumes has no use for."""
    root = tmp_path_factory.mktemp("volumes")
    for folder in ("images", "labels"):
        (root / "balls" / folder).mkdir(parents=True)
    for n in range(4):
        body, grid = ball_body(), Grid((20, 30, 24), np.diag([1.0, 1.0, 1.5, 1.0])[[2, 1, 0, 3]], dims=3)
        for folder, values in (("images", body.image), ("labels", body.numbers.astype(np.uint8))):
            write(Mask(values, grid, None), root / "balls" / folder / f"case_{n}.nii.gz")
    return root


def test_cases_become_bodies_with_their_labels_apart_and_joined(root):
    opened = open_sources(
        root, RECIPES["vesalius_mini_3d"].model_copy(update={"sources": {"balls": Source(objects="both")}}), print
    )
    apart, joined = raise_bodies(opened[0], opened[0].cases[0], 30)
    assert len(apart.parts) == len(joined.parts) == 2 and apart.image.dtype == np.uint8
    assert sorted(apart.voxel) == [1.0, 1.0, 1.5]
    sizes = sorted(int((apart.numbers == part.number).sum()) for part in apart.parts)
    assert sizes == sorted(int((ball_body().numbers == number).sum()) for number in (1, 2))


def test_bodies_stand_upright_however_their_volume_is_stored(tmp_path):
    array = ball_body().numbers.astype(np.uint8)
    upright = Grid((20, 30, 24), np.array([[0, 0, 1.0, 0], [0, 2.0, 0, 0], [3.0, 0, 0, 0], [0, 0, 0, 1]]), dims=3)  # S, A, R
    moved = np.array([[1.0, 0, 0, 0], [0, 0, -2.0, 58], [0, -3.0, 0, 57], [0, 0, 0, 1]])  # R, I, P
    other = Grid((24, 20, 30), moved, dims=3)
    assert (upright.orientation, other.orientation) == ("SAR", "RIP")
    for n, (grid, values) in enumerate(((upright, array), (other, array.transpose(2, 0, 1)[:, ::-1, ::-1]))):
        for folder, factor in (("images", 90), ("labels", 1)):
            (tmp_path / "balls" / folder).mkdir(parents=True, exist_ok=True)
            write(Mask(factor * np.ascontiguousarray(values), grid, None), tmp_path / "balls" / folder / f"case_{n}.nii.gz")
    recipe = RECIPES["vesalius_mini_3d"].model_copy(update={"sources": {"balls": Source(objects="joined")}})
    opened = open_sources(tmp_path, recipe, print)[0]
    one, same = (raise_bodies(opened, case, 30)[0] for case in opened.cases)
    assert np.array_equal(one.numbers > 0, array > 0) and np.array_equal(one.image, same.image)
    assert np.array_equal(one.numbers > 0, same.numbers > 0)
    assert one.voxel.tolist() == same.voxel.tolist() == [3.0, 2.0, 1.0]


def test_a_sitting_reports_boxes_sections_and_the_ellipsoid():
    class Plan:
        name, views = "vesalius_mini_3d", {}

    model = Solid(SolidConfig(SIZE, (4, 4, 4), (0, 0, 0)))
    torch.nn.init.zeros_(model.head.conv.weight)
    torch.nn.init.zeros_(model.head.conv.bias)
    scores = SolidSitting((ball_body(),)).examine(model, Plan)["ball 0"]["balls"]
    assert set(scores) == {"dice", "section", "sections", "ellipsoid"}
    assert scores["dice"] > 0.8 and scores["sections"] > 0.7


def test_the_ellipsoid_fills_its_box():
    found = ellipsoid((10, 12, 14), np.array([1.0, 2, 3]), np.array([9.0, 10, 13]))
    places = np.argwhere(found)
    assert places.min(0).tolist() == [1, 2, 3] and places.max(0).tolist() == [8, 9, 12]


def test_a_run_is_trained_resumed_and_its_weights_go_through_volumes(root, tmp_path):
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(
        'base = "vesalius_mini_3d"\nbatch = 2\nworkers = 0\nsteps_per_epoch = 2\nvalidate_every = 9\nprecision = "fp32"\n'
        "[model]\nsize = 16\nwidths = [4, 4, 8]\ndepths = [0, 0, 1]\n[prompting]\nsize = 16\nspread = [1.2, 1.8]\n"
    )
    given = {"model": "vesalius_mini_3d", "recipe": str(recipe), "quiet": True, "device": "cpu", "say": lambda line: None}
    first = train(root, tmp_path / "run", steps=2, **given)[0]
    again = train(root, tmp_path / "run", steps=3, resume=True, **given)[0]
    assert (first.steps, again.steps) == (2, 3)
    assert json.loads(read_metadata(again.weights)["vesalius_cubes"])["model"] == "vesalius_mini_3d"
    assert load_solid(again.weights).model.frame_size == 16
