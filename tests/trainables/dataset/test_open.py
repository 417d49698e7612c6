from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from small_sets import HEIGHT, PICTURE, WIDTH, edit_info, edit_table, pictures, states

from trainables.dataset.errors import DatasetError
from trainables.dataset.lerobot import open_dataset
from trainables.dataset.schema import DatasetFeature

CAMERA = "observation.image"


def test_wrong_file_numbers_in_the_metadata_are_not_believed(make_dataset):
    root = make_dataset(lengths=(5, 6, 7), episodes_per_file=1)

    def swap(table: pa.Table) -> pa.Table:
        column = table.column_names.index("data/file_index")
        return table.set_column(column, "data/file_index", pa.array([1, 2, 0]))

    edit_table(root / "meta/episodes/chunk-000/file-000.parquet", swap)
    expected = np.concatenate([states(e, n) for e, n in enumerate((5, 6, 7))])
    np.testing.assert_array_equal(open_dataset(root).column("observation.state"), expected)


def test_rows_are_put_in_order_by_episode_and_index(make_dataset):
    root = make_dataset(lengths=(5, 6))

    def shuffle(table: pa.Table) -> pa.Table:
        return table.take(pa.array(np.random.default_rng(0).permutation(len(table))))

    edit_table(root / "data/chunk-000/file-000.parquet", shuffle)
    dataset = open_dataset(root)
    np.testing.assert_array_equal(dataset.column("index")[:, 0], np.arange(11))
    np.testing.assert_array_equal(
        dataset.column("action"), 100 + np.concatenate([states(0, 5), states(1, 6)])
    )


@pytest.mark.parametrize(
    "options", [{"episodes_per_file": 1, "files_per_chunk": 2}, {"episodes_per_file": 2}]
)
def test_several_files_and_chunks_are_one_dataset(make_dataset, options):
    lengths = (5, 6, 7, 1, 4)
    root = make_dataset(lengths=lengths, cameras={CAMERA: PICTURE}, **options)
    assert len(list(root.rglob("*.mp4"))) > 1

    dataset = open_dataset(root)
    expected = np.concatenate([states(e, n) for e, n in enumerate(lengths)])
    np.testing.assert_array_equal(dataset.column("observation.state"), expected)
    shown = np.moveaxis(np.concatenate([pictures(e, n) for e, n in enumerate(lengths)]), -1, 1)
    read = dataset.pictures(CAMERA, np.arange(len(dataset)))
    assert np.abs(read.astype(float) - shown).mean(axis=(1, 2, 3)).max() < 12


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
def test_chosen_episodes_count_from_zero(make_dataset, version):
    root = make_dataset(lengths=(5, 6, 7, 4), cameras={CAMERA: PICTURE}, version=version)
    whole = open_dataset(root)
    part = open_dataset(root, episodes=[3, 1, 0], exclude_episodes=[0])

    assert [(e.index, e.start, e.stop) for e in part.episodes] == [(1, 0, 6), (3, 6, 10)]
    np.testing.assert_array_equal(
        part.column("observation.state"), np.concatenate([states(1, 6), states(3, 4)])
    )
    rows = part.rows_on_disk
    np.testing.assert_array_equal(rows, [*range(5, 11), *range(18, 22)])
    np.testing.assert_array_equal(part.pictures(CAMERA, np.arange(10)), whole.pictures(CAMERA, rows))
    assert part.name_row(7) == "episode 3, frame 1"
    assert part.fingerprint == whole.fingerprint
    assert part.identity != whole.identity


def test_lists_of_any_length_are_vectors_too(make_dataset):
    root = make_dataset(lengths=(5, 6))
    expected = open_dataset(root).column("observation.state")

    def loosen(table: pa.Table) -> pa.Table:
        for name, kind in (("observation.state", pa.list_), ("action", pa.large_list)):
            column = table[name].cast(kind(pa.float64()))
            table = table.set_column(table.column_names.index(name), name, column)
        return table

    edit_table(root / "data/chunk-000/file-000.parquet", loosen)
    found = open_dataset(root).column("observation.state")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


def test_numbers_of_every_kind_are_read(make_dataset):
    extra = {
        "next.done": DatasetFeature("bool", (1,)),
        "grip": DatasetFeature("int64", (3,)),
        "matrix": DatasetFeature("float64", (2, 3)),
        "note": DatasetFeature("string", (1,)),
    }
    values = {
        ("next.done", -1): np.arange(9) == 4,
        ("grip", -1): np.arange(27).reshape(9, 3),
        ("matrix", -1): np.arange(54.0).reshape(9, 2, 3),
        ("note", -1): np.array([f"n{i}" for i in range(9)]),
    }
    dataset = open_dataset(make_dataset(lengths=(5, 9), extra=extra, changes=values))

    assert dataset.column("next.done").dtype == bool
    assert np.flatnonzero(dataset.column("next.done")).tolist() == [4, 9]
    assert dataset.column("grip").dtype == np.int64
    np.testing.assert_array_equal(dataset.column("grip")[5:], np.arange(27).reshape(9, 3))
    np.testing.assert_array_equal(dataset.column("matrix")[5:], np.arange(54.0).reshape(9, 2, 3))
    assert dataset.column("note")[6, 0] == "n1"
    assert [feature.name for feature in dataset.policy_features.inputs] == ["observation.state"]


