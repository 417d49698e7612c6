from __future__ import annotations

import json
import shutil

import av
import numpy as np
import pytest
from small_sets import HEIGHT, PICTURE, WIDTH, edit_info, states

from trainables.dataset.doctor.preflight import preflight
from trainables.dataset.errors import DatasetError
from trainables.dataset.format.schema import DatasetFeature
from trainables.dataset.frames import open_frames
from trainables.dataset.open import open_dataset

CAMERA = "observation.image"


def only(faults):
    assert len(faults) == 1, faults
    return faults[0]


@pytest.mark.slow
@pytest.mark.parametrize("version", ["v3.0", "v2.1", "v2.0"])
def test_a_good_dataset_has_no_fault(make_dataset, version):
    root = make_dataset(cameras={CAMERA: PICTURE}, version=version)
    assert preflight(root, holdout_fraction=0.25, episodes=[0, 1, 3], observations=None) == []


def test_a_missing_folder_is_named(tmp_path):
    fault = only(preflight(tmp_path / "nowhere"))
    assert fault.where == "dataset.root"
    assert "nowhere' is not a folder" in fault.problem
    assert "neither a folder nor a name on the hub" in only(preflight("./no/such/place")).problem


def test_a_folder_without_metadata_is_told_what_a_dataset_is(tmp_path):
    fault = only(preflight(tmp_path))
    assert "has no meta/info.json" in fault.problem
    assert "meta/info.json, data/chunk-000/*.parquet" in fault.remedy


def test_an_unknown_version_is_told_the_known_ones(make_dataset):
    root = make_dataset()
    edit_info(root, codebase_version="v1.6")
    fault = only(preflight(root))
    assert "'v1.6'" in fault.problem
    assert "v3.0, v2.1, v2.0" in fault.remedy


def test_features_of_other_names_are_pointed_at(make_dataset):
    root = make_dataset()
    info = json.loads((root / "meta/info.json").read_text())
    features = info["features"]
    features["state"] = features.pop("observation.state")
    features["actions"] = features.pop("action")
    edit_info(root, features=features)
    state, action = preflight(root)
    assert "no feature 'observation.state'" in state.problem
    assert "Nearest: state" in state.remedy
    assert "no feature 'action'" in action.problem
    assert "Nearest: actions" in action.remedy


def test_unknown_observations_are_told_the_nearest(make_dataset):
    root = make_dataset(cameras={"observation.images.front": PICTURE})
    faults = preflight(root, observations=["observation.state", "observation.image.front", "next.reward"])
    assert [fault.where for fault in faults] == ["dataset.observations"] * 2
    assert "no 'observation.image.front'" in faults[0].problem
    assert "Did you mean 'observation.images.front'?" in faults[0].remedy
    assert "observation.images.front, observation.state" in faults[1].remedy


def test_observations_without_the_state_are_a_fault(make_dataset):
    root = make_dataset(cameras={CAMERA: PICTURE})
    fault = only(preflight(root, observations=[CAMERA]))
    assert "observation.state is not among them" in fault.problem


def test_episodes_that_do_not_exist_are_named(make_dataset):
    root = make_dataset()
    faults = preflight(root, episodes=[0, 4, 9], exclude_episodes=[7])
    assert [(fault.where, fault.problem) for fault in faults] == [
        ("dataset.episodes", "[4, 9] do not exist."),
        ("dataset.exclude_episodes", "[7] do not exist."),
    ]
    assert "episodes 0 to 3, 4 of them" in faults[0].remedy


def test_no_episode_left_is_a_fault(make_dataset):
    assert "no episode is left" in only(preflight(make_dataset(), exclude_episodes=range(4))).problem


def test_one_episode_cannot_be_split(make_dataset):
    root = make_dataset()
    assert preflight(root, episodes=[2]) == []
    fault = only(preflight(root, episodes=[2], holdout_fraction=0.1))
    assert fault.where == "dataset.holdout_fraction"
    assert fault.remedy.endswith("dataset.episodes: 2 is one episode; the first 2 are 0-1.")


