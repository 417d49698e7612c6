"""`repair`: each certain fault is repaired in a copy that has the same frames, is clean, and fits LeRobot."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_sets import PICTURE, edit_info, edit_table, film_again, pictures, states

from trainables.dataset.doctor.bookkeeping import bookkeeping_findings, open_books
from trainables.dataset.doctor.quick import quick_findings
from trainables.dataset.doctor.videos import open_videos
from trainables.dataset.errors import DatasetError, DiskFullError
from trainables.dataset.format.schema import DatasetFeature
from trainables.dataset.lerobot_dataset import LeRobotDataset
from trainables.dataset.open import open_dataset
from trainables.dataset.repair import copied
from trainables.dataset.repair import repair as repairing
from trainables.dataset.repair.repair import repair
from trainables.interface import Repair

CAMERA = "observation.images.front"
IMAGE = DatasetFeature("image", PICTURE.shape, PICTURE.names)
LENGTHS = (12, 7, 9, 10)
DATA, EPISODES = "data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"


@pytest.fixture
def make(make_dataset) -> Callable[..., Path]:
    """A dataset with a camera, in one file if the version has such."""

    def written(**options: Any) -> Path:
        path: Path = make_dataset(lengths=LENGTHS, **{"cameras": {CAMERA: PICTURE}, **options})
        return path

    return written


def set_column(path: Path, name: str, change: Callable[[np.ndarray], Any]) -> None:
    """Change a column of numbers."""

    def edit(table: Any) -> Any:
        place = table.column_names.index(name)
        values = change(np.array(table[name].to_pylist()))
        return table.set_column(place, name, pa.array(list(values), table.schema.field(name).type))

    edit_table(path, edit)


def drop(path: Path, *names: str) -> None:
    edit_table(path, lambda table: table.drop_columns(list(names)))


def keep_rows(path: Path, keep: Callable[[Any], Any]) -> None:
    edit_table(path, lambda table: table.filter(pa.array(keep(table))))


def edit_lines(path: Path, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    rows = change([json.loads(line) for line in path.read_text().splitlines()])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def content(root: Path) -> dict[str, str]:
    """A digest of each file of a folder."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def checks(dataset: LeRobotDataset) -> list[str]:
    """What the doctor finds without decoding."""
    videos = open_videos(dataset)
    found = [*dataset.notes, *quick_findings(dataset, videos)]
    return [one.check for one in [*found, *bookkeeping_findings(dataset, open_books(dataset), videos)]]


def repaired(root: Path, **options: Any) -> tuple[Repair, Path]:
    """Repair a dataset; the original must stay as it is, and nothing may lie beside the copy."""
    before = content(root)
    to = root.with_name("new")
    found = repair(root, to, **options)
    assert content(root) == before
    assert sorted(path.name for path in root.parent.iterdir()) == sorted(
        [root.name, "new"][: 1 + found.written]
    )
    return found, to


def is_sound(
    root: Path, episodes: Sequence[tuple[int, int, int]] | None = None, *, allowed: Sequence[str] = ()
) -> LeRobotDataset:
    """Check a copy: clean, with the frames of the original, and as LeRobot reads it, by position and time.

    Args:
        root: The copy.
        episodes: For each of its episodes number, first frame and length in the original.
        allowed: Checks that may find something.
    """
    wanted = episodes or [(number, 0, length) for number, length in enumerate(LENGTHS)]
    dataset = open_dataset(root)
    assert set(checks(dataset)) <= set(allowed)
    assert [len(episode) for episode in dataset.episodes] == [length for *_, length in wanted]
    expected = np.concatenate([states(n, first + length)[first:] for n, first, length in wanted])
    assert np.array_equal(dataset.vector("observation.state"), expected)
    assert np.array_equal(dataset.vector("action"), 100 + expected)
    if CAMERA in dataset.features:
        shown = dataset.pictures(CAMERA, np.arange(len(dataset)))
        filmed = np.concatenate([pictures(n, first + length)[first:] for n, first, length in wanted])
        off = np.abs(shown.astype(int) - np.moveaxis(filmed, -1, 1)).mean(axis=(1, 2, 3))
        assert off.max() < 8  # another frame of the walking square differs by more
    _fits_lerobot(root, dataset)
    return dataset