def test_a_state_of_whole_numbers_becomes_float32(make_dataset):
    extra = {"observation.environment_state": DatasetFeature("int64", (2,))}
    values = {("observation.environment_state", -1): np.arange(18).reshape(9, 2)}
    dataset = open_dataset(make_dataset(lengths=(9,), extra=extra, changes=values))

    window = dataset.window(4, 2, 8)
    assert window["observation.environment_state"].dtype == np.float32
    np.testing.assert_array_equal(window["observation.environment_state"], [[6, 7], [8, 9]])


@pytest.mark.parametrize("beside", [False, True])
def test_pictures_in_parquet_are_exact(make_dataset, beside):
    grey = DatasetFeature("image", (8, 6, 1), ["height", "width", "channels"])
    colour = DatasetFeature("image", (8, 10, 3), ["height", "width", "channels"])
    changes = {("observation.grey", -1): pictures(3, 9, 8, 6)[..., :1]}
    root = make_dataset(
        lengths=(9, 4),
        extra={"observation.grey": grey},
        cameras={CAMERA: colour},
        changes=changes,
        episodes_per_file=1,
    )
    if beside:
        store_pictures_beside(root, "data/chunk-000/file-000.parquet")
    dataset = open_dataset(root)

    assert [feature.shape for feature in dataset.policy_features.cameras] == [(3, 8, 10), (1, 8, 6)]
    rows = np.array([11, 2, 2, 0])
    shown = np.moveaxis(np.concatenate([pictures(0, 9, 8, 10), pictures(1, 4, 8, 10)]), -1, 1)
    np.testing.assert_array_equal(dataset.pictures(CAMERA, rows), shown[rows])
    expected = np.moveaxis(changes["observation.grey", -1], -1, 1)
    np.testing.assert_array_equal(dataset.pictures("observation.grey", np.arange(9)), expected)


def store_pictures_beside(root, data):
    def move(table: pa.Table) -> pa.Table:
        cells = table[CAMERA].to_pylist()
        (root / "images").mkdir()
        for number, cell in enumerate(cells):
            (root / f"images/{number}.png").write_bytes(cell["bytes"])
        moved = pa.array(
            [{"bytes": None, "path": f"images/{number}.png"} for number in range(len(cells))],
            table[CAMERA].type,
        )
        return table.set_column(table.column_names.index(CAMERA), CAMERA, moved)

    edit_table(root / data, move)


def test_what_ported_sets_do_differently_is_understood(make_dataset):
    root = make_dataset(cameras={CAMERA: PICTURE}, lengths=(4, 3))
    expected = open_dataset(root).pictures(CAMERA, np.arange(7))
    info = json.loads((root / "meta/info.json").read_text())
    camera = info["features"][CAMERA]
    camera["video_info"] = camera.pop("info")
    camera |= {"shape": [3, HEIGHT, WIDTH], "names": ["channels", "height", "width"]}
    edit_info(root, features=info["features"], hub_likes=3, fps=10.0)
    (root / "videos").rename(root / "video")

    dataset = open_dataset(root)
    assert dataset.policy_features.cameras[0].shape == (3, HEIGHT, WIDTH)
    np.testing.assert_array_equal(dataset.pictures(CAMERA, np.arange(7)), expected)


def test_each_frame_knows_its_task(make_dataset):
    root = make_dataset(lengths=(3, 2, 2), tasks=("Open.", "Close."))
    dataset = open_dataset(root)
    assert [dataset.task(row) for row in range(7)] == ["Open."] * 3 + ["Close."] * 2 + ["Open."] * 2


def test_a_path_with_spaces_and_quotes_is_a_path(make_dataset):
    root = make_dataset('it\'s a "set" [of] ünits', cameras={CAMERA: PICTURE}, lengths=(3, 4))
    dataset = open_dataset(str(root))
    assert dataset.window(5, 2, 8)[CAMERA].shape == (2, 3, HEIGHT, WIDTH)


