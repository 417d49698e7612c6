"""The runs that a tracker is given, and what a tracker must be able to do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from sweeper.records.sweep_state import SweepState
from sweeper.records.trial_state import TrialState

__all__ = [
    "FILMS",
    "PICTURES",
    "Moment",
    "Run",
    "Sink",
    "as_media",
    "finish_runs",
    "finite_numbers",
    "run_of_sweep",
    "run_of_trial",
]

PICTURES = (".png", ".jpg", ".jpeg")
FILMS = (".mp4", ".gif", ".webm")


@dataclass(frozen=True)
class Run:
    """A run of a tracker: a trial, or the sweep itself.

    Attributes:
        key: Its identity: the same for the same trial of the same sweep, also for a later driver.
        name: What is shown.
        project: The project of all runs of the sweep.
        group: The sweep.
        kind: ``trial`` or ``sweep``.
        tags: Words to find it by.
        notes: A text about it.
        config: Its configuration.
    """

    key: str
    name: str
    project: str
    group: str
    kind: str
    tags: tuple[str, ...]
    notes: str
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Moment:
    """When something happened.

    Attributes:
        number: The number of the event in the journal, which only increases.
        step: The optimiser step, or the number of ended trials for the run of a sweep.
        time: In seconds since 1970.
    """

    number: int
    step: int
    time: float


class Sink(Protocol):
    """A tracker. A run is given with everything, and opened when it is first needed."""

    def log(self, run: Run, at: Moment, metrics: Mapping[str, float], media: Mapping[str, Path]) -> None:
        """Record metrics, finite or not, with pictures and films.

        They belong to one event, which is recorded whole or not at all. A file whose kind the tracker does
        not show is left out.
        """
        ...

    def end(self, run: Run, at: Moment, summary: Mapping[str, Any]) -> None:
        """Record the end of a run; ``status`` is in the summary."""
        ...

    def flush(self) -> dict[str, Any]:
        """Store everything so far; returns what is needed to continue from here."""
        ...

    def close(self) -> None:
        """Store everything and end."""
        ...


def finite_numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Those of some values that can be drawn."""
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, (int, float)) and math.isfinite(value)
    }


def as_media(library: Any, media: Mapping[str, Path]) -> dict[str, Any]:
    """Pictures and films as a library logs them that has the classes ``Image`` and ``Video``."""
    return {
        name: library.Video(str(path), format=path.suffix[1:])
        if path.suffix.lower() in FILMS
        else library.Image(str(path))
        for name, path in media.items()
    }


def finish_runs(opened: dict[str, Any]) -> None:
    """Finish the open runs of a library, which stores them. Later events open them again."""
    for run in opened.values():
        run.finish()
    opened.clear()


def run_of_sweep(sweep: SweepState) -> Run:
    """The run of a sweep."""
    objectives = ", ".join(f"{one.goal} {one.name}" for one in sweep.objectives)
    notes = f"Sweep {sweep.name}: {objectives}. Searched: {', '.join(sweep.varying)}."
    spec = sweep.spec
    config = {"trainable": spec["trainable"], **spec["config"]}
    config |= {f"search.{name}": value for name, value in spec["search"].items()}
    config |= {f"budget.{name}": value for name, value in spec["budget"].items() if value is not None}
    return _run(sweep, f"{_identity(sweep)}-sweep", sweep.name, "sweep", notes, config)


def run_of_trial(sweep: SweepState, trial: TrialState) -> Run:
    """The run of a trial."""
    values = ", ".join(f"{name} = {value}" for name, value in trial.values.items())
    notes = f"Trial {trial.number} of {sweep.name}. {values}".rstrip()
    key, name = f"{_identity(sweep)}-{trial.number}", f"{sweep.name} trial {trial.number}"
    return _run(sweep, key, name, "trial", notes, trial.config)


def _run(sweep: SweepState, key: str, name: str, kind: str, notes: str, config: Mapping[str, Any]) -> Run:
    tags = (kind, str(sweep.spec["trainable"]), sweep.spec["search"]["method"])
    project = str(sweep.spec["tracking"]["experiment"])
    return Run(key, name, project, sweep.name, kind, tags, notes, config)


def _identity(sweep: SweepState) -> str:
    return sweep.sweep_id[:12]
