"""How much of a journal was uploaded to MLflow, and what is still missing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Delivery", "State", "read_state"]


@dataclass(frozen=True)
class Delivery:
    """How much of a journal MLflow has received.

    Attributes:
        complete: Whether nothing is missing.
        events: How many events are missing.
        artifacts: How many files are missing.
        refused: How many requests MLflow rejected for good.
        problem: Why data is missing, or what was rejected last, in one line; otherwise empty.
    """

    complete: bool
    events: int = 0
    artifacts: int = 0
    refused: int = 0
    problem: str = ""

    def __str__(self) -> str:
        refused = (
            f" It rejected {self.refused} requests. The last reason: {self.problem}." if self.refused else ""
        )
        if self.complete:
            return f"MLflow is up to date.{refused}"
        return (
            f"MLflow is missing {self.events} events and {self.artifacts} files of this sweep "
            f"({self.problem}). They are in the folder of the sweep. `sweeper sync` uploads them.{refused}"
        )


@dataclass
class State:
    """How much of the journal was uploaded, to which server, and the time of the report there, in ns."""

    uri: str
    experiment: str
    experiment_id: str = ""
    sweep_id: str = ""
    objectives: list[str] = field(default_factory=list)
    offset: int = 0
    parent: str = ""
    runs: dict[str, str] = field(default_factory=dict)
    artifacts: list[dict[str, str]] = field(default_factory=list)
    refused: int = 0
    report: int = 0


def read_state(path: Path) -> State | None:
    """How much of a journal was uploaded; None if nothing was, or the file is damaged."""
    try:
        state = State(**json.loads(path.read_text()))
        sound = (
            all(isinstance(text, str) for text in (state.uri, state.experiment, state.experiment_id))
            and all(isinstance(text, str) for text in (state.sweep_id, state.parent, *state.objectives))
            and all(
                isinstance(number, int) and number >= 0
                for number in (state.offset, state.refused, state.report)
            )
            and all(isinstance(run, str) for run in state.runs.values())
            and all(_is_file(item) for item in state.artifacts)
        )
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return None
    return state if sound else None


def _is_file(item: Mapping[str, str]) -> bool:
    """Whether a pending upload is a text under a name, or a file with its folder."""
    names = {"trial", "name", "text"} if "text" in item else {"trial", "path", "folder"}
    return set(item) == names and all(isinstance(value, str) for value in item.values())