def test_a_window_repeats_the_edge_and_says_where(make_dataset):
    dataset = open_dataset(make_dataset(lengths=(4, 5, 1)))
    state = dataset.column("observation.state")

    first = dataset.window(4, 2, 8)
    np.testing.assert_array_equal(first["observation.state"], state[[4, 4]])
    np.testing.assert_array_equal(first["action"], 100 + state[[4, 4, 5, 6, 7, 8, 8, 8]])
    np.testing.assert_array_equal(first["action_is_pad"], [True] + [False] * 5 + [True] * 2)
    alone = dataset.window(9, 3, 4)
    np.testing.assert_array_equal(alone["observation.state"], state[[9, 9, 9]])
    np.testing.assert_array_equal(alone["action_is_pad"], [True, True, False, True])


@pytest.mark.parametrize(
    ("changes", "episode"),
    [
        ({"video_path": "../{video_key}/file-{file_index:03d}.mp4"}, "v3.0"),
        ({"video_path": "/tmp/{video_key}.mp4"}, "v3.0"),
        ({"data_path": "data/../../{episode_index}.parquet"}, "v2.1"),
    ],
)
def test_metadata_cannot_lead_out_of_the_folder(make_dataset, changes, episode):
    root = make_dataset(cameras={CAMERA: PICTURE}, version=episode)
    edit_info(root, **changes)
    with pytest.raises(DatasetError, match="leaves the dataset's folder"):
        open_dataset(root)


@pytest.mark.parametrize(
    "whose", ["meta/info.json", "meta/episodes/chunk-000/file-000.parquet", "meta/tasks.parquet"]
)
def test_broken_metadata_is_an_error_that_names_the_file(make_dataset, whose):
    root = make_dataset()
    (root / whose).write_bytes(b"\x00 nothing")
    with pytest.raises(DatasetError, match="meta"):
        open_dataset(root)


def test_a_missing_template_key_is_an_error_of_the_dataset(make_dataset):
    root = make_dataset(cameras={CAMERA: PICTURE})
    edit_info(root, video_path="videos/{nothing}/{video_key}.mp4")
    with pytest.raises(DatasetError, match=r"cannot be read as v3\.0: no 'nothing'"):
        open_dataset(root)


def test_an_episode_without_its_rows_is_named(make_dataset):
    root = make_dataset(lengths=(5, 6, 7))
    edit_table(root / "data/chunk-000/file-000.parquet", lambda table: table.slice(0, 12))
    with pytest.raises(DatasetError, match=r"episode 2 has 1 rows, the metadata says 7"):
        open_dataset(root)
    assert len(open_dataset(root, exclude_episodes=[2])) == 11


def test_vectors_of_another_length_than_promised_are_an_error(make_dataset):
    root = make_dataset()
    info = json.loads((root / "meta/info.json").read_text())
    info["features"]["action"]["shape"] = [3]
    edit_info(root, features=info["features"])
    with pytest.raises(DatasetError, match=r"'action' has 2 numbers a row, info.json says \[3\]"):
        open_dataset(root)


def test_asking_for_what_is_not_there_says_what_is(make_dataset):
    dataset = open_dataset(make_dataset(cameras={CAMERA: PICTURE}), observations=["observation.state"])
    with pytest.raises(DatasetError, match=r"no feature has this name\. There are: observation\.image"):
        dataset.column("state")
    with pytest.raises(DatasetError, match="is a camera"):
        dataset.column(CAMERA)
    with pytest.raises(DatasetError, match="is no camera that was chosen"):
        dataset.frame_parts(CAMERA)


def test_the_fingerprint_is_of_the_content_not_of_the_place(make_dataset, tmp_path):
    root = make_dataset(cameras={CAMERA: PICTURE})
    copy = tmp_path / "elsewhere"
    shutil.copytree(root, copy)
    before = open_dataset(root).fingerprint
    assert open_dataset(copy).fingerprint == before

    edit_table(copy / "data/chunk-000/file-000.parquet", lambda t: t.set_column(
        t.column_names.index("timestamp"), "timestamp", pa.array(np.zeros(len(t), np.float32))
    ))  # fmt: skip
    assert open_dataset(copy).fingerprint != before
    video = next(root.rglob("*.mp4"))
    video.write_bytes(video.read_bytes()[:-1] + b"?")
    assert open_dataset(root).fingerprint != before


def test_opening_needs_neither_torch_nor_pandas(make_dataset):
    code = (
        "import sys, pathlib; from trainables.dataset.lerobot import open_dataset, preflight; "
        "root = pathlib.Path(sys.argv[1]); assert preflight(root) == []; "
        "assert len(open_dataset(root)) == 38; "
        "print([name for name in ('torch', 'pandas', 'huggingface_hub') if name in sys.modules])"
    )
    root = make_dataset(cameras={CAMERA: PICTURE})
    done = subprocess.run([sys.executable, "-c", code, str(root)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