def test_a_fraction_of_the_episodes_must_be_an_episode(make_dataset):
    root = make_dataset()
    assert preflight(root, holdout_fraction=0.25, fraction=0.2) == []
    fault = only(preflight(root, holdout_fraction=0.25, fraction=0.1))
    assert fault.where == "dataset.fraction"
    assert fault.problem == "0.1 of 3 training episodes is less than one episode."
    assert (
        only(preflight(root, fraction=0.1)).problem == "0.1 of 4 training episodes is less than one episode."
    )


@pytest.mark.slow
@pytest.mark.parametrize(("feature", "bad"), [("action", np.nan), ("observation.state", -np.inf)])
def test_numbers_that_are_none_are_found(make_dataset, feature, bad):
    values = states(1, 7)
    values[3, 1] = bad
    root = make_dataset(changes={(feature, 1): values, (feature, 3): np.full((10, 2), bad, np.float32)})
    fault = only(preflight(root))
    assert fault.where == feature
    assert fault.problem == f"is {bad} in episode 1, frame 3; 11 such frames in episodes [1, 3]."
    assert "dataset.exclude_episodes: [1, 3]" in fault.remedy
    assert preflight(root, exclude_episodes=[1, 3]) == []


@pytest.mark.slow
@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
def test_a_missing_video_costs_its_episodes_only(make_dataset, tmp_path, version):
    root = make_dataset(cameras={CAMERA: PICTURE}, version=version, episodes_per_file=1)
    video = sorted(root.rglob("*.mp4"))[1]
    video.unlink()
    fault = only(preflight(root))
    assert fault.where == CAMERA
    assert fault.problem == f"the video is missing; episode 1 ({video})."
    assert fault.remedy == "Fetch again, or set dataset.exclude_episodes: [1]."

    with pytest.raises(DatasetError, match=r"episode 1, frame 0, observation.image: the video is missing"):
        open_frames(open_dataset(root), CAMERA, None, tmp_path / "cache")
    assert preflight(root, exclude_episodes=[1]) == []
    assert (
        len(open_frames(open_dataset(root, exclude_episodes=[1]), CAMERA, None, tmp_path / "cache").array)
        == 31
    )


@pytest.mark.slow
def test_several_missing_videos_are_one_fault(make_dataset):
    root = make_dataset(cameras={CAMERA: PICTURE}, version="v2.1", lengths=(2,) * 14)
    for video in sorted(root.rglob("*.mp4"))[:12]:
        video.unlink()
    fault = only(preflight(root))
    assert "12 of 14 videos, first" in fault.problem
    assert "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ... 12 in all]" in fault.problem
    assert "dataset.exclude_episodes: [0-11]" in fault.remedy


def test_nobody_is_told_to_leave_out_every_episode(make_dataset):
    root = make_dataset(cameras={CAMERA: PICTURE})
    shutil.rmtree(root / "videos")
    fault = only(preflight(root))
    assert (
        fault.remedy == f"Fetch again, or leave {CAMERA} out of dataset.observations ([observation.state])."
    )


def test_numbers_that_are_bad_everywhere_call_for_another_dataset(make_dataset):
    bad = make_dataset(lengths=(5,), changes={("action", 0): np.full((5, 2), np.nan, np.float32)})
    assert only(preflight(bad)).remedy == "Repair the dataset, or use another dataset."


def test_a_camera_is_not_taken_for_a_misnamed_state(make_dataset):
    root = make_dataset(cameras={CAMERA: PICTURE})
    info = json.loads((root / "meta/info.json").read_text())
    del info["features"]["observation.state"]
    edit_info(root, features=info["features"])
    fault = only(preflight(root))
    assert "no feature 'observation.state'" in fault.problem
    assert "Rename" not in fault.remedy
    assert "The dataset has: observation.image, action" in fault.remedy


def test_a_broken_off_data_file_is_said_in_one_clean_sentence(make_dataset):
    root = make_dataset()
    file = next((root / "data").rglob("*.parquet"))
    file.write_bytes(file.read_bytes()[:500])
    fault = only(preflight(root))
    assert "has no footer: the recorder or the copy was cut off" in fault.problem
    assert not fault.problem.endswith("..")


