"""The description of a sweep's run in MLflow: what is searched, the best trial, how to read the charts."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from sweeper.records.ranking import ORDER
from sweeper.records.status import SweepStatus, TrialStatus
from sweeper.records.sweep_state import SweepState
from sweeper.records.trial_state import TrialState
from sweeper.spec.space import Space, describe_range, describe_scale
from sweeper.text import counted, describe_value, shortened, with_command
from sweeper.tracking.state import State
from sweeper.tracking.urls import charts_url, compared_runs, comparison_url, run_url

__all__ = ["DESCRIPTION", "SIGNATURE", "describe"]

DESCRIPTION = "mlflow.note.content"
"""The tag that MLflow's pages show as the description of a run, in Markdown."""

SIGNATURE = "Updated by `sweeper`. To keep your own text, delete this line."

CELL_LENGTH = 80


def describe(sweep: SweepState, state: State) -> str:
    """Return the description of a sweep's run, in Markdown.

    Args:
        sweep: The sweep.
        state: Its runs in MLflow.
    """
    ranking = sweep.ranking()
    best = ranking[0] if ranking and ranking[0].status == TrialStatus.COMPLETED else None
    confirmed = sweep.confirmed_trial()
    chosen = confirmed or best
    parts = [
        _summary(sweep),  # MLflow shows the first lines, and the rest on request
        *([] if confirmed is None else [_confirmed(sweep, state, confirmed)]),
        *([] if best is None else [_headline(sweep, state, best, searched=confirmed is not None)]),
        *_judged(sweep),
        *_links(sweep, state),
        *_searched(sweep, {} if chosen is None else chosen.values),
        _legend(sweep),
        SIGNATURE,
    ]
    return "\n\n".join(parts)


def _summary(sweep: SweepState) -> str:
    counts = ((status, sweep.count(status)) for status in ORDER)
    trials = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in counts if count)
    objectives = ", ".join(f"{one.goal} `{one.name}`" for one in sweep.objectives)
    runs = sweep.status == SweepStatus.RUNNING
    ending = "The sweep is running." if runs else f"The sweep is {sweep.status}. {sweep.message}".rstrip()
    return f"**{sweep.name}**: {objectives}. Trials: {trials or 'none yet'}. {ending}"


def _searched(sweep: SweepState, best: Mapping[str, Any]) -> list[str]:
    """The parameters and constraints, beside the values of the best trial."""
    space = Space.from_dict(sweep.spec["space"])
    rows = [
        [
            f"`{one.name}`",
            _cell(describe_range(one)),
            describe_scale(one),
            _cell(describe_value(best[one.name])) if one.name in best else "",
        ]
        for one in space.parameters
    ]
    table = _table(["parameter", "searched", "scale", "best trial"], rows)
    constraints = "\n".join(f"- `{constraint.text}`" for constraint in space.constraints)
    return [table, "Constraints:", constraints] if constraints else [table]


def _confirmed(sweep: SweepState, state: State, winner: TrialState) -> str:
    """The figure that counts: of the winner on fresh starts."""
    found = sweep.confirmation
    name = str(found.get("options", {}).get("metric", sweep.objectives[0].name))
    metrics = next(one["metrics"] for one in found["finalists"] if one["trial"] == winner.number)
    low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    interval = "" if low is None or high is None else f" (95 % interval {low:.3g} to {high:.3g})"
    verdict = with_command(found["verdict"], f"sweeper confirm {shlex.quote(sweep.name)}")
    figure = f"`{name}` {metrics[name]:.4g}{interval} in {metrics['episodes']:.0f} episodes on fresh starts."
    return f"Confirmed: {_linked(state, winner)}, {figure} {verdict}"


def _judged(sweep: SweepState) -> list[str]:
    verdict = sweep.judgement.get("verdict")
    return [f"On the real robot, judged by a person: {verdict}"] if verdict else []


def _linked(state: State, trial: TrialState) -> str:
    run = state.runs.get(str(trial.number))
    name = f"trial {trial.number}"
    return name if run is None else f"[{name}]({run_url('', state.experiment_id, run)})"


def _headline(sweep: SweepState, state: State, best: TrialState, *, searched: bool) -> str:
    results = ", ".join(
        f"`{one.name}` {best.final[one.name]:.4g}" for one in sweep.objectives if one.name in best.final
    )
    several = " (of those that no other trial beats in all objectives)" if len(sweep.objectives) > 1 else ""
    best_of = "Best in the search" if searched else "Best"
    return f"{best_of}: {_linked(state, best)}{several}, {results} at step {best.step:,}."


def _links(sweep: SweepState, state: State) -> list[str]:
    runs = compared_runs(sweep, state)
    if not runs:
        return []
    charts = charts_url("", state.experiment_id, state.sweep_id, sweep.objectives[0])
    comparison = comparison_url("", state.experiment_id, runs)
    return [f"[Chart all trials]({charts}) · [Compare the best {counted(len(runs), 'trial')}]({comparison})"]


def _legend(sweep: SweepState) -> str:
    name = sweep.objectives[0].name
    return (
        f"How to read it: trials are ranked by `final/{name}`, the value at a trial's last evaluation. "
        f"`best/{name}` is the best of all its evaluations. `final/step` is the step at which a trial ended. "
        "A trial that did not run to its end has the step in its name, and is ranked below all that did."
    )


def _table(headers: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(headers), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return shortened(text.replace("|", "\\|").replace("\n", " "), CELL_LENGTH)
