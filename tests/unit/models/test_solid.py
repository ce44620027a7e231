"""The model for volumes: hints are drawn where they are, the ellipsoid is where masks begin, and the whole stays small."""

import torch

from vesalius.models.blocks import ShuffleUp
from vesalius.models.catalog import parameter_count
from vesalius.models.mini import CLEAR
from vesalius.models.solid import Hints, Solid, SolidConfig, distance_inside, draw, fold, prior_of

BOX = torch.tensor([[2.0, 4.0, 6.0, 10.0, 12.0, 14.0]])  # z0, y0, x0, z1, y1, x1


def hints(**given) -> Hints:
    nothing = torch.zeros(1, 1, 16, 16, 16)
    known = {"boxes": torch.zeros(1, 6), "points": torch.zeros(1, 1, 3), "labels": torch.full((1, 1), -1)}
    return Hints(**{**known, "known": nothing, "earlier": nothing, **given})


def test_the_default_fits_into_five_megabytes_of_16_bit_weights():
    assert 1e6 < parameter_count(Solid(SolidConfig())) < 2.5e6


def test_masks_begin_with_the_ellipsoid_in_the_box_and_z_comes_first():
    prior = prior_of(hints(boxes=BOX), (16, 16, 16))[0, 0]
    inside = (prior > 0).nonzero()
    assert inside.amin(0).tolist() == [2, 4, 6] and inside.amax(0).tolist() == [9, 11, 13]
    share = float((prior > 0).sum()) / 8**3
    assert abs(share - torch.pi / 6) < 0.03  # of a cube, what a ball fills
    assert prior[0, 0, 0] == -CLEAR


def test_an_earlier_mask_takes_the_place_of_the_ellipsoid_and_nothing_is_said_by_zeros():
    earlier = torch.full((1, 1, 16, 16, 16), -3.0)
    assert (prior_of(hints(boxes=BOX, earlier=earlier), (16, 16, 16)) == -3).all()
    assert (prior_of(hints(), (16, 16, 16)) == 0).all()


def test_distances_are_those_to_the_nearest_side():
    inside = distance_inside(BOX, (16, 16, 16), 1)[0]
    assert inside[5, 7, 9] == 3.5 and inside[2, 7, 9] == 0.5 and inside[0, 7, 9] == -1.5
    assert abs(inside[0, 2, 9] + (1.5**2 + 1.5**2) ** 0.5) < 1e-6


def test_clicks_are_drawn_at_their_places_on_the_maps_of_their_kind():
    said = hints(points=torch.tensor([[[3.0, 9.0, 13.0], [11.0, 1.0, 5.0]]]), labels=torch.tensor([[1, 0]]))
    maps = draw(said, (8, 8, 8))[0]
    for channel, place in ((4, (1, 4, 6)), (6, (5, 0, 2))):
        assert torch.unravel_index(maps[channel].argmax(), (8, 8, 8)) == tuple(map(torch.tensor, place))
    assert maps[8].all() and maps[9].all() and not maps[3].any() and not maps[10].any()


def test_folding_is_what_unfolding_at_the_end_undoes():
    x = torch.randn(2, 1, 8, 8, 8)
    up = ShuffleUp(8, 1, (2, 2, 2), bias=False)
    with torch.no_grad():
        up.conv.weight.copy_(torch.eye(8)[:, :, None, None, None])
        assert torch.equal(up(fold(x)), x)
