"""Every row is shown with the picture of its own moment, or the dataset is refused before training."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from small_sets import edit_table, film_again, numbered_pictures, seen_numbers

from trainables.dataset.doctor.preflight import preflight
from trainables.dataset.doctor.quick import quick_findings
from trainables.dataset.doctor.videos import open_videos
from trainables.dataset.errors import DatasetError
from trainables.dataset.format.schema import DatasetFeature
from trainables.dataset.format.video import VideoError, probe_video
from trainables.dataset.frames import open_frames
from trainables.dataset.open import open_dataset

CAMERA = "observation.images.front"
TINY = DatasetFeature("video", (16, 16, 3), ["height", "width", "channels"])
LENGTHS = (6, 8, 5)
ROWS = sum(LENGTHS)


@pytest.fixture
def make(make_dataset) -> Callable[..., Path]:
    """Write a dataset whose pictures show the number of their row."""

    def write(version: str = "v3.0", cameras: tuple[str, ...] = (CAMERA,), **options: Any) -> Path:
        first, changes = 0, {}
        for episode, length in enumerate(LENGTHS):
            changes |= {(camera, episode): numbered_pictures(length, first) for camera in cameras}
            first += length
        features = dict.fromkeys(cameras, TINY)
        return make_dataset(cameras=features, lengths=LENGTHS, version=version, changes=changes, **options)

    return write


def set_column(path: Path, name: str, values: Any) -> None:
    def edit(table: pa.Table) -> pa.Table:
        place = table.column_names.index(name)
        new = values(np.array(table[name].to_pylist(), float)) if callable(values) else values
        return table.set_column(place, name, pa.array(new, table.schema.field(name).type))

    edit_table(path, edit)


def episodes_table(root: Path) -> Path:
    return next((root / "meta" / "episodes").rglob("*.parquet"))


def checks(root: Path, **options: Any) -> dict[str, str]:
    dataset = open_dataset(root, **options)
    return {found.check: found.severity for found in quick_findings(dataset, open_videos(dataset))}


def shown(root: Path, cache: Path, camera: str = CAMERA, **options: Any) -> list[int]:
    """The numbers that the decoded frames show, which are those of the loader too."""
    dataset = open_dataset(root, **options)
    frames = np.array(open_frames(dataset, camera, None, cache).array)
    alone = np.concatenate([dataset.pictures(camera, np.array([row])) for row in range(len(dataset))])
    np.testing.assert_array_equal(frames, alone)
    return seen_numbers(frames)


@pytest.mark.slow
@pytest.mark.parametrize("version", ["v3.0", "v2.1", "v2.0"])
def test_a_sound_set_shows_each_row_and_has_no_finding(make, tmp_path, version):
    root = make(version)
    assert shown(root, tmp_path) == list(range(ROWS))
    assert checks(root) == {}


@pytest.mark.slow
@pytest.mark.parametrize("starts", [[0.0, 0.0, 0.0], [0.0, 0.649, 1.449], [0.0, 0.6, 0.6], [0.0, 90.0, 99.0]])
def test_wrong_stretches_of_a_shared_video_are_read_by_row_and_reported(make, tmp_path, starts):
    root = make(cameras=(CAMERA, "observation.images.wrist"))
    set_column(episodes_table(root), f"videos/{CAMERA}/from_timestamp", starts)
    assert shown(root, tmp_path) == list(range(ROWS))
    assert checks(root) == {"frames_by_row": "warning"}
    (finding,) = quick_findings(dataset := open_dataset(root), open_videos(dataset))
    assert finding.where == CAMERA
    assert 2 in finding.episodes
    assert 0 not in finding.episodes


@pytest.mark.slow
def test_stretches_that_share_frames_are_refused_before_a_launch(make, tmp_path):
    root = make()
    film_again(next(root.rglob("*.mp4")), numbered_pictures(ROWS + 1))
    set_column(episodes_table(root), f"videos/{CAMERA}/from_timestamp", [0.0, 0.4, 1.4])
    (fault,) = preflight(root)
    assert fault.where == CAMERA
    assert "4 rows of episodes [0, 1] have no frame of their own" in fault.problem
    assert "20 frames for 19 rows" in fault.problem
    assert "dataset.exclude_episodes: [0, 1]" in fault.remedy
    with pytest.raises(DatasetError, match=r"one frame at 0\.4000 s for several rows"):
        open_frames(open_dataset(root), CAMERA, None, tmp_path)
    assert preflight(root, exclude_episodes=[0]) == []
    assert shown(root, tmp_path, exclude_episodes=[0]) == [*range(4, 12), *range(14, 19)]


@pytest.mark.slow
@pytest.mark.parametrize("version", ["v3.0", "v2.1", "v2.0"])
def test_a_wall_clock_is_read_by_row_whatever_the_tolerance(make, tmp_path, version):
    root = make(version)
    noise = np.random.default_rng(0)
    for path in (root / "data").rglob("*.parquet"):
        set_column(path, "timestamp", lambda old: old * 1.1 + 0.03 + noise.uniform(-0.02, 0.02, len(old)))
    for tolerance_s in (1e-4, 0.05, 1.0):
        assert shown(root, tmp_path / str(tolerance_s), tolerance_s=tolerance_s) == list(range(ROWS))
        assert checks(root, tolerance_s=tolerance_s) == {"timestamps": "warning", "frames_by_row": "warning"}


@pytest.mark.slow
def test_a_wall_clock_without_as_many_frames_is_refused(make):
    root = make("v2.1")
    for path in (root / "data").rglob("*.parquet"):
        set_column(path, "timestamp", lambda old: old * 0.6 + 0.03)
    for path, length in zip(sorted(root.rglob("*.mp4")), LENGTHS, strict=True):
        film_again(path, numbered_pictures(length + 3))
    # With a tolerance of a whole frame several rows would share one.
    for tolerance_s in (1e-4, 0.2):
        faults = preflight(root, tolerance_s=tolerance_s)
        assert [fault.where for fault in faults] == [CAMERA]
        assert "no frame of their own" in faults[0].problem


@pytest.mark.slow
@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(10000, 1001), 25])
def test_a_video_of_another_rate_is_read_by_row(make, tmp_path, rate):
    root = make("v2.1")
    first = 0
    for path, length in zip(sorted(root.rglob("*.mp4")), LENGTHS, strict=True):
        film_again(path, numbered_pictures(length, first), rate=rate)
        first += length
    assert shown(root, tmp_path) == list(range(ROWS))
    assert checks(root) == {"frames_by_row": "warning"}


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"bf": "0", "g": "2"}, {"bf": "2", "g": "12"}])
def test_a_video_with_uneven_frames_is_read_by_row(make, tmp_path, options):
    root = make("v2.1")
    generator = np.random.default_rng(1)
    first = 0
    for path, length in zip(sorted(root.rglob("*.mp4")), LENGTHS, strict=True):
        ticks = np.cumsum(generator.integers(5, 20, length)).tolist()
        film_again(path, numbered_pictures(length, first), rate=100, ticks=ticks, options=options)
        np.testing.assert_allclose(probe_video(path).times_s * 100, np.array(ticks), atol=0.1)
        first += length
    assert shown(root, tmp_path) == list(range(ROWS))
    assert checks(root) == {"frames_by_row": "warning"}


@pytest.mark.parametrize("name", ["film.mkv", "film.ts"])
def test_a_file_whose_header_lists_no_frames_is_read_whole(tmp_path, name):
    film_again(tmp_path / name, numbered_pictures(7), rate=10)
    times_s = probe_video(tmp_path / name).times_s
    np.testing.assert_allclose(times_s - times_s[0], np.arange(7) / 10, atol=2e-3)


def test_an_episode_of_a_truncated_video_is_named(make, tmp_path):
    root = make("v2.1")
    path = sorted(root.rglob("*.mp4"))[1]
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    with pytest.raises(VideoError, match="is a pointer of Git LFS"):
        probe_video(path)
    (fault,) = preflight(root)
    assert "is a pointer of Git LFS" in fault.problem
    assert fault.remedy.startswith("Run `git lfs pull` in the dataset's folder, or")
    assert "dataset.exclude_episodes: [1]" in fault.remedy


def test_a_stretch_that_does_not_fit_its_episode_is_reported(make):
    root = make()
    film_again(next(root.rglob("*.mp4")), numbered_pictures(ROWS + 4))
    set_column(episodes_table(root), f"videos/{CAMERA}/from_timestamp", [0.0, 1.0, 1.8])
    set_column(episodes_table(root), f"videos/{CAMERA}/to_timestamp", [1.0, 1.8, 2.3])
    dataset = open_dataset(root)
    (finding,) = quick_findings(dataset, open_videos(dataset))
    assert (finding.check, finding.severity, finding.episodes) == ("stretch_length", "warning", (0,))
    assert "1.00 s for 0.60 s of rows in episode 0" in finding.problem


@pytest.mark.parametrize("rate", [10, Fraction(30000, 1001)])
def test_a_file_with_even_frames_needs_no_list_in_memory(tmp_path, rate):
    film_again(tmp_path / "film.mp4", numbered_pictures(50), rate=rate)
    video = probe_video(tmp_path / "film.mp4")
    assert video.uneven_s is None
    np.testing.assert_allclose(video.times_s, np.arange(50) / float(rate), atol=1e-9)


@pytest.mark.slow
def test_several_files_of_several_episodes_are_read_each_by_its_own_rule(make, tmp_path):
    """The first file has as many frames as rows, the second has more and is read by time."""
    root = make(episodes_per_file=2)
    files = sorted(root.rglob("*.mp4"))
    film_again(files[0], numbered_pictures(14), rate=Fraction(30000, 1001))
    film_again(files[1], numbered_pictures(9, 14))
    dataset = open_dataset(root)
    assert shown(root, tmp_path) == list(range(ROWS))
    findings = {found.check: found for found in quick_findings(dataset, open_videos(dataset))}
    assert list(findings) == ["frames_by_row"]
    assert findings["frames_by_row"].episodes == (0, 1)
    assert "1 of 2 videos" in findings["frames_by_row"].problem


@pytest.mark.slow
def test_a_deleted_episode_leaves_its_frames_behind(make, tmp_path):
    """LeRobot's tools delete rows and leave the video as it is."""
    root = make()
    edit_table(episodes_table(root), lambda table: pa.concat_tables([table.slice(0, 1), table.slice(2)]))
    edit_table(
        next((root / "data").rglob("*.parquet")),
        lambda table: pa.concat_tables([table.slice(0, LENGTHS[0]), table.slice(LENGTHS[0] + LENGTHS[1])]),
    )
    assert shown(root, tmp_path) == [*range(6), *range(14, 19)]
    assert checks(root) == {}
