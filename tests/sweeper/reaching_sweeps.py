"""Sweeps that ended with policies of known skill."""

from __future__ import annotations

from pathlib import Path

from reaching_policies import ReachingPolicy, write_checkpoint
from small_sweeps import SUCCESS, begin, choice, spec

from sweeper.layout import JOURNAL, trial_folder
from sweeper.records.events import EventKind
from sweeper.records.journal import Journal
from sweeper.records.sweep_state import SweepState, read_sweep
from sweeper.spec.sweep import Objective
from trainables.episodes import EPISODES, EpisodeFile, Evaluated, Purpose


def ended_sweep(folder: Path, *skills: float, objective: str = SUCCESS) -> SweepState:
    """A sweep whose trials ended with policies of these skills."""
    wanted = spec(
        folder,
        choice("skill", *skills),
        trials=len(skills),
        trainable="reaching_policies:TRAINABLE",
        objectives=(Objective(objective, "maximize"),),
    )
    with Journal(folder / JOURNAL) as journal:
        begin(journal, wanted, name=folder.name)
        for number, skill in enumerate(skills):
            config = {"skill": skill, "train.steps": 40}
            journal.append(EventKind.TRIAL_START, trial=number, config=config, values={"skill": skill})
            checkpoint = write_checkpoint(trial_folder(folder, number) / "checkpoints" / "000010", skill)
            metrics = {objective: skill + 0.1}
            journal.append(
                EventKind.REPORT, trial=number, step=10, metrics=metrics, checkpoint=str(checkpoint)
            )
            journal.append(
                EventKind.TRIAL_END,
                trial=number, status="completed", reason="", message="", step=10,
                final=metrics, best=metrics, sweep_best=metrics, ended=number + 1,
            )  # fmt: skip
        journal.append(EventKind.SWEEP_END, status="done", message="")
    return read_sweep(folder)


def record_episodes(
    folder: Path, trial: int, skill: float, episodes: int, purpose: Purpose = "search"
) -> None:
    """Record episodes of a trial, as its training or its confirmation does."""
    found = ReachingPolicy(skill).rollout({}, purpose, range(episodes))
    EpisodeFile(trial_folder(folder, trial) / EPISODES, Evaluated(purpose, 10, {}, "reaching")).write(found)
