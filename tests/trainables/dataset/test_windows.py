from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from small_sets import PICTURE

from trainables.dataset.errors import DatasetError
from trainables.dataset.format.schema import DatasetFeature
from trainables.dataset.frames import open_frames
from trainables.dataset.open import open_dataset
from trainables.dataset.windows import Windows, split_episodes

CAMERA = "observation.image"


def windows_of(dataset, episodes=None, **options):
    chosen = [episode.index for episode in dataset.episodes] if episodes is None else episodes
    options = {"n_obs_steps": 2, "horizon": 8, "drop_n_last_frames": 0, "frames": {}, **options}
    return Windows(dataset, chosen, **options)


@pytest.mark.slow
@pytest.mark.parametrize(("n_obs_steps", "horizon"), [(1, 1), (1, 8), (2, 8), (3, 16), (4, 2)])
@pytest.mark.parametrize("episodes", [None, [3, 0, 1]])
def test_a_batch_holds_the_same_as_its_windows_one_by_one(
    make_dataset, tmp_path, n_obs_steps, horizon, episodes
):
    root = make_dataset(lengths=(6, 1, 9, 10), cameras={CAMERA: PICTURE})
    dataset = open_dataset(root, episodes=episodes)
    frames = {CAMERA: open_frames(dataset, CAMERA, None, tmp_path)}
    windows = windows_of(dataset, n_obs_steps=n_obs_steps, horizon=horizon, frames=frames)
    assert len(windows) == len(dataset)

    numbers = np.random.default_rng(0).permutation(len(windows))
    batch = windows.gather(numbers)
    assert {name: value.dtype for name, value in batch.items()} == {
        CAMERA: torch.uint8,
        "observation.state": torch.float32,
        "action": torch.float32,
        "action_is_pad": torch.bool,
    }
    for place, number in enumerate(numbers):
        alone = dataset.window(int(number), n_obs_steps, horizon)
        assert alone.keys() == batch.keys()
        for name, value in alone.items():
            np.testing.assert_array_equal(batch[name][place].numpy(), value)


def test_samples_end_where_the_dropped_frames_begin(make_dataset):
    dataset = open_dataset(make_dataset(lengths=(6, 3, 9)))
    windows = windows_of(dataset, drop_n_last_frames=4)
    assert len(windows) == 2 + 0 + 5
    assert windows.empty_episodes == (1,)
    state = windows.gather(np.arange(7))["observation.state"][:, -1]
    np.testing.assert_array_equal(state, dataset.column("observation.state")[[0, 1, 9, 10, 11, 12, 13]])


def test_only_the_chosen_episodes_give_samples(make_dataset):
    dataset = open_dataset(make_dataset(lengths=(6, 3, 9)), exclude_episodes=[0])
    batch = windows_of(dataset, episodes=[2]).gather(np.arange(9))
    assert batch["observation.state"][..., 0].min() >= 2


def test_episodes_that_are_all_too_short_are_an_error(make_dataset):
    dataset = open_dataset(make_dataset(lengths=(6, 3, 9)))
    with pytest.raises(
        DatasetError, match=r"none of the 3 episodes.*longest has 9 frames, the last 9 of each"
    ):
        windows_of(dataset, drop_n_last_frames=9)
    with pytest.raises(DatasetError, match="none of the 0 episodes"):
        windows_of(dataset, episodes=[])


def test_a_camera_without_frames_is_an_error(make_dataset):
    dataset = open_dataset(make_dataset(cameras={CAMERA: PICTURE}))
    with pytest.raises(DatasetError, match=r"frames of \['observation\.image'\] were not opened"):
        windows_of(dataset)


def test_frames_may_be_smaller_than_recorded(make_dataset, tmp_path):
    dataset = open_dataset(make_dataset(cameras={CAMERA: PICTURE}))
    windows = windows_of(dataset, frames={CAMERA: open_frames(dataset, CAMERA, (16, 24), tmp_path)})
    assert windows.gather(np.array([0, 5, 9]))[CAMERA].shape == (3, 2, 3, 16, 24)


def test_what_a_batch_holds_can_be_changed_without_harm(make_dataset, tmp_path):
    dataset = open_dataset(make_dataset(cameras={CAMERA: PICTURE}))
    windows = windows_of(dataset, frames={CAMERA: open_frames(dataset, CAMERA, None, tmp_path)})
    before = windows.gather(np.arange(8))
    for value in windows.gather(np.arange(8)).values():
        value.zero_()
    after = windows.gather(np.arange(8))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert before[CAMERA].any()