def _fits_lerobot(root: Path, dataset: LeRobotDataset) -> None:
    """What LeRobot relies on without a check."""
    files = sorted((root / "data").glob("*/*.parquet"))
    rows = pa.concat_tables([pq.ParquetFile(path).read() for path in files]).to_pydict()
    lengths = [len(episode) for episode in dataset.episodes]
    frame = np.concatenate([np.arange(length) for length in lengths])
    assert rows["index"] == list(range(sum(lengths)))
    assert rows["frame_index"] == frame.tolist()
    assert rows["episode_index"] == np.repeat(np.arange(len(lengths)), lengths).tolist()
    assert np.array_equal(rows["timestamp"], (frame / dataset.fps).astype(np.float32))
    info = json.loads((root / "meta" / "info.json").read_text())
    assert info["total_episodes"] == len(lengths)
    assert info["total_frames"] == sum(lengths)
    assert info["splits"] == {"train": f"0:{len(lengths)}"}
    if info["codebase_version"] == "v3.0":
        _table_fits(root, rows, lengths)


def _table_fits(root: Path, rows: dict[str, list[Any]], lengths: Sequence[int]) -> None:
    tasks = pq.ParquetFile(root / "meta" / "tasks.parquet").read().to_pydict()
    assert tasks["task_index"] == list(range(len(tasks["task_index"])))  # LeRobot counts, and reads no number
    table = pq.ParquetFile(root / EPISODES).read().to_pylist()
    stops = np.cumsum(lengths).tolist()
    for number, row in enumerate(table):
        assert (row["dataset_from_index"], row["dataset_to_index"]) == (
            stops[number] - lengths[number],
            stops[number],
        )
        place = f"data/chunk-{row['data/chunk_index']:03d}/file-{row['data/file_index']:03d}.parquet"
        assert (
            number
            in pq.ParquetFile(root / place).read(columns=["episode_index"])["episode_index"].to_pylist()
        )
        start = stops[number] - lengths[number]
        assert row["tasks"] == [tasks["__index_level_0__"][rows["task_index"][start]]]
        values = np.array(rows["action"][start : stops[number]])
        assert np.allclose(row["stats/action/mean"], values.mean(axis=0), rtol=1e-5)


# -- a sound set


@pytest.mark.slow
@pytest.mark.parametrize("version", ["v3.0", "v2.1", "v2.0"])
def test_a_sound_set_needs_no_change(make, version):
    root = make(version=version)
    found, new = repaired(root)
    assert (found.changes, found.remaining, found.left_behind, found.written) == ((), (), (), True)
    assert found.summary["version"] == version
    is_sound(new)


@pytest.mark.slow
def test_videos_are_copied_byte_by_byte_and_linked_on_request(make):
    root = make()
    video = f"videos/{CAMERA}/chunk-000/file-000.mp4"
    _, new = repaired(root)
    assert (new / video).read_bytes() == (root / video).read_bytes()
    assert (new / video).stat().st_ino != (root / video).stat().st_ino
    shutil.rmtree(new)
    _, new = repaired(root, hard_links=True)
    assert (new / video).stat().st_ino == (root / video).stat().st_ino


# -- faults with a certain repair


def _wrong_times(root: Path) -> None:
    set_column(root / DATA, "timestamp", lambda values: (1.07 * values + 0.03).astype(np.float32))


def _no_numbers(root: Path) -> None:
    drop(root / DATA, "index", "frame_index", "timestamp", "task_index", "episode_index")


def _zeros(root: Path) -> None:
    for name in ("index", "frame_index"):
        set_column(root / DATA, name, lambda values: 0 * values)


def _rows_in_another_order(root: Path) -> None:
    order = np.r_[np.arange(12), 12 + np.random.default_rng(0).permutation(7), np.arange(19, 38)]
    edit_table(root / DATA, lambda table: table.take(pa.array(order)))
    set_column(root / DATA, "index", lambda values: np.arange(38))


def _lengths(root: Path) -> None:
    set_column(root / EPISODES, "length", lambda values: values + np.array([0, 3, 0, -2]))


def _starts_at_0(root: Path) -> None:
    set_column(root / EPISODES, f"videos/{CAMERA}/from_timestamp", lambda values: 0 * values)


def _half_a_frame(root: Path) -> None:
    set_column(root / EPISODES, f"videos/{CAMERA}/from_timestamp", lambda values: values + 0.049)


def _no_places(root: Path) -> None:
    edit_table(
        root / EPISODES, lambda t: t.drop_columns([n for n in t.column_names if n.startswith("videos/")])
    )


