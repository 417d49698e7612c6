from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch import Tensor

from trainables.diffusion_policy.network.normalize import NormalizationError, Normalizer, constant_dimensions
from trainables.features import Feature, FeatureType, PolicyFeatures

FEATURES = PolicyFeatures.of(
    [
        Feature("observation.image", FeatureType.VISUAL, (3, 4, 4)),
        Feature("observation.state", FeatureType.STATE, (3,)),
        Feature("action", FeatureType.ACTION, (2,)),
    ]
)
STATISTICS = {
    "observation.image": {
        "mean": np.array([0.4, 0.5, 0.6]).reshape(3, 1, 1),
        "std": np.array([0.1, 0.2, 0.3]).reshape(3, 1, 1),
        "min": np.zeros((3, 1, 1)),
        "max": np.ones((3, 1, 1)),
    },
    # The last dimension never varies.
    "observation.state": {
        "min": np.array([-2.0, 0.0, 500.0]),
        "max": np.array([2.0, 10.0, 500.0]),
        "mean": np.array([0.5, 4.0, 500.0]),
        "std": np.array([1.0, 3.0, 0.0]),
        "q01": np.array([-1.0, 1.0, 500.0]),
        "q99": np.array([1.0, 9.0, 500.0]),
    },
    "action": {
        "min": np.array([-3.0, 7.0]),
        "max": np.array([5.0, 7.0]),
        "mean": np.array([1.0, 7.0]),
        "std": np.array([2.0, 0.0]),
        "q01": np.array([-2.0, 7.0]),
        "q99": np.array([4.0, 7.0]),
    },
}


def normalizer(mode: str, image: str = "MEAN_STD") -> Normalizer:
    modes = dict.fromkeys(FeatureType, mode) | {FeatureType.VISUAL: image}
    return Normalizer(FEATURES, STATISTICS, modes)


STATE = torch.tensor([[-2.0, 0.0, 500.0], [2.0, 10.0, 500.0], [1.0, 2.5, 500.0]])


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("MIN_MAX", [[-1, -1, -1], [1, 1, -1], [0.5, -0.5, -1]]),
        ("QUANTILES", [[-2, -1.25, -1], [2, 1.25, -1], [1, -0.625, -1]]),
        ("MEAN_STD", [[-2.5, -4 / 3, 0], [1.5, 2, 0], [0.5, -0.5, 0]]),
        ("IDENTITY", STATE.tolist()),
    ],
)
def test_each_mode_has_lerobots_formula(mode: str, expected: list[list[float]]) -> None:
    torch.testing.assert_close(normalizer(mode).normalize("observation.state", STATE), torch.tensor(expected))


@pytest.mark.parametrize("mode", ["MIN_MAX", "QUANTILES", "MEAN_STD", "IDENTITY"])
def test_unnormalising_undoes_normalising(mode: str) -> None:
    scaling = normalizer(mode)
    action = torch.tensor([[-3.0, 7.0], [0.1, 7.0], [5.0, 7.0]])
    restored = scaling.unnormalize("action", scaling.normalize("action", action))
    torch.testing.assert_close(restored, action, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("mode", "value"), [("MIN_MAX", -1.0), ("QUANTILES", -1.0), ("MEAN_STD", 0.0)])
def test_a_constant_dimension_cannot_explode(mode: str, value: float) -> None:
    scaling = normalizer(mode)
    state = torch.tensor([[0.0, 0.0, 500.0], [0.0, 0.0, 500.1], [0.0, 0.0, -1e6]])
    assert scaling.normalize("observation.state", state)[:, 2].tolist() == [value] * 3
    # For any prediction of a network, the action is the constant.
    assert scaling.unnormalize("action", torch.tensor([[0.0, -9.0], [0.0, 3.0]]))[:, 1].tolist() == [7.0, 7.0]


@pytest.mark.parametrize("mode", ["MIN_MAX", "QUANTILES", "MEAN_STD", "IDENTITY"])
@pytest.mark.parametrize("dimension", [0, 2])
def test_nan_stays_nan_even_in_a_constant_dimension(mode: str, dimension: int) -> None:
    state = STATE.clone()
    state[1, dimension] = float("nan")
    normalized = normalizer(mode).normalize("observation.state", state)
    assert normalized.isnan().nonzero().tolist() == [[1, dimension]]


