"""Folders as people have them: with copies, other names, missing columns and files that were cut off."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from small_sets import edit_info, edit_table, states

from trainables.dataset.doctor.preflight import preflight, warnings_of
from trainables.dataset.doctor.quick import quick_findings
from trainables.dataset.doctor.videos import open_videos
from trainables.dataset.errors import DatasetError
from trainables.dataset.format.schema import INDEX_FEATURES, DatasetFeature
from trainables.dataset.lerobot_dataset import LeRobotDataset
from trainables.dataset.open import open_dataset
from trainables.dataset.portrait import portray
from trainables.diffusion_policy.trainable import TRAINABLE

LENGTHS = (6, 8, 5)
VERSIONS = ["v3.0", "v2.1", "v2.0"]
CAMERA = "observation.images.front"
TINY = DatasetFeature("video", (16, 16, 3), ["height", "width", "channels"])
DATA, EPISODES = "data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"


@pytest.fixture
def make(make_dataset) -> Callable[..., Path]:
    def write(version: str = "v3.0", **options: Any) -> Path:
        return make_dataset(lengths=LENGTHS, version=version, **options)

    return write


def is_right(root: Path, **options: Any) -> LeRobotDataset:
    """Open a dataset that must have the rows that were written, and no fault."""
    assert preflight(root, **options) == []
    dataset = open_dataset(root, **options)
    expected = np.concatenate([states(episode, length) for episode, length in enumerate(LENGTHS)])
    np.testing.assert_array_equal(dataset.vector("observation.state"), expected)
    for row in (0, 7, 18):
        dataset.window(row, 2, 8)
    assert {episode.tasks for episode in dataset.episodes} == {("Push.",)}
    return dataset


def checks(dataset: LeRobotDataset) -> list[str]:
    return [note.check for note in dataset.notes]


def drop(path: Path, *names: str) -> None:
    edit_table(path, lambda table: table.drop_columns([name for name in names if name in table.column_names]))


def edit_column(path: Path, name: str, change: Callable[[list[Any]], list[Any]]) -> None:
    def edit(table: pa.Table) -> pa.Table:
        place = table.column_names.index(name)
        values = change(table[name].to_pylist())
        return table.set_column(place, name, pa.array(values, table.schema.field(name).type))

    edit_table(path, edit)


# -- files that do not belong there


@pytest.mark.slow
@pytest.mark.parametrize(
    "stray",
    [
        "data/chunk-000/file-000 (conflicted copy 2026-03-01).parquet",
        "data/chunk-000/file-000 (1).parquet",
        "data/chunk-000/file-000 copy.parquet",
        "data/chunk-000/.ipynb_checkpoints/file-000-checkpoint.parquet",
        "data/.cache/chunk-000/file-000.parquet",
        "data/file-000.parquet",
        "data/backup/chunk-000/file-000.parquet",
        "meta/episodes/file-000.parquet",
        "meta/episodes/chunk-000/file-000-old.parquet",
        "meta/episodes/.trash/file-000.parquet",
    ],
)
def test_copies_beside_the_files_are_skipped_and_called_copies(make, stray):
    root = make()
    fingerprint = open_dataset(root).fingerprint
    original = EPISODES if stray.startswith("meta") else DATA
    (root / stray).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(root / original, root / stray)
    dataset = is_right(root)
    (note,) = dataset.notes
    assert (note.check, note.severity) == ("skipped_files", "note")
    assert f"{stray} (a copy of {original})" in note.problem
    assert dataset.fingerprint == fingerprint


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"\0\5\x16\7\0\2\0\0Mac OS X        ", b"", b"PAR1 cut"])
@pytest.mark.parametrize("original", [DATA, EPISODES])
def test_hidden_files_are_not_read(make, original, content):
    root = make()
    hidden = (root / original).with_name("._file-000.parquet")
    hidden.write_bytes(content)
    assert checks(is_right(root)) == ["skipped_files"]


def test_a_copy_with_a_name_of_its_own_is_called_a_copy(make):
    root = make()
    shutil.copy(root / DATA, root / "data/chunk-000/file-001.parquet")
    (fault,) = preflight(root)
    assert "chunk-000/file-001.parquet repeats rows of chunk-000/file-000.parquet" in fault.problem
    assert "it is a copy" in fault.problem
    assert fault.remedy.startswith("Delete the copy, ")
    assert "exclude" not in fault.remedy
    assert fault.episodes == ()


def test_a_copied_table_of_episodes_is_read_once(make):
    root = make()
    shutil.copy(root / EPISODES, root / "meta/episodes/chunk-000/file-001.parquet")
    assert checks(is_right(root)) == ["copied_entries"]
    lines = make("v2.1", name="lines") / "meta/episodes.jsonl"
    lines.write_text(lines.read_text() * 2)
    assert checks(is_right(lines.parents[1])) == ["copied_entries"]


def test_an_episode_with_two_lengths_is_refused(make):
    root = make("v2.1")
    lines = root / "meta/episodes.jsonl"
    lines.write_text(lines.read_text() + json.dumps({"episode_index": 1, "length": 3, "tasks": []}) + "\n")
    with pytest.raises(
        DatasetError, match="episodes \\[1\\] are listed more than once, with different values"
    ):
        open_dataset(root)


@pytest.mark.slow
@pytest.mark.parametrize("names", [("part-0", "part-1", "part-2"), ("file-000", "file-001", "rest")])
def test_other_names_in_the_folder_of_a_chunk_are_read_as_lerobot_does(make, names):
    root = make(episodes_per_file=1)
    files = sorted((root / "data/chunk-000").iterdir())
    for path, name in zip(files, names, strict=True):
        path.rename(path.with_name(f"{name}.parquet"))
    assert checks(is_right(root)) == ["template"]


# -- other templates and places


@pytest.mark.slow
@pytest.mark.parametrize("version", ["v2.1", "v2.0"])
@pytest.mark.parametrize(
    "data_path",
    [
        "data/chunk-{chunk_index:03d}/episode_{episode_index:06d}.parquet",
        "data/chunk-{chunk:03d}/episode_{episode:06d}.parquet",
        "data/chunk-{episode_chunk:03d}/episode_{file_index:06d}.parquet",
        "./data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "data\\chunk-{episode_chunk:03d}\\episode_{episode_index:06d}.parquet",
    ],
)
def test_synonyms_of_placeholders_are_filled(make, version, data_path):
    root = make(version)
    edit_info(root, data_path=data_path)
    assert is_right(root).notes == ()


@pytest.mark.slow
@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
@pytest.mark.parametrize("key", ["data_path", "video_path"])
@pytest.mark.parametrize("wrong", ["{nothing:03d}", "{}", "{episode_index:06s}", "{episode_index", "{0.x}"])
def test_a_template_that_cannot_be_filled_is_replaced_and_reported(make, version, key, wrong):
    root = make(version, cameras={CAMERA: TINY})
    edit_info(root, **{key: f"data/{wrong}.parquet"})
    dataset = is_right(root)
    notes = [note for note in dataset.notes if note.check == "template"]
    assert notes
    assert all(note.where.endswith("info.json") for note in notes)
    assert notes[0].problem.startswith(f"{key} is {f'data/{wrong}.parquet'!r}: ")
    assert "LeRobot's own is " in notes[0].remedy
    assert dataset.pictures(CAMERA, np.array([0])).shape == (1, 3, 16, 16)


def test_a_template_that_cannot_be_filled_is_named_if_the_files_are_missing(make):
    root = make("v2.1")
    edit_info(root, data_path="data/{nothing}.parquet")
    shutil.rmtree(root / "data")
    missing, template = preflight(root)
    assert missing.problem.startswith("all data files of episodes [0-2] are missing")
    assert "exclude" not in missing.remedy
    assert "{nothing} is not a placeholder" in template.problem
    assert "Allowed are {episode_chunk}, {episode_index}." in template.remedy


@pytest.mark.slow
@pytest.mark.parametrize(
    "template",
    [
        "data/chunk-{episode_index:03d}/episode_{episode_index:06d}.parquet",
        "data/{episode_index}.parquet",
        "data/chunk-{episode_chunk:05d}/episode_{episode_index:08d}.parquet",
    ],
)
def test_files_at_lerobots_own_place_are_found(make, template):
    root = make("v2.1", cameras={CAMERA: TINY})
    edit_info(root, data_path=template)
    (note,) = is_right(root).notes
    assert note.check == "template"
    assert note.problem.startswith(("3 files are not where", "2 files are not where"))
    assert "data/chunk-000/episode_00000" in note.problem


@pytest.mark.slow
def test_files_that_are_all_in_the_first_chunk_are_found(make):
    root = make("v2.1", cameras={CAMERA: TINY})
    edit_info(root, chunks_size=1)
    dataset = is_right(root)
    assert checks(dataset) == ["template"]
    assert dataset.pictures(CAMERA, np.array([18])).shape == (1, 3, 16, 16)


@pytest.mark.slow
def test_a_new_set_with_the_old_templates_is_found(make):
    root = make(cameras={CAMERA: TINY})
    edit_info(
        root,
        data_path="data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        video_path="videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    )
    dataset = is_right(root)
    assert "template" in checks(dataset)
    assert dataset.pictures(CAMERA, np.array([18])).shape == (1, 3, 16, 16)


# -- columns


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("name", [*sorted(INDEX_FEATURES), "all"])
def test_missing_times_and_numbers_are_derived(make, version, listed, name):
    cameras = {CAMERA: TINY} if name in ("timestamp", "all") else {}
    root = make(version, cameras=cameras)
    names = set(INDEX_FEATURES) if name == "all" else {name}
    if version == "v3.0":
        names -= {"episode_index"}  # a file of v3.0 has many episodes
    before = open_dataset(root)
    expected = {one: before.column(one) for one in INDEX_FEATURES}
    for path in (root / "data").rglob("*.parquet"):
        drop(path, *names)
    if not listed:
        info = json.loads((root / "meta/info.json").read_text())
        edit_info(root, features={key: value for key, value in info["features"].items() if key not in names})
    dataset = is_right(root)
    for one, values in expected.items():
        np.testing.assert_allclose(dataset.column(one), values, err_msg=one)
    assert [dataset.task(row) for row in (0, 18)] == ["Push.", "Push."]
    if cameras:
        assert dataset.pictures(CAMERA, np.array([18])).shape == (1, 3, 16, 16)
    if names:
        (note,) = dataset.notes
        assert (note.check, note.severity) == ("derived_columns", "note")
        assert all(one in note.problem for one in names)


def test_columns_that_info_does_not_list_are_read(make):
    root = make("v2.1")
    info = json.loads((root / "meta/info.json").read_text())
    edit_info(root, features={k: v for k, v in info["features"].items() if k not in INDEX_FEATURES})
    dataset = is_right(root)
    assert dataset.notes == ()
    np.testing.assert_array_equal(dataset.column("index")[:, 0], np.arange(sum(LENGTHS)))


def test_a_chosen_episode_has_the_same_derived_numbers(make):
    root = make()
    before = open_dataset(root, episodes=[1])
    expected = {name: before.column(name) for name in INDEX_FEATURES}
    drop(root / DATA, "index", "frame_index", "timestamp")
    found = open_dataset(root, episodes=[1])
    for name, values in expected.items():
        np.testing.assert_allclose(found.column(name), values)


def test_without_the_column_of_episodes_a_shared_file_cannot_be_read(make):
    root = make()
    drop(root / DATA, "episode_index")
    (fault,) = preflight(root)
    assert fault.problem == "has no column 'episode_index'."


@pytest.mark.slow
@pytest.mark.parametrize(
    "cell",
    [[{"t": 0.1, "text": "go"}], {"a": 1}, b"bytes", "text", None],
)
def test_a_column_that_holds_no_numbers_is_left_out(make, cell):
    root = make()
    edit_table(
        root / DATA, lambda table: table.append_column("observation.language", pa.array([cell] * len(table)))
    )
    info = json.loads((root / "meta/info.json").read_text())
    described = {"dtype": "language", "shape": [1], "names": None}
    edit_info(root, features=info["features"] | {"observation.language": described})
    dataset = is_right(root)
    assert "observation.language" not in dataset.window(5, 2, 8)
    assert checks(dataset) == ["unused_features"]


def test_a_column_that_is_listed_and_not_there_is_left_out(make):
    root = make()
    info = json.loads((root / "meta/info.json").read_text())
    described = {"dtype": "float32", "shape": [3], "names": None}
    edit_info(root, features=info["features"] | {"observation.force": described})
    assert checks(is_right(root)) == ["unused_features"]


# -- places


@pytest.mark.slow
@pytest.mark.parametrize("item", ["chunk_index", "file_index", "from_timestamp"])
@pytest.mark.parametrize("empty", [[0], [1], [2], [0, 1, 2]])
def test_empty_places_in_the_only_video_are_derived(make, item, empty):
    root = make(cameras={CAMERA: TINY})
    before = open_dataset(root).pictures(CAMERA, np.arange(19))
    edit_column(
        root / EPISODES,
        f"videos/{CAMERA}/{item}",
        lambda cells: [None if number in empty else cell for number, cell in enumerate(cells)],
    )
    dataset = is_right(root)
    np.testing.assert_array_equal(dataset.pictures(CAMERA, np.arange(19)), before)
    if item != "from_timestamp":
        assert checks(dataset) == ["empty_places"]


@pytest.mark.slow
def test_missing_columns_of_places_are_derived(make):
    root = make(cameras={CAMERA: TINY})
    before = open_dataset(root).pictures(CAMERA, np.arange(19))
    drop(
        root / EPISODES,
        *(f"videos/{CAMERA}/{item}" for item in ("chunk_index", "file_index", "from_timestamp")),
    )
    dataset = is_right(root)
    assert checks(dataset) == ["empty_places"]
    np.testing.assert_array_equal(dataset.pictures(CAMERA, np.arange(19)), before)


@pytest.mark.slow
def test_a_place_that_could_be_in_two_videos_is_refused(make):
    root = make(cameras={CAMERA: TINY}, episodes_per_file=1)
    for path in sorted((root / "meta/episodes").rglob("*.parquet")):
        edit_column(
            path,
            f"videos/{CAMERA}/file_index",
            lambda cells: [None if cell == 1 else cell for cell in cells],
        )
    (fault,) = preflight(root)
    assert f"videos/{CAMERA}/chunk_index and file_index are empty for episodes [1]" in fault.problem
    assert "set dataset.exclude_episodes: [1]" in fault.remedy
    assert preflight(root, exclude_episodes=[1]) == []
    assert preflight(root, observations=["observation.state"]) == []


def test_an_episode_without_frames_is_left_out(make):
    root = make(cameras={CAMERA: TINY})

    def add(table: pa.Table) -> pa.Table:
        row = table.to_pylist()[-1] | {"episode_index": 3, "length": 0, "dataset_from_index": 19}
        return pa.concat_tables([table, pa.Table.from_pylist([row], schema=table.schema)])

    edit_table(root / EPISODES, add)
    dataset = is_right(root)
    assert checks(dataset) == ["empty_episodes"]
    assert [episode.index for episode in dataset.episodes] == [0, 1, 2]
    assert dataset.is_whole
    assert preflight(root, episodes="0-3") == []


def test_a_missing_length_is_derived(make):
    root = make()
    drop(root / EPISODES, "length")
    is_right(root)


# -- texts


@pytest.mark.slow
@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c", "\x1e"])
def test_only_a_newline_ends_a_line(make, character):
    root = make("v2.1")
    text = f"pick{character}the cube"
    for name, change in (("tasks", {"task": text}), ("episodes", {"tasks": [text]})):
        path = root / f"meta/{name}.jsonl"
        rows = [json.loads(line) | change for line in path.read_text().split("\n") if line]
        written = [json.dumps(row, ensure_ascii=False) for row in rows]
        # JSON escapes control characters; the separators of Unicode may stand as they are.
        path.write_text("\n".join(written) + "\n", encoding="utf-8")
    dataset = open_dataset(root)
    assert dataset.task(0) == text
    assert dataset.episodes[0].tasks == (text,)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["meta/info.json", "meta/episodes.jsonl", "meta/tasks.jsonl"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks_are_no_text(make, name, encoding):
    root = make("v2.1")
    path = root / name
    path.write_text(path.read_text(), encoding=encoding)
    is_right(root)


def spread(rows: list[Any]) -> str:
    return "\n".join(json.dumps(row, indent=2) for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    "write",
    [
        lambda rows: json.dumps(rows, indent=1),
        lambda rows: json.dumps(rows),
        spread,
        lambda rows: spread(rows).replace("\n", "\r\n"),
        lambda rows: "\n\n".join(json.dumps(row) for row in rows),
        lambda rows: "\r\n".join(json.dumps(row) for row in rows),
        lambda rows: " ".join(json.dumps(row) for row in rows),
        lambda rows: ",\n".join(json.dumps(row) for row in rows),
    ],
)
def test_json_is_read_however_it_is_broken_into_lines(make, write):
    root = make("v2.1")
    for name in ("episodes", "tasks"):
        path = root / f"meta/{name}.jsonl"
        path.write_text(write([json.loads(line) for line in path.read_text().split("\n") if line]))
    is_right(root)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty (0 bytes)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n", "is a pointer of Git LFS"),
        (b"<!DOCTYPE html><html></html>", "is a web page"),
        (bytes(300), "contains only zeros"),
        (b"{\xff\xff", "is not text in UTF-8"),
        (b"[1, 2", "is not valid JSON"),
        (b"[1, 2]", "is not a JSON object"),
        (b"3", "is not a JSON object"),
    ],
)
@pytest.mark.parametrize("name", ["meta/info.json", "meta/episodes.jsonl", "meta/tasks.jsonl"])
def test_what_is_no_metadata_is_said_in_a_sentence(make, name, content, problem):
    root = make("v2.1")
    (root / name).write_bytes(content)
    with pytest.raises(DatasetError) as error:
        open_dataset(root)
    (fault,) = error.value.faults
    assert fault.where == str(root / name)
    assert problem in fault.problem
    assert fault.remedy


def test_a_line_that_is_cut_off_is_named(make):
    root = make("v2.1")
    path = root / "meta/episodes.jsonl"
    path.write_text(path.read_text()[:-12])
    with pytest.raises(
        DatasetError, match=r"line 3 is not valid JSON.* The line is the last one: the file may"
    ):
        open_dataset(root)


# -- files that were cut off, or never came


@pytest.mark.parametrize("version", VERSIONS)
def test_pointers_of_git_lfs_are_counted(make, version):
    root = make(version)
    files = sorted((root / "data").rglob("*.parquet"))
    for path in files[:2]:
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 13000\n")
    (fault,) = preflight(root)
    assert fault.problem.startswith(
        f"{len(files[:2])} of {len(files)} files are pointers of Git LFS, first data/"
    )
    assert "`git lfs pull`" in fault.remedy
    assert "exclude" not in fault.remedy


@pytest.mark.parametrize("name", [EPISODES, "meta/tasks.parquet"])
def test_a_table_that_is_a_pointer_is_named(make, name):
    root = make()
    (root / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 13000\n")
    (fault,) = preflight(root)
    assert fault.where == str(root / name)
    assert "`git lfs pull`" in fault.remedy


def test_data_files_that_were_cut_off_cost_their_episodes_only(make):
    root = make("v2.1")
    for path in sorted((root / "data").rglob("*.parquet"))[1:]:
        path.write_bytes(path.read_bytes()[:-8])
    (fault,) = preflight(root)
    assert "2 of 3 data files cannot be used" in fault.problem
    assert "has no footer: the recorder or the copy was cut off" in fault.problem
    assert "dataset.exclude_episodes: [1, 2]" in fault.remedy
    assert fault.episodes == (1, 2)
    assert preflight(root, exclude_episodes=[1, 2]) == []


def test_of_files_that_are_all_cut_off_no_episode_is_excluded(make):
    root = make("v2.1")
    for path in (root / "data").rglob("*.parquet"):
        path.write_bytes(path.read_bytes()[:-8])
    (fault,) = preflight(root)
    assert "3 of 3 data files" in fault.problem
    assert "exclude" not in fault.remedy
    assert fault.episodes == ()


@pytest.mark.parametrize("version", VERSIONS)
def test_nothing_recorded_is_said(make, version):
    root = make(version)
    shutil.rmtree(root / "data")
    shutil.rmtree(root / "meta/episodes", ignore_errors=True)
    (root / "meta/episodes.jsonl").unlink(missing_ok=True)
    edit_info(root, total_episodes=0, total_frames=0)
    (fault,) = preflight(root)
    assert fault.problem.startswith("nothing was recorded: info.json counts 0 episodes")
    edit_info(root, total_episodes=7)
    (fault,) = preflight(root)
    assert "; info.json counts 7 episodes" in fault.problem


@pytest.mark.parametrize(("version", "claimed"), [("v3.0", "v2.1"), ("v2.1", "v3.0")])
def test_a_wrong_version_is_named(make, version, claimed):
    root = make(version)
    edit_info(root, codebase_version=claimed)
    (fault,) = preflight(root)
    assert fault.remedy.startswith("Set codebase_version to 'v3.0'" if version == "v3.0" else "Set codebase")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["data.zarr/.zgroup"], "it contains zarr"),
        (["episode_0.hdf5"], "it contains HDF5"),
        (["run_1.bag"], "it contains ROS bags"),
        (["0.1.0/x.tfrecord-00000-of-00001"], "it contains TFRecord"),
        (["meta_data/info.json"], "version 1.x"),
        (["a/b/c/.zgroup"], "has no meta/info.json."),  # a whole disk would be searched
        ([], "has no meta/info.json."),
    ],
)
def test_another_format_is_named(tmp_path, files, said):
    for name in files:
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).touch()
    (tmp_path / "set").mkdir(exist_ok=True)
    (fault,) = preflight(tmp_path / "set")
    assert said in fault.problem


def test_a_folder_too_high_or_too_low_names_the_dataset(make, tmp_path):
    root = make()
    (above,) = preflight(tmp_path)
    assert above.remedy == f"It contains a dataset: {root}."
    (below,) = preflight(root / "data" / "chunk-000")
    assert below.remedy == f"It is inside a dataset: {root}."
    (file,) = preflight(root / "meta" / "info.json")
    assert "is a file, not a folder" in file.problem


def test_a_mistyped_folder_is_not_only_looked_for_on_the_hub(make, tmp_path, monkeypatch):
    make(name="data/pusht")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (fault,) = preflight("data/pushtt", cache=tmp_path / "cache")
    assert fault.remedy.endswith(
        f"There is no folder data/pushtt here either. Did you mean {Path('data/pusht')}?"
    )
    (other,) = preflight("nobody/pusht", cache=tmp_path / "cache")
    assert "folder nobody" not in other.remedy
    (odd,) = preflight("data/pusht/set", cache=tmp_path / "cache")
    assert "There is no folder data/pusht/set here either." in odd.remedy


def test_a_partial_copy_is_reported_at_launch(make):
    root = make()
    edit_info(root, total_episodes=105, total_frames=4000)
    assert preflight(root) == []
    (line,) = warnings_of(open_dataset(root))
    assert "has total_episodes 105, there are 3" in line
    assert "may be incomplete" in line
    said = TRAINABLE.remarks({"dataset.root": str(root)}, root.parent / "cache")
    assert said == [line]
    # A choice of episodes says nothing about the whole.
    assert warnings_of(open_dataset(root, episodes=[0, 1])) == []


# -- advice


def test_merged_sets_are_not_advised_to_be_excluded(make):
    root = make(episodes_per_file=2)
    last = root / "data/chunk-000/file-001.parquet"
    edit_column(last, "episode_index", lambda cells: [0 for _ in cells])
    edit_column(last, "index", lambda cells: list(range(len(cells))))
    (fault,) = preflight(root)
    assert "episode_index begins again in chunk-000/file-001.parquet" in fault.problem
    assert "Datasets were merged without new numbers" in fault.problem
    assert "exclude" not in fault.remedy
    assert "Sort" not in fault.remedy
    assert fault.episodes == ()


@pytest.mark.parametrize("offset", [0, 1, 5])
def test_several_recordings_in_an_episode_are_not_advised_to_be_sorted(make, offset):
    root = make()
    edit_column(root / DATA, "frame_index", lambda cells: [n % 4 + offset for n in range(8)] + cells[8:])
    edit_column(root / DATA, "frame_index", lambda cells: [0, 1, 2, 3, 4, 5, *cells[:8], *cells[14:]])
    (fault,) = [fault for fault in preflight(root) if fault.where == "frame_index"]
    assert "begins again within episode 1: episode 1 contains 2 recordings" in fault.problem
    assert "Sort" not in fault.remedy


def test_shuffled_rows_are_advised_to_be_sorted(make):
    root = make()
    edit_column(root / DATA, "frame_index", lambda cells: [*cells[:6], 1, 0, *cells[8:]])
    (fault,) = preflight(root)
    assert fault.remedy.startswith("Sort the rows")


def test_no_finding_advises_to_exclude_every_episode(make):
    root = make("v2.1", cameras={CAMERA: TINY})
    for path in (root / "data").rglob("*.parquet"):
        edit_column(path, "timestamp", lambda cells: [2 * cell + 1 for cell in cells])
        edit_column(path, "frame_index", lambda cells: [3 - cell for cell in cells])
    dataset = open_dataset(root)
    findings = quick_findings(dataset, open_videos(dataset))
    assert len(findings) >= 3
    for found in findings:
        assert "exclude" not in found.remedy, found


# -- vectors that are put together


def apart(root: Path, names: tuple[str, ...] = ("observation.{}.pos", "action.{}.pos")) -> Path:
    """Write each dimension of state and action as a feature of its own."""
    info = json.loads((root / "meta/info.json").read_text())
    features = info["features"]
    for vector, name in zip(("observation.state", "action"), names, strict=True):
        parts = [name.format(joint) for joint in ("x", "y")]
        for path in (root / "data").rglob("*.parquet"):

            def edit(table: pa.Table, vector=vector, parts=parts) -> pa.Table:
                values = np.array(table[vector].to_pylist(), np.float32)
                table = table.drop_columns([vector])
                for place, part in enumerate(parts):
                    table = table.append_column(part, pa.array(values[:, place]))
                return table

            edit_table(path, edit)
        del features[vector]
        features |= {part: {"dtype": "float32", "shape": [1], "names": None} for part in parts}
    edit_info(root, features=features)
    return root


JOINED = {
    "observation.state": ["observation.x.pos", "observation.y.pos"],
    "action": ["action.x.pos", "action.y.pos"],
}


def test_joints_are_not_renamed_to_be_the_state(make):
    state, action = preflight(apart(make()))
    value = (
        "dataset.features: {observation.state: [observation.x.pos, observation.y.pos], "
        "action: [action.x.pos, action.y.pos]}"
    )
    for fault in (state, action):
        assert fault.remedy == (
            f"It seems to be recorded joint by joint. Set {value}, in the order of the joints."
        )


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_vectors_are_put_together_in_the_order_of_the_list(make, tmp_path, version):
    whole = open_dataset(make(version, name="whole"))
    root = apart(make(version, name="apart"))
    dataset = is_right(root, features=JOINED)
    np.testing.assert_array_equal(dataset.vector("action"), whole.vector("action"))
    assert dataset.features["action"].names == ["action.x.pos", "action.y.pos"]
    assert dataset.policy_features.action.shape == (2,)
    backwards = JOINED | {"action": JOINED["action"][::-1]}
    np.testing.assert_array_equal(
        open_dataset(root, features=backwards).vector("action"), whole.vector("action")[:, ::-1]
    )
    described = portray(dataset, tmp_path / "portrait")["features"]
    assert described["action"]["names"] == ["action.x.pos", "action.y.pos"]
    assert "action.x.pos" not in described


def test_a_vector_and_a_number_are_put_together(make):
    extra = {"gripper": DatasetFeature("int64", (1,))}
    changes = {("gripper", -1): np.arange(8)[:, None]}
    root = make(extra=extra, changes=changes)
    features = {"action": "arm", "observation.state": "s"}
    joined = {"action": ["action", "gripper"]}
    dataset = is_right(root, features=joined)
    assert dataset.vector("action").shape == (19, 3)
    np.testing.assert_array_equal(dataset.vector("action")[6:14, 2], np.arange(8))
    assert dataset.features["action"].names == ["action.x", "action.y", "gripper"]
    assert preflight(root, features=features | joined) != []


def test_a_set_that_is_whole_and_one_in_parts_are_one(make):
    whole, root = make(name="whole"), apart(make("v2.1", name="apart"))
    dataset = open_dataset([whole, root], features=JOINED)
    np.testing.assert_array_equal(dataset.vector("action")[:19], dataset.vector("action")[19:])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("features", "problem"),
    [
        ({"action": []}, "'action' is an empty list"),
        ({"action": ["action.x.pos", "action.z.pos"]}, "no feature 'action.z.pos'"),
        ({"action": ["action.x.pos", "action.x.pos"]}, "'action.x.pos' is already part of 'action'"),
        ({"action": ["action.x.pos"], "action.x.pos": "x"}, "'action.x.pos' is renamed too"),
        ({"action": ["action.x.pos", "index"]}, "'index' says where a frame is"),
        ({"index": ["action.x.pos", "action.y.pos"]}, "'index' says where a frame is"),
        ({"action": ["action.x.pos", CAMERA]}, "which is not a number"),
        ({"action.y.pos": ["action.x.pos"]}, "has a feature 'action.y.pos' already"),
    ],
)
def test_what_cannot_be_put_together_is_a_fault(make, features, problem):
    root = apart(make(cameras={CAMERA: TINY}))
    faults = [fault for fault in preflight(root, features=features) if fault.where == "dataset.features"]
    assert faults
    assert problem in faults[0].problem


# -- rows that would be lost or mixed without a word


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.large_list(pa.float64())])
def test_rows_of_different_lengths_are_refused_also_if_their_sum_fits(make, kind):
    root = make()

    def edit(table: pa.Table) -> pa.Table:
        values = table["action"].to_pylist()
        values[4], values[5] = values[4][:1], [*values[5], 7.0]
        return table.set_column(table.column_names.index("action"), "action", pa.array(values, kind))

    edit_table(root / DATA, edit)
    (fault,) = preflight(root)
    assert fault.problem == (
        "column 'action' has lists of different lengths: 2 in most rows, 1 in row 4; 2 such rows."
    )


def test_a_column_that_is_there_twice_is_refused(make):
    root = make()
    edit_table(root / DATA, lambda table: table.append_column("action", table["action"]))
    (fault,) = preflight(root)
    assert fault.problem == "has 2 columns 'action'."


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("timestamp", pa.array(range(19), pa.timestamp("ns"))),
        ("timestamp", pa.array(range(19), pa.duration("ms"))),
        ("timestamp", pa.array([f"2026-01-01T00:00:{second:02}" for second in range(19)])),
        ("task_index", pa.array([None] * 19, pa.int64())),
        ("frame_index", pa.array([str(row) for row in range(19)])),
        ("index", pa.array([None] * 19, pa.null())),
        ("index", pa.array([0, None] * 9 + [1], pa.int64())),
    ],
)
def test_standard_columns_of_another_kind_are_derived(make, name, column):
    root = make(cameras={CAMERA: TINY})
    edit_table(root / DATA, lambda t: t.set_column(t.column_names.index(name), name, column))
    dataset = is_right(root)
    assert checks(dataset) == ["derived_columns"]
    np.testing.assert_allclose(dataset.column("timestamp")[6:14, 0], np.arange(8) / 10, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("version", ["3.0", "V3.0", " v3.0", 3.0])
def test_a_version_may_be_spelt_otherwise(make, version):
    root = make()
    edit_info(root, codebase_version=version)
    assert is_right(root).version == "v3.0"


@pytest.mark.parametrize("version", VERSIONS)
def test_episodes_that_have_rows_and_are_not_listed_are_reported(make, version):
    root = make(version)
    if version == "v3.0":
        edit_table(root / EPISODES, lambda table: table.slice(0, 2))
    else:
        listed = (root / "meta/episodes.jsonl").read_text().splitlines(keepends=True)
        (root / "meta/episodes.jsonl").write_text("".join(listed[:2]))
    edit_info(root, total_episodes=2, total_frames=14)
    dataset = open_dataset(root)
    assert len(dataset) == 14
    (warning,) = warnings_of(dataset)
    assert "the data files have rows of episode 2, and the table of episodes does not list them" in warning
    assert warnings_of(open_dataset(root, episodes=[0])) == []  # chosen on purpose


def test_episodes_that_are_listed_without_frames_and_have_rows_are_reported(make):
    root = make("v2.1")
    text = (root / "meta/episodes.jsonl").read_text()
    (root / "meta/episodes.jsonl").write_text(text.replace('"length": 8', '"length": 0'))
    edit_info(root, total_episodes=2, total_frames=11)
    (warning,) = warnings_of(open_dataset(root))
    assert "rows of episode 1" in warning


def test_a_file_inside_a_dataset_is_answered_with_the_dataset(make):
    root = make()
    (fault,) = preflight(root / "meta" / "info.json")
    assert fault.problem == f"'{root}/meta/info.json' is a file, not a folder."
    assert fault.remedy == f"It is inside a dataset: {root}."


def test_a_folder_that_cannot_be_opened_is_said_to_be_so(make, monkeypatch):
    root = make()
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != root)  # tests may run as root
    for named in (root, str(root)):
        (fault,) = preflight(named)
        assert fault.problem == f"'{root}' cannot be opened: Permission denied."
    for named in ("x" * 300, Path("a\0b")):
        (fault,) = preflight(named)
        assert "cannot be opened: File name too long" in fault.problem or "is not a path" in fault.problem


def test_a_list_of_names_is_legal_in_a_configuration():
    assert TRAINABLE.faults({"dataset.root": "set", "dataset.features": {"action": ["a", "b"]}}) == []
    for wrong in ({"action": []}, {"action": [1]}, {"action": [""]}, {"action": 3}, {"action": None}):
        (fault,) = TRAINABLE.faults({"dataset.root": "set", "dataset.features": wrong})
        assert fault.where == "dataset.features"


@pytest.mark.slow
def test_the_sets_beside_the_checkout_are_read_without_a_note():
    data = Path(os.environ.get("SHARED_DATA", Path(__file__).parents[4] / "shared" / "data"))
    roots = [data / "pusht", *sorted((data / "small").glob("*"))] if data.is_dir() else []
    if not roots:
        pytest.skip("the datasets of ../shared/data are not beside the checkout")
    for root in roots:
        dataset = open_dataset(root)
        assert dataset.notes == ()
        assert warnings_of(dataset) == []
