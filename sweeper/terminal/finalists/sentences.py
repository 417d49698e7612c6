"""How sure a result is, in sentences and cells of tables."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from sweeper.certainty.standing import Standing
from sweeper.layout import SWEEPS
from sweeper.records.sweep_state import SweepState
from sweeper.text import counted, policy_words

__all__ = [
    "certainty_lines",
    "interval_text",
    "judged_sentence",
    "numbers_text",
    "shrinkage_sentence",
    "sweep_arguments",
]

MOST_NUMBERS = 12


def certainty_lines(sweep: SweepState, standing: Standing) -> list[Text]:
    """The lines below a ranking: which trials may be the best, and what a confirmation found."""
    lines = []
    if standing.leader is not None:
        lines.append(Text(_may_be_best(sweep, standing), style="yellow" if standing.not_told_apart else ""))
    confirmation = sweep.confirmation
    if confirmation.get("verdict"):
        metric = confirmation.get("options", {}).get("metric", standing.metric)
        shrinkage = shrinkage_sentence(confirmation, metric)
        text = f"Confirmation: {confirmation['verdict']} {shrinkage}".rstrip()
        lines.append(Text(text, style="green" if confirmation["complete"] else "magenta"))
    elif confirmation:
        command = f"sweeper confirm {sweep_arguments(sweep.folder)}"
        lines.append(Text(f"A confirmation was started and has no result yet; `{command}` continues it."))
    if sweep.judgement:
        text = f"On the real robot, judged by a person: {judged_sentence(sweep.judgement)}"
        lines.append(Text(text, style="green" if sweep.judgement["complete"] else "magenta"))
    return lines


def judged_sentence(judgement: Mapping[str, Any]) -> str:
    """What a judgement on the real robot found: the mean score of the winner, and the verdict."""
    metrics = judgement["finalists"][0].get("metrics", {})
    interval = interval_text(metrics.get("score_low"), metrics.get("score_high"))
    if "score" not in metrics or not interval:
        return str(judgement["verdict"])
    first = judgement["finalists"][0]
    words = policy_words(first["trial"], first.get("policy", ""), begin=True)
    score = f"{words} has a mean score of {metrics['score']:.3f} ({interval})."
    return f"{score} {judgement['verdict']}"


def shrinkage_sentence(confirmation: Mapping[str, Any], metric: str) -> str:
    """How the search value of the winner compares with its confirmed value; empty if one is unknown."""
    winner = confirmation["finalists"][0]["metrics"]
    if "search" not in winner or metric not in winner:
        return ""
    return (
        f"In the search its {metric} was {winner['search']:.3f}; on fresh starts it is "
        f"{winner[metric]:.3f} ({winner[metric] - winner['search']:+.3f})."
    )


def interval_text(low: float | None, high: float | None) -> str:
    """An interval as in a column; empty if it is unknown."""
    return "" if low is None or high is None else f"{low:.3f} – {high:.3f}"


def sweep_arguments(folder: Path) -> str:
    """The arguments with which commands find the sweep in a folder: its name, and ``--sweeps`` if needed."""
    name = shlex.quote(folder.name)
    if folder.parent.absolute() == SWEEPS.absolute():
        return name
    return f"{name} --sweeps {shlex.quote(str(folder.parent))}"


def numbers_text(numbers: Sequence[int]) -> str:
    """Numbers of trials in a sentence, not more than fit a line."""
    listed = ", ".join(map(str, numbers[:MOST_NUMBERS]))
    more = len(numbers) - MOST_NUMBERS
    return f"{listed} and {more} more" if more > 0 else listed


def _may_be_best(sweep: SweepState, standing: Standing) -> str:
    untold, told, leader = standing.not_told_apart, standing.told_apart, standing.leader
    how = "(paired tests on the same starts, adjusted by Holm's procedure, 95 %)."
    if standing.uncompared:
        how += f" Not compared: {counted(standing.uncompared, 'further trial')}."
    if not untold:
        others = f"all {len(told)} trials that were compared with it" if len(told) > 1 else f"trial {told[0]}"
        return f"The episodes of the search tell trial {leader} apart from {others} {how}"
    # A sweep whose space asks for a confirmation continues with it.
    if not sweep.confirmation and not sweep.spec.get("confirm"):
        how += f" `sweeper confirm {sweep_arguments(sweep.folder)}` examines the best trials on fresh starts."
    return f"The episodes of the search do not tell {_trials(untold)} apart from trial {leader} {how}"


def _trials(numbers: Sequence[int]) -> str:
    return f"trial{'s' if len(numbers) > 1 else ''} {numbers_text(numbers)}"