def test_rounding_noise_counts_as_constant_and_small_units_do_not() -> None:
    def constant(low: float, high: float) -> bool:
        entry = {"min": np.array([low] * 3), "max": np.array([high] * 3)}
        modes = dict.fromkeys(FeatureType, "IDENTITY") | {FeatureType.STATE: "MIN_MAX"}
        return bool(constant_dimensions(FEATURES, {"observation.state": entry}, modes))

    assert constant(0.3, 0.3 + 1e-8)
    assert not constant(1e-9, 2e-9)
    assert constant(0.0, 0.0)


def test_constant_dimensions_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        normalizer("MIN_MAX")
    assert "observation.state: dimensions [2] never vary" in caplog.text
    assert "action: dimensions [1] never vary" in caplog.text


def test_a_rarely_moving_dimension_falls_back_to_its_range() -> None:
    gripper = {"min": [0.0, 0.0], "max": [1.0, 1.0], "q01": [1.0, 0.1], "q99": [1.0, 0.9]}
    statistics = STATISTICS | {"action": {name: np.array(value) for name, value in gripper.items()}}
    modes = dict.fromkeys(FeatureType, "QUANTILES") | {FeatureType.VISUAL: "MIN_MAX"}
    scaling = Normalizer(FEATURES, statistics, modes)
    normalized = scaling.normalize("action", torch.tensor([[0.0, 0.1], [1.0, 0.9]]))
    torch.testing.assert_close(normalized, torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))
    assert scaling.statistics["action"]["q01"].tolist() == [0.0, 0.1]


def test_uint8_images_are_scaled_like_float_images() -> None:
    image = torch.arange(256, dtype=torch.uint8)[:240].reshape(5, 3, 4, 4)
    scaling = normalizer("MIN_MAX")
    normalized = scaling.normalize("observation.image", image)
    assert torch.equal(normalized, scaling.normalize("observation.image", image.float() / 255))
    expected = (image.double() / 255 - 0.5) / (0.2 + 1e-8)
    torch.testing.assert_close(normalized[:, 1].double(), expected[:, 1], rtol=1e-6, atol=1e-6)


def test_input_is_not_changed_in_place() -> None:
    state, image = STATE.clone(), torch.rand(2, 3, 4, 4)
    kept = image.clone()
    normalizer("MIN_MAX").normalize("observation.state", state)
    normalizer("MIN_MAX").normalize("observation.image", image)
    assert torch.equal(state, STATE)
    assert torch.equal(image, kept)


def test_statistics_travel_with_the_module_but_not_in_its_state_dict() -> None:
    scaling = normalizer("MIN_MAX")
    assert scaling.state_dict() == {}
    moved: Tensor = scaling.to("meta").normalize("observation.state", STATE.to("meta"))
    assert moved.device.type == "meta"


def test_faulty_statistics_are_all_named() -> None:
    statistics = {
        "observation.image": STATISTICS["observation.image"] | {"std": np.ones(3)},
        "observation.state": {"min": np.zeros(3)},
        "action": {"min": np.array([0.0, np.nan]), "max": np.ones(2)},
    }
    modes = dict.fromkeys(FeatureType, "MIN_MAX") | {FeatureType.VISUAL: "MEAN_STD"}
    with pytest.raises(NormalizationError) as raised:
        Normalizer(FEATURES, statistics, modes)
    message = str(raised.value)
    assert "observation.image: statistic 'std' has shape (3,), expected (3, 1, 1)" in message
    assert "observation.state: statistic 'max' is missing" in message
    assert "action: statistic 'min' is not finite ([0.0, nan])" in message
    assert raised.value.reason == "data"


def test_swapped_bounds_are_refused() -> None:
    swapped = STATISTICS | {"action": {"min": np.ones(2), "max": np.zeros(2)}}
    modes = dict.fromkeys(FeatureType, "IDENTITY") | {FeatureType.ACTION: "MIN_MAX"}
    with pytest.raises(NormalizationError, match="'min' is above 'max'"):
        Normalizer(FEATURES, swapped, modes)
