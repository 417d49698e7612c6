"""Open a dataset as training would, and check it quickly: nothing is decoded.

It stands above both opening and the quick checks, so that neither imports the other.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from trainables.dataset.doctor.bookkeeping import open_books, totals_findings
from trainables.dataset.doctor.quick import dataset_faults, quick_findings
from trainables.dataset.doctor.videos import open_videos
from trainables.dataset.errors import DatasetError
from trainables.dataset.lerobot_dataset import LeRobotDataset
from trainables.dataset.open import Episodes, Progress, Renames, Sources, open_dataset
from trainables.interface import Fault

__all__ = ["preflight", "warnings_of"]


def warnings_of(dataset: LeRobotDataset) -> list[str]:
    """What the quick checks find that does not keep a dataset from being trained on, a line each."""
    findings = [
        *dataset.notes,
        *totals_findings(open_books(dataset)),
        *quick_findings(dataset, open_videos(dataset)),
    ]
    return [
        f"{found.where}: {found.problem} {found.remedy}".rstrip()
        for found in findings
        if found.severity == "warning"
    ]


def preflight(
    root_or_repo_id: Sources,
    *,
    revision: str | None = None,
    episodes: Episodes | None = None,
    exclude_episodes: Episodes = (),
    observations: Collection[str] | None = None,
    features: Renames | None = None,
    holdout_fraction: float = 0.0,
    fraction: float = 1.0,
    cache: Path | None = None,
    tolerance_s: float = 1e-4,
    progress: Progress | None = None,
) -> list[Fault]:
    """Check a dataset as training would use it, before anything is trained: quick, nothing is decoded.

    A hub dataset is fetched: training needs the files anyway, and only they can be checked.

    Args:
        root_or_repo_id: As for ``open_dataset``.
        revision: As for ``open_dataset``.
        episodes: As for ``open_dataset``.
        exclude_episodes: As for ``open_dataset``.
        observations: As for ``open_dataset``.
        features: As for ``open_dataset``.
        holdout_fraction: Share of the episodes to be held out.
        fraction: Share of the other episodes to be trained on.
        cache: As for ``open_dataset``.
        tolerance_s: As for ``open_dataset``.
        progress: Told before something slow.

    Returns:
        Everything that is wrong; empty if nothing is.
    """
    try:
        dataset = open_dataset(
            root_or_repo_id,
            revision=revision,
            episodes=episodes,
            exclude_episodes=exclude_episodes,
            observations=observations,
            features=features,
            cache=cache,
            tolerance_s=tolerance_s,
            progress=progress,
        )
    except DatasetError as error:
        return list(error.faults)
    return dataset_faults(dataset, holdout_fraction, fraction)
