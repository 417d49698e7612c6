from __future__ import annotations

import json
import shutil
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_sets import HEIGHT, PICTURE, WIDTH, edit_info, edit_table, pictures, states

from trainables.dataset.doctor.preflight import preflight
from trainables.dataset.errors import DatasetError
from trainables.dataset.format.schema import DatasetFeature
from trainables.dataset.open import open_dataset
from trainables.dataset.windows import Windows

CAMERA = "observation.image"


def test_wrong_file_numbers_in_the_metadata_are_not_believed(make_dataset):
    root = make_dataset(lengths=(5, 6, 7), episodes_per_file=1)

    def swap(table: pa.Table) -> pa.Table:
        column = table.column_names.index("data/file_index")
        return table.set_column(column, "data/file_index", pa.array([1, 2, 0]))

    edit_table(root / "meta/episodes/chunk-000/file-000.parquet", swap)
    expected = np.concatenate([states(e, n) for e, n in enumerate((5, 6, 7))])
    np.testing.assert_array_equal(open_dataset(root).column("observation.state"), expected)


@pytest.mark.slow
@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
def test_an_episode_may_lie_in_several_files(make_dataset, version):
    """Rows are taken wherever they are, also where a conversion cut a file in the middle of an episode."""
    lengths = (5, 6, 7)
    root = make_dataset(lengths=lengths, episodes_per_file=1, version=version, cameras={CAMERA: PICTURE})
    before = open_dataset(root)
    names = ("observation.state", "action", "timestamp", "index")
    expected = {name: before.column(name) for name in names}
    pictures_before = before.pictures(CAMERA, np.arange(18))
    first, second = sorted((root / "data").rglob("*.parquet"))[:2]
    tables = [pq.ParquetFile(path).read() for path in (first, second)]
    moved = pa.concat_tables([tables[0].slice(3), tables[1]])
    pq.write_table(tables[0].slice(0, 3), first)
    pq.write_table(moved, second)
    if version == "v2.1":
        # Its file name says that it holds one episode: what else is in it is not looked for.
        with pytest.raises(DatasetError, match="episode 0 has 3 rows, the metadata says 5"):
            open_dataset(root, episodes=[0])
    dataset = open_dataset(root)
    for name in names:
        np.testing.assert_array_equal(dataset.column(name), expected[name])
    np.testing.assert_array_equal(dataset.pictures(CAMERA, np.arange(18)), pictures_before)
    with pytest.raises(DatasetError, match=r"has \d rows, it had more when the dataset was opened"):
        before.column("frame_index")


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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8", "bool", "float64", "float16"])
def test_whatever_numbers_a_policy_uses_they_are_float32(make_dataset, dtype):
    names = ("observation.state", "observation.environment_state", "action")
    values = {name: (np.arange(18).reshape(9, 2) + place).astype(dtype) for place, name in enumerate(names)}
    root = make_dataset(
        lengths=(9,),
        extra={name: DatasetFeature(dtype, (2,)) for name in names},
        changes={(name, -1): written for name, written in values.items()},
    )
    dataset = open_dataset(root)
    window = dataset.window(4, 2, 8)
    batch = Windows(dataset, [0], n_obs_steps=2, horizon=8, drop_n_last_frames=0, frames={}).gather(
        np.array([4])
    )
    for name, written in values.items():
        rows = np.clip(np.arange(3, 11), 0, 8) if name == "action" else [3, 4]
        assert window[name].dtype == np.float32
        np.testing.assert_array_equal(window[name], written[rows].astype(np.float32))
        np.testing.assert_array_equal(batch[name][0].numpy(), window[name])
    assert preflight(root) == []


