"""A frame is the same however it is reached, stands as players show it, and a flawed file is refused in one line."""

import struct
import sys
import wave

import numpy as np
import pytest
from specimens import moving_block, video

from vesalius.core.errors import GeometryError, InputError, OutputError, UnreadableFile
from vesalius.io import frames as frames_module
from vesalius.io.frames import read_frames, write_frames
from vesalius.io.video import frame_times, read_video, write_video

av = pytest.importorskip("av")

CODECS = [("a.mp4", "mpeg4", 0), ("b.mp4", "libx264", 2), ("c.mov", "mpeg4", 2), ("d.avi", "mpeg4", 0), ("e.mkv", "libx264", 3)]


def decoded(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize("name, codec, b_frames", CODECS)
def test_a_frame_is_the_same_forwards_backwards_and_out_of_order(tmp_path, monkeypatch, name, codec, b_frames):
    path = video(tmp_path / name, moving_block(20), codec=codec, gop=6, b_frames=b_frames)
    monkeypatch.setattr(frames_module, "KEPT_BYTES", 3 * 30 * 40 * 3)
    expected, image = decoded(path), read_video(path)
    assert image.array.most == 3 and image.array.shape == (3, 20, 30, 40)
    for k in (*range(20), *reversed(range(20)), 13, 2, 19, 0, 7, 6, 5, 18):
        assert np.array_equal(image.array[:, k].transpose(1, 2, 0), expected[k]), k


def test_no_more_frames_are_kept_than_the_memory_allows(tmp_path, monkeypatch):
    monkeypatch.setattr(frames_module, "KEPT_BYTES", 4 * 30 * 40 * 3)
    array = read_video(video(tmp_path / "a.mp4", moving_block(20), codec="mpeg4")).array
    for k in (0, 19, 10, 11, 3):
        array[:, k]
        assert len(array._kept) <= 4


def test_walking_on_decodes_no_frame_twice(tmp_path, monkeypatch):
    image = read_video(video(tmp_path / "a.mp4", moving_block(20), codec="mpeg4", gop=100))
    begun = []
    film = image.array._fetch.__self__
    monkeypatch.setattr(type(film), "_begin", lambda self, *where: begun.append(where))
    image.array[:, 11]  # the last that was looked at when the video was opened
    for k in range(12, 20):
        image.array[:, k]
    assert not begun


def test_lossless_frames_come_back_to_the_value(tmp_path):
    frames = moving_block(5)
    image = read_video(video(tmp_path / "clip.mkv", frames))
    assert np.array_equal(np.asarray(image.array), np.stack(frames).transpose(3, 0, 1, 2))
    assert np.array_equal(image.array[1, 2, 3:20, 5:9], frames[2][3:20, 5:9, 1])
    assert image.array[..., 2, :, :].shape == (3, 30, 40) and image.grid.affine is None and image.name == "clip"


def test_frames_at_varying_intervals_are_counted_as_shown(tmp_path):
    times = [0, 100, 150, 400, 430, 900, 5000]
    path = video(tmp_path / "a.mp4", moving_block(7), codec="mpeg4", times=times)
    image = read_video(path)
    assert len(decoded(path)) == image.grid.shape[0] == 7 and "varying intervals" in image.notes[0]
    assert frame_times(path) == pytest.approx(np.array(times) / 1000, abs=1e-3)
    assert not read_video(video(tmp_path / "b.mp4", moving_block(7), codec="mpeg4")).notes


def with_matrix(path, *matrix):
    """The file with another display matrix in its track header."""
    content = bytearray(path.read_bytes())
    at = content.find(b"tkhd") + 4
    at += 4 + (32 if content[at] else 20) + 16
    content[at : at + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(content)
    return path


ONE, END = 65536, 1 << 30
TURNS = {
    "a quarter clockwise": ((0, ONE, 0, -ONE, 0, 0, 0, 0, END), lambda a: np.rot90(a, -1)),
    "a half": ((-ONE, 0, 0, 0, -ONE, 0, 0, 0, END), lambda a: np.rot90(a, 2)),
    "a quarter counterclockwise": ((0, -ONE, 0, ONE, 0, 0, 0, 0, END), lambda a: np.rot90(a, 1)),
    "mirrored": ((-ONE, 0, 0, 0, ONE, 0, 0, 0, END), lambda a: a[:, ::-1]),
}


@pytest.mark.parametrize("turn", TURNS)
def test_frames_are_turned_as_the_file_asks(tmp_path, turn):
    matrix, turned = TURNS[turn]
    path = with_matrix(video(tmp_path / "a.mp4", moving_block(4), codec="mpeg4"), *matrix)
    image = read_video(path)
    assert np.array_equal(image.array[:, 2].transpose(1, 2, 0), turned(decoded(path)[2]))
    assert "display matrix" in image.notes[0]


def test_a_slant_is_refused(tmp_path):
    path = with_matrix(video(tmp_path / "a.mp4", moving_block(4), codec="mpeg4"), 46341, 46341, 0, -46341, 46341, 0, 0, 0, END)
    with pytest.raises(GeometryError, match="slant"):
        read_video(path)


def refused(path, words, error=UnreadableFile):
    with pytest.raises(error) as refusal:
        np.asarray(read_video(path).array)
    assert words in str(refusal.value) and str(path) in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_flawed_file_is_refused_in_one_line(tmp_path):
    noise = [np.random.default_rng(i).integers(0, 255, (30, 40, 3), np.uint8) for i in range(20)]
    whole = video(tmp_path / "a.mp4", noise, codec="mpeg4").read_bytes()

    def file(content, name="x.mp4"):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    refused(tmp_path / "none.mp4", "no such file")
    refused(file(b""), "empty")
    refused(file(b"0" * 100), "no whole video")
    refused(file(whole[: len(whole) // 2]), "no whole video")
    middle = len(whole) // 2
    refused(file(whole[:middle] + bytes(60) + whole[middle + 60 :]), "frame 5 is damaged")  # FFmpeg itself would patch it up
    film = video(tmp_path / "a.avi", noise, codec="mpeg4").read_bytes()
    refused(file(film[: len(film) // 2], "x.avi"), "cut short")
    refused(file(b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hosts\n", "list.mp4"), "no whole video")


def test_a_file_that_says_it_is_longer_than_it_is_is_cut_short(tmp_path):
    content = bytearray(video(tmp_path / "a.avi", moving_block(8), codec="mjpeg").read_bytes())
    at = content.find(b"strh") + 8 + 32  # dwLength of the stream header
    content[at : at + 4] = struct.pack("<I", 11)
    content[content.find(b"idx1") :] = b""
    (tmp_path / "a.avi").write_bytes(content)
    refused(tmp_path / "a.avi", "8 of 11 frames are there")


@pytest.mark.parametrize("name, codec", [("a.mkv", "ffv1"), ("b.webm", "libvpx"), ("c.mkv", "libx264")])
def test_a_matroska_file_that_is_cut_short_anywhere_is_refused(tmp_path, name, codec):
    path = video(tmp_path / name, moving_block(25), codec=codec)
    assert read_video(path).grid.shape[0] == 25
    whole = path.read_bytes()
    for kept in (len(whole) // 2, len(whole) * 9 // 10, len(whole) - 1):
        path.write_bytes(whole[:kept])
        refused(path, f"cut short: the last {len(whole) - kept:,} bytes")


def test_a_matroska_file_whose_end_was_never_filled_in_is_refused_by_its_length(tmp_path):
    path = video(tmp_path / "a.mkv", moving_block(40))  # 4 s
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))  # as downloads begin
    refused(path, "says that it lasts 4.0 s")


def test_a_stream_that_does_not_know_its_end_is_read_as_far_as_it_goes(tmp_path):
    path = video(tmp_path / "a.mkv", moving_block(8))
    content = bytearray(path.read_bytes())
    at = content.find(b"\x18\x53\x80\x67") + 4
    content[at : at + 8] = b"\x01" + b"\xff" * 7
    path.write_bytes(content)
    assert read_video(path).grid.shape[0] == 8


def test_a_film_whose_times_the_container_cannot_hold_is_refused(tmp_path):
    path = video(tmp_path / "a.avi", moving_block(20), codec="libx264", b_frames=2)  # AVI has no times of its own
    refused(path, "Convert it: ffmpeg")


def test_sound_alone_is_no_video(tmp_path):
    with wave.open(str(tmp_path / "a.wav"), "wb") as sound:
        sound.setnchannels(1), sound.setsampwidth(2), sound.setframerate(8000), sound.writeframes(bytes(16000))
    with av.open(str(tmp_path / "a.mp4"), "w") as out, av.open(str(tmp_path / "a.wav")) as given:
        stream = out.add_stream("aac", rate=8000)
        for frame in given.decode(audio=0):
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    refused(tmp_path / "a.mp4", "no moving pictures")


def test_without_pyav_the_command_to_install_it_is_told(tmp_path, monkeypatch):
    path = video(tmp_path / "a.mp4", moving_block(3), codec="mpeg4")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match=r"pip install 'vesalius\[video\]'"):
        read_video(path)


def test_what_is_written_can_be_read_and_odd_sides_grow(tmp_path):
    frames = [np.full((31, 41, 3), 10 * i, np.uint8) for i in range(6)]
    write_video(iter(frames), tmp_path / "a.mp4", [0, 0.1, 0.2, 0.5, 0.6, 0.7])
    image = read_video(tmp_path / "a.mp4")
    assert image.grid.shape == (6, 32, 42) and frame_times(tmp_path / "a.mp4")[3] == pytest.approx(0.5)
    assert abs(int(image.array[0, 5, 15, 20]) - 50) < 6


def test_masks_are_written_one_by_one_and_all_or_none(tmp_path):
    image = read_video(video(tmp_path / "clip.mkv", moving_block(4)))

    def masks(broken):
        for i in range(4):
            if broken and i == 2:
                raise RuntimeError
            yield np.full((30, 40), i, np.uint8)

    for path in (tmp_path / "out/clip", tmp_path / "out/clip.tiff"):
        with pytest.raises(RuntimeError):
            write_frames(masks(True), path, image)
        assert not list((tmp_path / "out").iterdir())
    write_frames(masks(False), tmp_path / "out/clip", image)
    assert [each.name for each in sorted((tmp_path / "out/clip").iterdir())] == [f"frame_0000{i}.png" for i in range(4)]
    back = read_frames(write_frames(masks(False), tmp_path / "out/clip", image, overwrite=True))
    assert back.array[0, :, 0, 0].tolist() == [0, 1, 2, 3]
    with pytest.raises(OutputError, match="exists already"):
        write_frames(masks(False), tmp_path / "out/clip", image)
