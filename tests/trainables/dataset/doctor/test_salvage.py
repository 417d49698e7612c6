"""One fault hides no other: what can be read of a dataset is examined, whatever is wrong with the rest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from demonstrations import CAMERA, record
from small_sets import edit_info, edit_table

from trainables.dataset.doctor.preflight import preflight
from trainables.interface import DatasetExaminer, Examination
from trainables.registry import load

LENGTHS = (20,) * 6


def examine(root: Path | list[Path]) -> Examination:
    examiner = load("diffusion_policy")
    assert isinstance(examiner, DatasetExaminer)
    named = [str(one) for one in root] if isinstance(root, list) else str(root)
    return examiner.examine({"dataset.root": named}, Path("unused"))


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:300])


def videos(root: Path) -> list[Path]:
    return sorted(root.rglob("*.mp4"))


def tables(root: Path) -> list[Path]:
    return sorted((root / "data").rglob("*.parquet"))


def edit_features(root: Path, **changes: object) -> None:
    """Change or (None) delete features of info.json."""
    features = json.loads((root / "meta" / "info.json").read_text())["features"]
    for name, value in changes.items():
        if value is None:
            del features[name]
        else:
            features[name] = {**features[name], **value}  # type: ignore[dict-item]
    edit_info(root, features=features)


def with_a_nan(episode: int, columns: dict[str, np.ndarray]) -> None:
    if episode == 5:
        columns["observation.state"][3, 1] = np.nan


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """Six episodes; a NaN in the last one's state, and the first one's video cut off."""

    def made(name: str = "set", version: str = "v2.1") -> Path:
        root = record(tmp_path / name, LENGTHS, version=version, change=with_a_nan)
        cut_off(videos(root)[0])
        return root

    return made


def reported(examination: Examination) -> set[str]:
    return {finding.check for finding in examination.findings if finding.severity == "error"}


OTHERS = {"not_finite", "broken_video"}
"""What else is wrong with every set here."""


@pytest.mark.slow
def test_metadata_data_and_videos_that_are_broken_at_once_are_all_reported(make):
    root = make()
    edit_info(root, fps=None, codebase_version="v9")
    cut_off(tables(root)[2])
    for path in videos(root)[3:5]:
        path.write_bytes(b"")
    examination = examine(root)
    errors = [found for found in examination.findings if found.severity == "error"]
    problems = {(found.check, found.files): found for found in errors}
    metadata = [found for found in errors if found.where == str(root / "meta" / "info.json")]
    assert [found.problem for found in metadata] == ["codebase_version is 'v9'.", "fps is None."]
    assert metadata[1].why.endswith("The other checks use fps 10, as the files show.")
    assert problems["unreadable_episodes", (str(tables(root)[2]),)].episodes == (2,)
    assert problems["broken_video", (str(videos(root)[0]),)].episodes == (0,)
    assert problems["broken_video", tuple(map(str, videos(root)[3:5]))].episodes == (3, 4)
    assert problems["not_finite", ()].episodes == (5,)
    summary = examination.summary
    assert (summary["version"], summary["fps"], summary["episodes"]) == ("v2.1", 10, 5)
    assert summary["exclude_episodes"] is None, "excluding episodes does not repair info.json"
    assert summary["skipped"] == []


@pytest.mark.slow
@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda root: (root / "meta" / "info.json").unlink(), id="no info.json"),
        pytest.param(lambda root: cut_off(root / "meta" / "info.json"), id="info.json cut off"),
        pytest.param(lambda root: edit_info(root, fps="fast"), id="fps"),
        pytest.param(lambda root: edit_info(root, chunks_size="many"), id="chunks_size"),
        pytest.param(lambda root: edit_info(root, features=None), id="no features"),
        pytest.param(lambda root: edit_features(root, action={"shape": [7]}), id="another shape"),
        pytest.param(lambda root: edit_features(root, action={"shape": "four"}), id="no shape"),
        pytest.param(lambda root: edit_features(root, action=None), id="no action"),
        pytest.param(lambda root: edit_info(root, codebase_version="v1.6"), id="another version"),
    ],
)
def test_an_error_in_info_json_hides_no_other(make, version, spoil):
    root = make(version=version)
    spoil(root)
    assert reported(examine(root)) == {"unreadable_dataset", *OTHERS}


@pytest.mark.slow
def test_the_version_of_the_files_is_used_if_info_json_has_another(make):
    root = make(version="v3.0")
    edit_info(root, codebase_version="v2.1")
    examination = examine(root)
    assert reported(examination) == {"unreadable_dataset", *OTHERS}
    assert examination.summary["version"] == "v3.0"


@pytest.mark.slow
def test_tables_of_tasks_and_episodes_that_are_broken_hide_nothing(make):
    root = make("tasks", "v3.0")
    cut_off(root / "meta" / "tasks.parquet")
    assert reported(examine(root)) == {"unreadable_dataset", *OTHERS}

    root = make("lines")
    with (root / "meta" / "episodes.jsonl").open("w") as file:
        file.write('{"episode_index": 0, "leng')
    examination = examine(root)
    assert reported(examination) == {"unreadable_dataset", *OTHERS}
    assert examination.summary["episodes"] == 6

    root = make("table", "v3.0")
    cut_off(next((root / "meta" / "episodes").rglob("*.parquet")))
    examination = examine(root)
    assert reported(examination) == {"unreadable_dataset", *OTHERS}
    (video,) = [found for found in examination.findings if found.check == "broken_video"]
    assert video.files == (str(videos(root)[0]),)
    assert examination.summary["skipped"] == [f"the pictures of {CAMERA} (their places are not known)"]


@pytest.mark.slow
def test_lengths_that_are_all_wrong_are_reported_and_those_of_the_data_used(make):
    root = make(version="v3.0")

    def longer(table: pa.Table) -> pa.Table:
        return table.set_column(table.column_names.index("length"), "length", pa.array([21] * len(table)))

    edit_table(next((root / "meta" / "episodes").rglob("*.parquet")), longer)
    examination = examine(root)
    assert reported(examination) == {"unreadable_dataset", *OTHERS}
    assert examination.summary["frames"] == 120


@pytest.mark.slow
def test_sets_that_were_merged_without_new_numbers_cost_the_rows_only(make):
    root = make(version="v3.0")
    (data,) = tables(root)
    other = data.with_name("file-001.parquet")
    shutil.copy(data, other)

    def moved(table: pa.Table) -> pa.Table:
        values = pa.array([[9.0] * 4] * len(table), table.schema.field("action").type)
        return table.set_column(table.column_names.index("action"), table.schema.field("action"), values)

    edit_table(other, moved)
    examination = examine(root)
    assert reported(examination) == {"unreadable_dataset", "broken_video"}
    assert examination.summary["skipped"] == ["states and actions (the data files cannot be read)"]


@pytest.mark.slow
@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda root: [cut_off(path) for path in tables(root)], id="cut off"),
        pytest.param(lambda root: shutil.rmtree(root / "data"), id="no data"),
    ],
)
def test_videos_are_examined_without_any_data_file(make, version, spoil):
    root = make(version=version)
    edit_info(root, fps=None)
    spoil(root)
    examination = examine(root)
    assert reported(examination) == {"unreadable_dataset", "broken_video"}
    assert examination.summary["skipped"] == ["states and actions (the data files cannot be read)"]
    assert examination.summary["fps"] == 10, "as the videos, or the table of episodes, have it"


@pytest.mark.slow
def test_a_column_that_is_missing_costs_only_its_checks(make):
    root = make()
    for path in tables(root):
        edit_table(path, lambda table: table.drop_columns(["action"]))
    examination = examine(root)
    assert reported(examination) == {"unreadable_dataset", *OTHERS}
    assert examination.summary["skipped"] == ["action (the data files do not have it)"]


@pytest.mark.slow
def test_a_data_file_that_cannot_be_read_costs_its_episodes_in_every_version(tmp_path):
    root = record(tmp_path / "set", LENGTHS, camera=False, episodes_per_file=2)
    cut_off(tables(root)[1])
    (fault,) = preflight(root)
    assert fault.episodes == (2, 3)
    assert preflight(root, exclude_episodes=[2, 3]) == []
    assert examine(root).summary["exclude_episodes"] == "[2, 3]"


def test_statistics_that_cannot_be_read_are_reported(tmp_path):
    root = record(tmp_path / "set", LENGTHS, camera=False)
    cut_off(root / "meta" / "stats.json")
    (found,) = [one for one in examine(root).findings if one.check == "recorded_statistics"]
    assert found.severity == "warning"
    assert "cannot be read: is not valid JSON" in found.problem


@pytest.mark.slow
def test_datasets_that_do_not_match_are_examined_one_by_one(make, tmp_path):
    one, two = make("one"), record(tmp_path / "two", LENGTHS, camera=False, change=with_a_nan, seed=3)
    examination = examine([one, two])
    assert reported(examination) == {"unreadable_dataset", *OTHERS}
    assert examination.summary["episodes"] == 12


def test_a_folder_with_nothing_to_examine_is_one_finding(tmp_path):
    (tmp_path / "set" / "meta").mkdir(parents=True)
    (tmp_path / "set" / "meta" / "info.json").write_text("{}")
    examination = examine(tmp_path / "set")
    assert {found.where for found in examination.findings} == {str(tmp_path / "set" / "meta" / "info.json")}
    assert examination.summary == {}
