"""The addresses of MLflow's pages that show the runs of a sweep."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass

from sweeper.records.sweep_state import SweepState
from sweeper.spec.sweep import Objective
from sweeper.tracking.client import legal_key
from sweeper.tracking.state import State

__all__ = [
    "EXPERIMENT_TAGS",
    "HOST",
    "PORT",
    "Links",
    "charts_url",
    "compared_runs",
    "comparison_url",
    "links_to",
    "run_url",
    "runs_url",
]

HOST = "127.0.0.1"

PORT = 5000

COMPARED = 5
"""How many trials the link to a comparison contains."""

EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Makes MLflow's pages show an experiment as training runs, not as conversations with a language model."""
PAGES_MODE = "workflowType=machine_learning"
"""The same for the menus beside the page."""


@dataclass(frozen=True)
class Links:
    """MLflow's pages for a sweep.

    Attributes:
        charts: The charts of all trials, best first.
        comparison: The comparison of the best trials.
        served: Whether they are on a server of the user; otherwise `sweeper ui` starts one.
    """

    charts: str
    comparison: str
    served: bool


def links_to(sweep: SweepState, state: State | None, base: str | None = None) -> Links | None:
    """Return the pages of a sweep; None if MLflow has none of its trials.

    Args:
        sweep: The sweep.
        state: What was uploaded, and where; None if nothing was.
        base: Address of the pages; None for the server of the runs, or for `sweeper ui`.
    """
    if state is None or not state.runs:
        return None
    served = base is not None or state.uri.startswith("http")
    base = base or (state.uri if served else f"http://{HOST}:{PORT}")
    return Links(
        charts_url(base, state.experiment_id, state.sweep_id, sweep.objectives[0]),
        comparison_url(base, state.experiment_id, compared_runs(sweep, state)),
        served,
    )


def compared_runs(sweep: SweepState, state: State) -> list[str]:
    """The runs of the best trials, best first."""
    ranked = sweep.ranking()
    best = [trial for trial in ranked if trial.final] or ranked
    runs = [state.runs[str(trial.number)] for trial in best if str(trial.number) in state.runs]
    return runs[:COMPARED]


def runs_url(base: str, experiment_id: str) -> str:
    """The address of MLflow's list of the runs of an experiment; arguments as for `comparison_url`."""
    return f"{_page(base)}/experiments/{experiment_id}/runs?{PAGES_MODE}"


def run_url(base: str, experiment_id: str, run_id: str) -> str:
    """The address of MLflow's page for a run; arguments as for `comparison_url`."""
    return f"{_page(base)}/experiments/{experiment_id}/runs/{run_id}?{PAGES_MODE}"


def comparison_url(base: str, experiment_id: str, run_ids: Sequence[str]) -> str:
    """The address of MLflow's comparison of runs.

    Args:
        base: Address of the pages, e.g. ``http://127.0.0.1:5000``; empty for a link inside the pages.
        experiment_id: The experiment of the runs.
        run_ids: The runs, best first.
    """
    runs = urllib.parse.quote(json.dumps(list(run_ids), separators=(",", ":")))
    experiments = urllib.parse.quote(json.dumps([experiment_id]))
    return f"{_page(base)}/compare-runs?runs={runs}&experiments={experiments}&{PAGES_MODE}"


def charts_url(base: str, experiment_id: str, sweep_id: str, objective: Objective) -> str:
    """The address of MLflow's charts of the trials of a sweep, sorted by their objective.

    Args:
        base: Address of the pages, e.g. ``http://127.0.0.1:5000``.
        experiment_id: The experiment of the runs.
        sweep_id: The sweep's id in its journal.
        objective: The objective by which the trials are sorted, best first.
    """
    options = {
        "compareRunsMode": "CHART",
        "searchFilter": f"tags.`sweep.id` = '{sweep_id}' and tags.`sweep.kind` = 'trial'",
        # When sorted by anything but their creation, runs are shown without the sweeps that contain them.
        "orderByKey": f"metrics.`{legal_key(f'final/{objective.name}')}`",
        "orderByAsc": "false" if objective.goal == "maximize" else "true",
    }
    query = "&".join(f"{name}={urllib.parse.quote(value)}" for name, value in options.items())
    return f"{_page(base)}/experiments/{experiment_id}/runs?{PAGES_MODE}&{query}"


def _page(base: str) -> str:
    """The part of an address in front of the page: a link inside the pages works under any address."""
    return f"{base.rstrip('/')}/#" if base else "#"
