"""A dataset that our writer wrote, opened in LeRobot: every value, every window, every statistic."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.interop.checks import Checks
from tests.interop.lerobot_process import LeRobot
from trainables.dataset.lerobot_dataset import Episode
from trainables.dataset.open import open_dataset

N_OBS_STEPS, HORIZON = 2, 16


def compare_dataset(checks: Checks, lerobot: LeRobot, root: Path, name: str) -> None:
    """Read a dataset here and there."""
    ours = open_dataset(root)
    rows = np.unique([row for episode in ours.episodes for row in _asked(episode)])
    given = {"n_obs_steps": np.array(N_OBS_STEPS), "horizon": np.array(HORIZON), "index": rows}
    theirs = lerobot.exchange("dataset", str(root), given=given)

    cameras = {feature.name for feature in ours.policy_features.cameras}
    read = [key.removeprefix("row/") for key in theirs if key.startswith("row/")]
    expected = set(ours.features) - {key for key, feature in ours.features.items() if feature.is_camera}
    checks.holds(f"{name}: features", set(read) == expected, f"{len(read)}, and {len(cameras)} cameras")
    facts = {
        "fps": (float(ours.fps), float(theirs["fps"])),
        "from": ([episode.start for episode in ours.episodes], theirs["episode_from"]),
        "to": ([episode.stop for episode in ours.episodes], theirs["episode_to"]),
        "tasks": ([ours.task(int(row)) for row in rows], theirs["tasks"]),
    }
    checks.same(f"{name}: episodes, tasks", facts)
    values = {key: theirs[f"row/{key}"] for key in read}
    columns = {key: (ours.column(key).reshape(value.shape), value) for key, value in values.items()}
    checks.same(f"{name}: {len(ours):,} rows", columns)
    windows = [ours.window(int(row), N_OBS_STEPS, HORIZON) for row in rows]
    pairs = {key: _window_values([w[key] for w in windows], theirs[f"window/{key}"]) for key in windows[0]}
    pictures = {key: pairs.pop(key) for key in cameras}
    checks.same(f"{name}: {len(rows)} windows", pairs)
    checks.same(f"{name}: their pictures", pictures)
    _compare_statistics(checks, root, name, theirs)


def _window_values(ours: list[np.ndarray], theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values of windows here and there; LeRobot drops the dimension of a feature of one number."""
    stacked = np.stack(ours)
    return (stacked[..., 0] if stacked.shape == (*theirs.shape, 1) else stacked), theirs


def _asked(episode: Episode) -> list[int]:
    """Rows where a window leaves the episode at its start, not at all, and at its end."""
    rows = (episode.start, (episode.start + episode.stop) // 2, episode.stop - 2, episode.stop - 1)
    return [row for row in rows if row >= episode.start]


def _compare_statistics(checks: Checks, root: Path, name: str, theirs: dict[str, np.ndarray]) -> None:
    written = json.loads((root / "meta" / "stats.json").read_text())
    pairs = {}
    for key, value in theirs.items():
        if key.startswith("stats/"):
            _, feature, statistic = key.split("/")
            pairs[key] = (np.asarray(written[feature][statistic]), value)
    checks.same(f"{name}: statistics", pairs)