def _places_of_rows(root: Path) -> None:
    set_column(root / EPISODES, "dataset_from_index", lambda values: values + 1)


def _statistics(root: Path) -> None:
    path = root / "meta" / "stats.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"action": {"min": [0, 0], "max": [1, 1]}}))


def _statistics_of_an_episode(root: Path) -> None:
    set_column(root / EPISODES, "stats/action/mean", lambda values: np.full(values.shape, np.nan).tolist())


def _unlisted_episode(root: Path) -> None:
    edit_table(root / EPISODES, lambda table: table.slice(0, 3))


def _tasks_out_of_order(root: Path) -> None:
    path = root / "meta" / "tasks.parquet"
    set_column(path, "task_index", lambda values: [7, 5])
    set_column(root / DATA, "task_index", lambda values: np.array([7, 5])[values])


def _rate_of_info(root: Path) -> None:
    edit_info(root, fps=30)


def _no_rate(root: Path) -> None:
    edit_info(root, fps=float("nan"))


def _version(root: Path) -> None:
    edit_info(root, codebase_version="v2.1")


def _totals(root: Path) -> None:
    edit_info(root, total_frames=1, total_tasks=9, splits={"train": "0:7"})


def _features(root: Path) -> None:
    info = json.loads((root / "meta" / "info.json").read_text())
    features = info["features"]
    features[CAMERA] |= {"dtype": "uint8", "shape": [9, 9, 3]}
    features["observation.state"]["shape"] = [5]
    features["annotation"] = {"dtype": "int64"}
    del features["timestamp"]
    edit_info(root, features=features)
    edit_table(root / DATA, lambda t: t.append_column("reward", pa.array(np.ones(len(t), np.float32))))


def _copied_file(root: Path) -> None:
    shutil.copy(root / DATA, root / DATA.replace("file-000", "file-001"))


def _table_out_of_order(root: Path) -> None:
    edit_table(root / EPISODES, lambda table: table.take(pa.array([2, 3, 0, 1])))


def _no_length(root: Path) -> None:
    def edit(table: Any) -> Any:
        place = table.column_names.index("length")
        return table.set_column(place, "length", pa.array([12, None, 9, 10]))

    edit_table(root / EPISODES, edit)


def _folder_of_videos(root: Path) -> None:
    (root / "videos").rename(root / "video")


def _template(root: Path) -> None:
    edit_info(root, data_path="data/{nonsense}.parquet")


FAULTS: dict[Callable[[Path], None], set[str]] = {
    _wrong_times: {"timestamps"},
    _no_numbers: {"derived_columns"},
    _zeros: {"index", "frame_index"},
    _rows_in_another_order: {"frames_out_of_order", "index"},
    _lengths: {"length"},
    _starts_at_0: {"video_times"},
    _half_a_frame: {"video_times"},
    _no_places: {"empty_places", "video_times"},
    _places_of_rows: {"row_places"},
    _statistics: {"recorded_statistics"},
    _statistics_of_an_episode: {"recorded_statistics"},
    _unlisted_episode: {"unlisted_episodes", "tasks", "recorded_statistics"},
    _tasks_out_of_order: {"tasks", "task_index", "recorded_statistics"},
    _rate_of_info: {"fps"},
    _no_rate: {"fps"},
    _version: {"version"},
    _totals: {"totals", "splits"},
    _features: {"features", "absent_features", "unlisted_columns", "recorded_statistics"},
    _copied_file: {"copied_file"},
    _template: {"template"},
    _table_out_of_order: {"episodes_out_of_order"},
    _no_length: {"length"},
    _folder_of_videos: {"template"},
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__.strip("_"))
def test_a_certain_fault_is_repaired_and_listed(make, fault):
    root = make(tasks=("Push.", "Pull."))
    fault(root)
    found, new = repaired(root)
    assert {change.check for change in found.changes} == FAULTS[fault]
    assert found.remaining == ()
    dataset = is_sound(new)
    assert [dataset.task(episode.start) for episode in dataset.episodes] == ["Push.", "Pull."] * 2
    assert repair(new, None).changes == ()


@pytest.mark.slow
def test_several_faults_at_once_are_all_repaired(make):
    root = make()
    for fault in (_wrong_times, _starts_at_0, _totals, _statistics, _lengths):
        fault(root)
    found, new = repaired(root)
    assert {"timestamps", "video_times", "totals", "recorded_statistics", "length"} <= {
        c.check for c in found.changes
    }
    is_sound(new)