@pytest.mark.parametrize("cell", ["plain", "list", "fixed_size_list"])
def test_one_number_is_a_vector_of_one(make_dataset, cell):
    names = ("observation.state", "action")
    root = make_dataset(
        lengths=(4,),
        extra={name: DatasetFeature("float32", (1,)) for name in names},
        changes={(name, -1): np.arange(4.0) for name in names},
    )

    def wrap(table: pa.Table) -> pa.Table:
        for name in names:
            numbers = table[name].combine_chunks()
            kinds = {"list": pa.list_(pa.float32()), "fixed_size_list": pa.list_(pa.float32(), 1)}
            if cell != "plain":
                wrapped = pa.array([[number] for number in numbers.to_pylist()], kinds[cell])
                table = table.set_column(table.column_names.index(name), name, wrapped)
        return table

    edit_table(root / "data/chunk-000/file-000.parquet", wrap)
    window = open_dataset(root).window(1, 2, 4)
    np.testing.assert_array_equal(window["observation.state"], [[0], [1]])
    np.testing.assert_array_equal(window["action"], [[0], [1], [2], [3]])
    assert window["action"].dtype == np.float32


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


@pytest.mark.slow
def test_a_frame_rate_need_not_be_a_whole_number(make_dataset):
    root = make_dataset(cameras={CAMERA: PICTURE}, lengths=(9, 4, 6))
    expected = open_dataset(root).pictures(CAMERA, np.arange(19))
    rate = Fraction(30000, 1001)
    show_at(next(root.rglob("*.mp4")), rate)
    edit_info(root, fps=29.97)

    def in_time(table: pa.Table) -> pa.Table:
        for name, numbers in (
            ("timestamp", pa.array(np.array(table["frame_index"]) / float(rate), pa.float32())),
            (f"videos/{CAMERA}/from_timestamp", pa.array([0.0, 9 / float(rate), 13 / float(rate)])),
        ):
            if name in table.column_names:
                table = table.set_column(table.column_names.index(name), name, numbers)
        return table

    edit_table(root / "meta/episodes/chunk-000/file-000.parquet", lambda t: t.append_column(
        "frame_index", pa.array([0, 0, 0])
    ))  # fmt: skip
    edit_table(
        root / "meta/episodes/chunk-000/file-000.parquet", lambda t: in_time(t).drop_columns("frame_index")
    )
    edit_table(root / "data/chunk-000/file-000.parquet", in_time)
    dataset = open_dataset(root, tolerance_s=1e-3)
    assert dataset.fps == 29.97
    np.testing.assert_array_equal(dataset.pictures(CAMERA, np.arange(19)), expected)


def show_at(video, rate):
    """Write the same packets again, shown at another rate."""
    other = video.with_suffix(".other.mp4")
    with av.open(str(video)) as source, av.open(str(other), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(source.streams.video[0]) if packet.dts is not None]
        for packet in packets:
            frame = Fraction(packet.pts) * packet.time_base * 10
            decoded = Fraction(packet.dts) * packet.time_base * 10
            packet.stream = stream
            packet.time_base = 1 / (rate * 1000)
            packet.pts, packet.dts = round(frame * 1000), round(decoded * 1000)
            target.mux(packet)
    other.replace(video)


@pytest.mark.slow
def test_cameras_are_chosen_by_name_and_come_in_the_order_of_the_set(make_dataset):
    names = [f"observation.images.{name}" for name in ("front", "wrist", "top")]
    root = make_dataset(cameras=dict.fromkeys(names, PICTURE), lengths=(3, 2))
    chosen = open_dataset(root, observations=[names[2], "observation.state", names[0]])
    assert [camera.name for camera in chosen.policy_features.cameras] == [names[0], names[2]]
    assert names[1] not in chosen.window(1, 2, 4)
    np.testing.assert_array_equal(
        chosen.window(1, 2, 4)[names[2]], open_dataset(root).window(1, 2, 4)[names[2]]
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "episodes", ["1-2", "1:3", ["1", 2], range(1, 3), np.array([2, 1]), [range(1, 3), 2]]
)
def test_episodes_are_chosen_by_number_and_by_range(make_dataset, episodes):
    root = make_dataset(lengths=(3, 2, 4, 5))
    assert [episode.index for episode in open_dataset(root, episodes=episodes).episodes] == [1, 2]
    left = open_dataset(root, exclude_episodes=episodes).episodes
    assert [episode.index for episode in left] == [0, 3]


