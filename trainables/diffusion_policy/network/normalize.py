"""Scaling of observations and actions, inside the policy.

LeRobot's formulas: ``MIN_MAX`` and ``QUANTILES`` map [low, high] to [-1, 1], where low and high are the
minimum and the maximum, or the 1st and 99th percentile; ``MEAN_STD`` gives zero mean and unit deviation;
``IDENTITY`` changes nothing.

A dimension that never varies in the data has no scale. LeRobot divides by 1e-8 there, so that a value a
millimetre off becomes 100 000. Here such a dimension normalises to the value that its constant has in
LeRobot (-1, or 0 with MEAN_STD) whatever its value, since the policy has learned nothing from it, and
unnormalises to its constant. NaN stays NaN. A dimension whose percentiles coincide although it varies (a
gripper that is open except for a few frames) is scaled by its minimum and maximum.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from trainables.features import Feature, FeatureType, PolicyFeatures
from trainables.interface import TrainableError

__all__ = ["NormalizationError", "Normalizer", "Statistics", "constant_dimensions"]

Statistics = Mapping[str, Mapping[str, np.ndarray]]
"""For each feature its ``min``, ``max``, ``mean``, ``std``, ``q01``, ``q99``; images (C, 1, 1), in [0, 1]."""

EPSILON = 1e-8
"""LeRobot adds this to a standard deviation before it divides."""
CONSTANT_BELOW = 1e-6
"""A spread smaller than this share of the values is rounding, not variation."""
NEEDED = {"MIN_MAX": ("min", "max"), "QUANTILES": ("q01", "q99"), "MEAN_STD": ("mean", "std"), "IDENTITY": ()}

log = logging.getLogger(__name__)


class NormalizationError(TrainableError):
    """The statistics of the data do not fit the features, or are not numbers."""

    reason = "data"


class Scaling(nn.Module):
    """``(x - offset) / scale + shift``, and back; buffers broadcast against the feature's own dimensions.

    The order of operations is LeRobot's, so that the results have the same bits. A dimension that does not
    vary has an infinite scale on the way in and a scale of 0 on the way back.
    """

    offset: Tensor
    scale: Tensor
    shift: Tensor
    inverse_scale: Tensor

    def __init__(
        self,
        offset: np.ndarray,
        scale: np.ndarray,
        shift: float,
        inverse_scale: np.ndarray,
        constant: np.ndarray,
    ) -> None:
        super().__init__()
        numbers = {
            "offset": offset,
            "scale": np.where(constant, np.inf, scale),
            "shift": np.asarray(shift),
            "inverse_scale": np.where(constant, 0, inverse_scale),
        }
        for name, value in numbers.items():
            # Not persistent: LeRobot expects no statistics among a checkpoint's weights.
            self.register_buffer(name, torch.as_tensor(value, dtype=torch.float32), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise float values."""
        return (x - self.offset).div_(self.scale).add_(self.shift)

    def inverse(self, y: Tensor) -> Tensor:
        """Undo :meth:`forward`, except on dimensions that do not vary, which become their constant."""
        return (y - self.shift).mul_(self.inverse_scale).add_(self.offset)


class Normalizer(nn.Module):
    """Normalises a policy's inputs and unnormalises its actions.

    Args:
        features: The policy's inputs and output.
        statistics: Of the training data, for every feature that is not ``IDENTITY``.
        modes: How each type of feature is normalised.

    Raises:
        NormalizationError: If a statistic is missing, has another shape than its feature, or is not finite.
    """

    def __init__(
        self, features: PolicyFeatures, statistics: Statistics, modes: Mapping[FeatureType, str]
    ) -> None:
        super().__init__()
        self.modes = dict(modes)
        self.statistics = _usable(features, statistics, modes)
        self._positions: dict[str, int] = {}
        self._scalings = nn.ModuleList()
        for feature in features.all():
            mode = modes[feature.type]
            if mode != "IDENTITY":
                self._positions[feature.name] = len(self._scalings)
                self._scalings.append(_scaling(mode, self.statistics[feature.name]))
        for name, dimensions in constant_dimensions(features, self.statistics, modes).items():
            log.warning("%s: dimensions %s never vary in the training data and are ignored", name, dimensions)

    def normalize(self, name: str, x: Tensor) -> Tensor:
        """Normalise raw values of a feature: floats, or uint8 images, which become [0, 1] first."""
        floats = x.float().div_(255) if x.dtype == torch.uint8 else x.float()
        scaling = self._scaling_of(name)
        return floats if scaling is None else scaling(floats)

    def unnormalize(self, name: str, y: Tensor) -> Tensor:
        """Convert normalised values of a feature to its own units."""
        scaling = self._scaling_of(name)
        return y if scaling is None else scaling.inverse(y)

    def _scaling_of(self, name: str) -> Scaling | None:
        if name not in self._positions:
            return None
        scaling = self._scalings[self._positions[name]]
        assert isinstance(scaling, Scaling)
        return scaling


