"""Limits that every action keeps before it reaches a robot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from trainables.interface import TrainableError

__all__ = ["ControlError", "Safety"]


class ControlError(TrainableError):
    """An action must not be executed."""

    reason = "control"


@dataclass(frozen=True)
class Safety:
    """Limits of actions; without arguments only that they are finite.

    Attributes:
        low: (A,) or a number: the least value of each dimension; None: no limit.
        high: (A,) or a number: the largest value; None: no limit.
        largest_change: (A,) or a number: the largest change from one tick to the next; None: no limit.
    """

    low: np.ndarray | float | None = None
    high: np.ndarray | float | None = None
    largest_change: np.ndarray | float | None = None

    def __post_init__(self) -> None:
        if self.largest_change is not None and not np.all(np.asarray(self.largest_change) > 0):
            raise ValueError(f"largest_change is {self.largest_change}; it must be above 0")
        if self.low is not None and self.high is not None and not np.all(np.less(self.low, self.high)):
            raise ValueError(f"low is {self.low} and high {self.high}; low must be below high")

    @classmethod
    def within_demonstrations(
        cls,
        statistics: Mapping[str, Mapping[str, np.ndarray]],
        largest_change: np.ndarray | float | None = None,
    ) -> Safety:
        """Limits at the extremes of the demonstrated actions.

        Args:
            statistics: Of the policy (`DiffusionPolicy.statistics`).
            largest_change: As the attribute.

        Raises:
            ValueError: If the statistics have no extremes of actions.
        """
        action = statistics.get("action", {})
        if "min" not in action or "max" not in action:
            known = ", ".join(sorted(action)) or "nothing"
            raise ValueError(f"the statistics of the actions have {known}; min and max are needed for limits")
        return cls(np.asarray(action["min"]), np.asarray(action["max"]), largest_change)

    def checked(self, action_A: np.ndarray, before_A: np.ndarray | None) -> np.ndarray:
        """The action within the limits.

        Args:
            action_A: What the policy wants.
            before_A: The last action that was executed; None at the start if it is not known where the robot
                stands; then no change is limited.

        Raises:
            ControlError: If the action is not finite.
        """
        if not np.isfinite(action_A).all():
            raise ControlError(
                f"the policy's action is not finite: {action_A.tolist()}. Stop the robot. Are the "
                "observations finite, and in the units of the training?"
            )
        safe_A = action_A
        if self.largest_change is not None and before_A is not None:
            change = np.asarray(self.largest_change, dtype=np.float32)
            safe_A = np.clip(safe_A, before_A - change, before_A + change)
        if self.low is not None or self.high is not None:
            # Last, because the range is the harder limit of the two.
            safe_A = np.clip(safe_A, self.low, self.high)
        return np.asarray(safe_A, dtype=np.float32)
