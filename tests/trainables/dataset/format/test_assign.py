"""Each row has the frame of its own moment, by order or by time, or none at all."""

from __future__ import annotations

import numpy as np
import pytest

from trainables.dataset.format.assign import Assigned, Stretch, assign_frames


def assign(
    frames: int,
    starts: list[float],
    lengths: list[int],
    *,
    fps: float = 10,
    rate: float | None = None,
    seconds: np.ndarray | None = None,
    chosen: list[int] | None = None,
    tolerance_s: float = 1e-4,
) -> Assigned:
    """The frames of the rows of some episodes that share a file of ``frames`` frames."""
    stretches = [
        Stretch(number, start, length)
        for number, (start, length) in enumerate(zip(starts, lengths, strict=True))
    ]
    numbers = range(len(lengths)) if chosen is None else chosen
    place = np.concatenate([np.arange(lengths[number]) for number in numbers])
    episode = np.repeat(list(numbers), [lengths[number] for number in numbers])
    times = (place / fps if seconds is None else seconds).astype(np.float32)
    frames_s = np.arange(frames) / (rate or fps)
    return assign_frames(frames_s, stretches, episode, place, times, fps=fps, tolerance_s=tolerance_s)


def test_a_sound_file_is_read_by_time_and_by_row_alike() -> None:
    found = assign(9, [0.0, 0.4], [4, 5])
    assert not found.by_row
    assert not found.lost.any()
    np.testing.assert_allclose(found.times_s, np.arange(9) / 10)


@pytest.mark.parametrize(
    "starts",
    [
        [0.0, 0.0, 0.0],  # every episode at the same place
        [0.0, 0.45, 0.95],  # between the frames
        [0.0, 0.4, 0.4],  # two of them at the same place
        [0.0, 0.3, 0.6],  # nearer to each other than they are long
        [0.0, 2.4, 2.9],  # behind the end of the file
        [1e9, 1e9, 1e9],
        [-3.0, -2.0, -1.0],
    ],
)
def test_as_many_frames_as_rows_are_read_in_the_order_of_the_rows(starts: list[float]) -> None:
    found = assign(12, starts, [4, 5, 3])
    assert found.by_row
    assert not found.lost.any()
    np.testing.assert_allclose(found.times_s, np.arange(12) / 10)


def test_episodes_in_another_order_in_the_file_are_read_where_they_are() -> None:
    found = assign(12, [0.0, 0.7, 0.4], [4, 5, 3])
    assert not found.by_row
    np.testing.assert_allclose(found.times_s * 10, [0, 1, 2, 3, 7, 8, 9, 10, 11, 4, 5, 6])
    shifted = assign(12, [0.02, 0.72, 0.42], [4, 5, 3])
    assert shifted.by_row
    np.testing.assert_allclose(shifted.times_s, found.times_s)


def test_a_choice_of_episodes_has_the_same_frames() -> None:
    found = assign(12, [0.0, 0.0, 0.0], [4, 5, 3], chosen=[1])
    assert found.by_row
    np.testing.assert_allclose(found.times_s * 10, [4, 5, 6, 7, 8])


@pytest.mark.parametrize(
    "seconds",
    [
        0.03 + np.cumsum([0.1, 0.14, 0.05, 0.11, 0.09]),
        np.zeros(5),
        np.full(5, np.nan),
        1.7e9 + np.arange(5) / 10,
        np.arange(5)[::-1] / 10,
    ],
)
def test_clocks_of_any_kind_do_no_harm_if_there_are_as_many_frames(seconds: np.ndarray) -> None:
    found = assign(5, [0.0], [5], seconds=seconds)
    assert found.by_row
    np.testing.assert_allclose(found.times_s, np.arange(5) / 10)


@pytest.mark.parametrize("rate", [30000 / 1001, 15.0, 60.0, 24.0])
def test_another_frame_rate_does_no_harm_if_there_are_as_many_frames(rate: float) -> None:
    found = assign(40, [0.0], [40], fps=30, rate=rate)
    assert found.by_row
    np.testing.assert_allclose(found.times_s, np.arange(40) / rate)


def test_starts_that_contradict_each_other_and_the_order_have_no_frames() -> None:
    found = assign(9, [0.2, 0.0, 0.0], [3, 3, 3])
    assert not found.by_row
    assert found.lost.tolist() == [True, False, False] + [True] * 6  # only two frames belong to one row


def test_no_frame_is_used_twice() -> None:
    found = assign(13, [0.0, 0.3, 0.9], [4, 5, 3])
    assert found.lost.tolist() == [False] * 3 + [True] * 2 + [False] * 7
    wide = assign(13, [0.0, 0.33, 0.9], [4, 5, 3], tolerance_s=0.05)
    assert wide.lost.any()


def test_rows_behind_the_end_cost_no_other_row() -> None:
    found = assign(5, [0.0], [8])
    assert found.lost.tolist() == [False] * 5 + [True] * 3
    wide = assign(5, [0.0], [8], tolerance_s=0.02)
    assert wide.lost.tolist() == [False] * 5 + [True] * 3


def test_frames_in_another_order_than_the_rows_are_not_used() -> None:
    found = assign(9, [0.0], [4], seconds=np.array([0.0, 0.3, 0.2, 0.4]))
    assert found.lost.tolist() == [False, False, True, False]


def test_a_time_that_is_not_a_number_has_no_frame() -> None:
    found = assign(9, [0.0], [3], seconds=np.array([0.0, np.nan, np.inf]))
    assert found.lost.tolist() == [False, True, True]


def test_every_other_frame_of_a_faster_camera_is_used() -> None:
    found = assign(20, [0.0], [10], rate=20)
    assert not found.lost.any()
    np.testing.assert_allclose(found.times_s * 20, np.arange(0, 20, 2))


def test_a_tolerance_finds_frames_that_are_late_by_a_constant() -> None:
    assert assign(6, [0.02], [5]).lost.all()
    found = assign(6, [0.02], [5], tolerance_s=0.03)
    assert not found.lost.any()
    np.testing.assert_allclose(found.times_s * 10, np.arange(5))