def test_a_change_names_the_values_and_the_episodes(make):
    root = make()
    set_column(root / DATA, "timestamp", lambda values: np.where(np.arange(38) == 20, 5, values))
    (change,) = repaired(root)[0].changes
    assert (change.check, change.where, change.episodes) == ("timestamps", "timestamp", (2,))
    assert "5 instead of 0.1 at episode 2, row 1." in change.problem
    assert change.done == "Set to frame_index / fps."


@pytest.mark.slow
def test_a_deleted_episode_leaves_no_gap_in_the_numbers(make):
    root = make(episodes_per_file=1, files_per_chunk=2)
    edit_table(root / EPISODES, lambda table: table.filter(pa.array([True, False, True, True])))
    (root / DATA.replace("file-000", "file-001")).unlink()
    found, new = repaired(root)
    assert "Renumbered: 2 → 1, 3 → 2." in [change.done for change in found.changes]
    assert found.left_behind == (f"videos/{CAMERA}/chunk-000/file-001.mp4",)
    is_sound(new, [(0, 0, 12), (2, 0, 9), (3, 0, 10)])


@pytest.mark.slow
def test_files_in_another_order_are_sorted(make):
    root = make(episodes_per_file=2)
    first, second = sorted((root / "data").rglob("*.parquet"))
    content_of_first = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content_of_first)
    found, new = repaired(root)
    assert "episodes_out_of_order" in {change.check for change in found.changes}
    is_sound(new)


@pytest.mark.slow
@pytest.mark.parametrize("table_too", [False, True])
def test_a_merged_set_gets_new_numbers(make, table_too):
    root = make(episodes_per_file=2)
    second = root / DATA.replace("file-000", "file-001")
    for name, first in (("episode_index", 2), ("index", 19)):
        set_column(second, name, lambda values, first=first: values - first)
    if table_too:
        set_column(root / EPISODES, "episode_index", lambda values: [0, 1, 0, 1])
    found, new = repaired(root)
    assert "episode_index" in {change.check for change in found.changes}
    is_sound(new)


@pytest.mark.slow
def test_recordings_in_one_episode_become_episodes(make):
    root = make()
    again = np.r_[np.arange(5), np.arange(7)]
    set_column(root / DATA, "frame_index", lambda values: np.r_[again, values[12:]])
    set_column(root / DATA, "timestamp", lambda values: np.r_[again / 10, values[12:]].astype(np.float32))
    found, new = repaired(root)
    assert found.remaining == ()
    is_sound(new, [(0, 0, 5), (0, 5, 7), (1, 0, 7), (2, 0, 9), (3, 0, 10)])


@pytest.mark.slow
def test_v21_is_repaired_in_its_own_version(make):
    root = make(version="v2.1")
    third = root / "data/chunk-000/episode_000002.parquet"
    set_column(third, "episode_index", lambda values: 0 * values)
    set_column(third, "timestamp", lambda values: (values + 1.5).astype(np.float32))
    edit_lines(root / "meta/episodes.jsonl", lambda rows: [{**rows[0], "length": 99}, *rows[1:3]])
    edit_info(root, total_videos=0)
    found, new = repaired(root)
    assert {"timestamps", "episode_index", "length", "totals", "unlisted_episodes"} <= {
        c.check for c in found.changes
    }
    assert found.summary["version"] == "v2.1"
    is_sound(new)
    lines = (new / "meta/episodes_stats.jsonl").read_text().splitlines()
    counts = [json.loads(line)["stats"]["action"]["count"] for line in lines]
    assert counts == [[12], [7], [9], [10]]


@pytest.mark.slow
@pytest.mark.parametrize("form", [b"\xef\xbb\xbf%s", b"[%s]"])
def test_the_form_of_text_files_is_that_of_lerobot(make, form):
    root = make(version="v2.1")
    path = root / "meta/episodes.jsonl"
    lines = path.read_bytes().splitlines()
    path.write_bytes(form % (b", ".join(lines) if form.startswith(b"[") else b"\n".join(lines)))
    found, new = repaired(root)
    assert [(change.check, change.where) for change in found.changes] == [("form", "meta/episodes.jsonl")]
    is_sound(new)


