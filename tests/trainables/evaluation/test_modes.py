"""Modes: one blob is one mode, blobs that are clearly apart are several."""

from __future__ import annotations

import numpy as np
import pytest

from trainables.evaluation.modes import FEWEST_CHUNKS, clusters

CHUNKS, NUMBERS = 24, 16


def chunks(place: np.ndarray, seed: int) -> np.ndarray:
    """Chunks that differ along one direction, by ``place``, and by a little noise in every number."""
    rng = np.random.default_rng(seed)
    direction = rng.standard_normal(NUMBERS)
    return np.outer(place, direction / np.linalg.norm(direction)) + 0.1 * rng.standard_normal(
        (len(place), NUMBERS)
    )


def found(place: np.ndarray, seed: int) -> int:
    return int(clusters(chunks(place, seed)).max()) + 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["normal", "uniform", "exponential"])
def test_one_distribution_is_one_mode(kind: str) -> None:
    rng = np.random.default_rng(0)
    draw = {"normal": rng.standard_normal, "uniform": rng.random, "exponential": rng.exponential}[kind]
    numbers = [found(10 * draw(size=CHUNKS), seed) for seed in range(40)]
    assert numbers.count(1) >= (34 if kind == "exponential" else 38)


@pytest.mark.slow
@pytest.mark.parametrize("modes", [2, 3, 4])
def test_modes_that_are_far_apart_are_counted(modes: int) -> None:
    rng = np.random.default_rng(1)
    which = np.arange(CHUNKS) % modes
    numbers = [found(12.0 * which + rng.standard_normal(CHUNKS), seed) for seed in range(20)]
    assert numbers.count(modes) >= 18


def test_every_chunk_is_in_the_cluster_of_its_mode() -> None:
    which = np.repeat([0, 1], [17, 7])
    labels = clusters(chunks(20.0 * which + np.random.default_rng(2).standard_normal(CHUNKS), 0))
    assert len(set(labels[:17])) == len(set(labels[17:])) == 1
    assert labels[0] != labels[-1]


def test_an_outlier_a_small_difference_and_few_chunks_are_no_modes() -> None:
    rng = np.random.default_rng(3)
    outlier = rng.standard_normal(CHUNKS)
    outlier[0] = 100.0
    assert found(outlier, 0) == 1
    apart = chunks(20.0 * (np.arange(CHUNKS) % 2), 0)
    assert clusters(apart).max() == 1
    assert clusters(apart, nearest=20.0).max() == 0
    assert clusters(apart[: FEWEST_CHUNKS - 1]).max() == 0


def test_chunks_that_are_all_equal_are_one_mode() -> None:
    assert clusters(np.zeros((CHUNKS, NUMBERS))).max() == 0
