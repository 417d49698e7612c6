"""What info.json, and the tables of tasks and episodes, can say, and what they cannot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from small_sets import edit_info, edit_table

from trainables.dataset.doctor.collection import collection_findings
from trainables.dataset.doctor.preflight import preflight
from trainables.dataset.errors import DatasetError
from trainables.dataset.format.info import whole_number
from trainables.dataset.open import open_dataset

VERSIONS = ["v3.0", "v2.1", "v2.0"]


def write_lines(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().split("\n") if line]


def set_tasks(root: Path, value: Any) -> None:
    """Give every episode other ``tasks``."""
    lines = root / "meta" / "episodes.jsonl"
    if lines.exists():
        write_lines(lines, [row | {"tasks": value} for row in read_rows(lines)])
        return

    def edit(table: pa.Table) -> pa.Table:
        place = table.column_names.index("tasks")
        return table.set_column(place, "tasks", pa.array([value] * len(table)))

    edit_table(next((root / "meta" / "episodes").rglob("*.parquet")), edit)


# -- frames per second


@pytest.mark.parametrize(
    "fps", [float("nan"), float("inf"), -float("inf"), True, False, 0, -10, "10", None, [10], 1e-9, 10**400]
)
@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
def test_a_rate_that_is_not_a_number_of_frames_per_second_is_refused(make_dataset, version, fps):
    root = make_dataset(version=version, lengths=(4, 3))
    edit_info(root, fps=fps)
    (fault,) = preflight(root)
    assert fault.where.endswith("info.json")
    assert fault.problem == f"fps is {fps!r}."
    assert "a number from 0.001 to 100,000" in fault.remedy


@pytest.mark.parametrize("fps", [10, 10.0, 29.97, 0.5])
def test_a_rate_may_be_any_sensible_number(make_dataset, fps):
    root = make_dataset(lengths=(4, 3))
    edit_info(root, fps=fps)
    assert open_dataset(root).fps == fps


@pytest.mark.parametrize("size", [True, 0.5, -1, float("nan"), "many", [1000]])
def test_a_size_of_chunks_that_is_not_a_whole_number_is_refused(make_dataset, size):
    root = make_dataset(version="v2.1", lengths=(4, 3))
    edit_info(root, chunks_size=size)
    with pytest.raises(DatasetError, match="chunks_size is"):
        open_dataset(root)


@pytest.mark.parametrize(
    ("value", "number"),
    [(3, 3), (3.0, 3), ("3", 3), (0, 0), (True, None), (1.5, None), (-1, None), (None, None), ("x", None),
     (float("nan"), None), (float("inf"), None), (2**41, None), ([3], None)],
)  # fmt: skip
def test_whole_numbers_are_told_from_what_only_looks_like_one(value: Any, number: int | None) -> None:
    assert whole_number(value) == number


@pytest.mark.parametrize("key", ["episode_index", "length"])
@pytest.mark.parametrize("value", [True, 1.5, None, "one", -1])
def test_an_episode_with_an_impossible_number_is_refused(make_dataset, key, value):
    root = make_dataset(version="v2.1", lengths=(4, 3))
    path = root / "meta" / "episodes.jsonl"
    rows = read_rows(path)
    write_lines(path, [rows[0], rows[1] | {key: value}])
    with pytest.raises(DatasetError, match=key) as error:
        open_dataset(root)
    assert error.value.faults[0].where == str(path)


# -- tasks


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("value", "texts"),
    [
        ("pick it", ("pick it",)),
        (["pick it"], ("pick it",)),
        (["pick it", "place it"], ("pick it", "place it")),
        (0, ("Push.",)),
        ([0], ("Push.",)),
        ([7], ()),
        ([], ()),
        ("", ("",)),
    ],
)
def test_the_tasks_of_an_episode_are_whole_texts(make_dataset, version, value, texts):
    root = make_dataset(version=version, lengths=(4, 3))
    set_tasks(root, value)
    assert {episode.tasks for episode in open_dataset(root).episodes} == {texts}


@pytest.mark.parametrize("said", [{"tasks": None}, {"task": "pick it"}, {"task_index": 0}])
def test_a_text_under_another_key_is_found(make_dataset, said):
    root = make_dataset(version="v2.1", lengths=(4, 3))
    path = root / "meta" / "episodes.jsonl"
    rows = [{key: value for key, value in row.items() if key != "tasks"} for row in read_rows(path)]
    write_lines(path, [row | said for row in rows])
    expected = {"task": ("pick it",), "task_index": ("Push.",)}.get(next(iter(said)), ())
    assert open_dataset(root).episodes[0].tasks == expected


def put_tasks(root: Path, pairs: list[tuple[int, str]]) -> None:
    lines = root / "meta" / "tasks.jsonl"
    if lines.exists():
        write_lines(lines, [{"task_index": number, "task": text} for number, text in pairs])
        return

    def edit(table: pa.Table) -> pa.Table:
        text = next(name for name in table.column_names if name != "task_index")
        numbers, texts = zip(*pairs, strict=True)
        return pa.table({"task_index": pa.array(numbers, pa.int64()), text: pa.array(texts)})

    edit_table(root / "meta" / "tasks.parquet", edit)


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_a_number_with_several_texts_names_no_task(make_dataset, version):
    root = make_dataset(version=version, lengths=(4, 3))
    put_tasks(root, [(0, "open the box"), (0, "close the box")])
    dataset = open_dataset(root)
    assert dataset.task(0) == ""
    (note,) = dataset.notes
    assert (note.check, note.severity) == ("ambiguous_tasks", "warning")
    assert note.problem == "task 0 has several texts: 'open the box', 'close the box'."
    # What the episode says decides, if it is one of the texts.
    set_tasks(root, ["close the box"])
    assert open_dataset(root).task(0) == "close the box"
    set_tasks(root, ["open the box", "close the box"])
    assert open_dataset(root).task(0) == ""


@pytest.mark.parametrize("version", VERSIONS)
def test_a_number_that_is_not_listed_is_the_task_of_its_episode(make_dataset, version):
    root = make_dataset(version=version, lengths=(4, 3))
    put_tasks(root, [(3, "Wipe.")])
    assert open_dataset(root).task(0) == "Push."
    set_tasks(root, ["Push.", "Wipe."])
    assert open_dataset(root).task(0) == ""


def test_rows_of_another_task_than_their_episodes_are_reported(make_dataset):
    root = make_dataset(lengths=(4, 3))
    set_tasks(root, ["Wipe."])
    dataset = open_dataset(root)
    (finding,) = [f for f in collection_findings(dataset, 1, 2, 0) if f.check == "contradictory_tasks"]
    assert finding.episodes == (0, 1)
    assert "in episode 0 'Push.', listed is 'Wipe.'" in finding.problem
    set_tasks(root, ["Wipe.", "Push."])
    checks = {f.check for f in collection_findings(open_dataset(root), 1, 2, 0)}
    assert "contradictory_tasks" not in checks


def test_the_same_text_twice_is_not_ambiguous(make_dataset):
    root = make_dataset(lengths=(4, 3))
    put_tasks(root, [(0, "Push."), (0, "Push."), (1, "Wipe.")])
    dataset = open_dataset(root)
    assert dataset.task(0) == "Push."
    assert dataset.notes == ()


def test_ambiguous_tasks_of_a_second_set_stay_unknown(make_dataset):
    one = make_dataset("one", lengths=(4, 3))
    two = make_dataset("two", lengths=(4, 3), version="v2.1")
    put_tasks(two, [(0, "open the box"), (0, "close the box")])
    dataset = open_dataset([one, two])
    assert [dataset.task(row) for row in (0, 7)] == ["Push.", ""]
    set_tasks(two, "open the box")
    assert open_dataset([one, two]).task(7) == "open the box"


def test_all_faults_of_info_json_are_reported_at_once(make_dataset):
    root = make_dataset(lengths=(4, 3))
    edit_info(root, fps="fast", codebase_version="v9", chunks_size=-1, features=[])
    problems = [fault.problem for fault in preflight(root)]
    assert problems == [
        "codebase_version is 'v9'.",
        "has no features.",
        "fps is 'fast'.",
        "chunks_size is -1.",
    ]


# -- features


@pytest.mark.slow
@pytest.mark.parametrize(
    "described",
    [
        {"dtype": "float32", "shape": [None]},
        {"dtype": "float32"},
        {"dtype": "float32", "shape": 3},
        {"dtype": "float32", "shape": "3"},
        {"dtype": "float32", "shape": [0]},
        {"dtype": "float32", "shape": [-1]},
        {"dtype": "float32", "shape": [True]},
        {"dtype": "float32", "shape": [1.5]},
        {"shape": [3]},
        {"dtype": None, "shape": [3]},
        None,
        "float32",
        [],
    ],
)
def test_a_feature_that_no_policy_uses_may_be_described_in_any_way(make_dataset, described):
    root = make_dataset(lengths=(8, 7))
    info = json.loads((root / "meta" / "info.json").read_text())
    edit_info(root, features=info["features"] | {"annotation.note": described})
    assert preflight(root) == []
    dataset = open_dataset(root)
    (note,) = dataset.notes
    assert (note.check, note.severity) == ("unused_features", "note")
    assert note.problem.startswith("annotation.note ")
    assert "annotation.note" not in dataset.window(3, 2, 8)

    edit_info(root, features=info["features"] | {"action": described})
    (fault,) = preflight(root)
    assert fault.problem.startswith("action ")
    edit_info(root, features=info["features"] | {"observation.environment_state": described})
    (fault,) = preflight(root)
    assert fault.problem.startswith("observation.environment_state ")
    assert preflight(root, observations=["observation.state"]) == []
    (fault,) = preflight(root, observations=["observation.state"], features={"annotation.note": "x"})
    assert fault.where == "dataset.features"


@pytest.mark.parametrize("shape", [[2, 1], [1, 2], [1, 2, 1]])
def test_a_vector_with_sizes_of_one_is_a_vector(make_dataset, shape):
    root = make_dataset(lengths=(8, 7))
    before = open_dataset(root).vector("action")
    info = json.loads((root / "meta" / "info.json").read_text())
    info["features"]["action"]["shape"] = shape
    edit_info(root, features=info["features"])
    for path in (root / "data").rglob("*.parquet"):

        def edit(table: pa.Table) -> pa.Table:
            values = np.array(table["action"].to_pylist(), np.float32).reshape(len(table), *shape)
            place = table.column_names.index("action")
            return table.set_column(place, "action", pa.array(values.tolist()))

        edit_table(path, edit)
    dataset = open_dataset(root)
    assert dataset.policy_features.action.shape == (2,)
    np.testing.assert_array_equal(dataset.vector("action"), before)
    assert dataset.window(3, 2, 8)["action"].shape == (8, 2)


def test_a_matrix_is_not_a_vector(make_dataset):
    root = make_dataset(lengths=(8, 7))
    info = json.loads((root / "meta" / "info.json").read_text())
    info["features"]["action"]["shape"] = [2, 3]
    edit_info(root, features=info["features"])
    (fault,) = preflight(root)
    assert fault.problem == "action has shape [2, 3]."