@pytest.mark.slow
def test_pictures_in_the_data_files_and_beside_them(make):
    root = make(cameras={CAMERA: IMAGE})

    def beside(table: Any) -> Any:
        cells = table[CAMERA].to_pylist()
        for number, cell in enumerate(cells):
            (root / f"images/{number}.png").write_bytes(cell["bytes"])
            cell |= {"bytes": None, "path": f"images/{number}.png"}
        place = table.column_names.index(CAMERA)
        return table.set_column(place, CAMERA, pa.array(cells, table.schema.field(CAMERA).type))

    (root / "images").mkdir()
    edit_table(root / DATA, beside)
    _zeros(root)
    found, new = repaired(root)
    assert {change.check for change in found.changes} == {"index", "frame_index", "pictures_beside"}
    assert found.left_behind == ("images/",)
    is_sound(new)


@pytest.mark.slow
def test_what_lerobot_does_not_know_is_kept_and_foreign_files_are_left_behind(make):
    root = make()
    edit_table(
        root / EPISODES, lambda table: table.append_column("success", pa.array([True, False, True, True]))
    )
    edit_info(root, note="by hand")
    for name in ("README.md", "data/chunk-000/._file-000.parquet", ".cache/one", ".cache/two"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("not data")
    found, new = repaired(root)
    assert found.changes == ()
    assert found.left_behind == (".cache/", "README.md", "data/chunk-000/._file-000.parquet")
    assert json.loads((new / "meta/info.json").read_text())["note"] == "by hand"
    assert pq.ParquetFile(new / EPISODES).read()["success"].to_pylist() == [True, False, True, True]
    is_sound(new)


@pytest.mark.slow
def test_a_folder_of_links_is_copied_as_files(make, tmp_path):
    root = make()
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for number, path in enumerate(sorted(path for path in root.rglob("*") if path.is_file())):
        path.rename(blobs / str(number))
        path.symlink_to(blobs / str(number))
    found = repair(root, tmp_path / "new")
    assert (found.changes, found.left_behind) == ((), ())
    assert not any(path.is_symlink() for path in (tmp_path / "new").rglob("*"))
    is_sound(tmp_path / "new")


# -- idle ends


def _still(length: int, start: int, end: int) -> np.ndarray:
    moving = np.cumsum(np.ones((length - start - end, 2)), axis=0)
    parts = [np.repeat(moving[:1], start, axis=0), moving, np.repeat(moving[-1:], end, axis=0)]
    return np.concatenate(parts).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("cameras", [{}, {CAMERA: PICTURE}])
def test_idle_ends_are_cut_to_half_a_second_on_request(make_dataset, cameras):
    values = _still(90, 30, 20)
    changes = {(name, 0): values for name in ("observation.state", "action")}
    root = make_dataset(lengths=(90, 12), cameras=cameras, changes=changes)
    assert repair(root, None).changes == ()
    found, new = repaired(root, trim_idle=True)
    assert {"idle_ends", "totals"} <= {change.check for change in found.changes}
    assert found.remaining == ()
    dataset = open_dataset(new)
    first = 25 + 1  # the first moving frame shows what the still ones show
    assert np.array_equal(dataset.vector("action")[: len(dataset.episodes[0])], values[first : 75 - 1])
    if cameras:
        shown = dataset.pictures(CAMERA, np.array([0, 12]))
        filmed = np.moveaxis(pictures(0, 90)[[first, first + 12]], -1, 1)
        assert np.abs(shown.astype(int) - filmed).mean() < 8


@pytest.mark.slow
def test_idle_ends_of_v21_with_videos_are_listed_only(make_dataset):
    changes = {(name, 0): _still(90, 30, 20) for name in ("observation.state", "action")}
    root = make_dataset(lengths=(90, 12), cameras={CAMERA: PICTURE}, changes=changes, version="v2.1")
    found, _ = repaired(root, trim_idle=True)
    assert [change.check for change in found.changes] == []
    (remaining,) = found.remaining
    assert (remaining.check, remaining.episodes) == ("idle_ends", (0,))
    assert "v3.0" in remaining.remedy


# -- what has no certain repair


def test_lost_rows_are_reported_and_the_other_episodes_copied(make):
    root = make()
    keep_rows(root / DATA, lambda table: np.array(table["episode_index"]) != 1)
    found, new = repaired(root)
    (lost,) = found.remaining
    assert (lost.check, lost.severity, lost.episodes) == ("lost_episodes", "error", (1,))
    is_sound(new, [(0, 0, 12), (2, 0, 9), (3, 0, 10)], allowed=["video_frame_count"])


def test_a_frame_rate_that_nothing_confirms_is_not_changed(make):
    root = make(cameras={})
    edit_info(root, fps=30)
    found, new = repaired(root)
    assert found.changes == ()
    (rate,) = found.remaining
    assert rate.check == "timestamps"
    assert "1/10 s" in rate.problem
    assert "fps 30" in rate.problem
    assert np.allclose(open_dataset(new).column("timestamp")[:12, 0], np.arange(12) / 10)


def test_an_order_with_two_answers_is_not_changed(make):
    root = make(cameras={})
    order = np.random.default_rng(0).permutation(12)
    set_column(root / DATA, "frame_index", lambda values: np.r_[order, values[12:]])
    set_column(root / DATA, "timestamp", lambda values: np.r_[values[:12][order[::-1]], values[12:]])
    found, _ = repaired(root)
    assert (found.remaining[0].check, found.remaining[0].episodes) == ("frames_out_of_order", (0,))


@pytest.mark.slow
def test_a_leap_of_the_clock_is_reported_although_the_times_are_repaired(make):
    root = make()
    _wrong_times(root)
    late = np.arange(38) >= 24
    set_column(
        root / DATA, "timestamp", lambda values: (values + late * (np.arange(38) < 28)).astype(np.float32)
    )
    found, new = repaired(root)
    (leap,) = found.remaining
    assert (leap.check, leap.episodes) == ("timestamp_leaps", (2,))
    assert "after row 4 of episode 2" in leap.problem
    is_sound(new)


@pytest.mark.slow
def test_rows_without_any_times_keep_the_order_of_their_index(make):
    root = make()
    for name in ("frame_index", "timestamp"):
        set_column(root / DATA, name, lambda values: 0 * values)
    found, new = repaired(root)
    assert found.remaining == ()
    is_sound(new)


def test_missing_frames_are_not_hidden(make):
    root = make(cameras={})
    keep_rows(root / DATA, lambda table: np.arange(38) != 14)
    found, new = repaired(root)
    assert [(one.check, one.episodes) for one in found.remaining] == [("missing_frames", (1,))]
    assert "length" in {change.check for change in found.changes}
    assert open_dataset(new).column("frame_index")[12:18, 0].tolist() == [0, 1, 3, 4, 5, 6]


@pytest.mark.slow
def test_a_video_of_another_rate_is_kept_and_reported(make):
    root = make(version="v2.1")
    for number, length in enumerate(LENGTHS):
        path = root / f"videos/chunk-000/{CAMERA}/episode_{number:06d}.mp4"
        film_again(path, pictures(number, length), rate=Fraction(9990, 1000))
    found, _ = repaired(root)
    (rate,) = found.remaining
    assert rate.check == "frames_by_row"
    assert "9.99 frames a second" in rate.problem


@pytest.mark.slow
def test_statistics_that_cannot_be_computed_are_kept(make):
    root = make(episodes_per_file=2)
    recorded = json.loads((root / "meta/stats.json").read_text())
    (root / f"videos/{CAMERA}/chunk-000/file-001.mp4").write_bytes(b"")
    found, new = repaired(root)
    assert [(one.check, one.episodes) for one in found.remaining] == [("broken_video", (2, 3))]
    assert json.loads((new / "meta/stats.json").read_text())[CAMERA] == recorded[CAMERA]
    before, after = (pq.ParquetFile(folder / EPISODES).read().to_pylist() for folder in (root, new))
    assert [row[f"stats/{CAMERA}/mean"] for row in after] == [row[f"stats/{CAMERA}/mean"] for row in before]


@pytest.mark.slow
def test_a_damaged_video_and_a_number_that_is_none_are_reported(make):
    root = make(version="v2.1", changes={("action", 2): np.full((9, 2), np.nan, np.float32)})
    video = root / f"videos/chunk-000/{CAMERA}/episode_000001.mp4"
    video.write_bytes(video.read_bytes()[:500])
    found, _ = repaired(root)
    assert {(one.check, one.severity, one.episodes) for one in found.remaining} == {
        ("broken_video", "error", (1,)),
        ("not_finite", "error", (2,)),
    }


@pytest.mark.slow
def test_tasks_that_are_not_certain_stay_open(make):
    root = make(version="v2.1")
    text = '{"task_index": 0, "task": "Open."}\n{"task_index": 0, "task": "Close."}\n'
    (root / "meta/tasks.jsonl").write_text(text)
    edit_lines(root / "meta/episodes.jsonl", lambda rows: [{**rows[0], "tasks": ["Open."]}, *rows[1:]])
    found, new = repaired(root)
    (unknown,) = found.remaining
    assert (unknown.check, unknown.episodes) == ("unknown_tasks", (1, 2, 3))
    dataset = open_dataset(new)
    assert [dataset.task(episode.start) for episode in dataset.episodes] == ["Open.", "", "", ""]
    tasks = [json.loads(line)["task"] for line in (new / "meta/tasks.jsonl").read_text().splitlines()]
    assert tasks[:2] == ["Open.", "Close."]


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["pointers", "empty", "merged", "columns"])
def test_nothing_is_written_if_nothing_is_certain(make, damage):
    root = make(episodes_per_file=2)
    if damage == "pointers":
        for path in (root / "data").rglob("*.parquet"):
            path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    elif damage == "empty":
        (root / EPISODES).write_bytes(b"")
    elif damage == "columns":
        edit_table(root / DATA, lambda table: table.append_column("reward", pa.array(np.ones(19))))
    else:
        set_column(root / DATA.replace("file-000", "file-001"), "episode_index", lambda values: values - 2)
        set_column(root / EPISODES, "length", lambda values: values + 1)
    found, _ = repaired(root)
    assert not found.written
    assert found.summary == {}
    assert {one.severity for one in found.remaining} == {"error"}
    assert all(one.remedy for one in found.remaining)