def test_a_video_cut_off_before_its_index_is_damaged(make_dataset, tmp_path):
    root = make_dataset(cameras={CAMERA: PICTURE})
    video = next(root.rglob("*.mp4"))
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    fault = only(preflight(root))
    assert "the video is damaged" in fault.problem
    assert "episodes [0, 1, 2, 3]" in fault.problem
    with pytest.raises(DatasetError, match="damaged"):
        open_frames(open_dataset(root), CAMERA, None, tmp_path / "cache")
    assert list((tmp_path / "cache").rglob("*.npy*")) == []


def move_index_to_the_front(video):
    """Write the same packets again as a file that can be played while it is fetched."""
    moved = video.with_suffix(".moved.mp4")
    with av.open(str(video)) as source, av.open(str(moved), "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    moved.replace(video)


@pytest.mark.slow
def test_a_video_cut_off_behind_its_index_costs_the_last_episodes(make_dataset, tmp_path):
    root = make_dataset(cameras={CAMERA: PICTURE}, lengths=(20, 20, 20, 20))
    video = next(root.rglob("*.mp4"))
    move_index_to_the_front(video)
    assert preflight(root) == []
    video.write_bytes(video.read_bytes()[: int(video.stat().st_size * 0.6)])
    fault = only(preflight(root))
    assert "the video ends too early" in fault.problem
    excluded = json.loads(fault.remedy[fault.remedy.index("[") : -1])
    assert excluded[-1] == 3
    assert 0 not in excluded

    assert preflight(root, exclude_episodes=excluded) == []
    kept = open_dataset(root, exclude_episodes=excluded)
    assert len(open_frames(kept, CAMERA, None, tmp_path / "cache").array) == 20 * (4 - len(excluded))


def test_a_video_with_too_few_frames_names_the_episodes(make_dataset):
    root = make_dataset(cameras={CAMERA: PICTURE}, version="v2.1", lengths=(5, 8, 6))
    videos = sorted(root.rglob("*.mp4"))
    shutil.copy(videos[0], videos[1])
    fault = only(preflight(root))
    assert fault.problem == f"the video ends too early; episode 1 ({videos[1]})."


def test_a_video_of_another_size_is_a_fault(make_dataset):
    root = make_dataset(cameras={CAMERA: PICTURE})
    info = json.loads((root / "meta/info.json").read_text())
    info["features"][CAMERA]["shape"] = [64, 64, 3]
    edit_info(root, features=info["features"])
    assert f"is {HEIGHT}×{WIDTH} px, info.json says 64×64" in only(preflight(root)).problem


def test_a_missing_data_file_names_its_episodes(make_dataset):
    root = make_dataset(version="v2.1")
    sorted(root.rglob("*.parquet"))[2].unlink()
    fault = only(preflight(root))
    assert "the data files of episodes [2] are missing" in fault.problem
    assert preflight(root, exclude_episodes=[2]) == []


def test_a_dataset_without_data_is_a_fault(make_dataset):
    root = make_dataset()
    shutil.rmtree(root / "data")
    assert "has no data/*/*.parquet" in only(preflight(root)).problem


def test_a_state_that_is_no_vector_is_a_fault(make_dataset):
    extra = {"observation.environment_state": DatasetFeature("float32", (2, 2))}
    values = {("observation.environment_state", -1): np.zeros((12, 2, 2), np.float32)}
    root = make_dataset(extra=extra, changes=values)
    assert "must be a vector" in only(preflight(root)).remedy


def test_preflight_leaves_the_folder_as_it_is(make_dataset):
    root = make_dataset(cameras={CAMERA: PICTURE})
    before = sorted((path, path.stat().st_mtime_ns) for path in root.rglob("*"))
    assert len(before) >= 12
    preflight(root)
    assert sorted((path, path.stat().st_mtime_ns) for path in root.rglob("*")) == before
