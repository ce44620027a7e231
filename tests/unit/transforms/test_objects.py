"""Objects to maps and back: what touches is told apart, what is one stays one."""

import numpy as np

from vesalius.transforms.objects import decode, encode


def disks(*places, size=(64, 96)):
    y, x = np.ogrid[: size[0], : size[1]]
    objects = np.zeros(size, np.uint16)
    for number, (cy, cx, radius) in enumerate(places, 1):
        objects[((y - cy) ** 2 + (x - cx) ** 2 <= radius**2) & (objects == 0)] = number
    return objects


def scores_of(objects):
    target = encode(objects)
    return np.stack([np.where(target[0] > 0, 4, -4), target[1]]).astype(np.float32)


def overlap(found, objects, number):
    inside = objects == number
    best = np.bincount(found[inside]).argmax()
    return best, (inside & (found == best)).sum() / (inside | (found == best)).sum()


def test_distance_rises_to_one_in_a_small_object_and_in_a_large_one():
    objects = disks((16, 16, 4), (36, 60, 20))
    foreground, distance = encode(objects)
    assert np.array_equal(foreground > 0, objects > 0)
    assert [distance[objects == n].max() for n in (1, 2)] == [1, 1]
    assert distance[objects == 0].max() == 0 and distance[objects > 0].min() > 0


def test_the_border_of_the_picture_is_no_edge_of_an_object():
    objects = np.ones((6, 9), np.uint16)
    assert (encode(objects) == 1).all()  # it may be cut anywhere
    objects[:, 0] = 0
    assert encode(objects)[1].tolist() == [[n / 8 for n in range(9)]] * 6


def test_touching_objects_each_have_their_own_distance():
    objects = np.zeros((20, 40), np.uint16)
    objects[5:15, 5:20], objects[5:15, 20:35] = 3, 9  # numbers need not follow each other
    distance = encode(objects)[1]
    assert distance[10, 19] < 0.3 and distance[10, 20] < 0.3 and distance[10, 12] > 0.9


def test_touching_objects_come_back_apart():
    objects = disks((32, 30, 14), (32, 56, 14), (50, 80, 7))
    found = decode(scores_of(objects))
    pairs = [overlap(found, objects, n) for n in (1, 2, 3)]
    assert found.max() == 3 and {best for best, _ in pairs} == {1, 2, 3}
    assert min(share for _, share in pairs) > 0.9


def test_a_peak_must_stand_as_high_above_its_saddle_as_asked():
    x = np.arange(96)
    scores = scores_of(disks((32, 48, 30)))
    hills = 1.2 * np.exp(-(((x - 36) / 4.0) ** 2)) + np.exp(-(((x - 60) / 4.0) ** 2))  # the lower one 0.2 above the valley
    scores[1] = np.where(scores[0] > 0, 0.6 + 0.2 * hills, 0)
    assert decode(scores, peak=0.1).max() == 2
    assert decode(scores, peak=0.3).max() == 1


def test_foreground_is_a_probability():
    scores = scores_of(disks((32, 48, 10)))
    scores[0][scores[0] > 0] = 1.0  # probability 0.73
    assert decode(scores, foreground=0.7).max() == 1
    assert decode(scores, foreground=0.75).max() == 0


def test_small_objects_are_dropped_and_the_others_counted_on():
    objects = disks((10, 10, 2), (32, 30, 10), (32, 70, 10))
    found = decode(scores_of(objects), min_area_px=20)
    assert sorted(np.unique(found)) == [0, 1, 2] and found[10, 10] == 0


def test_foreground_without_a_peak_is_still_an_object():
    scores = np.stack([np.full((20, 20), -4.0), np.zeros((20, 20))]).astype(np.float32)
    scores[0, 5:15, 5:15] = 4
    assert (decode(scores) > 0).sum() == 100


def test_an_empty_picture_has_no_objects():
    empty = np.zeros((8, 9), np.uint16)
    assert encode(empty).max() == 0 and decode(scores_of(empty)).max() == 0