# -- the place of the copy


@pytest.mark.slow
def test_a_dry_run_lists_the_same_changes_and_writes_nothing(make):
    root = make()
    _wrong_times(root)
    dry = repair(root, None)
    assert [path.name for path in root.parent.iterdir()] == [root.name]
    found, _ = repaired(root)
    assert (dry.changes, dry.written) == (found.changes, False)


@pytest.mark.slow
def test_a_place_that_is_taken_or_inside_the_dataset_is_refused(make, tmp_path):
    root = make()
    before = content(root)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("kept")
    (tmp_path / "file").write_text("kept")
    for to, said in (
        (root / "new", "inside"),
        (root, "inside"),
        (tmp_path / "full", "not empty"),
        (tmp_path / "file", "not a folder"),
    ):
        with pytest.raises(DatasetError, match=said):
            repair(root, to)
    assert content(root) == before
    (tmp_path / "free").mkdir()
    assert repair(root, tmp_path / "free").written
    with pytest.raises(DatasetError, match=r"no meta/info\.json"):
        repair(tmp_path / "full", tmp_path / "other")


@pytest.mark.slow
def test_a_disk_without_room_is_refused_before_anything_is_written(make, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(repairing.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    root = make()
    with pytest.raises(DiskFullError, match=r"needs 0\.00 GB"):
        repair(root, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == [root.name]


@pytest.mark.slow
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_copy_that_fails_leaves_nothing(make, tmp_path, monkeypatch, error):
    def fail(*_: Any) -> None:
        raise error

    root = make()
    monkeypatch.setattr(copied.shutil, "copyfile", fail)
    with pytest.raises((DiskFullError, KeyboardInterrupt)):
        repair(root, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == [root.name]


# -- LeRobot's own files


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pusht_v30", "pusht_v21", "pusht_keypoints_v30", "twocam_v30"])
def test_of_a_set_that_lerobot_wrote_only_its_wrong_statistics_are_changed(
    shared: Path, tmp_path: Path, name: str
):
    root = shared / "data" / "small" / name
    found = repair(root, tmp_path / "new")
    assert found.remaining == ()
    # LeRobot 0.4.4 writes a standard deviation of pictures that is far too small.
    wrong = {"pusht_v30", "twocam_v30"}
    assert {change.check for change in found.changes} == ({"recorded_statistics"} if name in wrong else set())
    original, copy = open_dataset(root), open_dataset(tmp_path / "new")
    for column in ("observation.state", "action", "timestamp", "index", "task_index"):
        assert np.array_equal(original.column(column), copy.column(column))
    for camera in original.policy_features.cameras:
        rows = np.array([0, len(original) - 1])
        assert np.array_equal(original.pictures(camera.name, rows), copy.pictures(camera.name, rows))
