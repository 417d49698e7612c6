from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from small_sets import PICTURE, pictures, states

from trainables.dataset.doctor.preflight import preflight
from trainables.dataset.errors import DatasetError
from trainables.dataset.format.schema import DatasetFeature
from trainables.dataset.format.write import DatasetWriter
from trainables.dataset.open import open_dataset
from trainables.dataset.statistics import vector_statistics

VECTORS = {
    "observation.state": DatasetFeature("float32", (2,)),
    "action": DatasetFeature("float32", (2,)),
}


def columns(length: int = 4) -> dict[str, np.ndarray]:
    return {"observation.state": states(0, length), "action": states(1, length)}


@pytest.mark.slow
@pytest.mark.parametrize("version", ["v3.0", "v2.1", "v2.0"])
def test_what_is_written_is_read_back(make_dataset, version):
    png = DatasetFeature("image", (8, 6, 3), ["height", "width", "channels"])
    root = make_dataset(
        version=version, lengths=(5, 1, 3), cameras={"observation.png": png}, tasks=("A", "B")
    )

    assert preflight(root) == []
    dataset = open_dataset(root)
    assert (dataset.version, dataset.fps, len(dataset)) == (version, 10.0, 9)
    assert [(e.index, e.start, e.stop, e.tasks) for e in dataset.episodes] == [
        (0, 0, 5, ("A",)),
        (1, 5, 6, ("B",)),
        (2, 6, 9, ("A",)),
    ]
    expected = np.concatenate([states(0, 5), states(1, 1), states(2, 3)])
    np.testing.assert_array_equal(dataset.column("observation.state"), expected)
    np.testing.assert_array_equal(dataset.column("action"), 100 + expected)
    np.testing.assert_array_equal(dataset.column("index")[:, 0], np.arange(9))
    np.testing.assert_array_equal(dataset.column("task_index")[:, 0], [0] * 5 + [1] + [0] * 3)
    shown = np.concatenate([pictures(e, n, 8, 6) for e, n in enumerate((5, 1, 3))])
    np.testing.assert_array_equal(
        dataset.pictures("observation.png", np.arange(9)), np.moveaxis(shown, -1, 1)
    )


def test_statistics_in_the_files_are_those_of_the_data(make_dataset):
    png = DatasetFeature("image", (8, 6, 3), ["height", "width", "channels"])
    root = make_dataset(lengths=(30, 20), cameras={"observation.png": png})
    stats = json.loads((root / "meta" / "stats.json").read_text())

    values = np.concatenate([states(0, 30), states(1, 20)]).astype(np.float64)
    for name, value in vector_statistics(values).items():
        np.testing.assert_allclose(stats["observation.state"][name], value)
    pixels = np.concatenate([pictures(0, 30, 8, 6), pictures(1, 20, 8, 6)]) / 255
    image = stats["observation.png"]
    assert np.shape(image["std"]) == (3, 1, 1)
    np.testing.assert_allclose(np.ravel(image["std"]), pixels.std(axis=(0, 1, 2)))
    np.testing.assert_allclose(np.ravel(image["mean"]), pixels.mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(np.ravel(image["q90"]), np.quantile(pixels, 0.9, axis=(0, 1, 2)))
    assert image["count"] == [50]


def test_episode_rows_of_v3_say_where_everything_is(make_dataset):
    root = make_dataset(lengths=(5, 6, 7), cameras={"observation.image": PICTURE}, episodes_per_file=2)
    rows = pq.ParquetFile(root / "meta/episodes/chunk-000/file-000.parquet").read().to_pylist()

    assert [(row["dataset_from_index"], row["dataset_to_index"]) for row in rows] == [
        (0, 5),
        (5, 11),
        (11, 18),
    ]
    assert [row["data/file_index"] for row in rows] == [0, 0, 1]
    assert [row["videos/observation.image/file_index"] for row in rows] == [0, 0, 1]
    starts = [row["videos/observation.image/from_timestamp"] for row in rows]
    np.testing.assert_allclose(starts, [0, 0.5, 0])
    assert rows[1]["stats/observation.state/count"] == [6]


@pytest.mark.slow
def test_a_video_is_av1_where_the_encoder_is_here(make_dataset):
    camera = DatasetFeature("video", (64, 64, 3), ["height", "width", "channels"])
    root = make_dataset(lengths=(3, 2), cameras={"observation.image": camera}, encoder=None)
    info = json.loads((root / "meta" / "info.json").read_text())["features"]["observation.image"]["info"]

    assert info["video.codec"] in ("av1", "h264")
    shown = np.moveaxis(np.concatenate([pictures(0, 3, 64, 64), pictures(1, 2, 64, 64)]), -1, 1)
    read = open_dataset(root).pictures("observation.image", np.arange(5))
    assert np.abs(read.astype(float) - shown).mean() < 12  # lossy, and yet the same pictures


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="only Linux has scheduling policies")
def test_an_encoder_does_not_take_the_cpus_from_other_processes(tmp_path):
    # SVT-AV1 asks for real-time priority if it may, that is, if the tests run as root.
    features = {
        "observation.images.top": DatasetFeature("video", (16, 16, 3), ["height", "width", "channels"])
    }
    with DatasetWriter(tmp_path / "set", fps=10, features=features) as writer:
        frames = np.zeros((3, 16, 16, 3), np.uint8)
        writer.add_episode({"observation.images.top": frames}, task="Look.")
        threads = [int(thread.name) for thread in Path("/proc/self/task").iterdir()]
        assert {os.sched_getscheduler(thread) for thread in [0, *threads]} == {os.SCHED_OTHER}


def test_a_failed_writer_leaves_nothing(tmp_path):
    def fail():
        with DatasetWriter(tmp_path / "set", fps=10, features=VECTORS) as writer:
            writer.add_episode(columns())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_appears_only_when_it_is_finished(tmp_path):
    writer = DatasetWriter(tmp_path / "set", fps=10, features=VECTORS)
    writer.add_episode(columns())
    assert not (tmp_path / "set").exists()
    writer.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_an_existing_folder_is_never_touched(tmp_path, make_dataset):
    root = make_dataset()
    with pytest.raises(DatasetError, match="exists already"):
        DatasetWriter(root, fps=10, features=VECTORS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"action": states(0, 3)}, "different or no length"),
        ({"action": np.zeros((4, 3), np.float32)}, r"shape \(3,\).*shape is \(2,\)"),
        ({"extra": np.zeros(4)}, "unknown: \\['extra'\\]"),
    ],
)
def test_an_episode_that_does_not_fit_is_refused(tmp_path, change, words):
    writer = DatasetWriter(tmp_path / "set", fps=10, features=VECTORS)
    with pytest.raises(DatasetError, match=words):
        writer.add_episode(columns() | change)
    writer.add_episode(columns())
    assert len(open_dataset(writer.finish())) == 4


def test_a_writer_without_episodes_makes_no_dataset(tmp_path):
    with pytest.raises(DatasetError, match="no episode was added"):
        DatasetWriter(tmp_path / "set", fps=10, features=VECTORS).finish()
    assert list(tmp_path.iterdir()) == []
