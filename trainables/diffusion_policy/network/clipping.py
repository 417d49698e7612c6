"""Which normalised actions the clip of ``policy.clip_sample`` cuts. Standard library only.

While denoising, the predicted action is clipped to ``±policy.clip_sample_range``. With ``MIN_MAX`` every
demonstrated action is within ±1, so the default range of 1 changes nothing. With any other normalisation the
demonstrated actions exceed 1, and values beyond the range can never be predicted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trainables.diffusion_policy.config.sections import PolicyConfig

__all__ = [
    "ActionReach",
    "LinearScale",
    "clip_problem",
    "clip_remedy",
    "extremes_reach",
    "is_safe",
    "linear_scales",
]

CONSTANT_BELOW = 1e-6
"""A spread below this share of the values is rounding: the normaliser ignores such a dimension."""
ROUNDING = 1.001
"""Normalised values up to this much beyond the range are rounding."""
NORMAL_REACH = 3.0
"""Standard deviations that hardly any value of a normal distribution exceeds."""
_ONE = {
    "MIN_MAX": "half of the distance from the minimum to the maximum",
    "MEAN_STD": "one standard deviation",
    "QUANTILES": "half of the distance from the 1st to the 99th percentile",
    "IDENTITY": "one unit of the action itself",
}
"""The meaning of a normalised action of 1."""


@dataclass(frozen=True)
class LinearScale:
    """How one dimension is normalised: ``(x - offset) / scale + shift``."""

    offset: float
    scale: float
    shift: float

    def normalized(self, value: float) -> float:
        """Normalise a value."""
        return (value - self.offset) / self.scale + self.shift


@dataclass(frozen=True)
class ActionReach:
    """The range of normalised actions.

    Attributes:
        largest: The largest absolute value.
        dimension: The dimension that has it.
        source: Where the actions come from, for messages, e.g. ``The demonstrated actions``.
        beyond: Share of the values that are beyond the range; None if only the extremes are known.
    """

    largest: float
    dimension: int
    source: str
    beyond: float | None = None


def linear_scales(mode: str, statistics: Mapping[str, Sequence[float]]) -> list[LinearScale | None] | None:
    """How each dimension of the action is normalised.

    Args:
        mode: The normalisation.
        statistics: The action's, one number per dimension.

    Returns:
        None for a dimension that does not vary. None instead of the list if a statistic is missing.
    """
    if mode == "IDENTITY":
        sizes = [len(values) for values in statistics.values()]
        return [LinearScale(0.0, 1.0, 0.0)] * max(sizes, default=0)
    if mode == "MEAN_STD":
        if not {"mean", "std"} <= set(statistics):
            return None
        pairs = zip(statistics["mean"], statistics["std"], strict=True)
        return [
            LinearScale(mean, std, 0.0) if std > CONSTANT_BELOW * abs(mean) else None for mean, std in pairs
        ]
    extremes = _spans(statistics, "min", "max")
    if mode == "MIN_MAX":
        return extremes
    percentiles = _spans(statistics, "q01", "q99")
    if percentiles is None or extremes is None:
        return percentiles
    # Percentiles that coincide although the dimension varies: the normaliser uses the extremes instead.
    return [inner or outer for inner, outer in zip(percentiles, extremes, strict=True)]


def _spans(statistics: Mapping[str, Sequence[float]], low: str, high: str) -> list[LinearScale | None] | None:
    if not {low, high} <= set(statistics):
        return None
    return [
        LinearScale(first, (second - first) / 2, -1.0)
        if second - first > CONSTANT_BELOW * max(abs(first), abs(second))
        else None
        for first, second in zip(statistics[low], statistics[high], strict=True)
    ]


def extremes_reach(
    mode: str, statistics: Mapping[str, Sequence[float]], extremes: Mapping[str, Sequence[float]], source: str
) -> ActionReach | None:
    """The range of actions after normalisation, from their extremes.

    Args:
        mode: The normalisation.
        statistics: The statistics of the normalisation.
        extremes: Their ``min`` and ``max``.
        source: Where the actions come from, for messages.

    Returns:
        None if a statistic is missing, the sizes differ, or no dimension varies.
    """
    scales = linear_scales(mode, statistics)
    if scales is None or not {"min", "max"} <= set(extremes):
        return None
    lowest, highest = extremes["min"], extremes["max"]
    if not len(scales) == len(lowest) == len(highest):
        return None
    sizes = [
        (max(abs(scale.normalized(low)), abs(scale.normalized(high))), number)
        for number, (scale, low, high) in enumerate(zip(scales, lowest, highest, strict=True))
        if scale is not None and math.isfinite(low) and math.isfinite(high)
    ]
    if not sizes:
        return None
    largest, number = max(sizes, key=lambda size: size[0])
    return ActionReach(largest, number, source)


def is_safe(policy: PolicyConfig) -> bool:
    """Whether the clip never cuts actions that are normalised with their own statistics."""
    by_extremes = policy.normalization_action == "MIN_MAX" and policy.clip_sample_range >= 1
    return not policy.clip_sample or by_extremes


def clip_problem(policy: PolicyConfig, reach: ActionReach | None) -> str | None:
    """Describe what the clip cuts; None if it cuts nothing.

    Args:
        policy: The normalisation of the actions, and the clip.
        reach: The range of the actions; None if it is unknown.
    """
    mode, limit = policy.normalization_action, policy.clip_sample_range
    if not policy.clip_sample:
        return None
    if reach is None:
        enough = {"MEAN_STD": limit >= NORMAL_REACH, "QUANTILES": limit > 1}
        if is_safe(policy) or enough.get(mode, False):
            return None
    elif reach.largest <= limit * ROUNDING:
        return None
    cut = (
        f"policy.clip_sample: true cuts every predicted action at ±{limit:g}, and with "
        f"policy.normalization_action: {mode} a normalised 1 is {_ONE[mode]}."
    )
    if reach is None:
        return cut
    reached = f"{reach.source} reach a normalised {reach.largest:.3g} (dimension {reach.dimension})"
    if reach.beyond is None:
        return f"{cut} {reached}."
    return f"{cut} {reached}, and {_percent(reach.beyond)} of their values are beyond {limit:g}."


def clip_remedy(reach: ActionReach | None) -> str:
    """The settings with which the clip cuts no demonstrated action."""
    if reach is None:
        return (
            "Set policy.clip_sample_range to the largest normalised action of the dataset, "
            "or policy.clip_sample: false, or policy.normalization_action: MIN_MAX."
        )
    needed = math.ceil(reach.largest * 100) / 100
    return f"Set policy.clip_sample_range: {needed:g}, or policy.clip_sample: false."


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 else f"{share:.2%}"
