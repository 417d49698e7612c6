from __future__ import annotations

import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pyarrow as pa
import pytest
import torch
from small_sets import HEIGHT, PICTURE, WIDTH, edit_table, film_again, numbered_pictures

from trainables.dataset.errors import DatasetError, DiskFullError
from trainables.dataset.format.schema import DatasetFeature
from trainables.dataset.frames import open_frames
from trainables.dataset.open import open_dataset

CAMERA = "observation.image"
PNG = DatasetFeature("image", (HEIGHT, WIDTH, 3), ["height", "width", "channels"])

OPEN = """
import sys, pathlib
from trainables.dataset import frames, open_dataset
dataset = open_dataset(pathlib.Path(sys.argv[1]))
{before}
found = frames.open_frames(dataset, "observation.image", None, pathlib.Path(sys.argv[2]), print)
assert found.array.shape == (len(dataset), 3, 32, 48)
"""


def start(root, cache, before=""):
    code = OPEN.format(before=before)
    return subprocess.Popen(
        [sys.executable, "-c", code, str(root), str(cache)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def root(make_dataset):
    return make_dataset(cameras={CAMERA: PICTURE})


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.mark.slow
@pytest.mark.parametrize("camera", [PICTURE, PNG])
@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
def test_the_map_holds_every_frame_as_it_is_decoded_alone(make_dataset, cache, camera, version):
    lengths = (12, 1, 9, 10)
    root = make_dataset(cameras={CAMERA: camera}, version=version, lengths=lengths, files_per_chunk=3)
    dataset = open_dataset(root)
    frames = open_frames(dataset, CAMERA, None, cache, threads=3)
    assert frames.array.shape == (32, 3, HEIGHT, WIDTH)
    for row in range(len(dataset)):
        alone = dataset.pictures(CAMERA, np.array([row]))
        np.testing.assert_array_equal(frames.take(np.array([row])), alone)


def test_frames_are_decoded_once(root, cache):
    told: list[str] = []
    first = open_frames(open_dataset(root), CAMERA, None, cache, told.append)
    assert told == ["observation.image: 38 of 38 frames"]
    again = open_frames(open_dataset(root), CAMERA, (HEIGHT, WIDTH), cache, told.append)
    assert again.path == first.path
    assert len(told) == 1
    assert sorted(path.suffix for path in (cache / "frames").iterdir()) == [".json", ".lock", ".npy"]


@pytest.mark.slow
def test_every_camera_and_size_has_its_own_frames(make_dataset, cache):
    root = make_dataset(cameras={"observation.images.a": PNG, "observation.images.b": PNG})
    dataset = open_dataset(root)
    asked = [("a", None), ("b", None), ("a", (16, 24)), ("a", (24, 16))]
    paths = {open_frames(dataset, f"observation.images.{name}", size, cache).path for name, size in asked}
    assert len(paths) == 4


@pytest.mark.slow
@pytest.mark.parametrize("size", [(16, 24), (20, 64), (7, 11)])
def test_resizing_is_bilinear_and_antialiased(make_dataset, cache, size):
    dataset = open_dataset(make_dataset(cameras={CAMERA: PNG}))
    recorded = torch.from_numpy(open_frames(dataset, CAMERA, None, cache).array.copy()).float()
    expected = torch.nn.functional.interpolate(recorded, size, mode="bilinear", antialias=True)
    found = torch.from_numpy(open_frames(dataset, CAMERA, size, cache).array.copy())
    assert found.shape == (38, 3, *size)
    assert (found - expected).abs().max() <= 1.01  # one level: Pillow rounds between its two passes


def test_a_choice_of_episodes_uses_the_frames_of_the_whole(root, cache):
    part = open_dataset(root, episodes=[1, 3])
    alone = open_frames(part, CAMERA, None, cache)
    assert alone.array.shape[0] == 17
    whole = open_frames(open_dataset(root), CAMERA, None, cache)
    told: list[str] = []
    shared = open_frames(part, CAMERA, None, cache, told.append)
    assert (shared.path, told) == (whole.path, [])
    rows = np.array([[0, 16], [7, 3]])
    np.testing.assert_array_equal(shared.take(rows), alone.take(rows))
    np.testing.assert_array_equal(
        shared.take(rows), part.pictures(CAMERA, rows.ravel()).reshape(2, 2, 3, 32, 48)
    )


@pytest.mark.slow
def test_another_dataset_has_other_frames(make_dataset, cache):
    one = make_dataset("one", cameras={CAMERA: PNG})
    other = make_dataset("other", cameras={CAMERA: PNG}, lengths=(12, 7, 9, 11))
    assert (
        open_frames(open_dataset(one), CAMERA, None, cache).path
        != open_frames(open_dataset(other), CAMERA, None, cache).path
    )


def test_a_damaged_map_is_built_anew(root, cache):
    frames = open_frames(open_dataset(root), CAMERA, None, cache)
    expected = frames.array.copy()
    frames.path.write_bytes(frames.path.read_bytes()[:1000])
    told: list[str] = []
    np.testing.assert_array_equal(
        open_frames(open_dataset(root), CAMERA, None, cache, told.append).array, expected
    )
    assert told


@pytest.mark.slow
def test_processes_that_ask_at_once_decode_once(root, cache):
    # All have started before one may ask, and each frame takes a while.
    together = """
import os, time
pathlib.Path(sys.argv[2], str(os.getpid())).touch()
while len(list(pathlib.Path(sys.argv[2]).glob("[0-9]*"))) < 3:
    time.sleep(0.01)
write = os.pwrite
def slowly(*arguments):
    time.sleep(0.02)
    return write(*arguments)
os.pwrite = slowly
"""
    cache.mkdir()
    asking = [start(root, cache, together) for _ in range(3)]
    told = []
    for process in asking:
        out, err = process.communicate(timeout=400)
        assert process.returncode == 0, err
        told.append(out)
    assert sum("38 of 38 frames" in out for out in told) == 1
    assert len(list((cache / "frames").glob("*.npy"))) == 1


@pytest.mark.slow
def test_a_builder_that_dies_half_way_leaves_no_lock_and_no_map(root, cache):
    # The process ends without any cleaning up, as when it is killed, after its tenth frame.
    dying = start(
        root,
        cache,
        before="""
import os
write, left = os.pwrite, [10]
def write_ten(*arguments):
    left[0] -= 1
    if left[0] < 0:
        os._exit(9)
    return write(*arguments)
os.pwrite = write_ten
""",
    )
    dying.communicate(timeout=400)
    assert dying.returncode == 9
    assert len(list((cache / "frames").glob("*.building-*"))) == 1
    assert list((cache / "frames").glob("*.npy")) == []

    dataset = open_dataset(root)
    frames = open_frames(dataset, CAMERA, None, cache)
    np.testing.assert_array_equal(frames.array, dataset.pictures(CAMERA, np.arange(38)))
    assert list((cache / "frames").glob("*.building-*")) == []


def test_too_small_a_disk_is_an_error_before_anything_is_written(make_dataset, cache):
    dataset = open_dataset(make_dataset(cameras={CAMERA: PNG}))
    with pytest.raises(
        DiskFullError, match=r"38 frames of observation.image at 3000000×1000000 px take"
    ) as error:
        open_frames(dataset, CAMERA, (3_000_000, 1_000_000), cache)
    assert error.value.reason == "out_of_disk"
    assert list((cache / "frames").glob("*.npy*")) == []


@pytest.mark.parametrize("time", [float("nan"), float("inf"), 1e30])
def test_what_is_no_time_of_a_video_is_refused(root, time):
    from trainables.dataset.format.decode import VideoError, _nearest_frames

    (video,) = (root / "videos").rglob("*.mp4")
    for times in ([time, 0.1], [0.0, time]):
        with pytest.raises(VideoError, match=r"has no frame at (nan|inf|1e\+30) s"):
            list(_nearest_frames(video, np.array(times), 0.1))


@pytest.mark.slow
def test_a_frame_too_far_from_its_time_names_episode_camera_and_file(root, cache):
    def shift(data):
        times = data["timestamp"].to_pylist()
        times[15] += 0.03  # frame 3 of episode 1
        return data.set_column(
            data.column_names.index("timestamp"), "timestamp", pa.array(times, pa.float32())
        )

    edit_table(root / "data/chunk-000/file-000.parquet", shift)
    film_again(next(root.rglob("*.mp4")), numbered_pictures(39, height=HEIGHT, width=WIDTH))
    words = (
        r"episode 1, frame 3, observation\.image: the video has no frame within 0\.0001 s .* nearest at 1\.5"
    )
    with pytest.raises(DatasetError, match=words) as error:
        open_frames(open_dataset(root), CAMERA, None, cache)
    assert ".mp4" in str(error.value)
    tolerant = open_dataset(root, tolerance_s=0.05)
    assert open_frames(tolerant, CAMERA, None, cache).array.shape[0] == 38


@pytest.mark.slow
def test_long_gaps_and_long_videos_are_decoded_in_pieces(make_dataset, cache):
    root = make_dataset(cameras={CAMERA: PICTURE}, lengths=(1100, 40, 400))
    dataset = open_dataset(root)
    (part,) = dataset.frame_parts(CAMERA)
    assert len(part.split(1024)) == 2
    frames = open_frames(dataset, CAMERA, None, cache)
    rows = np.array([0, 1023, 1024, 1100, 1139, 1140, 1539])
    np.testing.assert_array_equal(frames.take(rows), dataset.pictures(CAMERA, rows))
    straight = np.concatenate([picture[None] for picture in decode_straight(part.path)])
    np.testing.assert_array_equal(frames.array, straight)

    apart = open_dataset(root, episodes=[0, 2]).frame_parts(CAMERA)[0]
    assert [len(piece.rows) for piece in apart.split(10_000)] == [1500]
    far = apart.choose(np.array([0, 1, 400, 401, 1200]))
    assert [piece.rows.tolist() for piece in far.split(10_000)] == [[0, 1], [400, 401], [1200]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"g": "250", "bf": "3"}),
        pytest.param("libx264", {"g": "7", "bf": "2"}, marks=pytest.mark.slow),
        pytest.param(
            "libx265", {"x265-params": "log-level=none:keyint=40:bframes=4"}, marks=pytest.mark.slow
        ),
    ],
)
def test_frames_between_rare_key_frames_are_found_in_any_order(make_dataset, cache, codec, options):
    camera = DatasetFeature("video", (64, 96, 3), ["height", "width", "channels"])  # x265 crashes on less
    root = make_dataset(cameras={CAMERA: camera}, lengths=(150, 60, 40))
    encode_again(next(root.rglob("*.mp4")), codec, options)
    dataset = open_dataset(root)
    straight = np.stack(list(decode_straight(next(root.rglob("*.mp4")))))
    assert len(straight) == 250
    np.testing.assert_array_equal(open_frames(dataset, CAMERA, None, cache).array, straight)
    for row in (0, 1, 37, 149, 150, 209, 248, 249):
        np.testing.assert_array_equal(dataset.pictures(CAMERA, np.array([row]))[0], straight[row])
    part = open_dataset(root, episodes=[1])
    np.testing.assert_array_equal(open_frames(part, CAMERA, None, cache / "part").array, straight[150:210])


def encode_again(path, codec, options):
    other = path.with_suffix(".other.mp4")
    with av.open(str(path)) as source, av.open(str(other), "w") as target:
        stream = target.add_stream(codec, rate=10, options=options)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        for number, frame in enumerate(source.decode(video=0)):
            fresh = av.VideoFrame.from_ndarray(frame.to_ndarray(format="rgb24"), format="rgb24")
            fresh.pts, fresh.time_base = number, Fraction(1, 10)
            target.mux(stream.encode(fresh))
        target.mux(stream.encode())
    other.replace(path)


def decode_straight(path):
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            yield np.moveaxis(frame.to_ndarray(format="rgb24"), -1, 0)