def constant_dimensions(
    features: PolicyFeatures, statistics: Statistics, modes: Mapping[FeatureType, str]
) -> dict[str, list[int]]:
    """Dimensions without variation, by feature; only features that are normalised and have any."""
    found = {}
    for feature in features.all():
        mode = modes[feature.type]
        if mode != "IDENTITY":
            flat = np.flatnonzero(_constant(mode, statistics[feature.name]))
            if len(flat):
                found[feature.name] = flat.tolist()
    return found


def _constant(mode: str, statistics: Mapping[str, np.ndarray]) -> np.ndarray:
    """Which dimensions do not vary, according to the statistics of ``mode``."""
    first, second = (np.asarray(statistics[name], np.float32) for name in NEEDED[mode])
    if mode == "MEAN_STD":
        return second <= CONSTANT_BELOW * np.abs(first)
    return second - first <= CONSTANT_BELOW * np.maximum(np.abs(first), np.abs(second))


def _scaling(mode: str, statistics: Mapping[str, np.ndarray]) -> Scaling:
    # From float32, as in a checkpoint, so that a saved policy is the same policy.
    first, second = (np.asarray(statistics[name], np.float32).astype(np.float64) for name in NEEDED[mode])
    constant = _constant(mode, statistics)
    if mode == "MEAN_STD":
        return Scaling(first, second + EPSILON, 0.0, second, constant)
    half = (second - first) / 2
    return Scaling(first, half, -1.0, half, constant)


def _usable(
    features: PolicyFeatures, statistics: Statistics, modes: Mapping[FeatureType, str]
) -> dict[str, dict[str, np.ndarray]]:
    """The statistics, checked, with percentiles that coincide replaced by minimum and maximum."""
    problems = [
        problem
        for feature in features.all()
        for problem in _problems(feature, modes[feature.type], statistics.get(feature.name, {}))
    ]
    if problems:
        raise NormalizationError("\n".join(problems))
    usable = {
        name: {key: np.asarray(value) for key, value in entry.items()} for name, entry in statistics.items()
    }
    for feature in features.all():
        if modes[feature.type] == "QUANTILES":
            entry = usable[feature.name]
            if "min" in entry and "max" in entry:
                coincide = _constant("QUANTILES", entry)
                entry["q01"] = np.where(coincide, entry["min"], entry["q01"])
                entry["q99"] = np.where(coincide, entry["max"], entry["q99"])
    return usable


def _problems(feature: Feature, mode: str, statistics: Mapping[str, np.ndarray]) -> list[str]:
    expected = (feature.shape[0], 1, 1) if feature.type is FeatureType.VISUAL else feature.shape
    problems: list[str] = []
    for name in NEEDED[mode]:
        where = f"{feature.name}: statistic {name!r}"
        if name not in statistics:
            problems.append(f"{where} is missing; normalisation {mode} needs it")
            continue
        value = np.asarray(statistics[name])
        if value.shape != expected:
            problems.append(f"{where} has shape {value.shape}, expected {expected}")
        elif not np.isfinite(value).all():
            problems.append(f"{where} is not finite ({value.ravel().tolist()})")
    if not problems and mode in ("MIN_MAX", "QUANTILES"):
        low, high = (np.asarray(statistics[name]) for name in NEEDED[mode])
        if (low > high).any():
            low_name, high_name = NEEDED[mode]
            problems.append(f"{feature.name}: statistic {low_name!r} is above {high_name!r} in a dimension")
    if not problems and mode == "MEAN_STD" and (np.asarray(statistics["std"]) < 0).any():
        problems.append(f"{feature.name}: statistic 'std' is negative")
    return problems
