"""Sets that are nearly LeRobot's: features under other names."""

from __future__ import annotations

import numpy as np
import pytest
from small_sets import PICTURE, PNG, call_otherwise, states

from trainables.dataset.doctor.preflight import preflight
from trainables.dataset.errors import DatasetError
from trainables.dataset.format.schema import DatasetFeature
from trainables.dataset.frames import open_frames
from trainables.dataset.open import open_dataset
from trainables.dataset.policy_statistics import policy_statistics
from trainables.dataset.windows import Windows

OURS = {"actions": "action", "state": "observation.state", "image": "observation.images.front"}


@pytest.fixture
def nearly(make_dataset):
    def make(name="nearly", camera=PICTURE, **options):
        root = make_dataset(name, cameras={"observation.images.front": camera}, lengths=(6, 4), **options)
        return call_otherwise(root, {ours: theirs for theirs, ours in OURS.items()})

    return make


@pytest.mark.slow
@pytest.mark.parametrize("camera", [PICTURE, PNG])
@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
def test_renamed_features_are_read_as_if_they_were_called_so(make_dataset, nearly, tmp_path, camera, version):
    plain = open_dataset(
        make_dataset("plain", cameras={"observation.images.front": camera}, lengths=(6, 4), version=version)
    )
    dataset = open_dataset(nearly(camera=camera, version=version), features=OURS)

    assert list(dataset.features) == list(plain.features)
    assert dataset.policy_features == plain.policy_features
    frames = {c.name: open_frames(dataset, c.name, None, tmp_path) for c in dataset.policy_features.cameras}
    windows = Windows(dataset, [0, 1], n_obs_steps=2, horizon=4, drop_n_last_frames=0, frames=frames)
    for row in range(10):
        batch = windows.gather(np.array([row]))
        found = dataset.window(row, 2, 4)
        for name, expected in plain.window(row, 2, 4).items():
            np.testing.assert_array_equal(found[name], expected)
            np.testing.assert_array_equal(batch[name][0].numpy(), expected)
    for name, expected in policy_statistics(plain).items():
        np.testing.assert_array_equal(policy_statistics(dataset)[name]["mean"], expected["mean"])


def test_cameras_that_change_names_do_not_share_frames(make_dataset, tmp_path):
    cameras = {"observation.images.a": PNG, "observation.images.b": PNG}
    other = np.zeros((9, 8, 10, 3), np.uint8)
    root = make_dataset(cameras=cameras, lengths=(9,), changes={("observation.images.b", -1): other})
    swap = {"observation.images.a": "observation.images.b", "observation.images.b": "observation.images.a"}
    plain, swapped = open_dataset(root), open_dataset(root, features=swap)
    for camera, opposite in swap.items():
        frames = open_frames(plain, camera, None, tmp_path)
        again = open_frames(swapped, opposite, None, tmp_path)
        np.testing.assert_array_equal(frames.array, again.array)
    assert not open_frames(plain, "observation.images.b", None, tmp_path).array.any()
    assert plain.fingerprint == swapped.fingerprint


def test_a_missing_feature_is_told_the_rename_to_write(nearly):
    root = nearly()
    state, action = preflight(root)
    assert "no feature 'observation.state'" in state.problem
    # One value for both: set one by one, the second would replace the first.
    assert "Set dataset.features: {state: observation.state, actions: action}." in state.remedy
    assert "Set dataset.features: {state: observation.state, actions: action}." in action.remedy
    # With one of them made, the other is added to it.
    (action,) = preflight(root, features={"state": "observation.state"})
    assert "Set dataset.features: {state: observation.state, actions: action}." in action.remedy
    assert preflight(root, features={"state": "observation.state", "actions": "action"}) == []


def test_the_state_of_the_environment_is_not_proposed_as_the_robots(make_dataset):
    extra = {"observation.environment_state": DatasetFeature("float32", (2,))}
    changes = {("observation.environment_state", -1): states(0, 12)}
    root = make_dataset(lengths=(12,), extra=extra, changes=changes)
    call_otherwise(root, {"observation.state": "robot_position"})
    (fault,) = preflight(root)
    assert "environment_state: " not in fault.remedy


@pytest.mark.parametrize(
    ("renames", "problem", "remedy"),
    [
        ({"action_": "action"}, "the dataset has no feature 'action_'", "Did you mean 'action'? It has:"),
        (
            {"observation.state": "action"},
            "'observation.state' cannot become 'action': .* has a feature of this name",
            "Give that another name too",
        ),
        (
            {"observation.state": "x", "action": "x"},
            "'action' cannot become 'x': 'observation.state' of .* does",
            "Rename one of them",
        ),
        ({"timestamp": "time"}, "'timestamp' says where a frame is", "Leave it"),
        ({"action": "episode_index"}, "'episode_index' says where a frame is", "Leave it"),
    ],
)
def test_renames_that_cannot_be_made_are_faults(make_dataset, renames, problem, remedy):
    with pytest.raises(DatasetError, match=problem) as error:
        open_dataset(make_dataset(), features=renames)
    (fault,) = error.value.faults
    assert fault.where == "dataset.features"
    assert remedy in fault.remedy


def test_a_name_that_stays_the_same_is_no_fault(make_dataset):
    root = make_dataset()
    dataset = open_dataset(root, features={"action": "action"})
    np.testing.assert_array_equal(dataset.column("action"), open_dataset(root).column("action"))
