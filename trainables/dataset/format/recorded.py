"""What a dataset's own files say of it: the statistics and totals that were recorded. Nothing is computed.

Training uses none of these numbers (``statistics`` says why); LeRobot does, and where they contradict the
data one was changed without the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainables.dataset.errors import DatasetError
from trainables.dataset.format.files import read_json, read_lines
from trainables.dataset.format.info import whole_number

__all__ = ["Recorded", "recorded_statistics", "recorded_totals", "statistics_problem"]

Recorded = dict[str, dict[str, np.ndarray]]
"""Feature -> ``min``, ``max``, ``mean``, ``std``, perhaps ``q01`` and ``q99``, shaped as in the file."""

KEPT = ("min", "max", "mean", "std")
PERCENTILES = ("q01", "q99")
"""Recorded since v3.0."""
STATS, EPISODES_STATS = Path("meta", "stats.json"), Path("meta", "episodes_stats.jsonl")


def recorded_statistics(root: Path) -> Recorded | None:
    """Read the statistics of a dataset's folder; those of v2.1 are put together from its episodes'.

    Returns:
        The statistics by feature; None if none were recorded or they cannot be read.
    """
    return _read_statistics(root)[0]


def statistics_problem(root: Path) -> tuple[Path, str] | None:
    """The file of statistics that cannot be read, and why; None if there is none, or nothing is wrong."""
    return _read_statistics(root)[1]


def _read_statistics(root: Path) -> tuple[Recorded | None, tuple[Path, str] | None]:
    path = next((root / name for name in (STATS, EPISODES_STATS) if (root / name).is_file()), None)
    if path is None:
        return None, None
    try:
        return (_features(read_json(path)) if path.name == STATS.name else _of_episodes(path)), None
    except DatasetError as error:
        return None, (path, error.faults[0].problem)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return None, (path, f"does not have the form of statistics ({type(error).__name__}: {error}).")


def recorded_totals(root: Path) -> dict[str, int]:
    """Read ``total_episodes`` and ``total_frames`` of info.json, as far as they are there."""
    try:
        info = read_json(root / "meta" / "info.json")
    except DatasetError:
        return {}
    names = ("total_episodes", "total_frames")
    return {name: info[name] for name in names if whole_number(info.get(name)) is not None}


def _features(described: Mapping[str, Mapping[str, Any]]) -> Recorded:
    return {
        name: {key: np.array(values[key], np.float64) for key in (*KEPT, *PERCENTILES) if key in values}
        for name, values in described.items()
    }


def _of_episodes(path: Path) -> Recorded:
    parts: dict[str, list[Mapping[str, np.ndarray]]] = {}
    for row in read_lines(path):
        for name, values in row["stats"].items():
            numbers = {key: np.array(values[key], np.float64) for key in (*KEPT, "count")}
            parts.setdefault(name, []).append(numbers)
    return {name: _together(episodes) for name, episodes in parts.items()}


def _together(episodes: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Statistics of all episodes from those of each: weighted mean, parallel variance."""
    shape = (-1, *(1,) * episodes[0]["mean"].ndim)
    weight = np.array([episode["count"].reshape(-1)[0] for episode in episodes]).reshape(shape)
    weight = weight / weight.sum()
    stacked = {key: np.stack([episode[key] for episode in episodes]) for key in KEPT}
    mean = (weight * stacked["mean"]).sum(axis=0)
    variance = (weight * (stacked["std"] ** 2 + (stacked["mean"] - mean) ** 2)).sum(axis=0)
    return {
        "min": stacked["min"].min(axis=0),
        "max": stacked["max"].max(axis=0),
        "mean": mean,
        "std": np.sqrt(variance),
    }
