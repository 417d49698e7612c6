from __future__ import annotations

import numpy as np
import pytest
from small_sets import HEIGHT, PICTURE, WIDTH, states

from trainables.dataset.errors import DatasetError
from trainables.dataset.format.schema import DatasetFeature
from trainables.dataset.frames import open_frames
from trainables.dataset.open import open_dataset
from trainables.dataset.policy_statistics import policy_statistics
from trainables.dataset.statistics import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    QUANTILES,
    image_histogram,
    image_statistics,
    sample_rows,
    vector_statistics,
)

CAMERA = "observation.image"
PNG = DatasetFeature("image", (HEIGHT, WIDTH, 3), ["height", "width", "channels"])


def test_vectors_are_counted_exactly():
    values = np.random.default_rng(0).normal(5, 3, (1001, 4)).astype(np.float32)
    found = vector_statistics(values)
    exact = values.astype(np.float64)
    np.testing.assert_array_equal(found["min"], exact.min(axis=0))
    np.testing.assert_array_equal(found["max"], exact.max(axis=0))
    np.testing.assert_allclose(found["mean"], exact.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(found["std"], exact.std(axis=0), rtol=1e-13)
    for name, share in QUANTILES.items():
        np.testing.assert_allclose(found[name], np.quantile(exact, share, axis=0), rtol=1e-14)
    assert found["count"].tolist() == [1001]


def test_large_numbers_with_a_small_spread_keep_it():
    values = (1e5 + np.arange(1000) % 2).astype(np.float32)[:, None]
    assert vector_statistics(values)["std"][0] == pytest.approx(0.5, rel=1e-9)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (5, 3, 7, 9), (2, 1, 64, 64)])
def test_pixels_are_counted_exactly(shape):
    frames = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8) // 3 * 2
    found = image_statistics(image_histogram(frames), shape[0])
    pixels = frames.transpose(1, 0, 2, 3).reshape(shape[1], -1) / 255
    expected = {
        "min": pixels.min(axis=1),
        "max": pixels.max(axis=1),
        "mean": pixels.mean(axis=1),
        "std": pixels.std(axis=1),
        **{name: np.quantile(pixels, share, axis=1) for name, share in QUANTILES.items()},
    }
    assert found.keys() == {*expected, "count"}
    for name, value in expected.items():
        assert found[name].shape == (shape[1], 1, 1)
        np.testing.assert_allclose(found[name].ravel(), value, rtol=1e-12, atol=1e-15)


def test_statistics_see_only_the_chosen_episodes(make_dataset):
    dataset = open_dataset(make_dataset(lengths=(5, 6, 7)), exclude_episodes=[0])
    found = policy_statistics(dataset, [2])
    np.testing.assert_array_equal(found["action"]["min"], 100 + states(2, 7).astype(np.float64).min(axis=0))
    assert found["observation.state"]["count"].tolist() == [7]
    assert policy_statistics(dataset)["action"]["count"].tolist() == [13]
    with pytest.raises(DatasetError, match=r"\[0\] are not among the 2 opened ones"):
        policy_statistics(dataset, [0])


def test_a_constant_dimension_has_no_spread(make_dataset):
    values = states(0, 10)
    values[:, 1] = 0.1
    dataset = open_dataset(make_dataset(lengths=(10, 10), changes={("action", -1): values}))
    action = policy_statistics(dataset)["action"]
    assert action["min"][1] == action["max"][1] == np.float32(0.1)
    assert action["std"][1] == 0


@pytest.mark.slow
def test_pictures_are_counted_from_the_pixels_not_from_the_files(make_dataset, tmp_path):
    root = make_dataset(cameras={CAMERA: PNG})
    (root / "meta/stats.json").write_text("{}")
    dataset = open_dataset(root)
    found = policy_statistics(dataset, [0, 2])[CAMERA]
    pixels = dataset.pictures(CAMERA, dataset.rows_of([0, 2])) / 255
    np.testing.assert_allclose(found["mean"].ravel(), pixels.mean(axis=(0, 2, 3)))
    np.testing.assert_allclose(found["std"].ravel(), pixels.std(axis=(0, 2, 3)))
    assert found["count"].tolist() == [21]

    frames = {CAMERA: open_frames(dataset, CAMERA, None, tmp_path / "cache")}
    mapped = policy_statistics(dataset, [0, 2], frames=frames)[CAMERA]
    assert all(np.array_equal(mapped[name], found[name]) for name in found)


@pytest.mark.slow
def test_imagenet_numbers_replace_a_cameras_mean_and_std_only(make_dataset):
    dataset = open_dataset(make_dataset(cameras={CAMERA: PICTURE}))
    found = policy_statistics(dataset, use_imagenet_stats=True)
    own = policy_statistics(dataset)
    assert found[CAMERA]["mean"].shape == found[CAMERA]["std"].shape == (3, 1, 1)
    assert tuple(found[CAMERA]["mean"].ravel()) == IMAGENET_MEAN
    assert tuple(found[CAMERA]["std"].ravel()) == IMAGENET_STD
    assert found[CAMERA].keys() == own[CAMERA].keys()
    for name in ("min", "max", "q01", "q99", "count"):
        np.testing.assert_array_equal(found[CAMERA][name], own[CAMERA][name])
    np.testing.assert_array_equal(found["action"]["std"], own["action"]["std"])


@pytest.mark.parametrize(
    ("values", "count"), [(3 * 96 * 96, 1000), (3 * 480 * 640, 200), (3 * 256 * 256, 508)]
)
def test_the_sample_of_frames_is_even_and_always_the_same(values, count):
    rows = np.arange(50, 25_050)
    sample = sample_rows(rows, values)
    assert len(np.unique(sample)) == len(sample) == count
    assert (sample[0], sample[-1]) == (50, 25_049)
    assert np.ptp(np.diff(sample)) <= 1
    np.testing.assert_array_equal(sample_rows(np.arange(7), values), np.arange(7))


def test_nothing_has_no_statistics():
    with pytest.raises(ValueError, match="at least one row"):
        vector_statistics(np.zeros((0, 2)))
    with pytest.raises(ValueError, match="at least one pixel"):
        image_statistics(np.zeros((3, 256), np.int64), 0)
