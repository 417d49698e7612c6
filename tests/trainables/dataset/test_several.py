"""Several datasets as one."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from small_sets import PICTURE, PNG, call_otherwise, edit_info, states

from trainables.dataset.doctor.preflight import preflight, warnings_of
from trainables.dataset.errors import DatasetError
from trainables.dataset.format.schema import DatasetFeature
from trainables.dataset.frames import open_frames
from trainables.dataset.open import open_dataset
from trainables.dataset.policy_statistics import policy_statistics
from trainables.dataset.windows import Windows, split_episodes

CAMERA = "observation.image"


@pytest.fixture
def pair(make_dataset):
    """Two sets of 3 and 2 episodes, in different versions, with one task in common."""
    one = make_dataset("one", cameras={CAMERA: PICTURE}, lengths=(5, 6, 4), tasks=("Push.", "Pull."))
    two = make_dataset(
        "two", cameras={CAMERA: PICTURE}, lengths=(7, 3), tasks=("Wait.", "Pull."), version="v2.1"
    )
    return [one, two]


@pytest.mark.slow
def test_rows_episodes_and_tasks_are_numbered_on(pair):
    parts = [open_dataset(root) for root in pair]
    dataset = open_dataset(pair)

    assert (len(dataset), dataset.fps, dataset.is_whole) == (25, 10.0, True)
    assert [(e.index, e.start, e.stop) for e in dataset.episodes] == [
        (0, 0, 5), (1, 5, 11), (2, 11, 15), (3, 15, 22), (4, 22, 25)
    ]  # fmt: skip
    for name in ("observation.state", "action", "timestamp", "frame_index"):
        expected = np.concatenate([part.column(name) for part in parts])
        np.testing.assert_array_equal(dataset.column(name), expected)
        assert dataset.column(name).dtype == expected.dtype
    np.testing.assert_array_equal(dataset.column("index")[:, 0], np.arange(25))
    np.testing.assert_array_equal(dataset.column("episode_index")[:, 0], np.repeat(range(5), (5, 6, 4, 7, 3)))
    np.testing.assert_array_equal(
        dataset.column("task_index")[:, 0], np.repeat([0, 1, 0, 2, 1], (5, 6, 4, 7, 3))
    )
    asked = (0, 5, 14, 15, 24)
    assert [dataset.task(row) for row in asked] == ["Push.", "Pull.", "Push.", "Wait.", "Pull."]
    assert dataset.name_row(12) == f"episode 2, frame 1 (episode 2 of {pair[0]})"
    assert dataset.name_row(23) == f"episode 4, frame 1 (episode 1 of {pair[1]})"


@pytest.mark.slow
def test_windows_frames_and_statistics_are_those_of_the_parts(pair, tmp_path):
    parts = [open_dataset(root) for root in pair]
    dataset = open_dataset([str(root) for root in pair])
    frames = {CAMERA: open_frames(dataset, CAMERA, None, tmp_path, threads=3)}
    windows = Windows(dataset, range(5), n_obs_steps=2, horizon=8, drop_n_last_frames=0, frames=frames)
    for row in range(25):
        part, own = (parts[0], row) if row < 15 else (parts[1], row - 15)
        expected, found = part.window(own, 2, 8), dataset.window(row, 2, 8)
        batch = windows.gather(np.array([row]))
        assert expected.keys() == found.keys() == batch.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value)
            np.testing.assert_array_equal(batch[name][0].numpy(), value)
    rows = np.array([24, 3, 15, 3, 14])
    np.testing.assert_array_equal(dataset.pictures(CAMERA, rows), frames[CAMERA].array[rows])
    found = policy_statistics(dataset)
    assert found["action"]["count"].tolist() == [25]
    assert found["action"]["max"][0] == max(part.column("action")[:, 0].max() for part in parts)
    assert found[CAMERA]["count"].tolist() == [25]


@pytest.mark.slow
def test_episodes_are_chosen_by_their_numbers_in_the_whole(pair, tmp_path):
    whole = open_dataset(pair)
    part = open_dataset(pair, episodes=["1-3"], exclude_episodes="2:3")
    assert [(e.index, e.start, e.stop) for e in part.episodes] == [(1, 0, 6), (3, 6, 13)]
    rows = part.rows_on_disk
    np.testing.assert_array_equal(rows, [*range(5, 11), *range(15, 22)])
    np.testing.assert_array_equal(part.column("action"), whole.column("action")[rows])
    np.testing.assert_array_equal(part.column("index")[:, 0], rows)
    np.testing.assert_array_equal(part.pictures(CAMERA, np.arange(13)), whole.pictures(CAMERA, rows))
    assert part.name_row(7) == f"episode 3, frame 1 (episode 0 of {pair[1]})"
    assert (part.fingerprint, part.frames_on_disk) == (whole.fingerprint, 25)
    assert part.identity != whole.identity

    all_frames = open_frames(whole, CAMERA, None, tmp_path)
    shared = open_frames(part, CAMERA, None, tmp_path)
    assert shared.path == all_frames.path
    np.testing.assert_array_equal(shared.take(np.arange(13)), all_frames.array[rows])


@pytest.mark.slow
@pytest.mark.parametrize("chosen", ["0-2", "3-4"])
def test_a_set_of_which_nothing_is_chosen_still_counts(pair, chosen):
    dataset = open_dataset(pair, episodes=chosen)
    (alone,) = (open_dataset(root) for root in pair[: 1 if chosen == "0-2" else 2][-1:])
    assert len(dataset) == len(alone)
    np.testing.assert_array_equal(dataset.column("action"), alone.column("action"))
    np.testing.assert_array_equal(
        dataset.window(len(alone) - 1, 2, 8)[CAMERA], alone.window(len(alone) - 1, 2, 8)[CAMERA]
    )
    assert not dataset.is_whole
    assert dataset.fingerprint == open_dataset(pair).fingerprint


def test_gaps_in_the_first_sets_numbers_are_kept(make_dataset):
    one = make_dataset("one", lengths=(3, 3, 3))
    kept = open_dataset(one, exclude_episodes=[1])
    assert [episode.index for episode in kept.episodes] == [0, 2]
    both = open_dataset([one, make_dataset("two", lengths=(2,))], exclude_episodes=[1])
    assert [episode.index for episode in both.episodes] == [0, 2, 3]


def test_a_list_of_one_is_that_one(pair):
    alone, listed = open_dataset(pair[0]), open_dataset(pair[:1])
    assert (alone.fingerprint, alone.identity) == (listed.fingerprint, listed.identity)
    assert alone.name_row(3) == listed.name_row(3) == "episode 0, frame 3"


@pytest.mark.slow
def test_the_order_of_the_sets_is_part_of_what_they_are(pair, tmp_path):
    forth, back = open_dataset(pair), open_dataset(pair[::-1])
    assert forth.fingerprint != back.fingerprint
    assert split_episodes(forth, 0.4, 0).hash != split_episodes(back, 0.4, 0).hash
    moved = [shutil.copytree(root, tmp_path / "moved" / root.name) for root in pair]
    assert open_dataset(moved).fingerprint == forth.fingerprint


def test_the_same_set_twice_is_a_fault(pair):
    (fault,) = preflight([pair[0], pair[1], str(pair[0]) + "/../one"])
    assert fault.where == "dataset.root"
    assert "is named twice" in fault.problem
    assert "both sides of the split" in fault.remedy
    (fault,) = preflight([])
    assert "no dataset is named" in fault.problem


@pytest.mark.slow
def test_sets_that_differ_are_told_in_what(make_dataset, pair):
    one = pair[0]
    wide = DatasetFeature("video", (32, 64, 3), ["height", "width", "channels"])
    other_size = make_dataset("size", cameras={CAMERA: wide}, lengths=(2,))
    (fault,) = preflight([one, other_size])
    assert fault.where == "dataset.root"
    assert fault.problem == f"{CAMERA} is [3, 32, 64] in {other_size}, [3, 32, 48] in {one}."
    assert preflight([one, other_size], observations=["observation.state"]) == []

    blind = make_dataset("blind", lengths=(2,))
    (fault,) = preflight([one, blind])
    assert fault.problem == f"{blind} has no {CAMERA}, {one} has."
    assert "dataset.observations: [observation.state]" in fault.remedy
    (fault,) = preflight([blind, one])
    assert fault.problem == f"{one} has {CAMERA}, {blind} has not."

    fast = make_dataset("fast", cameras={CAMERA: PICTURE}, lengths=(2,), fps=30)
    (fault,) = preflight([one, fast])
    assert fault.problem == f"{fast} has 30 frames per second, {one} has 10."

    extra = {"action": DatasetFeature("float32", (3,))}
    longer = make_dataset(
        "longer",
        cameras={CAMERA: PICTURE},
        lengths=(2,),
        extra=extra,
        changes={("action", 0): np.zeros((2, 3))},
    )
    (fault,) = preflight([one, longer])
    assert fault.problem == f"action is [3] in {longer}, [2] in {one}."

    turned = make_dataset(
        "turned", lengths=(2,), extra={"action": DatasetFeature("float32", (2,), {"motors": ["y", "x"]})}
    )
    (fault,) = preflight([blind, turned])
    assert (
        fault.problem
        == f"action has its dimensions in another order in {turned} (y, x) than in {blind} (x, y)."
    )

    strange = call_otherwise(make_dataset("strange", lengths=(2,)), {"action": "actions"})
    (fault,) = preflight([blind, strange])
    assert fault.where == f"{strange}/meta/info.json"
    assert "dataset.features: {actions: action}" in fault.remedy


def name_dimensions(root, feature, names):
    info = json.loads((root / "meta/info.json").read_text())
    info["features"][feature]["names"] = names
    edit_info(root, features=info["features"])
    return root


def test_dimensions_of_other_names_are_reported(make_dataset):
    joints = name_dimensions(make_dataset("joints", lengths=(3,)), "action", ["shoulder.pos", "elbow.pos"])
    places = make_dataset("places", lengths=(2,))
    dataset = open_dataset([joints, places])
    (note,) = [note for note in dataset.notes if note.check == "dimension_names"]
    assert (note.severity, note.where) == ("warning", "action")
    assert note.problem == (f"has other dimensions in {places} (x, y) than in {joints} (shoulder, elbow).")
    assert [line for line in warnings_of(dataset) if line.startswith("action: has other dimensions")]


@pytest.mark.slow
@pytest.mark.parametrize(
    "names",
    [["main_shoulder", "main_elbow"], {"motors": ["Shoulder", "elbow"]}, None, ["arm"], ["a", "b", "c"]],
)
def test_other_spellings_of_dimensions_are_the_same(make_dataset, names):
    one = name_dimensions(make_dataset("one", lengths=(3,)), "action", ["shoulder.pos", "elbow.pos"])
    two = name_dimensions(make_dataset("two", lengths=(2,)), "action", names)
    assert [note.check for note in open_dataset([one, two]).notes] == []


def test_another_order_is_a_fault_whatever_the_spelling(make_dataset):
    one = name_dimensions(make_dataset("one", lengths=(3,)), "action", ["shoulder.pos", "elbow.pos"])
    two = name_dimensions(make_dataset("two", lengths=(2,)), "action", ["main_elbow", "main_shoulder"])
    (fault,) = preflight([one, two])
    assert "in another order" in fault.problem


def test_a_rename_holds_for_the_sets_that_have_the_name(make_dataset):
    one = make_dataset("one", lengths=(3, 2))
    two = call_otherwise(make_dataset("two", lengths=(4,)), {"action": "actions"})
    dataset = open_dataset([one, two], features={"actions": "action"})
    np.testing.assert_array_equal(dataset.column("action")[5:], 100 + states(0, 4))
    with pytest.raises(DatasetError, match="the datasets have no feature 'act'"):
        open_dataset([one, two], features={"act": "action"})


@pytest.mark.slow
def test_pictures_may_be_kept_in_different_ways(make_dataset, tmp_path):
    video = DatasetFeature("video", (8, 10, 3), ["height", "width", "channels"])
    roots = [
        make_dataset("png", cameras={CAMERA: PNG}, lengths=(3, 2)),
        make_dataset("mp4", cameras={CAMERA: video}, lengths=(4,)),
    ]
    for order in (roots, roots[::-1]):
        dataset = open_dataset(order)
        frames = open_frames(dataset, CAMERA, None, tmp_path)
        expected = np.concatenate(
            [part.pictures(CAMERA, np.arange(len(part))) for part in map(open_dataset, order)]
        )
        np.testing.assert_array_equal(frames.array, expected)
        assert preflight(order) == []


def test_only_features_that_all_have_are_there(make_dataset):
    grip = {"grip": DatasetFeature("float32", (1,))}
    one = make_dataset("one", lengths=(3,), extra=grip, changes={("grip", 0): np.zeros((3, 1))})
    dataset = open_dataset([one, make_dataset("two", lengths=(2,))])
    assert "grip" not in dataset.features
    with pytest.raises(DatasetError, match="no feature has this name"):
        dataset.column("grip")


def test_faults_name_the_episodes_by_their_numbers_in_the_whole(make_dataset, pair):
    faults = preflight(pair, episodes=["3-9"], exclude_episodes=["7"])
    assert [(fault.where, fault.problem) for fault in faults] == [
        ("dataset.episodes", "[5-9] do not exist."),
        ("dataset.exclude_episodes", "[7] do not exist."),
    ]
    assert faults[0].remedy == (
        f"The datasets have episodes 0 to 2, 3 of them ({pair[0]}); 3 to 4, 2 of them ({pair[1]})."
    )
    sorted(pair[1].rglob("*.mp4"))[1].unlink()
    (fault,) = preflight(pair)
    assert "episode 4" in fault.problem
    assert "dataset.exclude_episodes: [4]" in fault.remedy
    assert preflight(pair, exclude_episodes=[4]) == []
    sorted(pair[1].rglob("*.parquet"))[1].unlink()
    (fault,) = preflight(pair)
    assert "the data files of episodes [4] are missing" in fault.problem


def test_numbers_that_are_none_are_named_with_their_set(make_dataset):
    values = states(1, 7)
    values[3, 1] = np.nan
    roots = [make_dataset("one"), make_dataset("two", changes={("action", 1): values})]
    (fault,) = preflight(roots)
    assert fault.problem.startswith(f"is nan in episode 5, frame 3 (episode 1 of {roots[1]})")
    assert "dataset.exclude_episodes: [5]" in fault.remedy


def test_a_set_without_episodes_is_named(make_dataset, pair):
    edit_info(pair[0], fps=10.0)  # the same rate, written otherwise
    assert preflight(pair) == []
    (pair[1] / "meta/episodes.jsonl").write_text("")
    (fault,) = preflight(pair)
    assert fault.where == str(pair[1] / "meta/episodes.jsonl")
    assert fault.problem == "is empty (0 bytes): the recording or the copy was cut off."
