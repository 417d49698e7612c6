"""Trials that pause at a rung and continue if they are among the best there.

ASHA as published (Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020, algorithm
2). The service has the variant that stops; this one shows what pausing would be worth. A paused trial
continues exactly where it was, and costs nothing while it waits.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["Promotion"]


class Promotion:
    """Decides which paused trial continues.

    Args:
        rungs: Steps at which trials pause, in ascending order.
        reduction: Of how many trials at a rung one continues.
    """

    def __init__(self, rungs: Sequence[int], reduction: int) -> None:
        self._rungs: dict[int, dict[int, float]] = {rung: {} for rung in rungs}
        self._promoted: dict[int, set[int]] = {rung: set() for rung in rungs}
        self._reduction = reduction

    def pauses(self, trial: int, step: int, error: float) -> bool:
        """Receive the error of a trial at a step; whether it pauses there."""
        if step not in self._rungs:
            return False
        self._rungs[step][trial] = error
        return True

    def promote(self) -> int | None:
        """The paused trial that continues next, from the highest rung down; None for a new trial."""
        for rung in reversed(self._rungs):
            errors = self._rungs[rung]
            ranked = sorted(errors, key=lambda number: (errors[number], number))
            for trial in ranked[: len(errors) // self._reduction]:
                if trial not in self._promoted[rung]:
                    self._promoted[rung].add(trial)
                    return trial
        return None
