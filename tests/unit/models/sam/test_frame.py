"""Frames: what a picture looks like to the network, and where masks land on it."""

import numpy as np
import pytest
import torch

from vesalius.core.errors import ChannelError, InputError
from vesalius.models.sam.frame import Frame

SAM, MEDSAM = Frame(64), Frame(64, aspect="stretch", intensity="min_max", decide="probabilities")


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(20, 200, (height, width, 3), dtype=np.uint8)


def test_the_long_side_fills_the_frame_and_zeros_the_rest() -> None:
    x = SAM.prepare(picture(30, 100))
    assert x.shape == (1, 3, 64, 64) and SAM.inner((30, 100)) == (19, 64)
    assert (x[..., 19:, :] == 0).all() and (x[..., :19, :] != 0).any(dim=-1).all()


def test_a_picture_thinner_than_a_pixel_of_the_frame_still_has_one() -> None:
    assert SAM.inner((1, 300)) == (1, 64) and SAM.prepare(picture(300, 1)).shape == (1, 3, 64, 64)
    assert SAM.restore(torch.zeros(1, 1, 16, 16), (1, 300)).shape == (1, 1, 1, 300)


def test_values_are_normalised_channel_by_channel() -> None:
    x = SAM.prepare(np.full((64, 64, 3), 124, np.uint8))
    wanted = torch.tensor([(124 - 123.675) / 58.395, (124 - 116.28) / 57.12, (124 - 103.53) / 57.375])
    torch.testing.assert_close(x[0, :, 0, 0], wanted)


def test_medsam_fills_the_whole_frame_and_takes_the_pictures_own_range() -> None:
    x = MEDSAM.prepare(picture(30, 100))
    assert x.shape == (1, 3, 64, 64) and x.min() == 0 and x.max() == 1
    assert MEDSAM.prepare(np.full((9, 9, 3), 7, np.uint8)).abs().max() == 0


def test_places_follow_the_picture() -> None:
    torch.testing.assert_close(SAM.points([[50.0, 15.0]], (30, 100)), torch.tensor([[32.0, 9.5]]))
    torch.testing.assert_close(MEDSAM.points([[50.0, 15.0]], (30, 100)), torch.tensor([[32.0, 32.0]]))
    torch.testing.assert_close(MEDSAM.boxes([0, 15, 50, 30], (30, 100)), torch.tensor([0.0, 32.0, 32.0, 64.0]))


@pytest.mark.parametrize("frame", [SAM, MEDSAM], ids=["keep", "stretch"])
def test_a_mask_lands_where_its_box_was(frame: Frame) -> None:
    shape, box = (40, 80), np.array([20.0, 10.0, 70.0, 30.0])
    x0, y0, x1, y1 = (int(v) // 4 for v in frame.boxes(box, shape))
    low = torch.full((1, 1, 16, 16), -5.0)
    low[..., y0:y1, x0:x1] = 5
    mask = (frame.restore(low, shape) > frame.threshold)[0, 0].numpy()
    wanted = np.zeros(shape, bool)
    wanted[10:30, 20:70] = True
    assert (mask & wanted).sum() / (mask | wanted).sum() > 0.75


def test_probabilities_are_averaged_not_logits() -> None:
    low = torch.tensor([[[[-100.0, 1.0]]]])
    assert MEDSAM.restore(low, (1, 3))[0, 0, 0, 1] == pytest.approx(0.5 * torch.tensor(1.0).sigmoid().item())


def test_pictures_that_are_not_8_bit_rgb_are_refused_with_what_to_do() -> None:
    with pytest.raises(InputError, match="8 bits, not uint16"):
        SAM.prepare(np.zeros((4, 4, 3), np.uint16))
    with pytest.raises(ChannelError, match="grey picture three times"):
        SAM.prepare(np.zeros((4, 4), np.uint8))
