"""Shares of the episodes of a dataset, as numbers of episodes. Standard library only."""

from __future__ import annotations

import math

from trainables.interface import Fault

__all__ = ["fraction_faults", "split_sizes"]


def split_sizes(episodes: int, holdout_fraction: float, fraction: float = 1.0) -> tuple[int, int]:
    """How many of so many episodes are trained on, and how many are held out.

    Args:
        episodes: All episodes; at least two if some are to be held out.
        holdout_fraction: Share to hold out; above 0 at least one episode is, and at least one is left.
        fraction: Share of the others to train on.
    """
    holdout = round(holdout_fraction * episodes)
    if holdout_fraction > 0:
        holdout = min(max(holdout, 1), episodes - 1)
    return math.floor(fraction * (episodes - holdout) + 0.5), holdout


def fraction_faults(episodes: int, holdout_fraction: float, fraction: float) -> list[Fault]:
    """Say if a share of the training episodes is less than one episode."""
    training, _ = split_sizes(episodes, holdout_fraction)
    if training < 1 or split_sizes(episodes, holdout_fraction, fraction)[0] >= 1:
        return []
    problem = f"{fraction:g} of {training} training episodes is less than one episode."
    return [Fault("dataset.fraction", problem, f"Use {1 / training:.2g} (one episode) or more, up to 1.")]