@pytest.mark.parametrize(
    ("episodes", "words"),
    [
        ("9-3", "dataset.episodes: '9-3' ends before it begins. Expected ints and ranges such as 0-99"),
        ("x", "dataset.episodes: 'x' is neither a whole number nor a range"),
        ([-1], "dataset.episodes: -1 is negative"),
        (
            "0-999999999999",
            r"dataset.episodes: \[4-999999999999\] do not exist. The dataset has episodes 0 to 3",
        ),
        ([], "dataset.episodes: no episode is left"),
    ],
)
def test_a_choice_of_episodes_that_means_nothing_is_an_error(make_dataset, episodes, words):
    with pytest.raises(DatasetError, match=words):
        open_dataset(make_dataset(), episodes=episodes)


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


def test_a_window_has_the_observations_that_no_policy_uses_unless_others_were_chosen(make_dataset):
    root = make_dataset(
        lengths=(4, 5),
        extra={
            "observation.gripper": DatasetFeature("int64", (1,)),
            "observation.touching": DatasetFeature("bool", (2,)),
            "next.done": DatasetFeature("bool", (1,)),
        },
        changes={
            ("observation.gripper", -1): np.arange(5)[:, None],
            ("observation.touching", -1): np.array([[True, False]] * 5),
            ("next.done", -1): np.zeros((5, 1), bool),
        },
    )
    window = open_dataset(root).window(6, 3, 4)
    np.testing.assert_array_equal(window["observation.gripper"], np.array([[0], [1], [2]]))
    assert window["observation.gripper"].dtype == np.int64
    np.testing.assert_array_equal(window["observation.touching"], np.array([[True, False]] * 3))
    assert "next.done" not in window
    chosen = open_dataset(root, observations=["observation.state"]).window(6, 3, 4)
    assert set(chosen) == {"observation.state", "action", "action_is_pad"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((10, 2, 8), "index: 10 is not a row. The dataset has rows 0 to 9"),
        ((-1, 2, 8), "index: -1 is not a row"),
        ((0, 0, 8), "n_obs_steps 0 and horizon 8 make no window"),
        ((0, 1, 0), "n_obs_steps 1 and horizon 0 make no window"),
    ],
)
def test_a_window_that_is_not_there_is_an_error(make_dataset, arguments, words):
    with pytest.raises(DatasetError, match=words):
        open_dataset(make_dataset(lengths=(4, 5, 1))).window(*arguments)


@pytest.mark.slow
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
    with pytest.raises(DatasetError, match="is not a chosen camera"):
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


@pytest.mark.slow
def test_the_package_itself_opens_datasets_and_is_light_until_then(make_dataset):
    code = (
        "import sys, trainables.dataset; "
        "assert not {'numpy', 'pyarrow', 'av'} & set(sys.modules); "
        "from trainables.dataset import DatasetError, LeRobotDataset, open_dataset; "
        "from trainables.dataset.policy_statistics import policy_statistics; "
        "dataset = open_dataset(sys.argv[1]); assert isinstance(dataset, LeRobotDataset); "
        "window = dataset.window(index=7, n_obs_steps=2, horizon=8); "
        "print(len(dataset), len(dataset.episodes), dataset.fps, list(dataset.features)[:2], "
        "sorted(policy_statistics(dataset)), {name: value.shape for name, value in window.items()})"
    )
    root = make_dataset(cameras={CAMERA: PICTURE})
    done = subprocess.run([sys.executable, "-c", code, str(root)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == (
        "38 4 10.0 ['observation.image', 'observation.state'] "
        "['action', 'observation.image', 'observation.state'] "
        "{'observation.image': (2, 3, 32, 48), 'observation.state': (2, 2), 'action': (8, 2), "
        "'action_is_pad': (8,)}"
    )


@pytest.mark.slow
def test_opening_needs_neither_torch_nor_pandas(make_dataset):
    code = (
        "import sys, pathlib; from trainables.dataset import open_dataset; "
        "from trainables.dataset.doctor.preflight import preflight; "
        "root = pathlib.Path(sys.argv[1]); assert preflight(root) == []; "
        "assert len(open_dataset(root)) == 38; "
        "print([name for name in ('torch', 'pandas', 'huggingface_hub') if name in sys.modules])"
    )
    root = make_dataset(cameras={CAMERA: PICTURE})
    done = subprocess.run([sys.executable, "-c", code, str(root)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
