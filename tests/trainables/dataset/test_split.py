"""Which episodes train, and which judge."""

from __future__ import annotations

import itertools

import pytest

from trainables.dataset.errors import DatasetError
from trainables.dataset.open import open_dataset
from trainables.dataset.split import split_episodes


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
