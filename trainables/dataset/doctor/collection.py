"""What the episodes are as a collection: how many, how long, of which tasks."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from trainables.dataset.doctor.wording import counted, exclude, in_episodes, sentence
from trainables.interface import Finding

if TYPE_CHECKING:
    from trainables.dataset.lerobot_dataset import Episode, LeRobotDataset

__all__ = ["collection_findings"]

FEWEST_EPISODES = 100
RECOMMENDED_EPISODES = 500
"""The paper's tasks have 90 to 200 demonstrations of a single task under one light; what is to hold under
others needs more."""
IMBALANCE = 10
"""A task with less than a tenth of the largest one's frames is seen once in more than ten batches' worth of
it."""

FEWEST_OF_A_TASK = 50
"""LeRobot recommends at least 50 episodes of a task, ten for each place of the object."""
HARDLY_ANY = 10
"""In a set that is small as a whole, a task with fewer than ten episodes beside one with more."""
LENGTH_RATIO = 2.5
LENGTH_SIGMAS = 4.0
LEAST_SIGMA = 0.1
LENGTH_EPISODES = 8
"""An episode two and a half times as long, or short, as usual, and far outside what the others differ by. The
longest of Push-T's is twice the median, the shortest 2.49 times shorter, 3.1 sigmas of the logarithm. Among
fewer than eight nothing says what is usual."""
SIGMA_OF_MAD = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""


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
        *_unusual_lengths(dataset, drop_n_last_frames),
        *_too_few(dataset),
        *_tasks(dataset),
        *_few_of_a_task(dataset),
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


def _unusual_lengths(dataset: LeRobotDataset, drop_n_last_frames: int) -> list[Finding]:
    """Episodes far shorter or longer than the others of their task, besides those of ``no_window``."""
    found: dict[int, float] = {}
    for episodes in _by_task(dataset).values():
        if len(episodes) < LENGTH_EPISODES:
            continue
        logs = np.log([max(len(episode), 1) for episode in episodes])
        away = logs - np.median(logs)
        sigma = max(SIGMA_OF_MAD * float(np.median(np.abs(away))), LEAST_SIGMA)
        for place in np.flatnonzero(np.abs(away) > max(np.log(LENGTH_RATIO), LENGTH_SIGMAS * sigma)):
            if len(episodes[int(place)]) > drop_n_last_frames:
                found[episodes[int(place)].index] = float(away[place])
    if not found:
        return []
    lengths = {episode.index: len(episode) for episode in dataset.episodes}
    indices = sorted(found)
    worst = max(indices, key=lambda index: abs(found[index]))
    ratio = np.exp(abs(found[worst]))
    seconds = lengths[worst] / dataset.fps
    return [
        Finding(
            check="unusual_length",
            severity="warning",
            where="episodes",
            problem=f"the length of {in_episodes(indices)} is unusual: "
            f"{'' if len(indices) == 1 else f'most of all that of episode {worst}, '}"
            f"{counted(lengths[worst], 'frame')} ({seconds:.1f} s), which is {ratio:.1f} times "
            f"{'longer' if found[worst] > 0 else 'shorter'} than the median.",
            why="A very short episode was mostly cut off or started by mistake, and its end is learned as "
            "the end of the task. A very long one contains waiting or several attempts, and counts more.",
            remedy=sentence(f"look at them (`sweeper data show`), and {exclude(dataset, indices)}."),
            episodes=tuple(indices),
        )
    ]


def _by_task(dataset: LeRobotDataset) -> dict[tuple[str, ...], list[Episode]]:
    """The episodes of each task, or of each combination of tasks."""
    by_task: dict[tuple[str, ...], list[Episode]] = {}
    for episode in dataset.episodes:
        by_task.setdefault(episode.tasks, []).append(episode)
    return by_task


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


def _few_of_a_task(dataset: LeRobotDataset) -> list[Finding]:
    """Tasks with few episodes in a set that has enough, or that has enough of another task."""
    counts = Counter(task for episode in dataset.episodes for task in episode.tasks)
    if len(counts) < 2:
        return []
    enough = len(dataset.episodes) >= FEWEST_EPISODES
    least = FEWEST_OF_A_TASK if enough else HARDLY_ANY
    few = {task: count for task, count in counts.items() if count < least}
    if not few or (len(few) == len(counts) and not enough):
        return []  # ``few_episodes`` says so of the whole set
    rarest = min(few, key=lambda task: few[task])
    chosen = [e.index for e in dataset.episodes if e.tasks and all(task in few for task in e.tasks)]
    return [
        Finding(
            check="few_of_a_task",
            severity="warning",
            where="tasks",
            problem=f"{len(few)} of {len(counts)} tasks {'has' if len(few) == 1 else 'have'} fewer than "
            f"{least} episodes; the fewest, {few[rarest]}, has {rarest!r}.",
            why="A diffusion policy is not told the task: each needs as many demonstrations as if it were "
            "alone.",
            remedy=sentence(f"record more of them, or {exclude(dataset, chosen)}."),
            episodes=tuple(chosen),
        )
    ]


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
