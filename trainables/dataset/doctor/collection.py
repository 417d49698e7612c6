"""What the episodes are as a collection: how many, how long, of which tasks."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from trainables.dataset.doctor.wording import counted, exclude, in_episodes, sentence
from trainables.interface import Finding

if TYPE_CHECKING:
    from trainables.dataset.lerobot_dataset import LeRobotDataset

__all__ = ["collection_findings"]

FEWEST_EPISODES = 100
RECOMMENDED_EPISODES = 500
"""The paper's tasks have 90 to 200 demonstrations of a single task under one light; what is to hold under
others needs more."""
IMBALANCE = 10
"""A task with less than a tenth of the largest one's frames is seen once in more than ten batches' worth of
it."""


def collection_findings(
    dataset: LeRobotDataset, n_obs_steps: int, horizon: int, drop_n_last_frames: int
) -> list[Finding]:
    """Look at the number, the lengths and the tasks of the episodes.

    Args:
        dataset: The opened dataset.
        n_obs_steps: Observation steps of a window.
        horizon: Actions of a window.
        drop_n_last_frames: Frames at an episode's end that start no window.
    """
    return [
        *_too_short(dataset, n_obs_steps, horizon, drop_n_last_frames),
        *_too_few(dataset),
        *_tasks(dataset),
        *_contradictory_tasks(dataset),
    ]


def _too_short(
    dataset: LeRobotDataset, n_obs_steps: int, horizon: int, drop_n_last_frames: int
) -> list[Finding]:
    whole = horizon - n_obs_steps + 1
    unused = [episode for episode in dataset.episodes if len(episode) <= drop_n_last_frames]
    short = [episode for episode in dataset.episodes if drop_n_last_frames < len(episode) < whole]
    findings = []
    if unused:
        every = len(unused) == len(dataset.episodes)
        indices = [episode.index for episode in unused]
        longest = max(len(episode) for episode in unused)
        findings.append(
            Finding(
                check="no_window",
                severity="error" if every else "warning",
                where="policy.horizon",
                problem=f"{in_episodes(indices)} with at most {counted(longest, 'frame')} "
                f"{'gives' if len(unused) == 1 else 'give'} no training sample: no window starts in the last "
                f"{drop_n_last_frames} frames of an episode (horizon {horizon}, n_obs_steps {n_obs_steps}).",
                why="Nothing is learned from them." if not every else "There is nothing to learn from.",
                remedy="Use a smaller policy.horizon or a larger policy.n_action_steps"
                + ("." if every else f", or {exclude(dataset, indices)}."),
                episodes=tuple(indices),
            )
        )
    if short:
        indices = [episode.index for episode in short]
        shortest = min(len(episode) for episode in short)
        findings.append(
            Finding(
                check="short_episodes",
                severity="warning",
                where="policy.horizon",
                problem=f"{in_episodes(indices)} {'is' if len(short) == 1 else 'are'} shorter than the "
                f"{whole} actions from the current step on (the shortest has {counted(shortest, 'frame')}).",
                why="Every window of such an episode ends in padding: its last action is repeated, and the "
                "policy learns to stop early.",
                remedy="Use a smaller policy.horizon, or set policy.do_mask_loss_for_padding: true"
                + ("." if len(short) == len(dataset.episodes) else f", or {exclude(dataset, indices)}."),
                episodes=tuple(indices),
            )
        )
    return findings


def _too_few(dataset: LeRobotDataset) -> list[Finding]:
    count = len(dataset.episodes)
    if count >= RECOMMENDED_EPISODES:
        return []
    few = count < FEWEST_EPISODES
    why = "A policy learns where to go from where the demonstrations have been"
    more = (
        ": from so few it remembers paths instead."
        if few
        else ", and a position or light it never saw fails."
    )
    return [
        Finding(
            check="few_episodes",
            severity="warning" if few else "note",
            where="episodes",
            problem=f"{counted(count, 'episode')}; {RECOMMENDED_EPISODES} are recommended"
            + (f", below {FEWEST_EPISODES} is few." if few else "."),
            why=why + more,
            remedy="Record more, with starts and objects in other places each time."
            if few
            else "Record more where the policy turns out to fail.",
        )
    ]


def _tasks(dataset: LeRobotDataset) -> list[Finding]:
    frames: Counter[str] = Counter()
    holding: dict[str, list[int]] = {}
    for episode in dataset.episodes:
        for task in episode.tasks:
            frames[task] += len(episode) // len(episode.tasks)
            holding.setdefault(task, []).append(episode.index)
    if len(frames) < 2:
        return []
    (largest, most), (smallest, least) = frames.most_common()[0], frames.most_common()[-1]
    findings = [
        Finding(
            check="several_tasks",
            severity="note",
            where="tasks",
            problem=f"there are {len(frames)}, such as {largest!r} and {smallest!r}.",
            why="A diffusion policy does not receive the task: if the pictures do not show it, it does "
            "one or the other.",
            remedy="Train one policy per task, with dataset.episodes.",
        )
    ]
    if least * IMBALANCE < most:
        rare = [task for task, count in frames.items() if count * IMBALANCE < most]
        episodes = sorted({index for task in rare for index in holding[task]})
        findings.append(
            Finding(
                check="task_imbalance",
                severity="warning",
                where="tasks",
                problem=f"{smallest!r} has {least:,} frames, {largest!r} {most:,}; "
                f"{counted(len(rare), 'task')} of {len(frames)} {'has' if len(rare) == 1 else 'have'} less "
                f"than a tenth of the largest.",
                why="The rare ones hardly count in the loss, and fail.",
                remedy=sentence(f"record more of them, or {exclude(dataset, episodes)}."),
                episodes=tuple(episodes),
            )
        )
    return findings


def _contradictory_tasks(dataset: LeRobotDataset) -> list[Finding]:
    """Episodes whose rows have the number of a task that the table of episodes does not list for them."""
    numbers = dataset.column("task_index")[:, 0]
    wrong = [
        episode
        for episode in dataset.episodes
        if episode.tasks
        and any(
            text and text not in episode.tasks
            for number in np.unique(numbers[episode.start : episode.stop])
            for text in [dataset.task_text(int(number))]
        )
    ]
    if not wrong:
        return []
    first = wrong[0]
    indices = [episode.index for episode in wrong]
    problem = (
        f"the rows of {in_episodes(indices)} have other tasks than the table of episodes: in episode "
        f"{first.index} {dataset.task(first.start)!r}, listed is {', '.join(map(repr, first.tasks))}."
    )
    return [
        Finding(
            check="contradictory_tasks",
            severity="warning",
            where="tasks",
            problem=problem,
            why="One of them is wrong. A choice of episodes by task may choose the wrong ones.",
            remedy="Correct task_index in the data, or the tasks in meta/.",
            episodes=tuple(indices),
        )
    ]
