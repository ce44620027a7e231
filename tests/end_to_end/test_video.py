"""`vesalius segment` on a video: a mask a frame, from a prompt on one of them; nothing is left behind where it fails."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from specimens import moving_block, video
from two_patches import fine, refused

from vesalius.io.frames import Frames

pytest.importorskip("av")
COUNT = 15
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def clip(tmp_path):
    return video(tmp_path / "in/clip.mkv", moving_block(COUNT))


def truth(frame):
    mask = np.zeros((30, 40), bool)
    mask[8:18, 4 + frame : 16 + frame] = True
    return mask


BOX = "11,8,23,18"  # around the block on frame 7


def test_a_box_on_one_frame_gives_a_mask_for_every_frame_by_its_number(run, flood, clip, tmp_path):
    done = fine(run("segment", clip, "-o", tmp_path / "out", "--box", BOX, "--slice", "7", "--json"))
    for k in range(COUNT):
        mask = np.asarray(Image.open(tmp_path / f"out/clip/frame_{k:05d}.png"))
        assert mask.dtype == np.uint8 and np.array_equal(mask, truth(k)), k
    told = json.loads(done.stdout)
    assert told["mask"].endswith("out/clip") and told["objects"][0]["voxels"] == 120 * COUNT
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == ["clip"]


def test_a_tiff_holds_all_frames_as_pages(run, flood, clip, tmp_path):
    fine(run("segment", clip, "-o", tmp_path / "masks.tiff", "--box", BOX, "--slice", "7"))
    fine(run("segment", clip, "-o", tmp_path / "out", "--box", BOX, "--slice", "7", "--format", "tiff"))
    for path in ("masks.tiff", "out/clip.tiff"):
        pages = tifffile.imread(tmp_path / path)
        assert np.array_equal(pages, np.stack([truth(k) for k in range(COUNT)])), path


def test_without_propagation_one_frame_is_filled(run, flood, clip, tmp_path):
    fine(run("segment", clip, "-o", tmp_path / "m.tiff", "--point", "15,10", "--slice", "7", "--no-propagate"))
    assert np.flatnonzero(tifffile.imread(tmp_path / "m.tiff").any(axis=(1, 2))).tolist() == [7]


def test_two_objects_overlap_as_in_a_picture_and_each_can_be_had_alone(run, flood, clip, tmp_path):
    listed = [{"box": [11, 8, 17, 18], "slice": 7, "name": "left"}, {"box": [11, 8, 23, 18], "slice": 7, "name": "whole"}]
    (tmp_path / "p.json").write_text(json.dumps(listed))
    words = ("--prompts", tmp_path / "p.json", "--separate", "--no-propagate", "--format", "tiff")
    done = fine(run("segment", clip, "-o", tmp_path / "out", *words, "--json"))
    both, whole = (tifffile.imread(tmp_path / f"out/{name}.tiff")[7] for name in ("clip", "clip_2"))
    expected = 2 * truth(7)
    expected[:, :17][truth(7)[:, :17]] = 1  # equal logits: the first stays
    assert np.array_equal(both, expected) and np.array_equal(whole, truth(7))
    assert [each["voxels"] for each in json.loads(done.stdout)["objects"]] == [60, 60]


def test_a_video_and_the_folder_of_its_frames_give_the_same_masks(run, flood, clip, tmp_path):
    (tmp_path / "in/folder").mkdir()
    for k, frame in enumerate(moving_block(COUNT)):
        Image.fromarray(frame).save(tmp_path / f"in/folder/frame_{k:05d}.png")
    words = ("--box", BOX, "--slice", "7", "--format", "tiff")
    fine(run("segment", clip, "-o", tmp_path / "out", *words))
    fine(run("segment", tmp_path / "in/folder", "-o", tmp_path / "out", *words))
    assert (tmp_path / "out/clip.tiff").read_bytes() == (tmp_path / "out/folder.tiff").read_bytes()


def photographs(folder, names="img_{:02d}.png", sizes=((30, 40),)):
    """Pictures of different things, numbered as frames are: even in three blocks, each somewhere else."""
    random = np.random.default_rng(3)
    folder.mkdir(parents=True)
    for k in range(7):
        size = sizes[k % len(sizes)]
        coarse = random.integers(0, 255, (6, 8), np.uint8)
        Image.fromarray(coarse).resize(size[::-1]).save(folder / names.format(k))
    return folder


def test_photographs_of_different_things_are_no_video_unless_it_is_said(run, flood, tmp_path):
    words, unlike = ("--point", "5,5", "--slice", "0", "--format", "tiff"), photographs(tmp_path / "in/unlike")
    out = ("-o", tmp_path / "out")
    refused(run("segment", unlike, *out, *words), "in/unlike", "unlike their neighbours", "one picture at a time", "--video")
    named = photographs(tmp_path / "in/named", "img_{0:02d}_of_{0}.png")
    refused(run("segment", named, *out, *words), "not numbered in even steps", "--video")
    sizes = photographs(tmp_path / "in/sizes", sizes=((30, 40), (30, 40), (31, 40)))
    refused(run("segment", sizes, *out, *words), "img_02.png is 40 x 31 pixels, img_00.png 40 x 30", "one picture at a time")
    assert not (tmp_path / "out").exists()
    done = fine(run("segment", unlike, *out, *words, "--video"))
    assert "7 pictures of this folder are read as the frames of a video" in done.stdout
    assert len(tifffile.imread(tmp_path / "out/unlike.tiff")) == 7


def test_frames_may_be_every_fifth_and_a_gap_has_to_be_owned_up_to(run, flood, tmp_path):
    for k, frame in enumerate(moving_block(COUNT)):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(frame).save(tmp_path / f"in/s2_{5 * k}.png")
    words = ("segment", tmp_path / "in", "--box", BOX, "--slice", "7", "--format", "tiff")
    fine(run(*words, "-o", tmp_path / "all"))
    assert np.array_equal(tifffile.imread(tmp_path / "all/in.tiff")[-1], truth(COUNT - 1))
    (tmp_path / "in/s2_60.png").unlink()
    refused(run(*words, "-o", tmp_path / "most"), "not numbered in even steps", "--video")
    fine(run(*words, "-o", tmp_path / "most", "--video"))


def test_what_cannot_be_a_video_is_not_called_one(run, flood, clip, tmp_path):
    Image.fromarray(moving_block(1)[0]).save(tmp_path / "one.png")
    refused(run("segment", tmp_path / "one.png", "-o", tmp_path / "out", "--point", "5,5", "--video"), "neither a video")
    refused(run("segment", tmp_path / "one.png", "-o", tmp_path / "out", "--video"), "--video goes with a prompt")
    fine(run("segment", clip, "-o", tmp_path / "out", "--box", BOX, "--slice", "7", "--video"))


def test_an_object_that_is_lost_on_the_way_is_told(run, flood, tmp_path):
    frames = [frame * (k < 10) for k, frame in enumerate(moving_block(COUNT))]
    done = fine(run("segment", video(tmp_path / "in/clip.mkv", frames), "-o", tmp_path / "out", "--box", BOX, "--slice", "7"))
    assert "'object 1' was followed through frames 0 to 9, of 0 to 14: it was lost there, or left the picture" in done.stdout


def test_what_stands_still_keeps_its_size_through_a_video_by_the_model_in_the_package(run, tmp_path):
    nuclei = EXAMPLES / "nuclei"
    numbers = np.asarray(Image.open(nuclei / "labels/fluorescence.png"))
    rows, columns = (np.flatnonzero((numbers == 43).any(axis)) for axis in (1, 0))
    (tmp_path / "in").mkdir()
    for frame in range(20):
        shutil.copy(nuclei / "images/fluorescence.png", tmp_path / f"in/{frame:02d}.png")
    box = f"{columns[0]},{rows[0]},{columns[-1] + 1},{rows[-1] + 1}"
    fine(run("segment", tmp_path / "in", "-o", tmp_path / "out.tiff", "--box", box, "--slice", "10"))
    areas = np.count_nonzero(tifffile.imread(tmp_path / "out.tiff"), axis=(1, 2))
    assert areas.min() > 0.85 * areas[10] and areas.max() < 1.15 * areas[10]


def test_everything_is_of_one_frame(run, flood, clip, tmp_path):
    fine(run("segment", clip, "-o", tmp_path / "out", "--everything", "--slice", "3", "--format", "tiff"))
    assert json.loads((tmp_path / "out/clip.json").read_text())["slice"] == 3
    assert np.flatnonzero(tifffile.imread(tmp_path / "out/clip.tiff").any(axis=(1, 2))).tolist() == [3]
    refused(run("segment", clip, "-o", tmp_path / "more", "--everything"), "give the slice")


def test_the_overlay_is_a_video_of_the_same_length(run, flood, clip, tmp_path):
    from vesalius.io.video import read_video

    fine(run("segment", clip, "-o", tmp_path / "out", "--box", BOX, "--slice", "7", "--overlays"))
    drawn, plain = read_video(tmp_path / "out/overlays/clip.mp4"), read_video(clip)
    assert drawn.grid.shape == plain.grid.shape
    changed = [np.abs(drawn.array[:, k].astype(int) - plain.array[:, k]).max(0) > 40 for k in range(COUNT)]
    assert all(each[truth(k)].mean() > 0.3 > 0.1 > each[~truth(k)].mean() for k, each in enumerate(changed))


def test_no_whole_video_is_ever_held(run, flood, clip, tmp_path, monkeypatch):
    def whole(self, *rest, **more):
        raise AssertionError("all frames were decoded at once")

    monkeypatch.setattr(Frames, "__array__", whole)
    monkeypatch.setattr("vesalius.io.frames.KEPT_BYTES", 1)
    fine(run("segment", clip, "-o", tmp_path / "out", "--box", BOX, "--slice", "7", "--overlays", "--separate"))
    assert len(list((tmp_path / "out/clip").iterdir())) == COUNT


@pytest.mark.parametrize(
    "words, said",
    [
        (["--box", BOX], ["needs its slice"]),
        (["--box", BOX, "--slice", "15"], ["Count from 0 to 14"]),
        (["--box", BOX, "--slice", "-1"], ["Count from 0 to 14"]),
        (["--box", BOX, "--slice", "3", "--axis", "coronal"], ["nobody knows"]),
        (["--box", "11,8,41,18", "--slice", "3"], ["outside the slice (40 x 30 px)"]),
        (["--box", "11,8,3,23,18,16"], ["outside the volume"]),
        (["--box", BOX, "--slice", "3", "--format", "nifti"], ["frames are not written as nifti"]),
        (["--box", BOX, "--slice", "3", "--series", "1.2"], ["only DICOM has series"]),
    ],
)
def test_a_bad_prompt_on_a_video_is_one_line_and_exit_code_2(run, flood, clip, tmp_path, words, said):
    refused(run("segment", clip, "-o", tmp_path / "out", *words), *said)
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_hold_the_masks_is_refused(run, flood, clip, tmp_path):
    box = ("--box", BOX, "--slice", "7")
    refused(run("segment", clip, "-o", tmp_path / "m.mp4", *box), "a video cannot hold labels")
    refused(run("segment", clip, "-o", tmp_path / "m.png", *box), "name a folder")
    fine(run("segment", clip, "-o", tmp_path / "out", *box))
    refused(run("segment", clip, "-o", tmp_path / "out", *box), "there is a mask already")
    fine(run("segment", clip, "-o", tmp_path / "out", *box, "--overwrite"))
    refused(run("segment", tmp_path / "out/clip", "-o", tmp_path / "out", *box, "--overwrite"), "replace the frames themselves")


def test_a_file_that_is_no_video_and_a_frame_that_is_damaged_leave_nothing_behind(run, flood, clip, tmp_path):
    (tmp_path / "none.mp4").write_bytes(b"0" * 100)
    refused(run("segment", tmp_path / "none.mp4", "-o", tmp_path / "out", "--box", BOX, "--slice", "0"), "no whole video")
    noise, block = np.random.default_rng(0), moving_block(1)[0]
    still = [np.where(block > 100, block, noise.integers(0, 60, block.shape, np.uint8)) for _ in range(60)]
    whole = video(tmp_path / "b.mp4", still, codec="mpeg4", gop=60).read_bytes()
    at = whole.find(b"mdat") + 4 + (whole.find(b"moov") - whole.find(b"mdat")) * 9 // 10
    (tmp_path / "b.mp4").write_bytes(whole[:at] + bytes(60) + whole[at + 60 :])
    words = ("--box", "4,8,16,18", "--slice", "0")
    refused(run("segment", tmp_path / "b.mp4", "-o", tmp_path / "out", *words), "damaged")
    assert not list((tmp_path / "out").rglob("*"))
