"""The doctor: each fault is found in a dataset that was made to have it, and a sound one has none."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from demonstrations import CAMERA, FPS, HEIGHT, PICTURE, WIDTH, record, scene
from PIL import Image, ImageFilter
from small_sets import edit_info, edit_table, film_again, numbered_pictures

from trainables.dataset.doctor.looks import SAMPLED_EPISODES, SAMPLED_FRAMES, sampled_rows
from trainables.dataset.doctor.preflight import preflight
from trainables.dataset.errors import DatasetError
from trainables.dataset.format.schema import DatasetFeature
from trainables.dataset.open import open_dataset
from trainables.interface import ConfigError, DatasetExaminer, Examination, Finding
from trainables.registry import load

SMALL = {"few_episodes"}
"""What every set here has that is small on purpose."""


def examine(root: Path | list[Path], every_frame: bool = False, **config: Any) -> Examination:
    """Examine a dataset; ``policy__horizon=8`` sets ``policy.horizon``."""
    examiner = load("diffusion_policy")
    assert isinstance(examiner, DatasetExaminer)
    named = [str(one) for one in root] if isinstance(root, list) else str(root)
    fields = {"dataset.root": named, **{key.replace("__", "."): value for key, value in config.items()}}
    return examiner.examine(fields, Path("unused"), every_frame=every_frame)


def found(root: Path | list[Path], every_frame: bool = False, **config: Any) -> dict[str, Finding]:
    """Findings by check, those of a small set left out; each check finds one thing."""
    findings = [f for f in examine(root, every_frame, **config).findings if f.check not in SMALL]
    checks = [finding.check for finding in findings]
    assert len(set(checks)) == len(checks), findings
    return dict(zip(checks, findings, strict=True))


def only(findings: dict[str, Finding], check: str) -> Finding:
    assert list(findings) == [check], findings
    return findings[check]


def table(root: Path) -> Path:
    return next((root / "data").rglob("*.parquet"))


def column(name: str, change: Callable[[np.ndarray], Any]) -> Callable[[Any], Any]:
    """An edit that changes a plain column of a table."""

    def edit(whole: Any) -> Any:
        values = np.array(whole[name].to_pylist())
        change(values)
        place = whole.column_names.index(name)
        return whole.set_column(
            place, whole.schema.field(name), pa.array(values, whole.schema.field(name).type)
        )

    return edit


def rows_of(episode: int, length: int = 40) -> slice:
    return slice(episode * length, (episode + 1) * length)


# -- sound


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """500 episodes."""
    return record(tmp_path_factory.mktemp("sound") / "set", (18, 25, 21, 30) * 125, camera=False)


@pytest.mark.slow
def test_a_sound_dataset_has_no_finding(sound):
    examination = examine(sound)
    assert examination.findings == ()
    assert examination.summary["episodes"] == 500
    assert examination.summary["exclude_episodes"] is None


@pytest.mark.slow
@pytest.mark.parametrize("version", ["v3.0", pytest.param("v2.1", marks=pytest.mark.slow), "v2.0"])
def test_a_small_sound_dataset_is_only_small(tmp_path, version):
    root = record(tmp_path / "set", (20,) * 12, version=version, episodes_per_file=5)
    before = sorted((path, path.stat().st_mtime_ns) for path in root.rglob("*"))
    finding = examine(root, every_frame=True).findings
    assert [(f.check, f.severity) for f in finding] == [("few_episodes", "warning")]
    assert finding[0].problem == "12 episodes; 500 are recommended, below 100 is few."
    assert sorted((path, path.stat().st_mtime_ns) for path in root.rglob("*")) == before


@pytest.mark.slow
def test_from_100_episodes_on_their_number_is_a_note(tmp_path):
    root = record(tmp_path / "set", (16, 20) * 50, camera=False)
    (finding,) = examine(root).findings
    assert (finding.check, finding.severity) == ("few_episodes", "note")


@pytest.mark.slow
def test_two_sound_datasets_are_sound_together(tmp_path):
    one = record(tmp_path / "one", (20,) * 6, seed=1)
    two = record(tmp_path / "two", (20,) * 6, seed=2, version="v2.1")
    assert found([one, two]) == {}


@pytest.mark.slow
def test_what_was_looked_at_is_said(tmp_path):
    root = record(tmp_path / "set", (40, 90, 12))
    assert examine(root).summary["pictures"] == {CAMERA: 112}
    assert examine(root, every_frame=True).summary["pictures"] == {CAMERA: 142}


@pytest.mark.slow
def test_the_sample_does_not_grow_with_the_dataset(sound):
    dataset = open_dataset(sound)
    rows = sampled_rows(dataset, every_frame=False)
    assert len(rows) == SAMPLED_FRAMES
    assert len({dataset.episode_of(int(row)).index for row in rows}) == SAMPLED_EPISODES
    assert {0, len(dataset) - 1} <= set(rows.tolist())
    assert (np.diff(rows) > 0).all()
    assert len(sampled_rows(dataset, every_frame=False, leave_out=range(499))) == 30


# -- what cannot be read


@pytest.mark.slow
def test_a_folder_without_metadata_is_a_finding(tmp_path):
    root = record(tmp_path / "set", camera=False)
    (root / "meta" / "info.json").unlink()
    finding = only(found(root), "unreadable_dataset")
    assert finding.severity == "error"
    assert "no meta/info.json" in finding.problem
    assert finding.why.endswith("v3.0, fps 10, the features observation.state, action.")


def test_no_folder_is_the_users_mistake(tmp_path):
    with pytest.raises(DatasetError, match="is not a folder"):
        examine(tmp_path / "nowhere")


def test_episodes_that_do_not_exist_are_the_users_mistake(tmp_path):
    root = record(tmp_path / "set", camera=False)
    with pytest.raises(DatasetError, match="do not exist"):
        examine(root, dataset__exclude_episodes=[77])
    with pytest.raises(ConfigError, match=r"policy\.horizon"):
        examine(root, policy__horizon=7)


@pytest.mark.slow
@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e38])
def test_numbers_without_measure_stop_no_check(tmp_path, value):
    def spoil(episode, columns):
        if episode == 3:
            columns["action"][4, 1] = value

    checks = found(record(tmp_path / "set", camera=False, change=spoil))
    assert ("not_finite" in checks) is bool(np.isinf(value))


def test_an_action_that_changes_only_between_episodes_stops_no_check(tmp_path):
    def hold(episode, columns):
        columns["action"][:, 1] = episode

    assert "units_mixed" not in found(record(tmp_path / "set", camera=False, change=hold))


@pytest.mark.slow
def test_episodes_with_missing_rows_are_found_and_the_others_examined(tmp_path):
    def spoil(episode, columns):
        if episode == 2:
            columns["action"][7] = np.nan

    root = record(tmp_path / "set", camera=False, change=spoil)
    edit_table(table(root), lambda whole: whole.slice(0, 460))
    examination = examine(root)
    findings = {finding.check: finding for finding in examination.findings}
    assert findings["unreadable_episodes"].episodes == (11,)
    assert "20 rows, the metadata says 40" in findings["unreadable_episodes"].problem
    assert findings["not_finite"].episodes == (2,)
    assert {findings[check].severity for check in ("unreadable_episodes", "not_finite")} == {"error"}
    assert examination.summary["exclude_episodes"] == "[2, 11]"
    clean = examine(root, dataset__exclude_episodes=[2, 11])
    assert [finding.check for finding in clean.findings] == ["few_episodes"]


@pytest.mark.slow
def test_missing_data_files_cost_their_episodes_only(tmp_path):
    root = record(tmp_path / "set", camera=False, version="v2.1")
    for path in sorted((root / "data").rglob("*.parquet"))[3:6]:
        path.unlink()
    examination = examine(root)
    assert examination.findings[0].check == "unreadable_episodes"
    assert examination.findings[0].episodes == (3, 4, 5)
    assert examination.summary["exclude_episodes"] == "[3-5]"
    assert examination.summary["episodes"] == 9


@pytest.mark.slow
def test_a_missing_video_is_told_once_and_the_others_are_looked_at(tmp_path):
    root = record(tmp_path / "set", (40,) * 6, version="v2.1")
    sorted(root.rglob("*.mp4"))[4].unlink()
    finding = only(found(root), "broken_video")
    assert (finding.severity, finding.where, finding.episodes) == ("error", CAMERA, (4,))
    assert "dataset.exclude_episodes: [4]" in finding.remedy
    assert examine(root).summary["pictures"] == {CAMERA: 200}
    assert found(root, dataset__exclude_episodes=["4-4"]) == {}


@pytest.mark.slow
def test_every_affected_file_is_listed(tmp_path):
    root = record(tmp_path / "set", (8,) * 31, version="v2.1")
    videos, data = sorted(root.rglob("*.mp4")), sorted((root / "data").rglob("*.parquet"))
    for path in videos[:25]:
        path.write_bytes(path.read_bytes()[:300])
    for path in data[25:30]:
        path.write_bytes(b"")
    findings = {finding.check: finding for finding in examine(root).findings}
    broken = findings["broken_video"]
    assert broken.files == tuple(map(str, videos[:25]))
    assert broken.episodes == tuple(range(25))
    assert f"(25 of 26 videos, first {videos[0]}, {videos[1]}, {videos[2]})" in broken.problem
    unreadable = findings["unreadable_episodes"]
    assert unreadable.files == tuple(map(str, data[25:30]))
    assert "5 of 31 data files cannot be used (episode_000025.parquet, " in unreadable.problem


@pytest.mark.slow
def test_files_with_several_kinds_of_damage_are_told_by_kind(tmp_path):
    root = record(tmp_path / "set", (8,) * 8, version="v2.1", camera=False)
    data = sorted((root / "data").rglob("*.parquet"))
    data[1].write_bytes(b"")
    for path in data[3:5]:
        path.write_bytes(path.read_bytes()[:-9])
    findings = [f for f in examine(root).findings if f.check == "unreadable_episodes"]
    assert {found.files: found.episodes for found in findings} == {
        (str(data[1]),): (1, 3, 4),
        tuple(map(str, data[3:5])): (1, 3, 4),
    }


@pytest.mark.slow
def test_pictures_that_cannot_be_decoded_are_found(tmp_path):
    root = record(tmp_path / "set", version="v2.1", extra={"observation.image": DatasetFeature(
        "image", (HEIGHT, WIDTH, 3), ["height", "width", "channels"])}, camera=False,
        change=lambda episode, columns: columns.update(
            {"observation.image": np.full((40, HEIGHT, WIDTH, 3), 9, np.uint8) + scene().astype(np.uint8)}
        ))  # fmt: skip

    def spoil(whole: Any) -> Any:
        cells = whole["observation.image"].to_pylist()
        cells[5] = {"bytes": b"no picture", "path": None}
        place = whole.column_names.index("observation.image")
        kind = whole.schema.field("observation.image").type
        return whole.set_column(place, whole.schema.field("observation.image"), pa.array(cells, kind))

    edit_table(sorted((root / "data").rglob("*.parquet"))[6], spoil)
    finding = found(root)["unreadable_pictures"]
    assert (finding.severity, finding.episodes) == ("error", (6,))
    assert "episode 6, frame 5" in finding.problem


# -- time and numbering


@pytest.mark.slow
def test_timestamps_that_do_not_increase_are_a_warning_if_pictures_are_read_by_row(tmp_path):
    root = record(tmp_path / "set")
    edit_table(table(root), column("timestamp", lambda seconds: seconds.__setitem__(3 * 40 + 9, 0.1)))
    findings = found(root)
    assert set(findings) == {"timestamps", "frames_by_row"}
    assert {finding.severity for finding in findings.values()} == {"warning"}
    assert findings["timestamps"].episodes == (3,)
    assert findings["frames_by_row"].episodes == (3,)
    assert "episode 3, frame 9" in findings["timestamps"].problem
    assert preflight(root) == []


@pytest.mark.slow
def test_timestamps_without_a_frame_are_an_error_of_every_launch(tmp_path):
    root = record(tmp_path / "set", (40,) * 6, version="v2.1")
    edit_table(sorted((root / "data").rglob("*.parquet"))[5], column("timestamp", lambda s: s.__iadd__(0.04)))
    video = sorted(root.rglob("*.mp4"))[5]
    film_again(video, numbered_pictures(42, height=HEIGHT, width=WIDTH))
    findings = found(root)
    assert (findings["timestamps"].severity, findings["timestamps"].episodes) == ("warning", (5,))
    lost = findings["lost_frames"]
    assert (lost.severity, lost.where, lost.episodes) == ("error", CAMERA, (5,))
    assert "42 frames for 40 rows" in lost.problem
    assert lost.remedy.startswith("Set dataset.tolerance_s: 0.05 if that is the right picture, or set ")
    (fault,) = preflight(root)
    assert fault.where == CAMERA
    assert preflight(root, exclude_episodes=[5]) == []

    # A wider tolerance makes it legal, and hides nothing.
    assert preflight(root, tolerance_s=0.05) == []
    tolerated = found(root, dataset__tolerance_s=0.05)
    assert (tolerated["frames_off"].severity, tolerated["frames_off"].episodes) == ("warning", (5,))
    assert "up to 0.0400 s" in tolerated["frames_off"].problem
    assert tolerated["timestamps"].episodes == (5,)


@pytest.mark.slow
def test_timestamps_that_are_late_are_a_warning(tmp_path):
    def late(seconds: np.ndarray) -> None:
        seconds[rows_of(5)] += 0.04

    blind = record(tmp_path / "blind", camera=False)
    edit_table(table(blind), column("timestamp", late))
    finding = only(found(blind), "timestamps")
    assert (finding.severity, finding.episodes) == ("warning", (5,))
    assert preflight(blind) == []


@pytest.mark.slow
def test_a_wrong_frame_rate_is_told_by_the_timestamps(tmp_path):
    root = record(tmp_path / "set", camera=False)
    edit_info(root, fps=30)
    finding = only(found(root), "timestamps")
    assert "fps 30; the usual step is 0.1000 s" in finding.problem


@pytest.mark.slow
def test_frames_out_of_order_are_an_error_and_gaps_a_warning(tmp_path):
    root = record(tmp_path / "set", camera=False)

    def swap(numbers: np.ndarray) -> None:
        numbers[[2 * 40 + 4, 2 * 40 + 5]] = [5, 4]

    edit_table(table(root), column("frame_index", swap))
    scrambled = found(root)["frames_out_of_order"]
    assert scrambled.episodes == (2,)
    assert "first at episode 2, frame 4" in scrambled.problem
    assert preflight(root)[0].where == "frame_index"

    gapped = record(tmp_path / "gapped", camera=False)

    def skip(values: np.ndarray) -> None:
        values[4 * 40 + 20 : 5 * 40] += 3 if values.dtype.kind == "i" else 0.3

    edit_table(table(gapped), column("frame_index", skip))
    edit_table(table(gapped), column("timestamp", skip))
    finding = only(found(gapped), "missing_frames")
    assert (finding.severity, finding.episodes) == ("warning", (4,))
    assert finding.problem == "leaves out 3 frames in episode 4: before episode 4, frame 20."


@pytest.mark.slow
def test_gaps_in_the_times_are_named_with_their_places(tmp_path):
    root = record(tmp_path / "set", camera=False)

    def late(seconds: np.ndarray) -> None:
        seconds[2 * 40 + 10 : 3 * 40] += 0.25
        seconds[7 * 40 + 30 : 8 * 40] += 0.4

    edit_table(table(root), column("timestamp", late))
    problem = only(found(root), "timestamps").problem
    places = "before episode 2, frame 10; episode 7, frame 30"
    assert f"2 gaps, the longest of 0.50 s before episode 7, frame 30: {places}." in problem


@pytest.mark.slow
def test_restarts_are_named_with_their_places(tmp_path):
    root = record(tmp_path / "set", camera=False)

    def restart(values: np.ndarray) -> None:
        values[5 * 40 + 15 : 6 * 40] -= values[5 * 40 + 15]

    for name in ("frame_index", "timestamp"):
        edit_table(table(root), column(name, restart))
    findings = found(root)
    assert (
        "2 recordings, one after the other; at episode 5, frame 15." in findings["several_recordings"].problem
    )
    assert "1 frame of episode 5, at episode 5, frame 15." in findings["timestamps"].problem


@pytest.mark.slow
def test_totals_that_are_not_there_are_found(tmp_path):
    root = record(tmp_path / "set", camera=False)
    edit_info(root, total_episodes=20, total_frames=480)
    finding = only(found(root), "totals")
    assert finding.problem == "has total_episodes 20, there are 12."


@pytest.mark.slow
def test_missing_episodes_and_a_wrong_order_are_found(tmp_path):
    root = record(tmp_path / "set", camera=False, version="v2.1")
    for name in ("episodes.jsonl", "episodes_stats.jsonl"):
        lines = (root / "meta" / name).read_text().splitlines(keepends=True)
        (root / "meta" / name).write_text("".join(lines[:4] + lines[6:]))
    for number in (4, 5):
        next(root.rglob(f"episode_{number:06}.parquet")).unlink()
    edit_info(root, total_episodes=10, total_frames=400)
    assert "2 episodes of 0 to 11 are not there: 4-5" in only(found(root), "missing_episodes").problem

    swapped = record(tmp_path / "swapped", camera=False)

    def swap(index: np.ndarray) -> None:
        index[rows_of(3)], index[rows_of(4)] = index[rows_of(4)].copy(), index[rows_of(3)].copy()

    edit_table(table(swapped), column("index", swap))
    finding = only(found(swapped), "episodes_out_of_order")
    assert finding.severity == "warning"
    assert "episode 4, frame 0" in finding.problem


@pytest.mark.slow
def test_a_video_with_more_frames_than_rows_is_found(tmp_path):
    root = record(tmp_path / "set", (40,) * 2 + (60,) + (40,) * 3, version="v2.1")
    videos = sorted(root.rglob("*.mp4"))
    shutil.copy(videos[2], videos[4])
    finding = only(found(root), "video_frame_count")
    assert "60 frames for 40 rows" in finding.problem
    assert finding.episodes == (4,)


@pytest.mark.slow
def test_frames_that_the_table_of_episodes_leaves_out_are_none_too_many(tmp_path):
    root = record(tmp_path / "set", (40,) * 4)
    (video,) = root.rglob("*.mp4")
    film_again(video, numbered_pictures(200, height=HEIGHT, width=WIDTH))
    assert "video_frame_count" not in found(root)


# -- the folder


@pytest.mark.slow
def test_features_that_info_json_and_the_files_do_not_share_are_found(tmp_path):
    root = record(tmp_path / "set", (20,) * 4, camera=False, version="v2.1")
    assert "features_differ" not in found(root)
    info = json.loads((root / "meta" / "info.json").read_text())
    info["features"]["observation.force"] = {"dtype": "float32", "shape": [3], "names": None}
    edit_info(root, features=info["features"])
    data = sorted((root / "data").rglob("*.parquet"))
    for path in data[1:3]:
        edit_table(path, lambda whole: whole.append_column("torque", pa.array([0.5] * len(whole))))
    finding = found(root)["features_differ"]
    assert finding.where == str(root / "meta" / "info.json")
    assert "has the feature observation.force, which no data file has" in finding.problem
    assert "does not have the column torque of the data files (2 of 4 files, first" in finding.problem
    assert finding.files == tuple(map(str, data[1:3]))


@pytest.mark.slow
def test_links_that_leave_the_folder_are_found_and_those_of_the_hub_are_not(tmp_path):
    root = record(tmp_path / "set", (20,) * 4, camera=False, version="v2.1")
    data = sorted((root / "data").rglob("*.parquet"))
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    data[0].rename(blobs / "abc")
    data[0].symlink_to(blobs / "abc")
    data[1].rename(data[1].with_name("original.bin"))
    data[1].symlink_to("original.bin")
    assert found(root) == {}
    for path in data[2:]:
        path.rename(tmp_path / path.name)
        path.symlink_to(tmp_path / path.name)
    finding = only(found(root), "links")
    assert finding.files == tuple(map(str, data[2:]))
    assert (
        f"2 links lead to a place outside the folder, or to an absolute path; first {data[2]}"
        in finding.problem
    )

    (tmp_path / data[2].name).unlink()
    findings = [one for one in examine(root).findings if one.check == "links"]
    assert any("a link leads to nothing" in one.problem for one in findings)


def test_absolute_paths_are_found(tmp_path):
    root = record(tmp_path / "set", (20,) * 4, camera=False)
    edit_info(root, source={"recorded_in": "/home/anna/recordings/set", "unit": "m/s", "rate": "/s"})
    finding = only(found(root), "absolute_paths")
    assert finding.problem.startswith('source.recorded_in: "/home/anna/recordings/set": absolute paths')


# -- recorded statistics


def edit_statistics(root: Path, feature: str, **changes: Any) -> None:
    path = root / "meta" / "stats.json"
    recorded = json.loads(path.read_text())
    recorded[feature] |= changes
    path.write_text(json.dumps(recorded))


@pytest.mark.slow
def test_statistics_that_contradict_the_data_are_found(tmp_path):
    root = record(tmp_path / "set", camera=False)
    edit_statistics(root, "observation.state", mean=[0, 0, 0.9, 0.4])
    finding = only(found(root), "recorded_statistics")
    assert (finding.where, finding.severity) == ("observation.state", "warning")
    assert "mean of dimension" in finding.problem
    assert found(root, dataset__exclude_episodes=[3]) == {}, "a part of the data has other statistics"


@pytest.mark.slow
def test_values_outside_the_recorded_range_are_found_with_their_episodes(tmp_path):
    def wide(episode, columns):
        if episode == 7:
            columns["action"][:, 0] *= 1.5

    root = record(tmp_path / "set", camera=False, change=wide)
    edit_statistics(root, "action", max=[1, 1, 1, 1.1], min=[-1, -1, -1, -0.1])
    findings = found(root)
    assert findings["outside_recorded_range"].episodes == (7,)
    assert "dimension 0" in findings["outside_recorded_range"].problem


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"std": [[[0.0]]] * 3}, "std is 0, 0, 0"),
        ({"std": [[[0.002]]] * 3}, "far too small"),
        ({"mean": [[[114.0]]] * 3}, "outside [0, 1]"),
        ({"mean": [[[0.9]]] * 3}, "mean is 0.9"),
        ({"mean": np.full((3, 2, 2), 0.5).tolist()}, "one number per channel"),
    ],
)
def test_wrong_image_statistics_are_a_note(tmp_path, changes, problem):
    root = record(tmp_path / "set", (20,) * 4)
    edit_statistics(root, CAMERA, **changes)
    finding = only(found(root), "recorded_statistics")
    assert (finding.where, finding.severity) == (CAMERA, "note")
    assert problem in finding.problem


@pytest.mark.slow
def test_statistics_of_episodes_are_put_together(tmp_path):
    root = record(tmp_path / "set", (20, 35, 50, 41), camera=False, version="v2.1")
    path = root / "meta" / "episodes_stats.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[2]["stats"]["action"]["std"] = [5.0] * 4
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "std of dimension 0" in only(found(root), "recorded_statistics").problem


# -- numbers


def spoiled(root: Path, **changes: Callable[[int, dict[str, np.ndarray]], Any]) -> Path:
    return record(root, camera=False, **changes)


def test_constant_and_nearly_constant_dimensions_are_named(tmp_path):
    noise = np.random.default_rng(0)

    def stuck(_, columns):
        columns["observation.state"][:, 1] = 0.25
        columns["observation.state"][:, 2] = noise.normal(0, 1e-3, 40)

    findings = found(spoiled(tmp_path / "set", change=stuck))
    assert list(findings) == ["constant_dimension", "nearly_constant_dimension"]
    assert "dimension 1 (y) never varies (always 0.25)" in findings["constant_dimension"].problem
    assert "dimension 2 (yaw)" in findings["nearly_constant_dimension"].problem


@pytest.mark.slow
def test_a_spike_that_squeezes_the_others_is_found(tmp_path):
    def spike(episode, columns):
        if episode == 5:
            columns["action"][11, 0] = 40

    root = spoiled(tmp_path / "set", change=spike)
    finding = found(root)["outliers"]
    assert finding.where == "action"
    assert "dimension 0 (x): values far outside the rest in 1 frame of episode 5" in finding.problem
    assert "40 in episode 5, frame 11" in finding.problem
    assert finding.episodes == (5,)
    assert "dataset.exclude_episodes: [5]" in finding.remedy
    assert "policy.normalization_action: QUANTILES" in finding.remedy
    assert "outliers" not in found(root, policy__normalization_action="QUANTILES")
    assert found(root, dataset__exclude_episodes=[5]) == {}


@pytest.mark.slow
def test_jumps_are_found_and_a_snapping_gripper_is_none(tmp_path):
    def teleport(episode, columns):
        columns["action"][:, 3] = np.round(columns["action"][:, 3])
        if episode == 8:
            columns["observation.state"][20:, 1] += 1.2

    finding = only(found(spoiled(tmp_path / "set", change=teleport)), "jumps")
    assert finding.where == "observation.state"
    assert "dimension 1 (y): 1 jump in episode 8" in finding.problem
    assert "episode 8, frame 20" in finding.problem
    assert finding.episodes == (8,)


@pytest.mark.slow
def test_an_angle_that_wraps_is_found(tmp_path):
    def turn(_, columns):
        angle = np.linspace(0, 4 * np.pi, 41)
        columns["observation.state"][:, 2] = (angle[:-1] + np.pi) % (2 * np.pi) - np.pi
        columns["action"][:, 2] = angle[1:]

    finding = only(found(spoiled(tmp_path / "set", change=turn)), "angle_wraps")
    assert finding.where == "observation.state[2] (yaw)"
    assert len(finding.episodes) == 12


@pytest.mark.slow
def test_standing_still_at_the_ends_is_found(tmp_path):
    def wait(episode, columns):
        for name in ("observation.state", "action"):
            if episode in (3, 9):
                columns[name][: 3 * FPS] = columns[name][3 * FPS]
            if episode == 4:
                columns[name][-9:] = columns[name][-9]

    finding = only(found(spoiled(tmp_path / "set", change=wait)), "idle_ends")
    assert finding.episodes == (3, 9)
    assert "longest in episode 3: 3.1 s at the start" in finding.problem
    assert finding.severity == "warning"


@pytest.mark.slow
def test_the_same_episode_twice_is_found_also_where_it_differs_by_rounding(tmp_path):
    kept: dict[str, np.ndarray] = {}
    noise = np.random.default_rng(1)

    def again(episode, columns):
        if episode == 2:
            kept.update({name: columns[name].copy() for name in ("observation.state", "action")})
        if episode in (6, 10):
            for name, values in kept.items():
                columns[name][:] = values + (noise.normal(0, 1e-4, values.shape) if episode == 10 else 0)

    finding = only(found(spoiled(tmp_path / "set", change=again)), "duplicate_episodes")
    assert finding.episodes == (6, 10)
    assert "2 = 6 = 10" in finding.problem
    assert "dataset.exclude_episodes: [6, 10]" in finding.remedy


@pytest.mark.slow
def test_actions_of_a_few_levels_are_a_note(tmp_path):
    def keys(_, columns):
        columns["action"][:, :2] = np.round(columns["action"][:, :2])

    root = record(tmp_path / "set", (40,) * 30, camera=False, change=keys)
    finding = only(found(root), "few_levels")
    assert finding.severity == "note"
    assert "dimensions 0 (x), 1 (y) take only 3, 3 different values" in finding.problem


@pytest.mark.slow
@pytest.mark.parametrize(("lag", "words"), [(0, "of the same frame"), (1, "of the frame before")])
def test_an_action_that_only_repeats_the_state_is_found(tmp_path, lag, words):
    def copy(_, columns):
        state = columns["observation.state"]
        columns["action"][:] = state if lag == 0 else np.concatenate([state[:1], state[:-1]])

    finding = only(found(spoiled(tmp_path / "set", change=copy)), "action_is_state")
    assert words in finding.problem


# -- the collection


@pytest.mark.slow
def test_short_episodes_are_found_and_those_without_a_window(tmp_path):
    root = record(tmp_path / "set", (40, 40, 7, 10, 40), camera=False)
    findings = found(root)
    assert findings["no_window"].episodes == (2,)
    assert findings["short_episodes"].episodes == (3,)
    assert {finding.severity for finding in findings.values()} == {"warning"}
    assert found(root, policy__horizon=8, policy__n_action_steps=7) == {}


@pytest.mark.slow
@pytest.mark.parametrize(("length", "words"), [(120, "3.0 times longer"), (12, "3.3 times shorter")])
def test_episodes_of_unusual_length_are_found(tmp_path, length, words):
    root = record(tmp_path / "set", (40, 44, 38, 41, 40, 46, length, 39, 37, 40), camera=False)
    finding = found(root, policy__horizon=8, policy__n_action_steps=7)["unusual_length"]
    assert finding.episodes == (6,)
    assert words in finding.problem
    assert f"{length} frames ({length / FPS:.1f} s)" in finding.problem


def test_other_tasks_may_be_longer(tmp_path):
    tasks = ("Push.",) * 10 + ("Push it round the table.",)
    root = record(tmp_path / "set", (20,) * 10 + (80,), camera=False, tasks=tasks)
    assert "unusual_length" not in found(root)


@pytest.mark.slow
def test_tasks_with_few_episodes_are_found(tmp_path):
    tasks = ("Push.",) * 12 + ("Pull.",) * 5
    finding = found(record(tmp_path / "set", (20,) * 17, camera=False, tasks=tasks))["few_of_a_task"]
    assert finding.episodes == (12, 13, 14, 15, 16)
    assert "1 of 2 tasks has fewer than 10 episodes; the fewest, 5, has 'Pull.'" in finding.problem

    even = record(tmp_path / "even", (16,) * 104, camera=False, tasks=("a", "b", "c", "d"))
    finding = found(even)["few_of_a_task"]
    assert "4 of 4 tasks have fewer than 50 episodes; the fewest, 26" in finding.problem
    assert "use another dataset" in finding.remedy


def test_a_dataset_without_a_window_is_an_error(tmp_path):
    root = record(tmp_path / "set", (6, 7, 5), camera=False)
    finding = found(root)["no_window"]
    assert finding.severity == "error"
    assert "exclude" not in finding.remedy


@pytest.mark.slow
def test_tasks_are_counted(tmp_path):
    root = record(tmp_path / "set", camera=False, tasks=("Push.", "Pull."))
    assert only(found(root), "several_tasks").severity == "note"

    rare = record(tmp_path / "rare", (40,) * 23, camera=False, tasks=("Push.",) * 22 + ("Pull.",))
    finding = found(rare)["task_imbalance"]
    assert (finding.severity, finding.episodes) == ("warning", (22,))
    assert "'Pull.' has 40 frames, 'Push.' 880" in finding.problem


# -- pictures


def blackened(episodes: set[int]) -> Callable[[int, dict[str, np.ndarray]], None]:
    def change(episode: int, columns: dict[str, np.ndarray]) -> None:
        if episode in episodes:
            columns[CAMERA][10:] = 2

    return change


@pytest.mark.slow
def test_black_pictures_are_found(tmp_path):
    root = record(tmp_path / "set", (40,) * 8, change=blackened({1, 6}))
    finding = only(found(root), "blank_pictures")
    assert (finding.severity, finding.where, finding.episodes) == ("warning", CAMERA, (1, 6))
    assert "60 of the 320 pictures looked at are black, first episode 1, frame 10" in finding.problem


@pytest.mark.slow
def test_a_camera_that_shows_nothing_is_an_error(tmp_path):
    def blind(_, columns):
        columns[CAMERA][:] = 128

    finding = only(found(record(tmp_path / "set", (20,) * 4, change=blind)), "blank_pictures")
    assert finding.severity == "error"
    assert "of one colour" in finding.problem
    assert f"leave {CAMERA} out of dataset.observations" in finding.remedy


@pytest.mark.slow
def test_frozen_pictures_are_found_while_the_robot_moves(tmp_path):
    def freeze(episode, columns):
        if episode == 4:
            columns[CAMERA][12:33] = columns[CAMERA][12]

    root = record(tmp_path / "set", (40,) * 6, change=freeze)
    for every_frame in (False, True):
        finding = only(found(root, every_frame), "frozen_pictures")
        assert finding.episodes == (4,)
        assert "episode 4, frame 12 on, for" in finding.problem


@pytest.mark.slow
def test_pictures_of_a_robot_that_stands_still_are_not_frozen(tmp_path):
    def rest(episode, columns):
        if episode == 4:
            for values in columns.values():
                values[12:33] = values[12]

    findings = examine(record(tmp_path / "set", change=rest), every_frame=True).findings
    assert {finding.check for finding in findings} == {"jumps", "frozen_actions", *SMALL}, (
        "it jumps at the end"
    )


@pytest.mark.slow
def test_blurred_episodes_are_found(tmp_path):
    def blur(episode, columns):
        if episode in (2, 5):
            columns[CAMERA] = np.stack(
                [
                    np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(3)))
                    for picture in columns[CAMERA]
                ]
            )

    finding = only(found(record(tmp_path / "set", (20,) * 12, change=blur)), "blurred_pictures")
    assert (finding.severity, finding.episodes) == ("warning", (2, 5))


@pytest.mark.slow
def test_crops_that_keep_little_are_found(tmp_path):
    root = record(tmp_path / "set", (20,) * 3)
    assert only(found(root, policy__crop_shape=[12, 12]), "crop").severity == "error"
    finding = only(found(root, policy__crop_shape=[24, 32]), "crop")
    assert finding.severity == "warning"
    assert "24×32 keeps 50%" in finding.problem
    assert found(root, policy__crop_shape=[28, 42]) == {}


@pytest.mark.slow
def test_cameras_of_different_size_are_an_error(tmp_path):
    wrist = DatasetFeature("video", (HEIGHT, HEIGHT, 3), PICTURE.names)
    root = record(
        tmp_path / "set",
        (20,) * 3,
        extra={"observation.images.wrist": wrist},
        change=lambda _, columns: columns.update(
            {"observation.images.wrist": columns[CAMERA][:, :, :HEIGHT].copy()}
        ),
    )
    finding = only(found(root), "crop")
    assert (finding.where, finding.severity) == ("policy.resize_shape", "error")
    assert found(root, policy__resize_shape=[32, 32]) == {}


# -- the page


def test_every_check_is_on_the_page_and_no_other():
    here = Path(__file__).parents[4]
    package = here / "trainables" / "dataset"
    files = [path for path in package.rglob("*.py") if "repair" not in path.relative_to(package).parts]
    files.append(here / "trainables" / "diffusion_policy" / "examine.py")
    assert len(files) >= 30
    text = "".join(path.read_text() for path in files)
    named = re.findall(r'check="(\w+)"|(?:Finding|_note)\(\s*"(\w+)"|"(unreadable_\w+)"', text)
    checks = {name for names in named for name in names if name}
    page = (here / "docs" / "datasets.md").read_text().split("## Checking")[1].split("## Repairing")[0]
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    assert checks == set(re.findall(r"`(\w+)`", "".join(rows)))


# -- real sets


@pytest.mark.slow
@pytest.mark.reference
def test_the_real_push_t_has_only_notes(shared):
    findings = {f.check: f for f in examine(shared / "data" / "pusht").findings}
    assert {finding.severity for finding in findings.values()} == {"note"}
    assert set(findings) == {"few_episodes", "recorded_statistics"}
    assert "LeRobot up to 0.4.4" in findings["recorded_statistics"].problem