def test_the_order_is_a_pure_function_of_seed_and_epoch(make_dataset):
    windows = windows_of(open_dataset(make_dataset(lengths=(6, 4))))
    orders = {(seed, epoch): windows.order(seed, epoch).tolist() for seed in range(3) for epoch in range(3)}
    assert all(sorted(order) == list(range(10)) for order in orders.values())
    assert len({tuple(order) for order in orders.values()}) == 9
    assert windows.order(1, 2).tolist() == orders[1, 2]
    # Written down once: another numpy, machine or version of this package must give the same.
    assert orders[0, 0] == [3, 2, 1, 8, 6, 0, 7, 4, 5, 9]


def test_the_split_is_by_episode_and_by_seed(make_dataset):
    dataset = open_dataset(make_dataset(lengths=(3,) * 20))
    split = split_episodes(dataset, 0.2, 0)
    assert len(split.holdout) == 4
    assert sorted(split.train + split.holdout) == list(range(20))
    assert split == split_episodes(open_dataset(dataset.root), 0.2, 0)
    others = [split_episodes(dataset, 0.2, seed) for seed in range(1, 5)]
    assert len({other.holdout for other in [split, *others]}) > 1
    assert len({other.hash for other in [split, *others]}) == 5
    assert split.holdout == (4, 7, 15, 18)


def test_leaving_an_episode_out_moves_no_other_to_the_other_side(make_dataset):
    root = make_dataset(lengths=(3,) * 20)
    split = split_episodes(open_dataset(root), 0.2, 0)
    out = split.train[0]
    fewer = split_episodes(open_dataset(root, exclude_episodes=[out]), 0.2, 0)
    assert fewer.holdout == split.holdout
    assert fewer.train == split.train[1:]
    assert fewer.hash != split.hash


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "fraction", "held_out"), [(2, 0.01, 1), (2, 0.5, 1), (10, 0.5, 5), (3, 0.0, 0)]
)
def test_some_episode_is_held_out_and_some_is_left(make_dataset, count, fraction, held_out):
    split = split_episodes(open_dataset(make_dataset(lengths=(3,) * count)), fraction, 0)
    assert len(split.holdout) == held_out
    assert len(split.train) == count - held_out


def test_a_smaller_fraction_is_part_of_a_larger_one_and_the_held_out_episodes_stay(make_dataset):
    dataset = open_dataset(make_dataset(lengths=(3,) * 20))
    whole = split_episodes(dataset, 0.2, 0)
    splits = [split_episodes(dataset, 0.2, 0, fraction) for fraction in (0.01 + 1 / 32, 0.25, 0.5, 0.9, 1.0)]
    assert [len(split.train) for split in splits] == [1, 4, 8, 14, 16]
    for smaller, larger in itertools.pairwise(splits):
        assert set(smaller.train) < set(larger.train)
    for split in splits:
        assert split.holdout == whole.holdout
        assert sorted(split.train + split.unused + split.holdout) == list(range(20))
    assert splits[-1] == whole
    assert len({split.hash for split in splits}) == len(splits)
    assert split_episodes(dataset, 0.2, 1, 0.25).train != splits[1].train


def test_leaving_an_episode_out_changes_a_fraction_by_one_episode(make_dataset):
    root = make_dataset(lengths=(3,) * 20)
    half = split_episodes(open_dataset(root), 0.2, 0, 0.5)
    fewer = split_episodes(open_dataset(root, exclude_episodes=[half.train[0]]), 0.2, 0, 0.5)
    assert fewer.holdout == half.holdout
    assert set(half.train[1:]) < set(fewer.train)


@pytest.mark.parametrize("holdout", [0.0, 0.2])
def test_a_fraction_of_no_episode_is_an_error(make_dataset, holdout):
    dataset = open_dataset(make_dataset(lengths=(3,) * 20))
    count = 20 if holdout == 0 else 16
    with pytest.raises(DatasetError, match=rf"dataset\.fraction: 0\.02 of {count} .* less than one episode"):
        split_episodes(dataset, holdout, 0, 0.02)
    assert len(split_episodes(dataset, holdout, 0, float(f"{1 / count:.2g}")).train) == 1, "the remedy"


def test_one_episode_is_not_split(make_dataset):
    dataset = open_dataset(make_dataset(lengths=(3,)))
    with pytest.raises(DatasetError, match=r"dataset\.holdout_fraction: 1 episode cannot be split"):
        split_episodes(dataset, 0.1, 0)


def test_the_state_of_the_environment_is_an_observation(make_dataset):
    extra = {"observation.environment_state": DatasetFeature("float32", (3,))}
    values = {("observation.environment_state", -1): np.arange(36, dtype=np.float32).reshape(12, 3)}
    dataset = open_dataset(make_dataset(lengths=(12,), extra=extra, changes=values))
    batch = windows_of(dataset).gather(np.array([0, 11]))
    assert batch["observation.environment_state"][..., 0].tolist() == [[0, 0], [30, 33]]
